"""Pruning rules, executors and trackers through the public contract kit, and broken ones."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from evonas.errors import PluginError
from evonas.executors.base import Executor, Watch, run_trial
from evonas.executors.processes import Processes
from evonas.executors.serial import Serial
from evonas.recipe.registry import Registry
from evonas.runs.pruning.base import Rule
from evonas.runs.pruning.median import Median
from evonas.runs.pruning.successive_halving import Halving
from evonas.testing import check_executor, check_pruning, check_tracker
from evonas.trackers.base import Tracker
from evonas.trackers.console import Console
from evonas.trackers.mlflow import MLflow
from evonas.trial import Trial, TrialState

RULES = {"median": partial(Median, startup_trials=2), "successive_halving": Halving}
EXECUTORS = {"serial": Serial, "processes": partial(Processes, workers=2)}
ELSEWHERE = {"folder", "ray"}  # Their own tests check them, with workers and a cluster.
TRACKERS = {"console": Console, "mlflow": partial(MLflow, "sqlite:///mlflow.db")}


@pytest.mark.parametrize(
    ("kind", "made"), [("pruning", RULES), ("executor", EXECUTORS), ("tracker", TRACKERS)]
)
def test_every_built_in_is_here(kind: str, made: Mapping[str, Any]) -> None:
    assert set(Registry().origins(kind)) - ELSEWHERE == set(made)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_the_contract(name: str) -> None:
    assert check_pruning(RULES[name]) == []


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_keeps_the_contract(name: str) -> None:
    assert check_executor(EXECUTORS[name], trials=10) == []


@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_keeps_the_contract(name: str) -> None:
    assert check_tracker(TRACKERS[name]) == []


def rule(prune: Callable[..., Any], **more: Any) -> type[Rule]:
    return type("Broken", (Rule,), {"prune": prune, **more})


CLOCK = itertools.count()
BROKEN_RULES: Mapping[str, tuple[Callable[..., Any], str]] = {
    "raises": (lambda self, study, trial: 1 / 0, "prune: raises ZeroDivisionError"),
    "by the clock": (
        lambda self, study, trial: next(CLOCK) % 17 == 3,
        "prune: judges the same curves differently",
    ),
    "stops all": (
        lambda self, study, trial: trial.last_step == 4 and trial.number > 3,
        "prune: stops the best of 40 trials, .* at step 4 of 9 with 0.44",
    ),
}


@pytest.mark.parametrize("what", BROKEN_RULES)
def test_the_kit_names_what_is_broken_in_a_rule(what: str) -> None:
    prune, finding = BROKEN_RULES[what]
    problem = check_pruning(rule(prune))[0]
    assert re.match(finding, problem), problem


def test_a_rule_that_stops_nothing_is_good() -> None:
    assert check_pruning(rule(lambda self, study, trial: False)) == []


class Broken(Executor):
    """Runs a trial at once; ``way`` is what it does wrong."""

    workers = 1
    way: Callable[..., Any]

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        future: Future[Trial] = Future()
        future.set_result(type(self).way(self.make_evaluator("cpu"), trial, watch))
        return future


def executor(way: Callable[..., Any], **more: Any) -> type[Broken]:
    return type("Broken", (Broken,), {"way": staticmethod(way), **more})


def test_the_kit_names_what_is_broken_in_an_executor() -> None:
    assert check_executor(executor(run_trial)) == []
    unwatched = check_executor(
        executor(lambda evaluator, trial, watch: run_trial(evaluator, trial))
    )
    assert re.match("submit: trial 0 ends as .*complete.*, not as .*pruned", unwatched[0])
    (raising,) = check_executor(executor(lambda *_: 1 / 0))
    assert raising.startswith("submit: trial 0 or after: raises ZeroDivisionError")
    assert check_executor(executor(run_trial, workers=0))[0].startswith("workers: is 0")
    lost = check_executor(executor(lambda evaluator, trial, watch: trial))
    assert re.match("submit: trial 0 ends as .*running", lost[0])


class Silent(Tracker):
    """Tells nobody."""

    def start(self, *run: Any) -> None:
        pass

    def record(self, trial: Trial) -> None:
        pass

    def close(self, report: Any) -> None:
        pass


class Slow(Silent):
    def record(self, trial: Trial) -> None:
        time.sleep(1.1 * (trial.number == 2 and trial.state is not TrialState.RUNNING))


class Raises(Silent):
    def close(self, report: Any) -> None:
        raise KeyError("report")


class Cannot(Silent):
    def start(self, *run: Any) -> None:
        raise PluginError("no such server")


def test_the_kit_names_what_is_broken_in_a_tracker() -> None:
    assert check_tracker(Silent) == []
    (slow,) = check_tracker(Slow)
    assert re.match(r"record: takes 1\.\d s, and the search waits", slow)
    assert check_tracker(Raises) == ["raises KeyError: 'report'"]
    with pytest.raises(PluginError, match="no such server"):
        check_tracker(Cannot)
