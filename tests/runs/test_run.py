"""Whole runs through the command line, in processes of their own, with real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from sessions_helper import timeless

from evonas.runs.journal import JOURNAL, read_journal
from evonas.trial import Trial, TrialState
from evonas.trials import Trials

pytestmark = pytest.mark.faults(
    "invariant: killed and resumed, every trial is there once and none is running"
)

EVONAS = Path(sys.executable).with_name("evonas")
SLEEPY = '''
import time
from evonas.evaluators.base import Evaluator


class Sleepy(Evaluator):
    """The number of channels, after a while."""
    metrics = ("value",)

    def __init__(self, context, seconds: float = 0.05):
        super().__init__(context)
        self.seconds = seconds

    def evaluate(self, trial, report):
        report(1, {"value": 0.0})
        time.sleep(self.seconds)
        return {"value": float(sum(trial.architecture.choices.values()))}
'''
RECIPE = """
name: sleepy
space: plain_cnn
strategy: {name: aging_evolution, population_size: 6, tournament_size: 2}
evaluation: sleepy
objectives: {value: max}
budget: {trials: 40}
tracking: console
"""


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``evonas`` with some arguments, in the test's folder."""
    (tmp_path / "plugins" / "evaluators").mkdir(parents=True)
    (tmp_path / "plugins" / "evaluators" / "sleepy.py").write_text(SLEEPY)
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(EVONAS), *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    return start


def records(run_dir: Path) -> int:
    path = run_dir / JOURNAL
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(run_dir: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while records(run_dir) < count and process.poll() is None:
        assert time.monotonic() < deadline, f"only {records(run_dir)} records"
        time.sleep(0.01)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=180)
    assert process.returncode == code, output
    return output


def every_trial_once(run_dir: Path, count: int) -> list[Trial]:
    _, events = read_journal(run_dir)
    for state in (TrialState.RUNNING, TrialState.COMPLETE):
        assert sorted(e.number for e in events if e.state is state) == list(range(count))
    assert len(events) == 2 * count
    ids = [e.architecture.id for e in events if e.state is TrialState.RUNNING]
    assert len(set(ids)) == count
    return events


def kill_and_resume(
    begin: Callable[..., subprocess.Popen[str]],
    moments: Sequence[int],
    arguments: tuple[str, ...] = (),
    seed: int = 0,
    said: str = "finished: the budget is spent (40 complete",
) -> Path:
    """A run of recipe.yaml, killed at so many records, then resumed until it finishes."""
    run_dir = Path("killed").absolute()
    rng = Random(seed)
    process = begin("run", "recipe.yaml", "--run-dir", str(run_dir), *arguments)
    for moment in moments:
        wait_for(run_dir, moment, process)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = begin("resume", str(run_dir))
    assert said in finish(process)
    return run_dir


@pytest.mark.slow
def test_two_workers_killed_at_several_moments(begin: Callable[..., subprocess.Popen[str]]) -> None:
    two = ("--set", "executor.name=processes", "--set", "executor.workers=2")
    run_dir = kill_and_resume(begin, [5, 45], two)
    every_trial_once(run_dir, 40)


@pytest.mark.slow
def test_two_workers_killed_at_many_moments(begin: Callable[..., subprocess.Popen[str]]) -> None:
    two = ("--set", "executor.name=processes", "--set", "executor.workers=2")
    run_dir = kill_and_resume(begin, sorted(Random(1).sample(range(1, 78), 20)), two)
    every_trial_once(run_dir, 40)


@pytest.mark.slow
def test_a_search_and_workers_on_a_folder_are_killed(
    begin: Callable[..., subprocess.Popen[str]],
) -> None:
    folder = ("--set", "executor={name: folder, lease: 3}", "--set", "evaluation.seconds=0.3")
    search = begin("run", "recipe.yaml", "--run-dir", "run", *folder)
    workers = [begin("worker", "run", "--workers", "1") for _ in range(3)]
    for moment, victim in ((12, workers[0]), (30, search), (50, workers[1])):
        wait_for(Path("run"), moment, search)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        if victim is search:
            search = begin("resume", "run")
    output = finish(search)
    assert "finished: the budget is spent (40 complete" in output, output
    every_trial_once(Path("run"), 40)
    assert "the run is finished" in finish(workers[2])


def test_a_serial_run_killed_is_the_run_left_alone(
    begin: Callable[..., subprocess.Popen[str]],
) -> None:
    alone = begin("run", "recipe.yaml", "--run-dir", "alone")
    run_dir = kill_and_resume(begin, [12, 45])
    finish(alone)
    assert timeless(every_trial_once(run_dir, 40)) == timeless(every_trial_once(Path("alone"), 40))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_signal_finishes_what_runs(
    begin: Callable[..., subprocess.Popen[str]], number: int, code: int
) -> None:
    process = begin("run", "recipe.yaml", "--run-dir", "run")
    wait_for(Path("run"), 6, process)
    process.send_signal(number)
    output = finish(process, code)
    assert "go on with   evonas resume run" in output
    _, events = read_journal(Path("run"))
    assert all(t.state is TrialState.COMPLETE for t in Trials((), events).latest.values())
    assert len(events) < 80
    finish(begin("resume", "run"))
    every_trial_once(Path("run"), 40)


def test_a_second_signal_stops_now(begin: Callable[..., subprocess.Popen[str]]) -> None:
    process = begin(
        *("run", "recipe.yaml", "--run-dir", "run", "--set", "executor.name=processes"),
        *("--set", "executor.workers=2", "--set", "evaluation.seconds=300"),
    )
    wait_for(Path("run"), 3, process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert "evonas resume" in finish(process, 130)
    _, events = read_journal(Path("run"))
    assert [t.state for t in Trials((), events).latest.values()] == [TrialState.RUNNING] * 2


def test_a_run_folder_has_one_user(begin: Callable[..., subprocess.Popen[str]]) -> None:
    again = ("run", "recipe.yaml", "--run-dir", "run", "--set", "evaluation.seconds=1")
    first = begin(*again)
    wait_for(Path("run"), 3, first)
    assert f"in use by process {first.pid}" in finish(begin("resume", "run"), 4)
    first.send_signal(signal.SIGINT)
    finish(first, 130)
    assert "go on with: evonas resume run" in finish(begin(*again), 4)
    assert "another recipe" in finish(begin(*again, "--set", "seed=5"), 2)


def test_a_torn_line_is_said(begin: Callable[..., subprocess.Popen[str]]) -> None:
    finish(begin("run", "recipe.yaml", "--run-dir", "run", "--set", "budget.trials=3"))
    path = Path("run") / JOURNAL
    os.truncate(path, path.stat().st_size - 7)
    assert "dropped a torn last line" in finish(begin("resume", "run"))
    every_trial_once(Path("run"), 3)


def test_output_into_a_closed_pipe(begin: Callable[..., subprocess.Popen[str]]) -> None:
    process = begin("list")
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=60)
    assert process.returncode in (0, 141)
