"""A small real run, and how many inputs there were, printed at the end."""

from __future__ import annotations

from pathlib import Path

import fuzz_helper
import numpy as np
import pytest

import evonas


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended: searched, trained, audited."""
    place = tmp_path_factory.mktemp("small")
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 60), ("test", 12)):
        arrays[f"x_{part}"] = rng.integers(0, 255, (count, 8, 8, 1), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(place / "images.npz", **arrays)
    recipe = {
        "name": "small",
        "dataset": {"name": "npz", "path": str(place / "images.npz")},
        "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 8},
        "strategy": {"name": "aging_evolution", "population_size": 3, "tournament_size": 2},
        "evaluation": {"name": "train", "epochs": 1, "augmentation": "none"},
        "constraints": {"params": {"max": 20_000}},
        "budget": {"trials": 5},
        "audit": {"trials": 4},
        "executor": {"name": "serial", "isolate": False},
        "tracking": "console",
    }
    return evonas.run(recipe, run_dir=place / "run", plugins=(), show=False).folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a target, and one for all."""
    counts = fuzz_helper.COUNTS
    if not counts:
        return
    for name, count in counts.items():
        terminalreporter.write_line(
            f"fuzz {name:<24} {count.inputs:>7,} inputs {count.seconds:>7.1f} s, at most "
            f"{count.slowest:.2f} s and {count.largest / 1e6:.0f} MB each"
        )
    whole = sum(count.inputs for count in counts.values())
    seconds = sum(count.seconds for count in counts.values())
    terminalreporter.write_line(f"fuzz: {whole:,} inputs in {seconds:.0f} s")
    for k, b in sorted(fuzz_helper.BUGS.items(), key=lambda kv: -kv[1][0]):
        terminalreporter.write_line(f"BUG {b[0]} {k}\n    {b[1][:600]}\n    {b[2]}")
        if b[3:]: open("/tmp/fz/bugs.txt","a").write(k+"\n"+b[1][:5000]+"\n"+b[3]+"\n\n")
