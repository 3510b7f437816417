"""What the console says of a run when its output is no screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evonas.architecture import Architecture
from evonas.trackers.base import Report, RunInfo
from evonas.trackers.console import Console
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

OBJECTIVES = (Objective("acc"), Objective("params", "min"))
ENVIRONMENT = {"evonas": "1", "python": "3", "torch": "2", "devices": "cpu"}


def begun(number: int, **changes: object) -> Trial:
    return Trial(number, replace(Proposal(Architecture("s", {"c": number})), **changes))  # type: ignore[arg-type]


def complete(number: int, acc: float, params: float = 1.0) -> Trial:
    metrics = {"acc": acc, "params": params}
    return replace(begun(number), state=TrialState.COMPLETE, metrics=metrics)


def say(
    capsys: pytest.CaptureFixture[str], events: Sequence[Trial], earlier: Sequence[Trial] = ()
) -> list[str]:
    """The lines after the first, which names versions."""
    journal, console = list(earlier), Console()
    recipe = {"budget": {"trials": 40}}
    run = RunInfo("r", Path("run"), recipe, OBJECTIVES, ENVIRONMENT, 0.0, resumed=bool(earlier))
    console.start(run, journal)
    for event in events:
        journal.append(event)
        console.record(event)
    console.close(Report("finished", "done", {}, 1.0))
    return capsys.readouterr().out.splitlines()[1:]


def test_the_best_so_far_is_that_of_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    ends = [complete(0, 0.5), complete(1, 0.4), complete(2, 0.5, 0.9), complete(3, 0.7)]
    ends.insert(2, begun(4).failed("ValueError: no\ntraceback"))
    lines = say(capsys, [event for end in ends for event in (begun(end.number), end)])
    assert lines == [
        "trial 0 is the best so far: acc 0.5, params 1",
        "trial 4 failed: ValueError: no",
        "trial 2 is the best so far: acc 0.5, params 0.9",
        "trial 3 is the best so far: acc 0.7, params 1",
    ]
    assert Trials(OBJECTIVES, ends).best == ends[-1]


def test_a_resumed_run_goes_on_counting(capsys: pytest.CaptureFixture[str]) -> None:
    lines = say(
        capsys,
        [complete(n, 0.1) for n in range(8, 10)],
        [complete(n, 0.9) for n in range(8)] + [begun(8)],
    )
    assert lines[0] == "resumed after 8 trials"
    assert lines[1].startswith("10 trials done, best acc 0.9000 (trial 0)")
    assert len(lines) == 2


def test_trainings_for_good_are_named_by_their_trials(capsys: pytest.CaptureFixture[str]) -> None:
    final, audited = begun(0, parents=(25,), repeat=1, stage="final"), begun(0, parents=(3,))
    audited = replace(audited, proposal=replace(audited.proposal, stage="audit"))
    done = replace(audited, state=TrialState.COMPLETE, metrics={"acc": 1.0})
    lines = say(capsys, [final, final.failed("RuntimeError: too small"), audited, done])
    assert lines == [
        "training trial 25 for good, seed 1",
        "training trial 25 for good failed: RuntimeError: too small",
        "auditing trial 3: training it for good",
    ]


def test_the_first_interruption_says_what_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.start(RunInfo("r", Path("run"), {"budget": {}}, OBJECTIVES, ENVIRONMENT, 0.0), [])
    for number in range(3):
        console.record(begun(number))
    console.record(complete(1, 0.5))
    console.interrupted()
    console.record(complete(0, 0.6))
    console.record(complete(2, 0.6))
    console.interrupted()
    lines = capsys.readouterr().out.splitlines()
    assert "finishing 2 trials; press Ctrl-C again to stop now" in lines
    assert lines[-1] == "stopping; press Ctrl-C again to stop now"


def test_when_the_time_is_over_it_says_what_still_runs(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    recipe = {"budget": {"minutes": 1}}
    console.start(RunInfo("r", Path("run"), recipe, OBJECTIVES, ENVIRONMENT, 0.0), [])
    for number in range(11):
        console.record(begun(number))
    for number in range(10):
        console.record(replace(complete(number, 0.5), elapsed=61.0))
    said = capsys.readouterr().out
    assert "0:00" not in said
    assert "finishing 1" in said
