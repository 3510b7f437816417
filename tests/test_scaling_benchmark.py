"""The benchmark of what grows, at tiny sizes: every part runs and gives figures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scaling import simulate
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.spaces.nasbench201 import NASBench201
from evonas.strategies.evolution import Evolution
from evonas.strategies.random import RandomSearch
from evonas.trial import Objective, Trial

ROOT = Path(__file__).parents[1]


class Hour(Evaluator):
    """Every trial takes an hour, and the last is the best."""

    metrics = ("value", "seconds")

    def evaluate(self, trial: Trial, report: Reporter) -> dict[str, float]:
        return {"value": float(trial.number), "seconds": 3600.0}


def test_workers_of_an_asynchronous_search_never_wait_on_the_simulated_clock() -> None:
    space = NASBench201()
    strategy = RandomSearch(space, (Objective("value"),))
    done = simulate(strategy, Hour(Context(space, None, "cpu", 0)), workers=8, trials=24, seed=0)
    assert done.utilisation == pytest.approx(1.0, abs=0.01)
    assert done.ends[-1] == pytest.approx(3.0, abs=0.01)
    assert done.after(0.5) is None
    assert (done.after(1.1), done.after(2.1), done.after(9.0)) == (7, 15, 23)


def test_workers_wait_where_a_generation_must_end() -> None:
    space = NASBench201()
    strategy = Evolution(space, (Objective("value"),), population_size=4)
    done = simulate(strategy, Hour(Context(space, None, "cpu", 0)), workers=8, trials=16, seed=0)
    assert done.utilisation == pytest.approx(0.5, abs=0.01)
    assert done.ends[-1] == pytest.approx(4.0, abs=0.01)


@pytest.mark.slow
def test_every_part_gives_figures(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "test_200ep", "train_seconds_200ep"])
        for place, cell in enumerate(NASBench201().enumerate()):
            c = cell.choices
            first = f"|{c['edge_0_1']}~0|"
            second = f"|{c['edge_0_2']}~0|{c['edge_1_2']}~1|"
            third = f"|{c['edge_0_3']}~0|{c['edge_1_3']}~1|{c['edge_2_3']}~2|"
            writer.writerow(["+".join((first, second, third)), place % 100, 1000 + place])
    arguments = ("--trials", "40", "--strategies", "random,tpe", "--workers", "processes")
    arguments += ("--repeats", "1", "--trainings", "4", "--epochs", "1", "--memory", "10")
    arguments += ("--spaces", "mobilenet", "--images", "20", "--table", str(table))
    command = [sys.executable, "-m", "benchmarks.scaling", *arguments, "--simulated", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"trials", "workers", "table", "memory"}
    assert len(figures["trials"]["tpe, 40"]["ms_by_tenths"]) == 10
    assert len(figures["workers"]["processes"]) == 1
    assert set(figures["table"]) == {
        f"{s}, {n}" for s in ("random", "tpe") for n in (1, 8, 64, 512)
    }
    assert len(figures["memory"]["mobilenet"]["held"]) == 10
