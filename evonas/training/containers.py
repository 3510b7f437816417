"""What a container leaves of the machine: memory and CPU time, by Linux's control groups.

Version 2 (``memory.max``, ``cpu.max``) and version 1. The limits of all groups that a process is in
hold, so the tightest is what counts. Elsewhere nothing is limited.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")


def free_memory() -> float:
    """Bytes that this process may still take; infinite where nobody says."""
    # Not on Linux: let the system swap.
    free = 1024 * counter(Path("/proc/meminfo"), "MemAvailable:") or math.inf
    for folder in _groups("memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most = _number(folder / limit)
            if most < math.inf:
                # The kernel gives files up that nobody uses, when memory is wanted.
                cached = counter(folder / "memory.stat", "inactive_file")
                free = min(free, most - _number(folder / used) + cached)
    return max(0.0, free)


def cpus() -> float:
    """CPUs whose time this process may use, 1.5 say; infinite where nobody says."""
    quota = math.inf
    for folder in _groups("cpu"):
        with suppress(OSError, ValueError):  # "max" is no number: there is no limit
            share, period = (folder / "cpu.max").read_text().split()
            quota = min(quota, int(share) / int(period))
        share_of_one = _number(folder / "cpu.cfs_quota_us")
        if 0 < share_of_one < math.inf:
            quota = min(quota, share_of_one / _number(folder / "cpu.cfs_period_us"))
    return quota


def counter(file: Path, name: str) -> int:
    """A number of one of Linux's files that have a name and a number a line; 0 if it is not there.

    Such are ``/proc/vmstat``, ``/proc/meminfo`` and a control group's ``memory.stat``.
    """
    with suppress(OSError):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] == [name]:
                return int(words[1])
    return 0


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, as far as they can be seen."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                roots = (_MOUNT, _MOUNT / "unified")
            elif controller in controllers.split(","):
                roots = (_MOUNT / controller, _MOUNT / controllers)
            else:
                continue
            for root in dict.fromkeys(roots):
                inner = root / path.strip("/")
                # A container may see its own group as the root, and the path is the machine's.
                yield from (f for f in (inner, *inner.parents) if f.is_relative_to(root))


def _number(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return math.inf
