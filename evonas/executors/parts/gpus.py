"""GPUs that several workers share: how many of them, and NVIDIA's service for that.

Processes that share a GPU take turns on it. With NVIDIA's Multi-Process Service (MPS) their kernels
run at once, which small networks' leave room for.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from evonas.executors.parts.fork_server import end_with_parent

_CONTROL = "nvidia-cuda-mps-control"
_PIPES, _LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
_PATIENCE = 10.0  # Seconds that the service may take to begin, and to end.
# What a worker is reckoned to need: half a gigabyte of CUDA's own, the data set, and what a batch
# of 512 CIFAR images leaves in a network of a million parameters.
_WORKER_BYTES = 6e9
_MOST = 8  # Workers of a GPU; small networks' kernels fill it by then.
_MOST_IN_TURNS = 2  # Without the service: one computes while the other prepares.


def reckoned(names: Sequence[str], cores: int, at_once: bool) -> int:
    """Workers per GPU, by its free memory, the cores and whether they compute at once.

    Args:
        names: Of the GPUs, as the machine calls them.
        cores: CPU cores of the machine.
        at_once: Whether the service runs.
    """
    fit = int(min(_free(names), default=0.0) // _WORKER_BYTES)
    return max(1, min(_MOST if at_once else _MOST_IN_TURNS, cores // len(names), fit))


def _free(names: Sequence[str]) -> list[float]:
    """Bytes of memory that are free on GPUs; none if nobody can tell.

    This process does not ask CUDA itself, which would take half a gigabyte on each for that.
    """
    query = [f"--id={','.join(names)}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
        return [float(line) * 2**20 for line in told.stdout.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


class Service:
    """NVIDIA's Multi-Process Service, started for one run; ended with it, however it ends.

    Attributes:
        env: Environment variables with which workers find it; none if somebody else runs one.
    """

    def __init__(self) -> None:
        self.env: Mapping[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> bool:
        """Use the service that runs, or start one; returns whether there is one now."""
        if shutil.which(_CONTROL) is None:
            return False
        if self._tell("get_server_list"):  # the machine's own
            return True
        self._folder = tempfile.TemporaryDirectory(prefix="evonas-mps-")
        self.env = {_PIPES: self._folder.name, _LOGS: self._folder.name}
        # It is to see every GPU: workers name theirs as the machine does.
        seen = {name: v for name, v in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        self._process = subprocess.Popen(
            [_CONTROL, "-f"],
            env={**seen, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the search's, whose workers still need it
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
        deadline = time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._tell("get_server_list"):
                return True
            time.sleep(0.05)
        self.close()
        warnings.warn(f"{_CONTROL} did not start; workers of a GPU take turns", stacklevel=2)
        return False

    def close(self) -> None:
        """End the service, if this started it."""
        if self._process is not None:
            self._tell("quit")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            self._process.kill()
            self._process.wait()
        if self._folder is not None:
            self._folder.cleanup()
        self.env, self._process, self._folder = {}, None, None

    def _tell(self, command: str) -> bool:
        """Whether the service hears and obeys."""
        with suppress(subprocess.TimeoutExpired):
            told = subprocess.run(
                [_CONTROL],
                input=command.encode(),
                env={**os.environ, **self.env},
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )
            return told.returncode == 0
        return False
