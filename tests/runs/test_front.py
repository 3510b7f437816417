"""Every member of the Pareto front, trained and exported on request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evonas.__main__ import main
from evonas.errors import StorageError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import front, network
from evonas.runs import run as runs
from evonas.runs.journal import read_journal
from evonas.trial import Objective, TrialState
from evonas.trials import Trials

OBJECTIVES = {"flops": "max", "params": "min"}  # Accuracies of such tiny runs are mostly equal.


@pytest.fixture
def recipe(images: Callable[..., Path]) -> dict[str, Any]:
    return {
        "name": "tiny",
        "dataset": {"name": "npz", "path": str(images()), "validation": 0.4},
        "space": {"name": "plain_cnn", "max_depth": 3, "max_width": 32},
        "strategy": "random",
        "evaluation": {"name": "train", "epochs": 1, "batch_size": 12},
        "objectives": OBJECTIVES,
        "budget": {"trials": 4},
        "final": {"networks": "front"},
        "executor": {"name": "serial", "device": "cpu"},
        "tracking": "console",
    }


def start(given: dict[str, Any]) -> Path:
    return runs.start(reading.validate(given, "here"), Registry(), Path("run")).run_dir


def members(run_dir: Path) -> list[int]:
    _, events = read_journal(run_dir)
    objectives = [Objective("flops"), Objective("params", "min")]
    return [trial.number for trial in Trials(objectives, events).front()]


def finals(run_dir: Path) -> list[int]:
    """Trials that were trained for good, once for each training."""
    _, events = read_journal(run_dir)
    ended = [e for e in events if e.proposal.stage == "final" and e.state is TrialState.COMPLETE]
    return sorted(event.proposal.parents[0] for event in ended)


def test_each_member_has_its_network(recipe: dict[str, Any]) -> None:
    run_dir = start(recipe)
    numbers = members(run_dir)
    assert len(numbers) > 1
    assert finals(run_dir) == sorted(numbers)  # the winner, which is one of them, no second time
    assert {path.name for path in (run_dir / front.FOLDER).iterdir()} == set(map(str, numbers))
    for number in numbers:
        folder = run_dir / front.FOLDER / str(number)
        assert network.find(folder).about["trial"] == number
        about = json.loads((folder / "architecture.json").read_text())
        assert "test_accuracy" not in about["metrics"]
        assert not (folder / "test.json").exists()
        assert "Not measured on test images" in (folder / "MODEL_CARD.md").read_text()
    assert (run_dir / "incumbent" / "test.json").exists()


def test_it_may_be_asked_for_later_and_is_made_once(recipe: dict[str, Any]) -> None:
    run_dir = start({**recipe, "final": {}})
    assert not (run_dir / front.FOLDER).exists()
    assert len(finals(run_dir)) == 1
    said = CliRunner().invoke(main, ["resume", str(run_dir), "--set", "final.networks=front"])
    assert said.exit_code == 0, said.output
    assert "run/front/TRIAL" in said.output
    cards = {path: path.stat().st_mtime_ns for path in run_dir.glob("front/*/MODEL_CARD.md")}
    assert len(cards) == len(members(run_dir))
    (run_dir / "front" / "99").mkdir()  # it left the front
    runs.resume(run_dir)
    assert {path: path.stat().st_mtime_ns for path in run_dir.glob("front/*/*.md")} == cards
    assert not (run_dir / "front" / "99").exists()
    assert finals(run_dir) == sorted(members(run_dir))


def test_a_folder_that_cannot_be_written(recipe: dict[str, Any]) -> None:
    run_dir = start({**recipe, "final": {}})
    (run_dir / front.FOLDER).write_text("a file")
    with pytest.raises(StorageError, match="front: Not a directory; evonas resume does it again"):
        runs.resume(run_dir, ["final.networks=front"])
