"""``evonas compare`` and ``evonas sweep``: groups, the table, the page, one line for a mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_helper import evonas

RECIPE = {
    **{"name": "s", "dataset": "digits", "space": "plain_cnn", "budget": {"trials": 3}},
    "strategy": "random",
    "evaluation": {"name": "train", "epochs": 1, "final_epochs": 1},
    "constraints": {"params": {"max": 20_000}},
    "tracking": "console",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, two seeds each, as a sweep; and a run of other data."""
    folder = tmp_path_factory.mktemp("runs")
    values = {"strategy": ["random", "tpe"], "seed": [0, 1]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**RECIPE, "sweep": values}, sort_keys=False))
    (folder / "other.yaml").write_text(yaml.safe_dump(RECIPE))
    done = evonas("sweep", str(folder / "sweep.yaml"), "--sweep-dir", str(folder / "sweep"))
    assert done.exit_code == 0, done.output
    other = ("--set", "dataset.seed=1", "--run-dir", str(folder / "other"))
    assert evonas("run", str(folder / "other.yaml"), *other).exit_code == 0
    return folder


def test_a_sweep_is_compared_by_groups_of_seeds(runs: Path) -> None:
    done = evonas("compare", str(runs / "sweep"), "--json", "--output", str(runs / "page.html"))
    assert done.exit_code == 0, done.output
    rows = {row["group"]: row for row in json.loads(done.output.splitlines()[0])}
    assert set(rows) == {"random", "tpe"}
    assert {row["runs"] for row in rows.values()} == {2}
    assert {row["effort"] for row in rows.values()} == {3}, "three trials of a full training"
    assert sum(row["rank"] for row in rows.values()) == 3
    page = (runs / "page.html").read_text()
    assert "2 groups of runs that differ in their seed alone" in page
    assert (runs / "sweep" / "comparison.html").exists()


def test_runs_by_their_folders(runs: Path) -> None:
    folders = [str(runs / "sweep" / name) for name in ("random-seed_0", "tpe-seed_0")]
    done = evonas("compare", *folders, "--output", str(runs / "two.html"))
    assert done.exit_code == 0, done.output
    assert "one pair of runs says nothing of chance" in done.output
    head, *rows = (re.split("  +", line.strip()) for line in done.output.splitlines()[:3])
    assert head[:2] == ["group", "runs"]
    assert [row[head.index("effort") - len(head)] for row in rows] == ["3.0"] * 2


def drawn(page: Path, chart: str) -> list[dict[str, Any]]:
    """The data of a page's chart."""
    text = page.read_text()
    data = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert data is not None
    return list(json.loads(data[1])[chart])


def test_published_networks_are_drawn_beside_the_winners(runs: Path) -> None:
    table, page = runs / "others.csv", runs / "beside.html"
    table.write_text("source,name,params,test_accuracy\na study,small,1000,0.3\n")
    done = evonas(
        *("compare", str(runs / "sweep"), "--output", str(page), "--published", str(table))
    )
    assert done.exit_code == 0, done.output
    points = drawn(page, "winners")
    assert {"of": "a study", "x": 1000.0, "y": 0.3, "note": "small"} in points
    here = [point for point in points if point["of"] == "here"]
    assert {point["note"] for point in here} == {"random, 2 seeds", "tpe, 2 seeds"}
    assert [point["x"] for point in points] == sorted(point["x"] for point in points)
    assert "Winners and size" in page.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("source,name,params\na,b,1\n", "line 2: no 'test_accuracy'"),
        ("source,name,params,test_accuracy\na,b,many,1\n", "line 2: could not convert"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_table_of_published_networks_is_one_line(
    runs: Path, content: str | None, message: str, tmp_path: Path
) -> None:
    table = tmp_path / "others.csv"
    if content is not None:
        table.write_text(content)
    page = tmp_path / "page.html"
    done = evonas(
        *("compare", str(runs / "sweep"), "--output", str(page), "--published", str(table))
    )
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.splitlines()) == 1
    assert not page.exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sweep/tpe-seed_0"], "name two runs or more"),
        (["sweep", "other"], "their data are not the same"),
        (["sweep", "nowhere"], "no run folder, and no run of the tracker"),
        (["sweep", "."], "holds no run"),
    ],
)
def test_what_cannot_be_compared(runs: Path, names: list[str], message: str) -> None:
    paths = [str(runs / name) if (runs / name).exists() else name for name in names]
    done = evonas("compare", *paths, "--uri", f"sqlite:///{runs}/mlflow.db")
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert len(done.output.splitlines()) == 1
    assert not Path("comparison.html").exists()


def test_a_sweep_says_what_runs_and_goes_on(runs: Path) -> None:
    done = evonas("sweep", str(runs / "sweep"))
    assert done.exit_code == 0, done.output
    assert "run 1 of 4" not in done.output  # all of it has run
    assert done.output.splitlines()[-1] == f"comparison: {runs / 'sweep' / 'comparison.html'}"
    assert evonas("run", str(runs / "sweep.yaml")).exit_code == 2
