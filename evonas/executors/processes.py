"""Trials in worker processes, one per slot, each with its own device and its share of the cores.

A trial whose worker dies, by a segmentation fault say, is run once more, in another one; if that
dies as well, or there was not enough memory, it has failed, and nothing else is lost. A worker
leads a process group, so that what a trial starts ends with it; POSIX only.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import LifoQueue
from types import ModuleType
from typing import Any

from evonas.errors import RecipeError
from evonas.executors.base import Executor, MakeEvaluator, Watch, run_trial
from evonas.recipe.options import NonNegative
from evonas.training.containers import figure
from evonas.training.devices import VISIBLE, Placement, cores, placements
from evonas.trial import Trial, TrialState

_START = 600.0  # seconds a worker may take to build its evaluator, which may decode a data set
_GRACE = 5.0  # seconds a worker may take to leave by itself
_CLOSED = "killed: the executor was closed"

_SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
_CHILDREN = threading.Lock()  # starting a process also reaps others that ended: one at a time


class Processes(Executor):
    """Run trials side by side, each in one of a fixed number of spawned processes.

    Workers are started when first needed and kept. The evaluator is built in the worker, with
    ``make_evaluator("cpu")`` or, as a worker sees one GPU only, ``make_evaluator("cuda")``.
    A trial whose worker dies twice, cannot build its evaluator or takes too long is FAILED.

    Args:
        make_evaluator: Builds the evaluator for a device; picklable.
        devices: "cpu", or the GPUs to use: ("cuda:0", "cuda:1").
        workers: Number of workers; by default one per GPU, or one per core (see ``placements``).
        per_device: Workers per GPU when ``workers`` is not given.
        timeout: Seconds that one trial may take; then its worker is killed.
        grace: Seconds that running trials have left after Ctrl-C or SIGTERM; what has not ended by
            then begins again when the run is resumed.

    Raises:
        RecipeError: A number is smaller than 1.
    """

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        devices: tuple[str, ...],
        workers: int | None = None,
        per_device: int = 1,
        timeout: float | None = None,
        grace: NonNegative = 60.0,
    ) -> None:
        super().__init__(make_evaluator, devices)
        self.grace = grace
        _check(workers=workers, per_device=per_device, timeout=timeout)
        placed = placements(devices, workers, per_device, cores(), os.environ.get(VISIBLE))
        recipe = pickle.dumps(make_evaluator)  # here, so that what cannot be pickled fails at once
        self.workers = len(placed)
        self._slots = [_Slot(placement, recipe, timeout) for placement in placed]
        self._idle: LifoQueue[_Slot] = LifoQueue()  # last in, first out: prefers a running worker
        for slot in reversed(self._slots):
            self._idle.put(slot)
        self._waiting: dict[threading.Thread, Future[Trial]] = {}
        self._closed = False
        atexit.register(self.close, kill=True)

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        """Start the trial in an idle worker, or as soon as there is one."""
        if self._closed:
            raise RuntimeError("submit after close")
        future: Future[Trial] = Future()
        # A daemon thread, unlike a pool's, does not keep the interpreter from exiting.
        thread = threading.Thread(target=self._run, args=(trial, watch, future), daemon=True)
        self._waiting = {t: f for t, f in self._waiting.items() if not f.done()}
        self._waiting[thread] = future
        thread.start()
        return future

    def close(self, kill: bool = False) -> None:
        """End all workers; ``kill``: running trials become FAILED, waiting ones are cancelled."""
        self._closed = True
        if kill:
            for future in self._waiting.values():
                future.cancel()
            for slot in self._slots:
                slot.kill()
        for thread in self._waiting:
            thread.join(_GRACE if kill else None)
        for slot in self._slots:
            slot.dismiss()
        deadline = time.monotonic() + _GRACE
        for slot in self._slots:
            slot.end(max(0.0, deadline - time.monotonic()))
        atexit.unregister(self.close)

    def _run(self, trial: Trial, watch: Watch | None, future: Future[Trial]) -> None:
        try:
            with self._slot() as slot:
                going = future.set_running_or_notify_cancel()
                ended = slot.run(trial, watch) if going else trial
        except BaseException as bug:  # raised again where the result is asked for
            future.set_exception(bug)
        else:
            if not future.cancelled():
                future.set_result(ended)

    @contextmanager
    def _slot(self) -> Iterator[_Slot]:
        slot = self._idle.get()
        try:
            yield slot
        finally:
            self._idle.put(slot)


def _check(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not value >= 1:  # nan is not
            raise RecipeError(f"executor.{name} is {value}, but must be at least 1")


class _WorkerLost(Exception):
    """The worker can do no more; says why."""


class _WorkerDied(_WorkerLost):
    """It died while it worked, and nobody knows why: another one may fare better."""


class _Slot:
    """A place for one worker at a time; used by one thread at a time, but for ``kill``."""

    def __init__(self, placement: Placement, recipe: bytes, timeout: float | None) -> None:
        self._placement, self._recipe, self._timeout = placement, recipe, timeout
        self._worker: _Worker | None = None
        self._killed = False
        self._starting = threading.Lock()  # so that ``kill`` cannot miss a worker just started

    def run(self, trial: Trial, watch: Watch | None) -> Trial:
        """Run a trial in this slot's worker; start one if there is none alive."""
        start = time.perf_counter()
        curve: dict[int, Mapping[str, float]] = {}

        def noted(step: int, metrics: Mapping[str, float]) -> bool:
            if step in curve:  # the worker before it came as far
                return False
            curve[step] = metrics  # the pruner knows it, so a dead worker's event has it
            return watch is not None and watch(step, metrics)

        def attempt() -> Trial:
            return self._ready().run(trial, noted if watch else None, self._timeout)

        try:
            try:
                ended = attempt()
            except _WorkerDied:
                self.end()
                ended = attempt()
        except _WorkerLost as lost:
            self.end()
            reason = _CLOSED if self._killed else str(lost)
            failed = trial.failed(reason, time.perf_counter() - start)
            return replace(failed, curve=tuple(curve.items()))
        if ended.state is TrialState.FAILED and self._placement.device != "cpu":
            # An illegal memory access poisons the CUDA context, and with it every later trial.
            self.end()
        return ended

    def _ready(self) -> _Worker:
        if self._worker and self._worker.alive:
            return self._worker
        self.end()
        with self._starting:
            if self._killed:
                raise _WorkerLost(_CLOSED)
            self._worker = _Worker(self._placement, self._recipe)
        self._worker.await_ready()
        return self._worker

    def kill(self) -> None:
        """End the worker now, and never start another."""
        with self._starting:
            self._killed = True
        if worker := self._worker:
            worker.kill()

    def dismiss(self) -> None:
        """Tell an idle worker to leave."""
        if worker := self._worker:
            worker.dismiss()

    def end(self, grace: float = 0.0) -> None:
        """Make sure that no worker is left."""
        if worker := self._worker:
            worker.end(grace)
        self._worker = None


class _Worker:
    """One worker process, seen from the parent. What passes between the two is JSON."""

    def __init__(self, placement: Placement, recipe: bytes) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        # Not a daemon process: those may not have children, and a DataLoader has.
        self._process = _SPAWN.Process(target=_work, args=(theirs, placement, recipe))
        self._reaped = False
        self._kills_before = _out_of_memory_kills()
        try:
            with _CHILDREN, _without_main():
                _block_signals()
                self._process.start()
        except OSError as error:
            raise _WorkerLost(f"worker did not start: {error}") from error
        finally:
            theirs.close()  # else the end of the worker would not close the connection

    @property
    def alive(self) -> bool:
        return not wait([self._process.sentinel], timeout=0)

    def await_ready(self) -> None:
        if reason := self._receive(_START, time.monotonic()):
            raise _WorkerLost(reason.decode())

    def run(self, trial: Trial, watch: Watch | None, timeout: float | None) -> Trial:
        start = time.monotonic()
        self._send({"trial": trial.to_json(), "watched": watch is not None})
        while True:
            message = json.loads(self._receive(timeout, start))
            if "ended" in message:
                return Trial.from_json(message["ended"])
            assert watch is not None, "who is not watched does not report"
            self._send(watch(message["step"], message["metrics"]))

    def _send(self, message: Any) -> None:
        try:
            _send(self._connection, message)
        except OSError as error:
            raise self._death() from error

    def _receive(self, timeout: float | None, since: float) -> bytes:
        left = None if timeout is None else max(0.0, since + timeout - time.monotonic())
        ready = wait([self._connection, self._process.sentinel], left)
        if not ready:
            raise _WorkerLost(f"timeout: not done after {timeout:g} seconds")
        if self._connection in ready:
            with suppress(EOFError, OSError):
                return self._connection.recv_bytes()
        raise self._death()

    def _death(self) -> _WorkerLost:
        self.end(_GRACE)
        code = self._process.exitcode
        if code is None or code >= 0:
            return _WorkerDied(f"worker died: exit code {code}")
        if code == -signal.SIGKILL and _out_of_memory_kills() > self._kills_before:
            return _WorkerLost("worker died: out of memory")
        return _WorkerDied(f"worker died: killed by {_signal_name(-code)}")

    def dismiss(self) -> None:
        self._connection.close()

    def end(self, grace: float) -> None:
        """Wait for the process to leave, kill what is left of it, and reap it."""
        if self._reaped:
            return
        wait([self._process.sentinel], grace)
        self.kill()
        with _CHILDREN:
            self._process.join(_GRACE)
        self._reaped = True

    def kill(self) -> None:
        """Kill the process and its group, which it may not have founded yet."""
        pid = self._process.pid
        if pid is None or self._reaped:  # the number may belong to somebody else by now
            return
        self._process.kill()
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
            os.killpg(pid, signal.SIGKILL)


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
    return figure(Path("/proc/vmstat"), "oom_kill")


def _send(connection: Connection, message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _signal_name(number: int) -> str:
    return next((s.name for s in signal.Signals if s == number), f"signal {number}")


# From here on: what runs in the worker.


def _work(connection: Connection, placement: Placement, recipe: bytes) -> None:
    """Say that the evaluator is built, or why not; then answer every trial with its final event.

    A trial that is watched asks before, at each of its reports, whether to stop.
    """
    _settle(placement)
    try:
        # Unpickled only now: it may import torch, which reads the environment.
        evaluator = pickle.loads(recipe)(placement.device)
    # Anybody's code, as in ``run_trial``: what it raises is the reason why the trial failed.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        connection.send_bytes(reason.encode())
        return
    connection.send_bytes(b"")
    for trial, watched in _trials(connection):
        ended = run_trial(evaluator, trial, partial(_stop, connection) if watched else None)
        _send(connection, {"ended": ended.to_json()})


def _settle(placement: Placement) -> None:
    os.setpgid(0, 0)  # a group of its own, to be killed with all it started
    os.dup2(2, 1)  # what anybody's code prints: the output is the parent's, which may be JSON
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see _block_signals
    # A handler that does nothing, for what the trial starts would inherit deafness.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update(placement.env, OMP_NUM_THREADS=str(placement.threads))


def _die_with_parent() -> None:
    """Even a busy worker must not outlive a killed parent, and hold a GPU for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _stop(connection: Connection, step: int, metrics: Mapping[str, float]) -> bool:
    """Ask the parent whether to stop the trial."""
    _send(connection, {"step": step, "metrics": metrics})
    answer: bool = json.loads(connection.recv_bytes())
    return answer


def _trials(connection: Connection) -> Iterator[tuple[Trial, bool]]:
    """What the parent sends: trials, and whether it watches them."""
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:  # the parent closed its end: no more trials
            return
        yield Trial.from_json(message["trial"]), message["watched"]
