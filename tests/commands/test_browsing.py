"""``evonas ui``: the right store, links that show something, one line for a mistake."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from cli_helper import evonas
from click.testing import Result

from evonas.trackers.parts.state import State

QUICK = ("budget.trials=2", "evaluation.epochs=1", "evaluation.final_epochs=1")


def run(*more: str) -> Result:
    settings = [word for setting in (*QUICK, *more) for word in ("--set", setting)]
    return evonas("run", "digits_evo", "--run-dir", "run", *settings)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_run_ends_with_what_to_type_and_links() -> None:
    done = run("tracking.uri=sqlite:///mine.db")
    assert done.exit_code == 0, done.output
    state = State.of(Path("run"))
    end = done.output.splitlines()[-3:]
    assert end[0].split() == ["compare", "runs", "evonas", "ui", "run"]
    assert f"#/experiments/{state.experiment_id}/runs?" in end[1]
    assert state.run_id in end[2]


def test_a_run_that_is_not_in_mlflow_says_nothing_of_it() -> None:
    done = run("tracking.name=console")
    assert done.exit_code == 0, done.output
    assert "evonas ui" not in done.output
    shown = evonas("ui", "run")
    assert shown.exit_code == 2
    assert shown.output == "evonas: run: nothing of it is in MLflow; try evonas sync run\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no such store"),
        (("--uri", "sqlite:///none.db"), "no such store"),
        (("--uri", "./mlruns"), "no store that MLflow still writes to"),
        (("nowhere",), "nowhere"),
    ],
)
def test_what_is_not_there_is_an_error_and_stays_away(
    arguments: tuple[str, ...], message: str
) -> None:
    done = evonas("ui", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert len(done.output.splitlines()) == 1
    assert not list(Path().iterdir())


def test_a_port_that_is_taken_is_an_error() -> None:
    Path("mine.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = evonas("ui", "--uri", "sqlite:///mine.db", "--port", port)
    assert done.exit_code == 2
    assert done.output == f"evonas: --port {port}: Address already in use; give another\n"


@pytest.mark.slow
def test_the_ui_and_a_server_of_ones_own() -> None:
    run("tracking.uri=sqlite:///mine.db")
    port = str(free_port())
    server = subprocess.Popen(
        [sys.executable, "-m", "evonas", "ui", "run", "--port", port],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert server.stdout is not None
    try:
        board = server.stdout.readline()
        assert board.startswith(f"leaderboard: http://127.0.0.1:{port}/#/experiments/1/runs?")
        done = evonas("ui", "--uri", f"http://127.0.0.1:{port}")
        assert done.exit_code == 0
        assert done.output == f"digits_evo: {board.partition(': ')[2]}"
        logged = evonas("ui", "run", "--uri", f"http://127.0.0.1:{port}")
        assert logged.output.splitlines()[0] == board.strip()
    finally:
        server.terminate()
    assert server.wait() == 143
    for _ in range(50):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
        except OSError:
            return
        time.sleep(0.2)
    raise AssertionError("MLflow's server goes on")
