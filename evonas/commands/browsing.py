"""``evonas ui``: MLflow's UI on the right store, and links that show something at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from evonas.errors import HistoryError, PluginError, RecipeError
from evonas.runs.journal import read_header
from evonas.runs.run import info_of
from evonas.trackers.mlflow import MLflow
from evonas.trackers.parts import store, views
from evonas.trackers.parts.state import State

_HOST = "127.0.0.1"
_PORT = 5000
_SHOWN = 8  # experiments; the latest are what somebody wants to see
_GRACE = 5.0  # seconds that it may take to leave
_START = 120.0  # seconds that MLflow's server may take to answer: its first import is slow


def store_of(run_dir: Path | None, uri: str | None) -> str:
    """The store to look at: the one that is named, else the run's, else the default.

    Raises:
        HistoryError: If the folder holds no run that was logged to MLflow.
        RecipeError: If the store is a file that is not there.
    """
    where = MLflow(uri).uri
    if run_dir is not None and uri is None:
        read_header(run_dir)
        where = State.of(run_dir).uri
        if not where:
            raise HistoryError(f"{run_dir}: nothing of it is in MLflow; try evonas sync {run_dir}")
    path = store.file_of(where)
    if path is not None and not path.exists():
        raise RecipeError(f"{path}: no such store; runs make it, or name another with --uri")
    return where


def links(run_dir: Path, server: str) -> list[tuple[str, str]]:
    """What there is to look at of a run: a title and a link each; empty if it is not in MLflow."""
    state = State.of(run_dir)
    if not state.run_id:
        return []
    info = info_of(run_dir, read_header(run_dir))
    return [
        ("leaderboard", views.leaderboard(server, state.experiment_id, state.view)),
        ("its trials", views.trials(server, state.experiment_id, state.run_id, info)),
    ]


def after(run_dir: Path) -> list[tuple[str, str]]:
    """What to type or open after a run, to see it in MLflow."""
    uri = State.of(run_dir).uri
    if not uri:
        return []
    if uri.startswith("http"):
        return links(run_dir, uri)
    return [("compare runs", f"evonas ui {run_dir}"), *links(run_dir, f"http://{_HOST}:{_PORT}")]


def browse(
    run_dir: Path | None, uri: str | None, port: int, opens: bool, say: Callable[[str], None]
) -> int:
    """Start the UI, unless the store is a server that has one; say the links.

    Args:
        run_dir: Whose leaderboard and trials are shown; None: the store's experiments.
        uri: The store; None: the run's, else the default.
        port: Where the UI is to listen, on this machine only.
        opens: Whether to open the first link in a browser.
        say: Given the lines.

    Returns:
        The server's exit code; 0 if none was needed.

    Raises:
        EvonasError: If the store, the folder or the port is at fault.
    """
    where = store_of(run_dir, uri)
    remote = where.startswith("http")
    if not remote:
        _check_free(port)
    server = where if remote else f"http://{_HOST}:{port}"
    pages = links(run_dir, server) if run_dir else _experiments(where, server)
    with nullcontext() if remote else _serving(where, port, server) as process:
        for title, link in pages:
            say(f"{title}: {link}")
        if opens and pages:
            webbrowser.open(pages[0][1])
        return process.wait() if process else 0


def _experiments(where: str, server: str) -> list[tuple[str, str]]:
    experiments = MLflow(where).experiments()[:_SHOWN]
    return [(name, views.leaderboard(server, number, kept)) for number, name, kept in experiments]


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise RecipeError(f"--port {port}: {error.strerror}; give another") from error


@contextmanager
def _serving(where: str, port: int, server: str) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's own server, as soon as it answers; it ends with this, and its workers too."""
    # For one person on this machine one worker is enough, and starts in a quarter of the time.
    place = ("--host", _HOST, "--port", str(port), "--workers", "1")
    quiet = ("--uvicorn-opts", "--log-level warning")
    command: Sequence[str] = (sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", where)
    # What it says of itself is no answer to the question: the links alone go to stdout.
    process = subprocess.Popen([*command, *place, *quiet], stdout=2, start_new_session=True)
    try:
        _wait(process, server)
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)


def _wait(process: subprocess.Popen[bytes], server: str) -> None:
    """Until it answers.

    Raises:
        PluginError: If it ends before, or never does.
    """
    end = time.monotonic() + _START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise PluginError(f"MLflow's server ended with exit code {process.returncode}")
        with suppress(OSError), urllib.request.urlopen(f"{server}/health", timeout=1):
            return
        time.sleep(0.2)
    raise PluginError(f"MLflow's server does not answer within {_START:.0f} s")
