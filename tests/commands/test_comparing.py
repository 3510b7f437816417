"""``evonas compare`` and ``evonas sweep``: groups, the table, the page, one line for a mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from evonas.cli import main

RECIPE = {
    **{"name": "s", "dataset": "digits", "space": "plain_cnn", "budget": {"trials": 3}},
    "strategy": "random",
    "evaluation": {"name": "train", "epochs": 1, "final_epochs": 1},
    "constraints": {"params": {"max": 20_000}},
    "tracking": "console",
}


def evonas(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


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
