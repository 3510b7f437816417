"""The process that forks the workers, and outlives none of them; on Linux.

It is ``multiprocessing``'s fork server. What workers need is imported there once: they share the
memory of it, and begin in milliseconds instead of seconds. CUDA must not be used in it, as it does
not survive a fork.

Whatever a trial started is below this process, even what has left its worker's group or lost its
parent. So when the search ends, by ``kill -9`` or with a trial deep in a call of C, the kernel
tells this process, and it ends them all.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import warnings
from contextlib import suppress
from multiprocessing.context import BaseContext
from pathlib import Path

LINUX = sys.platform == "linux"
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # Linux's prctl.h calls them so.
_ROUNDS = 10  # So often it is looked for what is left: what dies may have begun more meanwhile.


def context(module: str) -> BaseContext:
    """How workers are started: forked from the server, elsewhere than on Linux spawned.

    Args:
        module: What workers import at first; the server does, if none runs yet.
    """
    if not LINUX:
        return multiprocessing.get_context("spawn")
    wanted = [f"{__package__}.serving"]
    if module not in ("", "__main__"):
        wanted.append(module)
    if "torch" in sys.modules:  # then workers need it, too, and its optimizers the compiler: 1 s
        wanted.append("torch._dynamo")
    multiprocessing.set_forkserver_preload(wanted)
    return multiprocessing.get_context("forkserver")


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends, or a thread of that does."""
    if LINUX:
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, int(number), 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """All processes below one, by what Linux says of each."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # A name in parentheses, which may hold anything, then the state and the parent.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:  # which grows
        found += children.get(child, [])
    return found


def watch() -> None:
    """In the server: adopt what workers leave behind, and end everything when the search ends."""
    search = os.getppid()

    def leave(*_: object) -> None:
        if os.getppid() == search:  # but a thread of it has ended
            return
        for _round in range(_ROUNDS):
            if not (left := descendants(os.getpid())):
                break
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGRTMIN, leave)
    end_with_parent(signal.SIGRTMIN)
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # It has not forked those that it adopts.
    warnings.filterwarnings("ignore", "forkserver: waitpid returned unexpected pid")
