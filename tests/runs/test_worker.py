"""Runs whose trials are done by workers that read the run folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evonas.errors import HistoryError, RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run as runs
from evonas.runs import worker
from evonas.runs.journal import read_journal
from evonas.runs.session import Stopped


def recipe(images: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "dataset": {"name": "npz", "path": str(images)},
        "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 8},
        "strategy": {"name": "successive_halving", "min_fidelity": 0.5, "eta": 2},
        "evaluation": {"name": "train", "epochs": 2, "final_epochs": 1},
        "budget": {"trials": 6},
        "executor": {"name": "folder", "timeout": 60},
        "tracking": "console",
        **changes,
    }


def start(content: dict[str, Any]) -> runs.Outcome:
    return runs.start(reading.validate(content, "test"), Registry(), Path("run"))


def test_a_run_and_its_worker(images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LINGER", 1.0)
    said: list[str] = []
    arguments = (Path("run"), 1, "cpu", 60.0, said.append, lambda: False)
    work = threading.Thread(target=worker.work, args=arguments)
    work.start()  # before the run has begun
    outcome = start(recipe(images()))
    work.join(60)
    assert outcome.report.status == "finished"
    assert outcome.report.final["test_accuracy"] > 0
    _, events = read_journal(Path("run"))
    rungs = [event for event in events if event.proposal.resume_from is not None]
    assert rungs, "a higher rung found the weights of the lower one"
    assert said[0].startswith("worker ")
    assert said[-2].startswith("final 0: complete after")
    assert said[-1] == "the run is finished"
    assert not list(Path("run/work").rglob("*.json"))


def test_what_has_no_use_for_a_worker_is_said(images: Callable[..., Path]) -> None:
    def work(idle: float = 0.0, stop: bool = False) -> None:
        worker.work(Path("run"), 1, "cpu", idle, print, lambda: stop)

    with pytest.raises(HistoryError, match="holds no run after 0 minutes"):
        work()
    with pytest.raises(Stopped):
        work(60.0, stop=True)
    start(recipe(path := images(), executor="serial"))
    with pytest.raises(RecipeError, match=r"executor\.name: serial needs no workers"):
        work()
    text = Path("run/recipe.yaml").read_text().replace("name: serial", "name: folder")
    Path("run/recipe.yaml").write_text(text.replace("isolate: true\n", "lease: 9\n"))
    folder = Path("run/recipe.yaml").read_text()
    Path("run/recipe.yaml").write_text(folder.replace("seed: 0", "seed: 5"))
    with pytest.raises(HistoryError, match="a run of another recipe than its recipe"):
        work()
    Path("run/recipe.yaml").write_text(folder)
    images(train=90)
    assert path.exists()
    with pytest.raises(HistoryError, match="the data set here is not the one"):
        work()
