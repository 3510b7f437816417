"""Worker processes; what passes between them and the search is JSON.

On Linux a server forks them (``fork_server``), which has imported what they need; elsewhere each is
an interpreter of its own. POSIX only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from threadpoolctl import threadpool_limits

from evonas.executors.base import MakeEvaluator, Watch, reason, run_trial
from evonas.executors.parts import fork_server, memory
from evonas.executors.parts.pool import GRACE, START, Slot, WorkerDied, WorkerLost
from evonas.training import devices
from evonas.training.containers import counter
from evonas.training.devices import Placement
from evonas.trial import Trial

_LOOK = 60.0  # Seconds that a GPU may take to compute one sum, CUDA's start included.
_CHILDREN = threading.Lock()  # starting a process also reaps others that ended: one at a time


def slots(
    make_evaluator: MakeEvaluator, placements: Sequence[Placement], timeout: float | None
) -> list[Slot]:
    """A slot for every placement; the workers of all of them build the same evaluator.

    Args:
        make_evaluator: Builds the evaluator for a device; what cannot be pickled fails at once.
        placements: Where the workers compute.
        timeout: See ``Slot``.
    """
    recipe = pickle.dumps(make_evaluator)
    context = fork_server.context(getattr(make_evaluator, "__module__", ""))
    return [
        Slot(
            partial(_Worker, context, placement, recipe),
            timeout,
            None if placement.device == "cpu" else partial(_fault, context, placement),
        )
        for placement in placements
    ]


def _fault(context: BaseContext, placement: Placement) -> str:
    """Why a GPU does not work; "" if it does. Another process finds out, for its CUDA is fresh."""
    process, connection = _begin(context, _examine, placement)
    answer = f"no answer in {_LOOK:g} seconds"
    if connection.poll(_LOOK):
        try:
            answer = _received(connection)
        except EOFError:
            answer = "whoever computes on it dies"
    process.kill()
    with _CHILDREN:
        process.join(GRACE)
    return answer


class _Worker:
    """One worker process, seen from the parent."""

    def __init__(self, context: BaseContext, placement: Placement, recipe: bytes) -> None:
        self._reaped = False
        self._kills_before = _out_of_memory_kills()
        try:
            self._process, self._connection = _begin(context, _work, placement, recipe)
        except (OSError, EOFError) as error:  # the server may have died; then a new one is begun
            raise WorkerDied(f"worker did not start: {error}") from error

    @property
    def alive(self) -> bool:
        return not wait([self._process.sentinel], timeout=0)

    def await_ready(self) -> None:
        if fault := self._receive(START, time.monotonic()):
            raise WorkerLost(fault)

    def run(self, trial: Trial, watch: Watch | None, timeout: float | None) -> Trial:
        start = time.monotonic()
        self._send({"trial": trial.to_json(), "watched": watch is not None})
        while True:
            message = self._receive(timeout, start)
            if "ended" in message:
                return Trial.from_json(message["ended"])
            assert watch is not None, "who is not watched does not report"
            self._send(watch(message["step"], message["metrics"]))

    def _send(self, message: Any) -> None:
        try:
            _send(self._connection, message)
        except OSError as error:
            raise self._death() from error

    def _receive(self, timeout: float | None, since: float) -> Any:
        left = None if timeout is None else max(0.0, since + timeout - time.monotonic())
        ready = wait([self._connection, self._process.sentinel], left)
        if not ready:
            raise WorkerLost(f"timeout: not done after {timeout:g} seconds")
        if self._connection in ready:
            with suppress(EOFError, OSError):
                return _received(self._connection)
        raise self._death()

    def _death(self) -> WorkerLost:
        self.end(GRACE)
        code = self._process.exitcode
        if code is None or code >= 0:
            return WorkerDied(f"worker died: exit code {code}")
        if code == -signal.SIGKILL and _out_of_memory_kills() > self._kills_before:
            return WorkerLost("worker died: out of memory")
        return WorkerDied(f"worker died: killed by {_signal_name(-code)}")

    def dismiss(self) -> None:
        self._connection.close()

    def end(self, grace: float) -> None:
        """Wait for the process to leave, kill what is left of it, and reap it."""
        if self._reaped:
            return
        wait([self._process.sentinel], grace)
        self.kill()
        with _CHILDREN:
            self._process.join(GRACE)
        self._reaped = True

    def kill(self) -> None:
        """Kill the process and its group, which it may not have founded yet."""
        pid = self._process.pid
        if pid is None or self._reaped:  # the number may belong to somebody else by now
            return
        self._process.kill()
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
            os.killpg(pid, signal.SIGKILL)


def _begin(
    context: BaseContext, target: Callable[..., None], placement: Placement, *more: Any
) -> tuple[BaseProcess, Connection]:
    """Start a process that does ``target(connection, placement, *more)``; our end of that, too.

    It begins deaf to signals, without somebody's main module, and while no other does.
    """
    ours, theirs = context.Pipe()
    threads = placement.threads or devices.threads()
    placement = replace(placement, threads=threads, env={**os.environ, **placement.env})
    # Not a daemon process: those may not have children, and a DataLoader has.
    process = context.Process(target=target, args=(theirs, placement, *more))  # type: ignore[attr-defined]
    try:
        with _CHILDREN, _without_main():
            _block_signals()
            process.start()
    finally:
        theirs.close()  # else the end of the process would not close the connection
    return process, ours


@contextmanager
def _without_main() -> Iterator[None]:
    """Have the processes that this thread starts not import the main module of this one.

    It is somebody's script: without a guard on ``__name__`` it would begin the same run again. What
    a worker needs comes from a recipe, by names that it can import.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _block_signals() -> None:
    """Have the processes that this thread starts begin deaf to Ctrl-C, and to SIGTERM.

    SLURM and containers send that to every process of a run: it is the parent that decides.
    """
    resource_tracker.ensure_running()  # when it is started, it unblocks signals
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _out_of_memory_kills() -> int:
    """How many processes of this machine Linux has killed for want of memory; elsewhere 0."""
    return counter(Path("/proc/vmstat"), "oom_kill")


def _send(connection: Connection, message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _received(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())


def _signal_name(number: int) -> str:
    return next((s.name for s in signal.Signals if s == number), f"signal {number}")


# From here on: what runs in the worker.


def _work(connection: Connection, placement: Placement, recipe: bytes) -> None:
    """Say that the evaluator is built, or why not; then answer every trial with its final event.

    A trial that is watched asks before, at each of its reports, whether to stop.
    """
    _settle(placement)
    own = os.getpid()
    try:
        devices.limit_memory(placement.memory)
        # Unpickled only now: it may import torch, which reads the environment.
        evaluator = pickle.loads(recipe)(placement.device)
    # Anybody's code, as in ``run_trial``: what it raises is the reason why the trial failed.
    except BaseException as error:
        _send(connection, reason(error))
        return
    _send(connection, "")
    for trial, watched in _trials(connection):
        ended = run_trial(evaluator, trial, partial(_stop, connection) if watched else None)
        if os.getpid() != own:  # the trial forked, and both came back
            os._exit(0)
        _send(connection, {"ended": ended.to_json()})
        memory.give_back()


def _examine(connection: Connection, placement: Placement) -> None:
    """Say why the device does not work, or ""."""
    _settle(placement)
    _send(connection, devices.fault(placement.device))


def _settle(placement: Placement) -> None:
    os.setpgid(0, 0)  # a group of its own, to be killed with all it started
    os.dup2(2, 1)  # what anybody's code prints: the output is the parent's, which may be JSON
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see _block_signals
    # A handler that does nothing, for what the trial starts would inherit deafness.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    fork_server.end_with_parent(signal.SIGKILL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.clear()  # the server's, which may be of long ago
    os.environ.update(placement.env, OMP_NUM_THREADS=str(placement.threads))
    threadpool_limits(placement.threads)  # of libraries that were loaded before the fork


def _die_with_parent() -> None:
    """A busy worker must not outlive a killed parent, and hold a GPU for nobody; anywhere."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _stop(connection: Connection, step: int, metrics: Mapping[str, float]) -> bool:
    """Ask the parent whether to stop the trial."""
    _send(connection, {"step": step, "metrics": metrics})
    answer: bool = _received(connection)
    return answer


def _trials(connection: Connection) -> Iterator[tuple[Trial, bool]]:
    """What the parent sends: trials, and whether it watches them."""
    while True:
        try:
            message = _received(connection)
        except EOFError:  # the parent closed its end: no more trials
            return
        yield Trial.from_json(message["trial"]), message["watched"]
