"""The ask, evaluate, tell loop: a generator of trial events."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from evonas.errors import TooManyFailures
from evonas.executors.base import Executor
from evonas.strategies.base import Strategy
from evonas.trial import Trial, TrialState

if TYPE_CHECKING:  # it imports optuna, which few searches need
    from evonas.runs.pruning.base import Pruner

_POLL = 0.2  # seconds between looks at ``stopping`` while trials run


@dataclass(frozen=True)
class Budget:
    """The limit of a run: whatever is spent first.

    Attributes:
        trials: Number of trials, failed and pruned ones included, those of other runs not.
        seconds: Seconds of search over all sessions; running trials are finished.
        max_failures: Give up after so many failures in a row.
    """

    trials: int | None = None
    seconds: float | None = None
    max_failures: int = 10

    def spent(self, trials: int, elapsed: float) -> bool:
        """Whether no further trial may start."""
        return (self.trials is not None and trials >= self.trials) or (
            self.seconds is not None and elapsed >= self.seconds
        )


class End(StrEnum):
    """Why a search ended, in words."""

    BUDGET = "the budget is spent"
    EXHAUSTED = "the space is exhausted: no new architecture is left to propose"
    STOPPED = "interrupted; the run can be resumed"


def search(
    strategy: Strategy,
    executor: Executor,
    budget: Budget,
    seed: int,
    history: Sequence[Trial] = (),
    stopping: Callable[[], bool] = lambda: False,
    pruner: Pruner | None = None,
) -> Generator[Trial, None, End]:
    """Search until the budget is spent, or the strategy asks for nothing while nothing runs.

    Every proposal is yielded as RUNNING before it is submitted, and again when it ended; who
    consumes the events writes them down. Trial ``n`` is asked for with a generator seeded by
    ``seed`` and ``n``, so a serial search is a pure function of its arguments.

    Args:
        strategy: A fresh strategy; it is told the history first.
        executor: Where the trials run; the caller closes it.
        budget: When to stop.
        seed: Seed of the run.
        history: Events of an earlier session. Trials that were RUNNING are submitted again.
        stopping: Asked before every proposal; when True, what runs is finished and the search ends.
        pruner: A fresh one, told what the strategy is told; it ends hopeless trials.

    Yields:
        Trial events in the order in which the strategy is told.

    Returns:
        Why the search ended.

    Raises:
        TooManyFailures: After ``budget.max_failures`` failed trials in a row.
    """

    def tell_pruner(trial: Trial) -> None:
        if pruner is not None:
            pruner.tell(trial)

    def submit(trial: Trial) -> Future[Trial]:
        watch = partial(pruner.should_stop, trial.number) if pruner is not None else None
        return executor.submit(trial, watch)

    latest: dict[int, Trial] = {}
    for told in history:
        strategy.tell(told)
        tell_pruner(told)
        latest[told.number] = told
    start = time.monotonic() - max((trial.elapsed for trial in history), default=0.0)
    running: dict[Future[Trial], int] = {}
    for left in latest.values():
        if left.state is TrialState.RUNNING:
            running[submit(left)] = left.number
    given = sum(trial.origin is not None for trial in latest.values())
    count, failures = len(latest), 0

    def asked() -> Trial | End:
        if stopping():
            return End.STOPPED
        if budget.spent(count - given, time.monotonic() - start):
            return End.BUDGET
        proposal = strategy.ask(Random(f"{seed}/{count}"))
        if proposal is None:
            return End.EXHAUSTED
        return Trial(count, proposal, elapsed=time.monotonic() - start)

    while True:
        trial: Trial | End | None = None
        while len(running) < executor.workers and isinstance(trial := asked(), Trial):
            count += 1
            strategy.tell(trial)
            yield trial
            tell_pruner(trial)
            running[submit(trial)] = trial.number
        if not running:
            assert isinstance(trial, End), "a worker is free, so the strategy was asked"
            return trial
        done, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=running.__getitem__):
            del running[future]
            ended = replace(future.result(), elapsed=time.monotonic() - start)
            strategy.tell(ended)
            yield ended
            tell_pruner(ended)
            failures = failures + 1 if ended.state is TrialState.FAILED else 0
            if failures >= budget.max_failures:
                raise TooManyFailures(
                    f"{failures} trials in a row failed; the last one: {ended.error}"
                )
