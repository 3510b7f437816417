"""How commands tell of a run: JSON lines, nothing, colours, a live table on a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner, Result

from evonas.cli import main

QUICK = ("budget.trials=3", "evaluation.epochs=2", "evaluation.final_epochs=2")
SETTINGS = [word for setting in (*QUICK, "executor.name=serial") for word in ("--set", setting)]


def evonas(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def test_json_is_a_line_an_event_and_nothing_else() -> None:
    done = evonas("run", "digits_evo", "--run-dir", "run", "--json", *SETTINGS)
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    assert events[0]["run_dir"] == "run"
    trials = [e for e in events if e["event"] == "trial" and e["proposal"]["stage"] == "search"]
    assert [(e["number"], e["state"]) for e in trials][:2] == [(0, "running"), (0, "complete")]
    steps = [e for e in events if e["event"] == "step" and e["stage"] == "search"]
    assert [(e["trial"], e["step"]) for e in steps] == [(n, s) for n in range(3) for s in (1, 2)]
    end = events[-1]
    assert end["trials"] == {"complete": 3}
    assert 0 <= end["final"]["test_accuracy"] <= 1
    assert end["incumbent"]["trial"] in range(3)
    more = evonas("resume", "run", "--json", "--set", "budget.trials=4")
    assert json.loads(more.stdout.splitlines()[-1])["trials"] == {"complete": 4}


def test_quiet_is_the_outcome_alone() -> None:
    done = evonas("run", "digits_evo", "--run-dir", "run", "--quiet", *SETTINGS)
    assert done.exit_code == 0, done.output
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("finished: the budget is spent")
    assert not any("best so far" in line for line in lines)


def on_a_terminal(**environment: str) -> str:
    """What a run of two trials writes on a real terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "evonas",
            "run",
            "digits_evo",
            "--run-dir",
            "run",
            *SETTINGS,
            "--set",
            "evaluation.epochs=20",
        ],  # some seconds a trial, and two drawings a second
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(follower)
    said, end = b"", time.monotonic() + 240
    while time.monotonic() < end:
        if select.select([leader], [], [], 1.0)[0]:
            try:
                said += os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
        elif process.poll() is not None:
            break
    assert process.wait() == 0, said.decode()
    os.close(leader)
    return said.decode()


def test_a_terminal_shows_a_table_that_is_drawn_again() -> None:
    said = on_a_terminal(NO_COLOR="1")
    assert re.search(r"trial \d .*\d:\d\d", said)
    assert "\x1b[?25l" in said  # the cursor is hidden while it is drawn, and shown afterwards
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    assert not re.search(r"\x1b\[(3|9)[0-7]m", said)  # no colour
    assert Path("run/report.html").exists()
