"""Trials on any machine that sees a folder: each runs ``evonas worker RUN_DIR``."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from evonas.errors import RecipeError
from evonas.executors.base import Executor, MakeEvaluator, Watch
from evonas.executors.parts.exchange import Exchange, Key, Offer, Reported
from evonas.executors.parts.reports import Reports
from evonas.recipe.options import NonNegative, Positive
from evonas.trial import Trial

_POLL = 0.1  # seconds between looks into the folder


@dataclass
class _Pending:
    """A trial that has not ended, and what is known of it."""

    trial: Trial
    watched: bool
    reports: Reports
    future: Future[Trial] = field(default_factory=Future)
    losses: int = 0  # workers that were lost with it
    answered: int | None = None  # the step
    missed_since: float | None = None  # when it was nowhere in the folder


class Folder(Executor):
    """Hand trials to workers that come and go, on any machine that sees a folder.

    A worker takes a trial by renaming its file, and shows that it lives by touching one of its own.
    One that has not done so for the length of the lease is given up: the trial is begun again by
    another one, once, and what the lost one hands in later is ignored. A worker that is told to
    leave, by SIGTERM or SIGUSR1, gives its trials back. No clock is compared with another.

    A run that goes on takes over what its workers have, or finished meanwhile.

    Args:
        make_evaluator: Not called: workers read the recipe from the run folder.
        devices: Not used: workers have their own.
        path: The folder, as all machines see it; default: ``work`` in the run folder.
        lease: Seconds without a sign of life after which a worker is given up. Network file systems
            may show a change a minute late.
        timeout: Seconds that one trial of the search may take; workers hold to it.
        grace: Seconds that running trials have left after Ctrl-C or SIGTERM; what has not ended by
            then goes on in its worker, and a run that is resumed takes it over.

    Attributes:
        exchange: The folder; a worker has the same, and holds to ``lease`` and ``timeout``.

    Raises:
        RecipeError: If no path is given and there is no run folder.
    """

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        devices: tuple[str, ...],
        path: Path | None = None,
        lease: Positive = 120.0,
        timeout: Annotated[float, Field(ge=1)] | None = None,
        grace: NonNegative = 60.0,
    ) -> None:
        super().__init__(make_evaluator, devices)
        self.grace, self.lease, self.timeout = grace, lease, timeout
        run_dir: Path | None = getattr(make_evaluator, "run_dir", None)
        if path is None and run_dir is None:
            raise RecipeError("executor.path: is not given, and there is no run folder")
        self.exchange = Exchange((path or Path(str(run_dir)) / "work").absolute())
        self.remark = f"trials wait for workers: evonas worker {run_dir or 'RUN_DIR'}"
        self._pending: dict[Key, _Pending] = {}
        self._left: dict[tuple[str, int], Key] = {}  # by an earlier session
        # Of workers that live: how many trials they take, their last stamp, and since when.
        self._living: dict[str, tuple[int, int, float]] = {}
        self._lock = threading.Lock()  # of all of these
        self._looking: threading.Thread | None = None
        self._closed = False

    @property
    def workers(self) -> int:  # type: ignore[override]
        """How many trials the workers take that live now; one waits for the first of them."""
        return max(1, sum(slots for slots, _, _ in self._living.values()))

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        """Lay the trial into the folder; or take over what is there of it."""
        if self._closed:
            raise RuntimeError("submit after close")
        pending = _Pending(trial, watch is not None, Reports(watch))
        with self._lock:
            if self._looking is None:
                self._begin()
            stage, number = trial.proposal.stage, trial.number
            key = self._left.pop((stage, number), Key(stage, number, -1))
            if key.attempt >= 0 and self._is_of(trial, key):
                self._pending[key] = pending
            else:
                self._offer(key, pending)
        return pending.future

    def close(self, kill: bool = False) -> None:
        """Wait for what runs; ``kill``: leave it to its workers, for a session to come."""
        self._closed = True
        if self._looking is None:
            return
        if kill:
            with self._lock:
                for key, pending in self._pending.items():
                    self.exchange.drop("open", key)
                    pending.future.cancel()
                self._pending.clear()
        self._looking.join()
        if not kill:
            for key, worker in self.exchange.entries("read").items():
                self.exchange.drop("read", key, worker)

    def _begin(self) -> None:
        self.exchange.make()
        for folder in ("open", "taken", "ended", "read"):
            for key, worker in self.exchange.entries(folder).items():
                if folder == "read":  # but perhaps the search was killed before it wrote it down
                    self.exchange.move(key, worker, "read", "ended")
                name = key.stage, key.number
                self._left[name] = max(key, self._left.get(name, key))
        self._looking = threading.Thread(target=self._look_on, daemon=True)
        self._looking.start()

    def _is_of(self, trial: Trial, key: Key) -> bool:
        for folder in ("open", "taken", "ended"):  # in the order in which it may move meanwhile
            worker = self.exchange.entries(folder).get(key)
            if worker is None:
                continue
            shape: type[Trial | Offer] = Trial if folder == "ended" else Offer
            if (there := self.exchange.read(shape, folder, key, worker)) is not None:
                own = there.trial if isinstance(there, Offer) else there
                return own.proposal == trial.proposal
        return False

    def _offer(self, before: Key, pending: _Pending) -> None:
        key = replace(before, attempt=before.attempt + 1)
        pending.missed_since = pending.answered = None
        self._pending[key] = pending
        content = {"trial": pending.trial.to_json(), "watched": pending.watched}
        self.exchange.write("open", key, "", content)

    def _look_on(self) -> None:
        while self._pending or not self._closed:
            try:
                with self._lock:
                    self._look()
            except BaseException as bug:  # raised again where the results are asked for
                with self._lock:
                    for pending in self._pending.values():
                        pending.future.set_exception(bug)
                    self._pending.clear()
                return
            time.sleep(_POLL)

    def _look(self) -> None:
        """Look into every folder once, and do what is to be done."""
        for key, worker in self._entries("ended").items():
            if (ended := self.exchange.read(Trial, "ended", key, worker)) is not None:
                self.exchange.move(key, worker, "ended", "read")
                self._pending.pop(key).future.set_result(ended)
        for key, worker in self._entries("reports").items():
            self._answer(key, worker)
        # In this order: whoever has a trial was there before it had it.
        taken = self._entries("taken")
        self._look_for_workers()
        if time.monotonic() > self.deadline:
            self._give_up(taken)
        for key, worker in taken.items():
            if worker not in self._living:
                self._lose(key, worker)
        self._miss({*taken, *self._entries("open")})

    def _entries(self, folder: str) -> dict[Key, str]:
        """What lies in a folder of trials that have not ended; what comes too late is removed."""
        found = {}
        for key, worker in self.exchange.entries(folder).items():
            if key in self._pending:
                found[key] = worker
            elif self._left.get((key.stage, key.number)) != key:  # else it may be submitted yet
                self.exchange.drop(folder, key, worker)
        return found

    def _answer(self, key: Key, worker: str) -> None:
        pending = self._pending[key]
        reported = self.exchange.read(Reported, "reports", key, worker)
        if reported is not None and reported.step != pending.answered:
            step = pending.answered = reported.step
            stop = pending.reports(step, reported.metrics)
            self.exchange.write("answers", key, worker, {"step": step, "stop": stop})

    def _look_for_workers(self) -> None:
        """Who has not shown within the lease that it lives is given up."""
        now, living = time.monotonic(), dict[str, tuple[int, int, float]]()
        for name, (slots, stamp) in self.exchange.workers().items():
            _, known, since = self._living.get(name, (slots, stamp, now))
            if stamp != known:
                since = now
            if now - since > self.lease:
                self.exchange.dismiss(name)
            else:
                living[name] = slots, stamp, since
        self._living = living

    def _give_up(self, taken: dict[Key, str]) -> None:
        """End the trials of the search, and have the workers that are at them begin anew."""
        for key in [key for key in self._pending if key.stage == "search"]:
            pending = self._pending.pop(key)
            self.exchange.drop("open", key)
            if worker := taken.pop(key, None):
                self.exchange.dismiss(worker)
                self.exchange.drop("taken", key, worker)
            pending.future.set_result(pending.reports.overdue(pending.trial))

    def _lose(self, key: Key, worker: str) -> None:
        if not self.exchange.drop("taken", key, worker):  # it was given back, or ended, meanwhile
            return
        pending = self._pending.pop(key)
        pending.losses += 1
        if pending.losses == 1:
            self._offer(key, pending)
            return
        failed = pending.reports.failed(pending.trial, f"worker lost: {worker}")
        pending.future.set_result(failed)

    def _miss(self, present: set[Key]) -> None:
        """Offer again what is nowhere, as a renaming whose answer was lost leaves it."""
        now = time.monotonic()
        for key, pending in list(self._pending.items()):
            if key in present:
                pending.missed_since = None
            elif pending.missed_since is None:
                pending.missed_since = now
            elif now - pending.missed_since > self.lease:
                self._offer(key, self._pending.pop(key))
