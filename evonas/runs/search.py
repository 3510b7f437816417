"""The ask, evaluate, tell loop: iterating over a search gives its trial events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from random import Random
from typing import Any, Protocol

from evonas.architecture import Architecture, check_choices
from evonas.errors import InvalidArchitecture, TooManyFailures
from evonas.executors.base import Executor
from evonas.recipe.registry import blamed
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Proposal, Stage, Trial, TrialState
from evonas.trials import Trials

_POLL = 0.2  # seconds between looks at ``stopping`` while trials run
_OVERRUN = 1.1  # After the budget's seconds times this, running trials are ended.
_LAST_WORD = 2.0  # So many seconds later those are, too, that have not reported meanwhile.
_ROUNDING = 1e-9  # Ten times a tenth of a training is one, whatever the sum of floats says.


@dataclass(frozen=True)
class Budget:
    """The limit of a run: whatever is spent first.

    Attributes:
        trials: Number of trials, failed and pruned ones included, those of other runs not.
        seconds: Seconds over all sessions; running trials are finished, but for those that are not
            done when it is over by more than a tenth: they end as PRUNED if they report, else as
            FAILED.
        effort: Full trainings that trials may be worth, by ``Trials.effort``; running trials are
            finished.
        max_failures: Give up after so many failures in a row; None: never.
        reserve: Seconds of them to keep, by what is known of the trials.
    """

    trials: int | None = None
    seconds: float | None = None
    effort: float | None = None
    max_failures: int | None = 10
    reserve: Callable[[Trials], float] = lambda trials: 0.0

    def spent(self, number: int, elapsed: float, known: Trials) -> bool:
        """Whether no further trial may start, after so many and so many seconds."""
        return (
            (self.trials is not None and number >= self.trials)
            or (self.effort is not None and known.effort >= self.effort - _ROUNDING)
            or (self.seconds is not None and elapsed + self.reserve(known) >= self.seconds)
        )

    def overdue(self, elapsed: float) -> bool:
        """Whether even what runs is to be ended, after so many seconds."""
        return self.seconds is not None and elapsed > _OVERRUN * self.seconds


class End(StrEnum):
    """Why a search ended, in words."""

    BUDGET = "the budget is spent"
    EXHAUSTED = "the space is exhausted: no new architecture is left to propose"
    STOPPED = "interrupted; the run can be resumed"


class Watcher(Protocol):
    """Who sees what running trials report, and may stop them: a fold over the same events."""

    def tell(self, trial: Trial) -> None:
        """Take in an event."""

    def should_stop(self, number: int, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether a running trial that reported this should end as PRUNED."""


class Search:
    """Search until the budget is spent, or the strategy asks for nothing while nothing runs.

    Iterating gives every proposal as RUNNING before it is submitted, and again when it ended. Who
    iterates writes the events down, and only then are strategy and watcher told: what they know is
    what the journal holds. Trial ``n`` is asked for with a generator seeded by ``seed`` and ``n``,
    so a serial search is a pure function of its arguments.

    Args:
        strategy: A fresh strategy; it is told the events of before first.
        executor: Where the trials run; the caller closes it.
        budget: When to stop.
        seed: Seed of the run.
        events: Of earlier sessions; those of other stages are passed over. Trials that were RUNNING
            are submitted again.
        stopping: Asked before every proposal; when True, what runs is finished and the search ends.
        watcher: A fresh one, if somebody wants to see what trials report on the way.
        stage: Of the proposals, which are numbered within it.
        elapsed: Seconds of earlier sessions; default: what the stage's events say.
        prepared: Effort of what was trained before the first trial, to be added to the first end.

    Attributes:
        end: Why the search ended; set when the iteration is over.
    """

    def __init__(
        self,
        strategy: Strategy,
        executor: Executor,
        budget: Budget,
        seed: int,
        events: Sequence[Trial] = (),
        stopping: Callable[[], bool] = lambda: False,
        watcher: Watcher | None = None,
        stage: Stage = "search",
        elapsed: float | None = None,
        prepared: float = 0.0,
    ) -> None:
        self._strategy, self._executor, self._budget = strategy, executor, budget
        self._seed, self._stopping, self._watcher = seed, stopping, watcher
        self._prepared = prepared
        self._trials = Trials(stage=stage)
        self._running: dict[Future[Trial], int] = {}
        self._asked_to_stop = 0.0  # when; 0: never
        earlier = [event for event in events if event.proposal.stage == stage]
        for event in earlier:
            self._tell(event)
        if elapsed is None:
            elapsed = max((event.elapsed for event in earlier), default=0.0)
        self._start = time.monotonic() - elapsed
        self._from_other_runs = sum(t.origin is not None for t in self._trials.latest.values())
        self.end = End.STOPPED

    def __iter__(self) -> Iterator[Trial]:
        """Run it.

        Raises:
            TooManyFailures: After ``budget.max_failures`` failed trials in a row.
            PluginError: If a plugin's strategy raises, or asks for what is no proposal.
        """
        if self._budget.seconds is not None:
            last = _OVERRUN * self._budget.seconds + _LAST_WORD
            self._executor.deadline = self._start + last
        for trial in list(self._trials.running.values()):
            self._submit(trial)
        failures = 0
        while True:
            asked: Trial | End | None = None
            while len(self._running) < self._executor.workers:
                asked = self._ask()
                if isinstance(asked, End):
                    break
                yield asked
                self._tell(asked)
                self._submit(asked)
            if not self._running:
                assert isinstance(asked, End), "a worker is free, so the strategy was asked"
                self.end = asked
                return
            for ended in self._ended():
                yield ended
                self._tell(ended)
                failures = failures + 1 if ended.state is TrialState.FAILED else 0
                if failures == self._budget.max_failures:
                    raise TooManyFailures(
                        f"{failures} trials in a row failed; the last one: {ended.error}"
                    )

    def _ask(self) -> Trial | End:
        if self._stopping():
            return End.STOPPED
        number, elapsed = len(self._trials.latest), self._elapsed()
        if self._budget.spent(number - self._from_other_runs, elapsed, self._trials):
            return End.BUDGET
        with blamed(type(self._strategy), "cannot ask"):
            proposal = self._strategy.ask(Random(f"{self._seed}/{number}"))
            if proposal is not None and self._trials.stage == "search":  # others are our own
                _check(proposal, self._strategy.space, self._trials)
        return End.EXHAUSTED if proposal is None else Trial(number, proposal, elapsed=elapsed)

    def _submit(self, trial: Trial) -> None:
        watched = self._watcher is not None or self._budget.seconds is not None
        watch = partial(self._should_stop, trial.number) if watched else None
        self._running[self._executor.submit(trial, watch)] = trial.number

    def _should_stop(self, number: int, step: int, metrics: Mapping[str, float]) -> bool:
        """What a running trial that reports is told; in any thread."""
        pruned = self._watcher is not None and self._watcher.should_stop(number, step, metrics)
        return pruned or self._budget.overdue(self._elapsed())

    def _ended(self) -> Iterator[Trial]:
        """Trials that have ended meanwhile, in order of number; none after a short wait."""
        done, _ = wait(self._running, timeout=_POLL, return_when=FIRST_COMPLETED)
        if self._stopping():
            self._asked_to_stop = self._asked_to_stop or time.monotonic()
            if not done and time.monotonic() - self._asked_to_stop > self._executor.grace:
                raise KeyboardInterrupt  # as if the user had asked twice
        for future in sorted(done, key=self._running.__getitem__):
            del self._running[future]
            trial = future.result()
            before = 0.0 if self._trials.effort else self._prepared
            yield replace(trial, elapsed=self._elapsed(), effort=trial.effort + before)

    def _tell(self, trial: Trial) -> None:
        self._trials.add(trial)
        with blamed(type(self._strategy), "cannot be told"):
            self._strategy.tell(trial)
        if self._watcher is not None:
            self._watcher.tell(trial)

    def _elapsed(self) -> float:
        return time.monotonic() - self._start


def _check(proposal: Any, space: SearchSpace, known: Trials) -> None:
    """Refuse what cannot be tried, or not be written down: a strategy may be anybody's.

    Raises:
        TypeError: If it is no proposal.
        ValueError: If it is one of something that there is not.
    """
    if not isinstance(proposal, Proposal):
        raise TypeError(f"it returned {type(proposal).__name__}, not a Proposal or None")
    if not isinstance(proposal.architecture, Architecture):
        raise TypeError(f"it proposed {proposal.architecture!r}, which is no Architecture")

    def there(number: Any) -> bool:
        return type(number) is int and number in known.latest

    fidelity, repeat = proposal.fidelity, proposal.repeat
    right = {
        "fidelity": isinstance(fidelity, int | float) and 0 < fidelity <= 1,
        "parents": isinstance(proposal.parents, tuple) and all(map(there, proposal.parents)),
        "resume_from": proposal.resume_from is None or there(proposal.resume_from),
        "repeat": type(repeat) is int and repeat >= 0,
        "stage": proposal.stage == known.stage,
    }
    for name, is_right in right.items():
        if not is_right:
            raise ValueError(f"it proposed {name}={getattr(proposal, name)!r}")
    try:
        check_choices(space.domains, proposal.architecture.choices, searched=False)
    except InvalidArchitecture as error:
        raise ValueError(f"it proposed what is not in the space: {error}") from error
