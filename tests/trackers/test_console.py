"""What the console says of a run, into a pipe mostly, and on a screen."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as Terminal

from evonas.architecture import Architecture
from evonas.trackers.base import Report, RunInfo
from evonas.trackers.console import Console
from evonas.trial import Objective, Proposal, Trial, TrialState, figure
from evonas.trials import Trials

OBJECTIVES = (Objective("acc"), Objective("params", "min"))
ENVIRONMENT = {"evonas": "1", "python": "3", "torch": "2", "devices": "cpu"}


def begun(number: int, **changes: object) -> Trial:
    return Trial(number, replace(Proposal(Architecture("s", {"c": number})), **changes))  # type: ignore[arg-type]


def complete(number: int, acc: float, params: float = 1.0) -> Trial:
    metrics = {"acc": acc, "params": params}
    return replace(begun(number), state=TrialState.COMPLETE, metrics=metrics)


def run_of(recipe: dict[str, Any], name: str = "r", resumed: bool = False) -> RunInfo:
    return RunInfo(name, Path(name), recipe, OBJECTIVES, ENVIRONMENT, 0.0, resumed)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console_of(
    clock: Clock, evaluation: dict[str, object] | None = None, **budget: float
) -> Console:
    console = Console()
    console._clock = clock
    recipe = {
        "budget": budget or {"trials": 4},
        "evaluation": evaluation or {"name": "train", "epochs": 10, "final_epochs": 20},
    }
    console.start(run_of(recipe), [])
    return console


def say(
    capsys: pytest.CaptureFixture[str], events: Sequence[Trial], earlier: Sequence[Trial] = ()
) -> list[str]:
    """The lines after the first, which names versions."""
    journal, console = list(earlier), Console()
    console.start(run_of({"budget": {"trials": 40}}, resumed=bool(earlier)), journal)
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
    assert lines[1].startswith("10 trials ended, best acc 0.9000 (trial 0)")
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
    console = console_of(Clock())
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
    console = console_of(Clock(), minutes=1)
    for number in range(11):
        console.record(begun(number))
    for number in range(10):
        console.record(replace(complete(number, 0.5), elapsed=61.0))
    said = capsys.readouterr().out
    assert "0:00" not in said
    assert "finishing 1" in said


def test_what_runs_is_said_with_its_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    console = console_of(clock)
    console.record(begun(0))
    clock.now = 65.0
    assert console._progress() == "1 running; trial 0 runs for 1:05"
    console.step(begun(0), 4, {"acc": 0.25, "val_loss": 2.0})
    assert console._progress().endswith("trial 0, epoch 4 of 10: acc 0.2500")
    console.step(begun(9), 4, {"acc": 0.25})  # not heard of: its event comes first
    console.stop()


def test_epochs_of_shared_weights_are_not_those_of_a_final_training() -> None:
    console = console_of(Clock(), {"name": "supernet", "epochs": 9, "of": {"epochs": 3}})
    console.record(begun(0))
    console.step(begun(0), 4, {"shared_loss": 2.0})
    assert console._progress().endswith("trial 0, step 4: shared_loss 2.0000")
    console.stop()


def test_time_left_is_reckoned_by_effort() -> None:
    clock = Clock()
    console = console_of(clock)
    console.record(begun(0))
    clock.now = 50.0
    console.step(begun(0), 5, {"acc": 0.1})
    assert console._left() == pytest.approx(350)  # 50 seconds for half a trial of four
    clock.now = 100.0
    console.record(replace(complete(0, 0.5), elapsed=100.0))
    assert console._left() == pytest.approx(300)
    low = replace(begun(1), proposal=replace(begun(1).proposal, fidelity=0.1))
    console.record(low)
    clock.now = 110.0
    console.record(replace(low, state=TrialState.COMPLETE, metrics={"acc": 0.1, "params": 1.0}))
    # 110 seconds for an effort of 1.1, and two trials of .55 to come
    assert console._left() == pytest.approx(110)
    console.stop()


def test_a_long_silence_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evonas.trackers.console._SILENCE", 0.1)
    console = Console()
    console.start(run_of({"budget": {"trials": 4}, "evaluation": {}}), [])
    console.record(begun(0))
    said = ""
    for _ in range(100):
        time.sleep(0.05)
        if "trial 0 runs for" in (said := said + capsys.readouterr().out):
            break
    console.stop()
    assert "trial 0 runs for" in said


def test_the_last_epoch_of_a_final_training_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    console = console_of(Clock())
    final = begun(0, parents=(25,), stage="final")
    console.record(final)
    for step in range(1, 21):
        console.step(final, step, {"acc": step / 20})
    console.stop()
    assert capsys.readouterr().out.splitlines()[1:] == [
        "training trial 25 for good, seed 0",
        "  trial 25, seed 0, epoch 20 of 20: acc 1.0000",
    ]


def test_a_table_on_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    console = console_of(clock, {"name": "reduced", "of": {"name": "train", "epochs": 10}})
    console.record(begun(0))
    console.record(begun(1))
    console.draws(10, 3)
    console.step(begun(1), 2, {"acc": 0.5})
    clock.now = 61.0
    screen = Terminal(
        width=100, force_terminal=True, no_color=True, record=True, file=io.StringIO()
    )
    screen.print(console._table())
    rows = [line.split() for line in screen.export_text().splitlines()]
    assert rows[0] == ["trial", "0", "1:01"]
    assert rows[1] == ["trial", "1", "epoch", "2", "of", "10", "acc", "0.5000", "1:01"]
    console.record(complete(0, 0.25))
    assert "30% of draws within the limits" in console._state()
    console.stop()


def test_one_console_tells_of_run_after_run(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for name in ("one", "two"):
        console.start(run_of({"budget": {"trials": 40}}, name), [])
        for number in range(10):
            console.record(complete(number, 0.5))
        console.close(Report("finished", "done", {}, 1.0))
    assert sum("10 trials ended" in line for line in capsys.readouterr().out.splitlines()) == 2


def test_a_resumed_run_shows_the_trials_that_it_runs_again() -> None:
    console = Console()
    recipe = {"budget": {"trials": 4}, "evaluation": {"name": "train", "epochs": 10}}
    console.start(run_of(recipe, resumed=True), [complete(0, 0.5), begun(1)])
    assert "trial 1 runs for 0:00" in console._progress()
    final = begun(0, parents=(25,), repeat=1, stage="final")
    console.step(final, 3, {"acc": 0.5})  # its beginning was recorded by another session
    assert "trial 25, seed 1, epoch 3 of 10: acc 0.5000" in console._progress()
    console.stop()


def test_a_narrow_low_screen_loses_nothing_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "8")
    console = console_of(Clock())
    for number in range(64):
        console.record(begun(number))
    console.record(complete(0, 0.25))
    screen = Terminal(width=40, record=True, file=io.StringIO(), soft_wrap=True)
    screen.print(console._table())
    lines = screen.export_text().splitlines()
    assert "59 more" in lines[4]
    assert " ".join(line.strip() for line in lines[5:]) == console._state()
    console.stop()


SAYS = """
from pathlib import Path
from evonas.trackers.base import RunInfo
from evonas.trackers.console import Console
console = Console()
versions = {"evonas": 1, "python": 1, "torch": 1, "devices": "cpu"}
console.start(RunInfo("r", Path("run"), {}, (), versions, 0.0), [])
console.note("data: " + ", ".join(f"class-{n} 1,0{n}" for n in range(10, 40)) + " " + "x" * 70)
console.stop()
"""


def test_a_screen_breaks_lines_between_words() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SAYS],
        stdout=theirs,
        env={**os.environ, "COLUMNS": "60", "TERM": "xterm"},
    )
    os.close(theirs)
    written = b""
    with suppress(OSError):  # what Linux raises when the other end is closed
        while piece := os.read(ours, 4096):
            written += piece
    os.close(ours)
    assert process.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode()).replace("\r", "")
    lines = plain[plain.index("data:") :].splitlines()
    assert all(len(line) <= 60 or line.strip() == "x" * 70 for line in lines), lines
    assert re.findall(r"class-\d+ +1,0\d+", " ".join(lines))[29:] == ["class-39 1,039"]


def test_counts_have_every_digit() -> None:
    assert figure(29_578_032) == figure(29_578_032.0) == "29,578,032"
    assert figure(0.27146812) == "0.271468"


def test_a_budget_of_effort_tells_how_much_is_spent_and_left() -> None:
    clock = Clock()
    console = console_of(clock, effort=2.0)
    console.record(begun(0))
    clock.now = 50.0
    console.step(begun(0), 5, {"acc": 0.1})
    assert console._left() is None, "what effort a trial is nobody knows yet"
    clock.now = 100.0
    console.record(replace(complete(0, 0.5), effort=0.5))
    assert console._left() == pytest.approx(300)
    assert "effort 0.5 of 2, 5:00 left" in console._state()
    console.record(begun(1))
    clock.now = 150.0
    console.step(begun(1), 5, {"acc": 0.1})
    assert console._left() == pytest.approx(250)  # 150 seconds for 0.75 of 2
    console.stop()


def test_what_was_prepared_before_is_no_part_of_the_pace() -> None:
    clock = Clock()
    console = console_of(clock)
    clock.now = 600.0
    assert console._progress() == "at work for 10:00"
    console.record(begun(0))
    clock.now = 610.0
    console.record(complete(0, 0.5))
    assert "6.0 trials/min, 0:30 left" in console._state()
    assert "finishing" not in console._state()
    console.stop()


def test_fast_trials_are_not_counted_many_times_a_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    console = console_of(clock)
    for number in range(2000):
        clock.now = number / 100
        console.record(complete(number, 0.5))
    console.stop()
    assert sum("trials ended" in line for line in capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_pipe_is_no_screen(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    console = console_of(Clock())
    console.record(begun(0))
    console.record(complete(0, 0.5))
    console.stop()
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "trial 0 is the best so far" in said


def test_drawing_while_events_come_does_not_fail() -> None:
    console = console_of(Clock())
    faults: list[Exception] = []
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            try:
                console._table()
                console._progress()
            except Exception as fault:  # of any kind: the thread of the table would end by it
                faults.append(fault)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for number in range(500):
            console.record(begun(number))
            console.step(begun(number), 1, {"acc": 0.5})
            console.record(complete(number, number / 1000))
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(before)
        console.stop()
    assert faults == []
