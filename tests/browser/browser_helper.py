"""A real browser, and a real MLflow server with real runs in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Chromium is told to ask nothing of the network by itself.
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
_FLAGS += ["--disable-component-update", "--disable-sync"]
RUNS = {  # names of run folders, and what they set
    "random-0": ("strategy.name=random", "seed=0"),
    "random-1": ("strategy.name=random", "seed=1"),
    "evolution-0": ("seed=0", "final.top=2"),
    "two-workers": ("seed=1", "executor.name=processes", "executor.workers=2", "pruning=median"),
}
TRIALS = 16
QUICK = (f"budget.trials={TRIALS}", "evaluation.epochs=5", "evaluation.final_epochs=15")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, or another in the path, driven by Playwright."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium: apt install chromium")
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=_FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: the folder that EVONAS_SCREENSHOTS names, or one that is forgotten."""
    named = os.environ.get("EVONAS_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Store:
    """Runs, and the server that shows them."""

    folder: Path
    server: str
    links: tuple[str, ...]  # leaderboard, and trials of "two-workers"


def evonas(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "evonas", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("store")
    for name, settings in RUNS.items():
        words = [word for setting in (*QUICK, *settings) for word in ("--set", setting)]
        evonas(folder, "run", "digits_evo", "--run-dir", name, *words)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "evonas", "ui", "two-workers", "--port", str(port)],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    links = tuple(server.stdout.readline().partition(": ")[2].strip() for _ in range(2))
    yield Store(folder, f"http://127.0.0.1:{port}", links)
    server.terminate()
    server.wait()
