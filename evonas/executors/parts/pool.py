"""Slots for workers, and the trials that wait for one; what a worker is, the executor says."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import LifoQueue
from typing import Protocol

from evonas.executors.base import Watch
from evonas.executors.parts.reports import Reports
from evonas.trial import Trial, TrialState

GRACE = 5.0  # seconds a worker may take to leave by itself
START = 600.0  # seconds a worker may take to build its evaluator, which may decode a data set
_CLOSED = "killed: the executor was closed"


class WorkerLost(Exception):
    """The worker can do no more; says why."""


class WorkerDied(WorkerLost):
    """It died while it worked, and nobody knows why: another one may fare better."""


class Displaced(WorkerLost):
    """There is no place for it (any more), through no fault of the trial's."""


class DeviceLost(Displaced):
    """Its device does not work; waiting does not mend that."""


class Worker(Protocol):
    """Runs trials, one at a time."""

    @property
    def alive(self) -> bool:
        """Whether it can take another."""

    def await_ready(self) -> None:
        """Wait until its evaluator is built; raises WorkerLost."""

    def run(self, trial: Trial, watch: Watch | None, timeout: float | None) -> Trial:
        """How a trial ended; raises WorkerLost."""

    def dismiss(self) -> None:
        """Tell it to leave when it is idle."""

    def end(self, grace: float) -> None:
        """Wait for it to leave, and kill what is left of it."""

    def kill(self) -> None:
        """End it now; from any thread."""


class Slot:
    """A place for one worker at a time; used by one thread at a time, but for ``kill``.

    Args:
        begin: Starts a worker.
        timeout: Seconds that a trial of the search may take; None: any time.
        device: Says why the GPU that workers compute on does not work, "" if it does; None if they
            compute on none. After a trial that failed on a GPU its worker is replaced: an illegal
            memory access poisons the CUDA context, and with it every later trial.
    """

    def __init__(
        self,
        begin: Callable[[], Worker],
        timeout: float | None,
        device: Callable[[], str] | None,
    ) -> None:
        self._begin, self._timeout, self._device = begin, timeout, device
        self._worker: Worker | None = None
        self._killed = False
        self._starting = threading.Lock()  # so that ``kill`` cannot miss a worker just started

    def run(self, trial: Trial, watch: Watch | None, deadline: float) -> Trial:
        """Run a trial in this slot's worker; start one if there is none alive.

        Args:
            trial: What to run.
            watch: Told what it reports.
            deadline: As that of an executor.

        Raises:
            Displaced: If there is no place for a worker, or its device does not work.
        """
        start, reports = time.perf_counter(), Reports(watch)
        # A final training takes far longer than a trial of the search.
        searched = trial.proposal.stage == "search"

        def attempt() -> Trial:
            worker = self._ready()
            left = min(self._timeout or math.inf, max(0.0, deadline - time.monotonic()))
            timeout = left if searched and left < math.inf else None
            return worker.run(trial, reports if watch else None, timeout)

        try:
            try:
                ended = attempt()
            except WorkerDied:
                self.end()
                ended = attempt()
        except WorkerLost as lost:
            self.end()
            if isinstance(lost, Displaced) and not self._killed:
                raise
            self._examine(str(lost))
            seconds = time.perf_counter() - start
            if searched and time.monotonic() >= deadline and not self._killed:
                return reports.overdue(trial, seconds)
            return reports.failed(trial, _CLOSED if self._killed else str(lost), seconds)
        if ended.state is TrialState.FAILED and self._device:
            self.end()
            self._examine(ended.error or "")
        return ended

    def _examine(self, error: str) -> None:
        """Raise DeviceLost if it was the device that made a trial fail, not the trial."""
        if self._device and not self._killed and "CUDA" in error and (why := self._device()):
            raise DeviceLost(f"the GPU does not work: {why}")

    def _ready(self) -> Worker:
        if self._worker and self._worker.alive:
            return self._worker
        self.end()
        with self._starting:
            if self._killed:
                raise WorkerLost(_CLOSED)
            self._worker = self._begin()
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


class Pool:
    """Runs trials in slots, as soon as one is free.

    Args:
        slots: At least one.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots: list[Slot] = []
        self._idle: LifoQueue[Slot] = LifoQueue()  # last in, first out: prefers a running worker
        self._waiting: dict[threading.Thread, Future[Trial]] = {}
        self._closed = False
        self._giving_up = threading.Lock()  # or the last two slots might both go
        for slot in reversed(slots):
            self.add(slot)

    @property
    def size(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    def add(self, slot: Slot) -> None:
        """One more slot."""
        self._slots.append(slot)
        self._idle.put(slot)

    def submit(self, trial: Trial, watch: Watch | None, deadline: float) -> Future[Trial]:
        """Start the trial in an idle slot, or as soon as there is one."""
        if self._closed:
            raise RuntimeError("submit after close")
        future: Future[Trial] = Future()
        # A daemon thread, unlike a pool's, does not keep the interpreter from exiting.
        work = trial, watch, deadline, future
        thread = threading.Thread(target=self._settle, args=work, daemon=True)
        self._waiting = {t: f for t, f in self._waiting.items() if not f.done()}
        self._waiting[thread] = future
        thread.start()
        return future

    def close(self, kill: bool) -> None:
        """End all workers; ``kill``: running trials become FAILED, waiting ones are cancelled."""
        self._closed = True
        if kill:
            for future in self._waiting.values():
                future.cancel()
            for slot in self._slots:
                slot.kill()
        for thread in self._waiting:
            thread.join(GRACE if kill else None)
        for slot in self._slots:
            slot.dismiss()
        deadline = time.monotonic() + GRACE
        for slot in self._slots:
            slot.end(max(0.0, deadline - time.monotonic()))

    def _settle(
        self, trial: Trial, watch: Watch | None, deadline: float, future: Future[Trial]
    ) -> None:
        try:
            ended = self._run(trial, watch, deadline, future)
        except BaseException as bug:  # raised again where the result is asked for
            future.set_exception(bug)
        else:
            if ended is not None:
                future.set_result(ended)

    def _run(
        self, trial: Trial, watch: Watch | None, deadline: float, future: Future[Trial]
    ) -> Trial | None:
        """How the trial ended; None if it was cancelled before it began.

        A slot without a place is given up, and the trial waits for another one; the last is tried
        until there is a place.
        """
        slot = self._idle.get()
        patience = time.monotonic() + START
        try:
            if not future.set_running_or_notify_cancel():
                return None
            while True:
                try:
                    return slot.run(trial, watch, deadline)
                except Displaced as displaced:
                    with self._giving_up:
                        last = self.size == 1
                        if not last:
                            self._slots.remove(slot)
                    lost = isinstance(displaced, DeviceLost)
                    if lost:
                        others = "no other worker is left" if last else "others go on"
                        warnings.warn(f"{displaced}; {others}", stacklevel=2)
                    if not last:
                        slot = self._idle.get()
                    elif lost or time.monotonic() > patience:
                        return trial.failed(str(displaced))
        finally:
            self._idle.put(slot)
