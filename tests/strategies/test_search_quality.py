"""The benchmark of search quality in short: the toy problem, and a table made up for the test."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from evonas.spaces.nasbench201 import EDGES, NASBench201

ROOT = Path(__file__).parents[2]
WORTH = {"none": 0, "skip_connect": 2, "avg_pool_3x3": 3, "nor_conv_1x1": 5, "nor_conv_3x3": 8}


def measured(*arguments: str) -> dict[str, dict[str, dict[str, float]]]:
    command = [sys.executable, "-m", "benchmarks.search_quality", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures: dict[str, dict[str, dict[str, float]]] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_the_toy_problem_gives_the_published_figures() -> None:
    figures = measured("--toy", "--seeds", "3")
    evolved, chance = figures["toy aging_evolution"], figures["toy random"]
    assert evolved["last 100"]["mean"] == pytest.approx(0.867, abs=0.03)
    assert evolved["best"]["mean"] == pytest.approx(0.909, abs=0.03)
    assert chance["best"]["mean"] == pytest.approx(0.665, abs=0.03)


def test_on_a_table_every_strategy_beats_random(tmp_path: Path) -> None:
    """The worth of a cell is the sum of its operations', and 48 at most."""
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "worth"])
        for cell in NASBench201().enumerate():
            edge = {(i, j): str(cell.choices[f"edge_{i}_{j}"]) for i, j in EDGES}
            nodes = ("|".join(f"{edge[i, j]}~{i}" for i in range(j)) for j in (1, 2, 3))
            key = "+".join(f"|{node}|" for node in nodes)
            writer.writerow([key, sum(WORTH[operation] for operation in edge.values())])
    worth = ("--objective", "worth", "--report", "worth")
    rows = ("--strategies", "random,aging_evolution,tpe")
    rows += ("--peers", "deap eaMuPlusLambda", "--figure", str(tmp_path / "curves.png"))
    figures = measured("--table", str(table), *worth, *rows, "--seeds", "2", "--trials", "120")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    chance = figures.pop("random")["120"]["mean"]
    ours = {"aging_evolution 50/10", "aging_evolution 20/5", "tpe"}
    assert set(figures) == {*ours, "deap eaMuPlusLambda"}
    for row in figures.values():
        assert chance + 2 < row["120"]["mean"] <= 48
        assert row["25"]["mean"] < row["120"]["mean"]
