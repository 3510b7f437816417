"""Small real things that many tests share."""

from __future__ import annotations

import copy
import os
import re
import resource
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evonas.architecture import Architecture
from evonas.executors.parts import fork_server
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.trial import Limit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # also for the processes tests start
# Tests run side by side: two threads on two busy cores mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)  # tiny networks: more threads only wait for each other

# The server that forks this process's workers: with what runs need, whoever comes first.
fork_server.context("evonas.runs.assemble")
forkserver.ensure_running()

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# The worked examples, "spaces/tiny_mlp" and so on: those that their how-to names. Files that a user
# has put beside them are the user's own, and no test's.
EXAMPLES = re.findall(r"`([a-z]+/[a-z_0-9]+)\.py`", (ROOT / "plugins" / "README.md").read_text())

# Options that make a space's networks tiny.
TINY_SPACES: dict[str, dict[str, Any]] = {
    "plain_cnn": {"max_depth": 2, "max_width": 16},
    "cnn": {"max_depth": 2, "max_width": 16},
    "mbconv": {"max_depth": 2, "max_width": 16},
    "nasbench201": {"channels": 4, "cells": 1},
    "resnet": {"max_depth": 2, "max_width": 32},
    "cifar_resnet": {"max_depth": 3, "max_width": 32},
    "mobilenet": {"max_depth": 2, "max_width": 32},
    "sequential": {"max_layers": 4, "max_width": 32},
    "backbone": {"max_resolution": 32},
    "nasnet": {"max_repeats": 1, "max_filters": 8},
    "anynet": {"max_depth": 2, "max_width": 32},
    "regnet": {"max_depth": 8, "max_width": 64},
    "darts": {"channels": 4},
    "named": {"networks": ["plain_cnn/small", "resnet/resnet10_xxxs"]},
}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Have every test of a fault say which, also to the process that prints: ``faults("what")``."""
    for item in items:
        marks = list(item.iter_markers("faults"))
        if marks:
            said = next((mark.args[0] for mark in marks if mark.args), item.path.stem)
            slow = " (slow)" if item.get_closest_marker("slow") else ""
            item.user_properties.append(("fault", f"{said}{slow}"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Inputs that were fuzzed; of tests of faults alone, a line a fault and how its tests ended."""
    if fuzz := sys.modules.get("fuzz_helper"):
        for line in fuzz.lines():
            terminalreporter.write_line(line)
    if config.getoption("markexpr") != "faults":
        return
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            for name, fault in report.user_properties:
                if name == "fault":
                    table[fault][outcome] += 1
    terminalreporter.section("faults")
    for fault in sorted(table, key=_by_number):
        counts = ", ".join(f"{count} {outcome}" for outcome, count in table[fault].items())
        terminalreporter.write_line(f"{fault:<90} {counts}")


def _by_number(fault: str) -> tuple[int, str]:
    """The issue's numbers in their order, then what has none."""
    number = fault.partition(":")[0]
    return (int(number), fault) if number.isdigit() else (10**9, fault)


def bounded(
    space: SearchSpace,
    limits: Mapping[str, Limit],
    measure: Callable[[Architecture], Mapping[str, float]],
) -> SearchSpace:
    """The space with limits on costs that a test makes up."""
    counting = copy.copy(space)
    counting.counted = tuple(limits)
    counting.costs = lambda architecture, task: measure(architecture)  # type: ignore[method-assign]
    return counting.limited(limits, Task(1, 8, 8, 2))


def all_spaces() -> list[str]:
    """Names of the built-in spaces, and of the examples."""
    examples = [name.partition("/")[2] for name in EXAMPLES if name.startswith("spaces/")]
    return sorted([*Registry().origins("space"), *examples])


@contextmanager
def a_disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: a full disk, much as it is told."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in a folder of its own, so that nothing is left in the checkout."""
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_default_device(None)


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Write an .npz of random images with a trace of their class in them."""

    def write(
        classes: int = 3, size: int = 8, channels: int = 3, train: int = 60, test: int = 12
    ) -> Path:
        rng = np.random.default_rng(0)
        arrays = {}
        for part, count in (("train", train), ("test", test)):
            labels = np.arange(count) % classes
            noise = rng.integers(0, 128, (count, size, size, channels), dtype=np.uint8)
            noise[:, 0, 0, 0] = labels * 60
            arrays |= {f"x_{part}": noise, f"y_{part}": labels}
        path = tmp_path / "images.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def shared_data() -> Path:
    """The folder with real data; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data in {SHARED_DATA}")
    return SHARED_DATA
