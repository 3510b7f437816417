"""Trials in worker processes, one per slot, each with its own device and its share of the cores.

A trial whose worker dies, by a segmentation fault say, is run once more, in another one; if that
dies as well, or there was not enough memory, it has failed, and nothing else is lost. A worker
leads a process group, so that what a trial starts ends with it; POSIX only.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import LifoQueue

from evonas.errors import RecipeError
from evonas.executors.base import Executor, MakeEvaluator, Watch
from evonas.executors.parts.workers import GRACE, Slot
from evonas.recipe.options import NonNegative
from evonas.training.devices import VISIBLE, cores, placements
from evonas.trial import Trial


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
        timeout: Seconds that one trial of the search may take; then its worker is killed.
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
        self.workers = len(placed)
        self._slots = [Slot(placement, make_evaluator, timeout) for placement in placed]
        self._idle: LifoQueue[Slot] = LifoQueue()  # last in, first out: prefers a running worker
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
            thread.join(GRACE if kill else None)
        for slot in self._slots:
            slot.dismiss()
        deadline = time.monotonic() + GRACE
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
    def _slot(self) -> Iterator[Slot]:
        slot = self._idle.get()
        try:
            yield slot
        finally:
            self._idle.put(slot)


def _check(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not value >= 1:  # nan is not
            raise RecipeError(f"executor.{name} is {value}, but must be at least 1")
