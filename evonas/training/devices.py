"""Which devices there are, and how workers are dealt out to them."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING

from evonas.errors import PluginError, RecipeError
from evonas.training import containers

if TYPE_CHECKING:
    from torch import nn

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SHARED = 0.9  # Of a GPU's memory, among torch in its workers; the rest is CUDA's own in each.
MOST_CPU_WORKERS = 8  # Each holds torch and the data set: half a gigabyte and more.
# So say torch's allocator, and the libraries that ask for memory of their own.
_OUT_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED")
_ATTEMPTS = 5  # steps of training that are timed, of each network and number of threads
_MOST_SECONDS = 2.0  # after which no other step is begun: large networks differ clearly
_BATCH = 64  # images of such a step


@dataclass(frozen=True)
class Placement:
    """Where one worker process runs.

    Attributes:
        device: What its evaluator is built for: "cpu", or "cuda", the only GPU that it sees.
        env: Environment variables to set before CUDA is initialised.
        threads: CPU threads that it may use; None: as many as the process that starts it, for it
            is alone.
        memory: Share of the GPU's memory that torch may take for it, 0…1.
    """

    device: str
    env: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = 1
    memory: float = 1.0


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


def fastest_threads(networks: Iterable[nn.Module], shape: tuple[int, int, int]) -> int:
    """CPU threads with which networks train fastest here and now: one, or one per core.

    More than one help large networks on idle cores. Small ones lose more by waking threads than
    these save, and where a core has other work they wait for each other: three and ten times slower
    than one were measured. So it is tried. Who set OMP_NUM_THREADS has decided already.

    Args:
        networks: Such as are to be trained; those that take longest count most.
        shape: Of an image: channels, height, width.
    """
    import torch  # see above
    from torch.nn import functional as F

    if (count := cores()) == 1 or os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    images = torch.rand(_BATCH, *shape).to(memory_format=torch.channels_last)
    labels = torch.zeros(_BATCH, dtype=torch.long)
    total = {1: 0.0, count: 0.0}
    start = time.perf_counter()
    for network in networks:
        network.to(memory_format=torch.channels_last)
        seconds: dict[int, list[float]] = {threads: [] for threads in total}
        for attempt in range(1 + _ATTEMPTS):  # in turns: the machine's load changes meanwhile
            for threads, times in seconds.items():
                with cpu_threads(threads):
                    begun = time.perf_counter()
                    F.cross_entropy(network(images), labels).backward()
                if attempt:  # the first starts the threads
                    times.append(time.perf_counter() - begun)
            if attempt and time.perf_counter() - start > _MOST_SECONDS:
                break
        for threads, times in seconds.items():
            total[threads] += median(times)
        if time.perf_counter() - start > _MOST_SECONDS:
            break
    return min(total, key=lambda threads: total[threads])


def limit_memory(share: float) -> None:
    """Have torch take no more than a share of the memory of the GPU that this process sees."""
    if share < 1:
        import torch  # see above

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(share)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device had too little memory, by torch's word or that of a library it calls."""
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)


def fault(device: str) -> str:
    """Why a device does not compute; "" if it does, or only has no memory left for that."""
    import torch  # see above

    try:
        torch.ones(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:
        return "" if out_of_memory(error) else str(error)
    return ""


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
    cannot take memory on another's; of one that several share, each has its share of the memory. On
    the CPU the default is one worker per core, at most ``MOST_CPU_WORKERS``: small networks train
    faster side by side on one thread each than one after another on many.

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
    together = math.ceil(count / len(devices))
    memory = 1.0 if together == 1 else _SHARED / together
    return tuple(
        Placement("cuda", {VISIBLE: outer_name(device, visible)}, threads, memory)
        if device.startswith("cuda")
        else Placement("cpu", {VISIBLE: ""}, threads)
        for device in islice(cycle(devices), count)
    )


def outer_name(device: str, visible: str | None) -> str:
    """Name of a GPU outside this process: an index of the machine, or a UUID."""
    index = int(device.partition(":")[2] or 0)
    if visible is None:
        return str(index)
    names = [name.strip() for name in visible.split(",")]
    if index >= len(names) or not names[index]:
        raise PluginError(f"device 'cuda:{index}' is not among {VISIBLE}={visible}")
    return names[index]
