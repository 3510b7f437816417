"""Whole runs that end when so many full trainings are spent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_run_evaluations import TWO, Crash, Crashes

from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.report import series
from evonas.runs import notebook
from evonas.runs import run as runs
from evonas.runs.journal import read_journal
from evonas.trial import Objective, Trial
from evonas.trials import Trials

TRAIN = {"name": "train", "epochs": 1, "final_epochs": 4, "batch_size": 24}


@pytest.fixture
def content(images: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    """Make a tiny recipe, a trial of which is a quarter of a full training."""
    path = str(images())

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "name": "tiny",
            "dataset": {"name": "npz", "path": path, "validation": 0.2},
            "space": {"name": "plain_cnn", "max_depth": 2, "max_width": 16},
            "strategy": "random",
            "evaluation": TRAIN,
            "budget": {"effort": 1},
            "executor": {"name": "serial", "device": "cpu"},
            "tracking": "console",
            **changes,
        }

    return make


def start(given: Mapping[str, Any], folder: str, *listeners: Crashes) -> None:
    runs.start(reading.validate(given, "test"), Registry(), Path(folder), listeners)


def ended(folder: str, stage: Any = "search") -> Trials:
    objectives = (Objective("val_accuracy"),) if stage == "search" else ()
    return Trials(objectives, read_journal(Path(folder))[1], stage)


def efforts(folder: str) -> list[float]:
    return [trial.effort for trial in ended(folder).ended]


def timeless(folder: str) -> list[object]:
    def told(trial: Trial) -> object:
        return trial.number, trial.proposal, trial.state, trial.metrics, trial.effort

    return [told(trial) for trial in read_journal(Path(folder))[1]]


def test_a_run_ends_when_its_effort_is_spent(content: Callable[..., dict[str, Any]]) -> None:
    start(content(), "run")
    assert efforts("run") == [0.25] * 4
    assert [trial.effort for trial in ended("run", "final").ended] == [1]
    last = list(series.replayed(ended("run")))[-1]
    assert last[1]["effort"] == 1
    assert list(notebook.load("run").trials["effort"]) == [0.25] * 4
    page = Path("run", "report.html").read_text()
    assert "1 full trainings" in page, "the budget"
    assert "effort 1 in full trainings" in page, "what was spent"
    (leaders,) = (table for table in page.split("<table") if "<th>effort</th>" in table)
    column = re.findall(r"<th>(.*?)</th>", leaders).index("effort")
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in leaders.split("<tr>")[2:]]
    assert [row[column] for row in rows] == ["0.25"] * 4
    runs.resume(Path("run"), ["budget.effort=1.5"])
    assert efforts("run") == [0.25] * 6


@pytest.mark.slow
def test_what_was_spent_before_a_crash_is_spent(content: Callable[..., dict[str, Any]]) -> None:
    start(content(), "whole")
    for events in (2, 3, 6):
        folder = f"killed{events}"
        with pytest.raises(Crash):
            start(content(), folder, Crashes(events=events))
        runs.resume(Path(folder))
        assert timeless(folder) == timeless("whole")


def test_workers_tell_what_they_trained(content: Callable[..., dict[str, Any]]) -> None:
    start(content(executor=TWO), "run")
    assert set(efforts("run")) == {0.25}
    assert 4 <= len(efforts("run")) <= 5, "what runs when it is spent is finished"


def test_trials_of_other_runs_are_not_of_this_ones_effort(
    content: Callable[..., dict[str, Any]],
) -> None:
    start(content(), "first")
    start(content(start_from=["first"], seed=1), "second")
    assert ended("second").effort == 1
    assert efforts("second") == [0.25] * 8


def test_whichever_limit_is_reached_first(content: Callable[..., dict[str, Any]]) -> None:
    start(content(budget={"effort": 100, "trials": 2}), "run")
    assert len(efforts("run")) == 2
    supernet = {"name": "supernet", "epochs": 2, "batch_size": 12, "of": TRAIN}
    start(content(evaluation=supernet, budget={"effort": 100, "trials": 3}), "shared")
    assert efforts("shared") == [0.5, 0, 0]
