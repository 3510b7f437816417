"""Where a result comes from: versions, devices, the command, the commit."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evonas import __version__

FILE = "environment.txt"
_MAIN_PACKAGES = ("torch", "torchvision", "deap", "optuna", "mlflow", "numpy")
_PROGRAMS = ("evonas", "__main__.py")


def environment(computed_on: Sequence[str]) -> dict[str, str]:
    """Versions and devices that a result depends on."""
    versions = {name: importlib.metadata.version(name) for name in _MAIN_PACKAGES}
    return {
        "evonas": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        "devices": ", ".join(computed_on),
        **versions,
    }


def installed(computed_on: Sequence[str]) -> str:
    """The environment and every installed distribution, one a line."""
    head = [f"# {name}: {value}" for name, value in environment(computed_on).items()]
    found = {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()}
    return "\n".join([*head, *sorted(found, key=str.lower)]) + "\n"


def recorded(run_dir: Path) -> dict[str, str]:
    """The environment that a run began in, as its folder says; today's if it does not."""
    path = run_dir / FILE
    # Whatever it says is only told.
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    pairs = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    return {name: value for name, _, value in pairs} or environment(())


def source() -> dict[str, str]:
    """Who began the run and how: ``command``, ``user`` and, within a repository, ``commit``."""
    program, *arguments = sys.argv or [""]
    ours = Path(program).name in _PROGRAMS
    said = {
        "command": shlex.join(["evonas", *arguments]) if ours else Path(program).name or "python"
    }
    try:
        said["user"] = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        said["user"] = str(os.getuid())
    if commit := _commit():
        said["commit"] = commit
    return said


def _commit() -> str:
    """The commit of the working directory; empty outside a repository, or without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
