"""How commands tell of a run: JSON lines, nothing, colours, a live table on a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cli_helper import evonas

QUICK = ("budget.trials=3", "evaluation.epochs=2", "evaluation.final_epochs=2")
SETTINGS = [word for setting in (*QUICK, "executor.name=serial") for word in ("--set", setting)]


def test_json_is_a_line_an_event_and_nothing_else() -> None:
    done = evonas("run", "digits_evo", "--run-dir", "run", "--json", *SETTINGS)
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    assert events[0]["run_dir"] == "run"
    stored = yaml.safe_load(Path("run/recipe.yaml").read_text())
    assert (
        stored["evaluation"]["learning_rate"] == events[0]["recipe"]["evaluation"]["learning_rate"]
    )
    trials = [e for e in events if e["event"] == "trial" and e["proposal"]["stage"] == "search"]
    assert [(e["number"], e["state"]) for e in trials][:2] == [(0, "running"), (0, "complete")]
    steps = [e for e in events if e["event"] == "step" and e["stage"] == "search"]
    assert [(e["trial"], e["step"]) for e in steps] == [(n, s) for n in range(3) for s in (1, 2)]
    end = events[-1]
    assert end["trials"] == {"complete": 3}
    assert end["effort"] == pytest.approx(sum(e["effort"] for e in trials))
    assert 0 <= end["final"]["test_accuracy"] <= 1
    assert end["incumbent"]["trial"] in range(3)
    more = evonas("resume", "run", "--json", "--set", "budget.trials=4")
    assert json.loads(more.stdout.splitlines()[-1])["trials"] == {"complete": 4}


LOUD = """
from evonas import Evaluator

class Loud(Evaluator):
    metrics = reports = ("score",)

    def evaluate(self, trial, report):
        print("loud")
        for step in range(1, 1 + int(SECONDS)):
            report(step, {"score": 0.0})
            if SECONDS > 1:
                time.sleep(1)
        return {"score": 1.0}
"""


def of_plugin(seconds: int) -> list[str]:
    """Settings of runs whose evaluator prints, and takes so long."""
    folder = Path("plugins/evaluators")
    folder.mkdir(parents=True, exist_ok=True)
    text = f"import time\n\nSECONDS = {seconds}\n{LOUD}"
    (folder / "loud.py").write_text(text)
    settings = ("evaluation={name: loud}", "objectives={score: max}", "budget.trials=2")
    return [word for setting in settings for word in ("--set", setting)]


def test_json_holds_nothing_that_components_print() -> None:
    command = ["run", "digits_evo", "--run-dir", "run", "--json", *of_plugin(1)]
    done = subprocess.run(
        [sys.executable, "-m", "evonas", *command], capture_output=True, text=True
    )  # with worker processes, whose output is the system's
    alone = evonas(
        *command, "--run-dir", "alone", "--set", "executor={name: serial, isolate: false}"
    )
    for code, output, errors in (
        (done.returncode, done.stdout, done.stderr),
        (alone.exit_code, alone.stdout, alone.stderr),
    ):
        assert code == 0, errors
        assert [json.loads(line)["event"] for line in output.splitlines()][-1] == "end"
        assert "loud" in errors


def test_an_audit_is_told_as_a_run_is() -> None:
    settings = [*SETTINGS, "--set", "budget.trials=4"]
    assert evonas("run", "digits_evo", "--run-dir", "run", "--quiet", *settings).exit_code == 0
    done = evonas("audit", "run", "--trials", "4", "--json")
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    assert events[-1]["verdict"]
    assert any(e["event"] == "step" and e["stage"] == "audit" for e in events)


def test_quiet_is_the_outcome_alone() -> None:
    done = evonas("run", "digits_evo", "--run-dir", "run", "--quiet", *SETTINGS)
    assert done.exit_code == 0, done.output
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("finished: the budget is spent")
    assert "s of search, effort " in lines[0]
    assert not any("best so far" in line for line in lines)


@pytest.mark.parametrize("told", [[], pytest.param(["--json"], marks=pytest.mark.slow)])
def test_a_run_that_nobody_reads_any_more_ends_as_if_interrupted(told: list[str]) -> None:
    command = [sys.executable, "-m", "evonas", "run", "digits_evo", "--run-dir", "run", *told]
    many = ["--set", "budget.trials=500", "--set", "tracking=console", "--set", "executor=serial"]
    with subprocess.Popen(
        [*command, *many], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()  # as head does
        assert process.stderr.read() == ""
    assert process.returncode == 130
    less = ("--set", "budget.trials=2", "--set", "executor={name: serial}")  # a whole section, too
    done = evonas("resume", "run", *less, "--quiet")
    assert done.exit_code == 0, done.output


def on_a_terminal(*settings: str, interruptions: int = 0, **environment: str) -> tuple[str, int]:
    """What a run writes on a real terminal, and its exit code.

    Args:
        settings: Its options.
        interruptions: How often somebody presses Ctrl-C, when a trial is seen to run.
        environment: Further variables.
    """
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "evonas", "run", "digits_evo", "--run-dir", "run", *settings],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(follower)
    said, end = b"", time.monotonic() + 240
    marks = [b"trial 0 ", b"press Ctrl-C again"][:interruptions]
    while time.monotonic() < end:
        if select.select([leader], [], [], 1.0)[0]:
            try:
                said += os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
        elif process.poll() is not None:
            break
        if marks and marks[0] in said:
            marks.pop(0)
            process.send_signal(signal.SIGINT)
    code = process.wait()
    os.close(leader)
    return said.decode(), code


@pytest.mark.slow
def test_a_terminal_shows_a_table_that_is_drawn_again() -> None:
    # Some seconds a trial, and two drawings a second.
    said, code = on_a_terminal(*SETTINGS, "--set", "evaluation.epochs=20", NO_COLOR="1")
    assert code == 0, said
    assert re.search(r"trial \d .*\d:\d\d", said)
    assert "\x1b[?25l" in said  # the cursor is hidden while it is drawn, and shown afterwards
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    assert not re.search(r"\x1b\[(3|9)[0-7]m", said)  # no colour
    assert Path("run/report.html").exists()


@pytest.mark.slow
def test_a_terminal_is_given_back_by_the_second_interruption() -> None:
    settings = [*of_plugin(60), "--set", "executor.name=serial"]
    said, code = on_a_terminal(*settings, interruptions=2)
    assert code == 128 + signal.SIGINT
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    last = said[said.rindex("\x1b[?25h") :]  # after the table, which cannot draw over it
    assert "stopped; go on with: evonas resume run" in last


@pytest.mark.slow
@pytest.mark.faults(
    "10: SIGINT while a trial hangs: it is ended after the grace, and goes on later"
)
def test_a_trial_that_hangs_does_not_keep_an_interrupted_run() -> None:
    processes = "executor={name: processes, workers: 1, grace: 1}"
    settings = [*of_plugin(600), "--set", processes]
    said, code = on_a_terminal(*settings, interruptions=1)
    assert code == 128 + signal.SIGINT
    assert "finishing 1 trial, for 1 s at most; press Ctrl-C again to stop now" in said
    assert "stopped; go on with: evonas resume run" in said
