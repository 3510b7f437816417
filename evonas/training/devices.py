"""Which devices there are, and how workers are dealt out to them."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median

from evonas.errors import PluginError, RecipeError
from evonas.training import containers

VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_CPU_WORKERS = 8  # Each holds torch and the data set: half a gigabyte and more.
_CHANNELS, _STEPS, _ATTEMPTS = 32, 5, 5  # The convolution that is timed is of this size.


@dataclass(frozen=True)
class Placement:
    """Where one worker process runs.

    Attributes:
        device: What its evaluator is built for: "cpu", or "cuda", the only GPU that it sees.
        env: Environment variables to set before CUDA is initialised.
        threads: CPU threads that it may use; None: as many as the process that starts it, for it
            is alone.
    """

    device: str
    env: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = 1


def available() -> tuple[str, ...]:
    """The devices of this process: its visible GPUs, "cuda:0", "cuda:1", …, else only "cpu"."""
    import torch  # seconds to import, and not needed to place workers on the CPU

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{index}" for index in range(count)) or ("cpu",)


def cores() -> int:
    """CPU cores that this process may use; of a container that has 1.5 CPUs, two."""
    seen = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux; honours taskset and cpusets
        seen = len(os.sched_getaffinity(0))
    return math.ceil(min(seen, containers.cpus()))


def fastest_threads() -> int:
    """CPU threads with which a small network trains fastest here and now: one, or one per core.

    More than one help on idle cores, and wait for each other where a core has other work: two
    threads on two busy cores were measured ten times slower than one. So it is tried, for a tenth
    of a second each. Who set OMP_NUM_THREADS has decided already.
    """
    import torch  # see above

    if (count := cores()) == 1 or os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    seconds: dict[int, list[float]] = {1: [], count: []}
    with cpu_threads(None):
        layer = torch.nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        images = torch.randn(64, _CHANNELS, 16, 16).to(memory_format=torch.channels_last)
        for _ in range(_ATTEMPTS):  # in turns: the machine's load changes meanwhile
            for threads, times in seconds.items():
                torch.set_num_threads(threads)
                layer(images).sum().backward()  # starts the threads
                start = time.perf_counter()
                for _ in range(_STEPS):
                    layer(images).sum().backward()
                times.append(time.perf_counter() - start)
    return min(seconds, key=lambda threads: median(seconds[threads]))


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads; None: with as many as before."""
    import torch  # see above

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def threads() -> int:
    """CPU threads of this process: torch's, or one per core if nobody imported it."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else cores()


def choose(device: str, available: Sequence[str]) -> tuple[str, ...]:
    """The devices that a recipe asks for.

    Args:
        device: "auto" (all GPUs, else the CPU), "cpu", "cuda" (all GPUs) or "cuda:1".
        available: What ``available()`` returned.

    Raises:
        RecipeError: ``device`` is none of these.
        PluginError: A GPU is asked for that is not there.
    """
    kind, _, index = device.partition(":")
    if device == "auto":
        return tuple(available)
    if device == "cpu":
        return ("cpu",)
    if kind != "cuda" or (device != "cuda" and not index.isdecimal()):
        raise RecipeError(f"device {device!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, …")
    devices = tuple(d for d in available if d == device or (device == kind and d.startswith(kind)))
    if not devices:
        raise PluginError(f"device {device!r} is wanted, but there is only {', '.join(available)}")
    return devices


def placements(
    devices: Sequence[str], workers: int | None, per_device: int, cores: int, visible: str | None
) -> tuple[Placement, ...]:
    """Deal workers out to devices, round robin.

    A worker sees one GPU only, so that code which says "cuda" finds the right one, and one trial
    cannot take memory on another's. On the CPU the default is one worker per core, at most
    ``MOST_CPU_WORKERS``: small networks train faster side by side on one thread each than one
    after another on many.

    Args:
        devices: "cpu", or GPUs as this process numbers them: ("cuda:0", "cuda:1").
        workers: How many; None: ``per_device`` for each GPU, or the default for the CPU.
        per_device: Workers that share one GPU, if ``workers`` does not say how many in all.
        cores: CPU cores to be divided among the workers.
        visible: This process's own CUDA_VISIBLE_DEVICES, if set: "4,5" makes "cuda:0" the GPU 4.
    """
    on_gpu = any(device.startswith("cuda") for device in devices)
    count = workers or (len(devices) * per_device if on_gpu else min(cores, MOST_CPU_WORKERS))
    threads = max(1, cores // count) if count > 1 else None
    return tuple(
        Placement("cuda", {VISIBLE: _outer_name(device, visible)}, threads)
        if device.startswith("cuda")
        else Placement("cpu", {VISIBLE: ""}, threads)
        for device in islice(cycle(devices), count)
    )


def _outer_name(device: str, visible: str | None) -> str:
    """Name of a GPU outside this process: an index of the machine, or a UUID."""
    index = int(device.partition(":")[2] or 0)
    if visible is None:
        return str(index)
    names = [name.strip() for name in visible.split(",")]
    if index >= len(names) or not names[index]:
        raise PluginError(f"device 'cuda:{index}' is not among {VISIBLE}={visible}")
    return names[index]
