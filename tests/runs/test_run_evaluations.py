"""Whole runs of every way to evaluate: killed anywhere, their files harmed, and finished all the
same. Most are crashed in this process, at the event where it hurts; some are really killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli_helper import evonas
from click.testing import Result
from sessions_helper import timeless, trials
from test_run import EVONAS, finish, kill_and_resume

from evonas.errors import EvonasError, HistoryError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import final
from evonas.runs import run as runs
from evonas.runs.journal import Journal, read_journal
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trial import Trial, TrialState
from evonas.trials import Trials

TRIALS = 12
TRAIN = {"name": "train", "epochs": 2, "batch_size": 12, "learning_rate": 0.05}
INHERIT = {"name": "inherit", "epochs": 0.5, "of": TRAIN}
EVALUATIONS: Mapping[str, Mapping[str, Any]] = {
    "inherit": {"evaluation": INHERIT},
    "supernet": {"evaluation": {"name": "supernet", "epochs": 2, "batch_size": 12, "of": TRAIN}},
    "extrapolate": {
        "evaluation": {"name": "extrapolate", "share": 0.5, "of": INHERIT},
        "objectives": {"val_accuracy_extrapolated": "max"},
    },
    "reduced": {"evaluation": {"name": "reduced", "data": 0.5, "width": 0.5, "of": INHERIT}},
    "zero_cost": {
        "evaluation": {
            "name": "zero_cost",
            "proxies": ["naswot"],
            "batch_size": 8,
            "training": False,
            "of": TRAIN,
        },
        "objectives": {"naswot": "max"},
    },
    "pruning": {"evaluation": INHERIT, "pruning": {"name": "median", "startup_trials": 2}},
}
TWO = {"name": "processes", "workers": 2, "device": "cpu"}
every_evaluation = pytest.mark.parametrize("name", EVALUATIONS)


@pytest.fixture
def content() -> Callable[..., dict[str, Any]]:
    """Make a tiny recipe of one way to evaluate; images are brighter in their class's channel."""
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 75), ("test", 30)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 120, (count, 8, 8, 3), dtype=np.uint8)
        images += (60 * np.eye(3, dtype=np.uint8))[labels][:, None, None, :]
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez("images.npz", **arrays)

    def make(name: str, **changes: Any) -> dict[str, Any]:
        return {
            "name": "tiny",
            "dataset": {"name": "npz", "path": "images.npz", "validation": 0.4},
            "space": {"name": "plain_cnn", "max_depth": 2, "max_width": 12},
            "strategy": {"name": "aging_evolution", "population_size": 4, "tournament_size": 2},
            "budget": {"trials": TRIALS},
            "final": {"top": 2, "seeds": 2, "flip": True},
            "audit": {"trials": 4},
            "executor": {"name": "serial", "isolate": False, "device": "cpu"},
            "tracking": "console",
            **EVALUATIONS[name],
            **changes,
        }

    return make


class Crash(EvonasError):
    """The process is gone; other errors of a class of ours would be blamed on it as a plugin."""


class Crashes(Tracker):
    """Ends the run once so many events are written down, or so many final trainings begin."""

    def __init__(self, events: int = -1, trainings: int = -1) -> None:
        self._events, self._trainings = events, trainings

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        pass

    def record(self, trial: Trial) -> None:
        self._events -= 1
        self._trainings -= trial.proposal.stage == "final" and trial.state is TrialState.RUNNING
        if not self._events or not self._trainings:
            raise Crash

    def close(self, report: Report) -> None:
        pass


def start(given: Mapping[str, Any], run_dir: Path, crash: Crashes | None = None) -> None:
    """Run a recipe; with a crash it is left as a killed process leaves it."""
    listeners = (crash,) if crash else ()
    try:
        runs.start(reading.validate(given, "here"), Registry(), run_dir, listeners)
    except Crash:
        assert crash is not None


def resume(run_dir: Path, *overrides: str, crash: Crashes | None = None) -> None:
    try:
        runs.resume(run_dir, overrides, (crash,) if crash else ())
    except Crash:
        assert crash is not None


def ended(run_dir: Path, trials: int = TRIALS, again: int = 0) -> list[Trial]:
    """The events of a run that finished, with every trial exactly once but for so many finals."""
    _, events = read_journal(run_dir)
    for stage in ("search", "final", "audit"):
        begun = [e for e in of_stage(stage, events) if e.state is TrialState.RUNNING]
        over = [e for e in of_stage(stage, events) if e.state is not TrialState.RUNNING]
        numbers = [e.number for e in begun]
        assert sorted(numbers) == sorted(e.number for e in over)
        assert len(numbers) - len(set(numbers)) == (again if stage == "final" else 0)
        assert set(numbers) == set(range(trials if stage == "search" else len(set(numbers))))
        assert {e.state for e in over} <= {TrialState.COMPLETE, TrialState.PRUNED}
    searched = {e.architecture.id for e in of_stage("search", events)}
    assert len(searched) == trials
    assert {e.architecture.id for e in events} == searched
    report = json.loads((run_dir / "report.json").read_text())
    assert report["status"] == "finished"
    concluded = final.stored(run_dir)
    assert concluded is not None
    assert 0 <= concluded.metrics["test_accuracy"] <= 1
    assert "val_accuracy_std" in concluded.metrics
    assert (run_dir / "incumbent" / "network.pt2").exists()
    assert "<h2>Can the ranking be trusted?</h2>" in (run_dir / "report.html").read_text()
    return events


def of_stage(stage: str, events: Sequence[Trial]) -> list[Trial]:
    return [event for event in events if event.proposal.stage == stage]


def figures(run_dir: Path) -> tuple[Any, ...]:
    """What came out, without what the clock says."""
    concluded = final.stored(run_dir)
    assert concluded is not None
    found = json.loads((run_dir / "audit.json").read_text())
    quality = {n: v for n, v in concluded.metrics.items() if n != "seconds"}
    trusted = {n: v for n, v in found["metrics"].items() if not n.startswith("seconds")}
    return concluded.trial, quality, found["rows"], trusted


@pytest.mark.parametrize(
    "name",
    [
        *("inherit", "supernet", "reduced", "pruning"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("extrapolate", "zero_cost")),
    ],
)
def test_a_run_crashed_anywhere_is_the_run_left_alone(
    content: Callable[..., dict[str, Any]], name: str
) -> None:
    """In the search, at a trial's start or end, and in the final trainings."""
    given, alone = content(name), Path("alone")
    start(given, alone)
    wanted = timeless(ended(alone))
    rng, crashed = Random(name), Path("crashed")
    start(given, crashed, Crashes(rng.randrange(2, TRIALS)))
    resume(crashed, crash=Crashes(rng.randrange(2, TRIALS)))
    resume(crashed, crash=Crashes(trainings=2))
    resume(crashed, crash=Crashes(3))
    resume(crashed, crash=Crashes(4))
    resume(crashed)
    assert timeless(ended(crashed)) == wanted
    assert figures(crashed) == figures(alone)


def test_children_inherit_and_what_there_is_room_for_is_kept(
    content: Callable[..., dict[str, Any]],
) -> None:
    start(content("inherit"), Path("run"))
    latest = list(Trials((), ended(Path("run"))).latest.values())
    children = [trial for trial in latest if trial.proposal.parents]
    assert len(children) > 5
    assert all(trial.metrics["inherited"] > 0 for trial in children)
    kept = {path.stem for path in Path("run/weights").glob("trial_*")}
    complete = [trial for trial in latest if trial.state is TrialState.COMPLETE]
    assert kept == {f"trial_{trial.number}" for trial in complete}


def test_inheritance_with_little_room_is_repeatable_too(
    content: Callable[..., dict[str, Any]],
) -> None:
    """Which weights have to go does not depend on where the run was cut."""
    given = content("inherit", evaluation={**INHERIT, "keep_gb": 0.00003}, final={"top": 1})
    del given["audit"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = []
        for cut in (None, 9, 14):
            run_dir = Path(f"run{cut}")
            start(given, run_dir, Crashes(cut) if cut else None)
            if cut:
                resume(run_dir)
            found.append(timeless(read_journal(run_dir)[1]))
    assert all(events == found[0] for events in found)
    latest = trials(Path("runNone"))
    inherited = [trial.metrics["inherited"] > 0 for trial in latest if trial.proposal.parents]
    assert 0 < sum(inherited) < len(inherited), "some parents were let go"


# Harm between a crash and what follows.


def swap(folder: Path) -> None:
    files = sorted(folder.glob("*_*.safetensors"))
    contents = [file.read_bytes() for file in files]
    for file, data in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(data)


def cut(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("harm", [shutil.rmtree, cut, swap], ids=["deleted", "cut", "swapped"])
@pytest.mark.parametrize("name", ["inherit", "supernet"])
def test_harmed_weights_cost_time_and_nothing_else(
    content: Callable[..., dict[str, Any]], harm: Callable[[Path], object], name: str
) -> None:
    start(content(name), Path("run"), Crashes(15))
    harm(Path("run/weights"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resume(Path("run"))
    ended(Path("run"))
    if name == "inherit" or harm is cut:
        assert any("is damaged" in str(w.message) or "training" in str(w.message) for w in caught)


@pytest.mark.parametrize("harm", [shutil.rmtree, cut, swap], ids=["deleted", "cut", "swapped"])
def test_harmed_trainings_for_good_are_done_again(
    content: Callable[..., dict[str, Any]], harm: Callable[[Path], object]
) -> None:
    given = content("zero_cost")
    start(given, Path("alone"))
    start(given, Path("run"), Crashes(trainings=4))
    harm(Path("run/weights"))
    resume(Path("run"))
    ended(Path("run"), again=2)  # both of the winner
    assert figures(Path("run")) == figures(Path("alone"))


# What may be asked of a run that is over.


def test_more_final_trainings_of_a_finished_run(content: Callable[..., dict[str, Any]]) -> None:
    given = content("zero_cost")
    del given["audit"]
    start(given, Path("run"))
    winner = final.stored(Path("run"))
    assert winner is not None
    _, once = read_journal(Path("run"))
    assert len(of_stage("final", once)) == 2 * 4
    resume(Path("run"))
    assert read_journal(Path("run"))[1] == once, "nothing was asked for"
    resume(Path("run"), "final.top=3")
    again = final.stored(Path("run"))
    assert again is not None
    assert again.terms["top"] == 3
    _, twice = read_journal(Path("run"))
    assert twice[: len(once)] == once
    assert len(of_stage("final", twice)) == 2 * 6
    if again.trial == winner.trial:
        assert again.metrics["test_accuracy"] == winner.metrics["test_accuracy"]


def test_a_budget_that_grew_later_gives_the_search_that_was_long_from_the_start(
    content: Callable[..., dict[str, Any]],
) -> None:
    start(content("inherit"), Path("long"))
    start(content("inherit", budget={"trials": 7}), Path("grown"))
    resume(Path("grown"), f"budget.trials={TRIALS}")
    long, grown = (of_stage("search", read_journal(Path(d))[1]) for d in ("long", "grown"))
    assert timeless(grown) == timeless(long)
    assert figures(Path("grown")) == figures(Path("long"))


def test_a_run_is_audited_afterwards_as_often_as_one_likes(
    content: Callable[..., dict[str, Any]],
) -> None:
    given = content("zero_cost")
    del given["audit"]
    start(given, Path("run"))
    assert "<h2>Can the ranking be trusted?</h2>" not in Path("run/report.html").read_text()
    tables = []
    for _ in range(2):
        result = evonas("audit", "run", "--trials", "5")
        assert result.exit_code == 0, result.output
        tables.append(result.stdout[result.stdout.index("  rank  trial") :])
    assert tables[0] == tables[1]
    assert "Kendall's tau" in tables[0]
    assert len(tables[0].splitlines()) == 1 + 5 + 5
    ended(Path("run"))


def one_line(result: Result) -> str:
    assert result.output.count("\n") == 1, result.output
    return result.output


def test_what_cannot_be_audited_is_said_in_one_line(
    content: Callable[..., dict[str, Any]],
) -> None:
    given = content("zero_cost", budget={"trials": 3}, final={"top": 1})
    del given["audit"]
    start(given, Path("short"))
    result = evonas("audit", "short")
    assert result.exit_code == 2
    assert "3 completed trials are too few to audit" in one_line(result)
    Path("empty").mkdir()
    for folder in ("empty", "absent"):
        result = evonas("audit", folder)
        assert result.exit_code == 2
        assert "holds no run" in one_line(result)
    with Journal(Path("short")):
        result = evonas("audit", "short")
    assert result.exit_code == 4
    assert "in use by process" in one_line(result)
    assert evonas("audit", "short", "--trials", "3").exit_code == 2


def test_evaluation_cannot_be_changed_when_resuming(
    content: Callable[..., dict[str, Any]],
) -> None:
    start(content("inherit"), Path("run"), Crashes(5))
    with pytest.raises(HistoryError, match="a resumed run may change"):
        resume(Path("run"), "evaluation.epochs=1")


# Processes of their own, and real signals.


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(EVONAS), *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # As many threads as here, where the run left alone runs: sums depend on their number.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


def killed(given: Mapping[str, Any], moments: Sequence[int], seed: int) -> Path:
    """A run by the command line, killed at so many records, then resumed until it finishes."""
    Path("recipe.yaml").write_text(yaml.safe_dump(dict(given)))
    return kill_and_resume(begin, moments, seed=seed, said="finished: the budget is spent")


@pytest.mark.slow
def test_two_workers_are_killed_while_they_inherit(
    content: Callable[..., dict[str, Any]],
) -> None:
    given = content("inherit", executor=TWO, final={"top": 1})
    del given["audit"]
    _, events = read_journal(killed(given, [11], 0))
    assert [t.state for t in list(Trials((), events).latest.values())] == [
        TrialState.COMPLETE
    ] * TRIALS
    assert len(of_stage("search", events)) == 2 * TRIALS


@pytest.mark.slow
@every_evaluation
def test_two_workers_are_killed_at_many_moments(
    content: Callable[..., dict[str, Any]], name: str
) -> None:
    moments = sorted(Random(name).sample(range(2, 2 * TRIALS), 5))
    ended(killed(content(name, executor=TWO), [*moments, 2 * TRIALS + 1], 1))


@pytest.mark.slow
@every_evaluation
def test_a_serial_run_killed_is_the_run_left_alone(
    content: Callable[..., dict[str, Any]], name: str
) -> None:
    given = content(name)
    start(given, Path("alone"))
    run_dir = killed(given, [5, 12, 20, 27, 30, 35], 2)  # the last three among the finals
    assert timeless(ended(run_dir)) == timeless(ended(Path("alone")))
    assert figures(run_dir) == figures(Path("alone"))


@pytest.mark.slow
def test_an_interrupt_during_the_final_trainings_can_be_resumed(
    content: Callable[..., dict[str, Any]],
) -> None:
    long = {"name": "inherit", "epochs": 0.5, "of": {**TRAIN, "final_epochs": 100}}
    given = content("inherit", evaluation=long, budget={"trials": 5})
    Path("recipe.yaml").write_text(yaml.safe_dump(given))
    process = begin("run", "recipe.yaml", "--run-dir", "run")
    deadline = time.monotonic() + 120
    while not list(Path("run/weights").glob("final_*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "evonas resume run" in finish(process, 130)
    _, done = read_journal(Path("run"))
    assert 1 <= len(of_stage("final", done)) // 2 < 4
    assert final.stored(Path("run")) is None
    assert json.loads(Path("run/report.json").read_text())["status"] == "interrupted"
    finish(begin("resume", "run"))
    assert ended(Path("run"), 5)[: len(done)] == done, "what was done is kept"
