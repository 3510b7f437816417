"""``evonas doctor``: is everything there that a run needs?"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evonas import __version__
from evonas.errors import EvonasError
from evonas.recipe.registry import KINDS, Registry
from evonas.training.containers import free_memory

_MEMORY_GB, _DISK_GB = 2.0, 2.0  # Less than this is little for a run.
_PYTHON = ((3, 11), (3, 13))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is good, and what it is."""

    good: bool
    what: str
    text: str


def findings(registry: Registry) -> Iterator[Finding]:
    """Look at Python, torch, devices, memory, disk, MLflow's store, and every plugin."""
    version = sys.version_info[:2]
    yield Finding(_PYTHON[0] <= version <= _PYTHON[1], "python", platform.python_version())
    yield Finding(True, "evonas", f"{__version__}, in {Path(__file__).parents[1]}")
    yield from _computing()
    yield from _room()
    yield _store()
    yield from _plugins(registry)


def _computing() -> Iterator[Finding]:
    try:
        import torch
    # A broken installation raises anything: ImportError, OSError of a library, …
    except Exception as error:
        yield Finding(False, "torch", f"does not load: {type(error).__name__}: {error}")
        return
    from evonas.training import devices

    yield Finding(True, "torch", torch.__version__)
    found = devices.available()
    names = [
        f"{device} ({torch.cuda.get_device_name(device)})" if device != "cpu" else device
        for device in found
    ]
    hint = ""
    if (cuda := torch.version.cuda) and found == ("cpu",):
        hint = f"; torch is built for CUDA {cuda}, but sees no GPU"
    yield Finding(True, "devices", f"{', '.join(names)}; {devices.cores()} CPU cores{hint}")


def _room() -> Iterator[Finding]:
    if (memory := free_memory() / 1e9) < math.inf:  # macOS does not tell
        yield Finding(memory >= _MEMORY_GB, "memory", f"{memory:.1f} GB free")
    folder = Path("mlruns") if Path("mlruns").is_dir() else Path()
    disk = shutil.disk_usage(folder).free / 1e9
    writable = os.access(folder, os.W_OK)
    note = "" if writable else ", but it may not be written to"
    yield Finding(
        writable and disk >= _DISK_GB, "disk", f"{disk:.1f} GB free in {folder.absolute()}{note}"
    )


def _store() -> Finding:
    from evonas.trackers.mlflow import MLflow
    from evonas.trackers.parts import store

    tracker = MLflow()
    file = store.file_of(tracker.uri)
    if file is not None and not file.exists():
        return Finding(True, "mlflow", f"{file} will be made by the first run")
    try:
        tracker.folder("0" * 32)  # any answer is one
    except EvonasError as error:
        return Finding(False, "mlflow", str(error))
    return Finding(True, "mlflow", f"{store.public(tracker.uri)} answers")


def _plugins(registry: Registry) -> Iterator[Finding]:
    loaded = 0
    for kind in KINDS:
        for name, origins in registry.origins(kind).items():
            if origins == ["built-in"]:
                continue
            try:
                registry.find(kind, name)
                loaded += 1
            except EvonasError as error:
                yield Finding(False, f"{kind} {name}", str(error))
    yield Finding(True, "plugins", f"{loaded} load")
