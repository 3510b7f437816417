"""Asynchronous successive halving (ASHA): many short trials, and longer ones of the best.

Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar, A system for massively
parallel hyperparameter tuning, MLSys 2020. A trial of the lowest rung is short; the best of every
rung are promoted to the next, where training goes on for ``eta`` times the effort. Nothing waits
for a rung to fill. Measured figures: docs/results.md.

This is the form that promotes, by proposals; ``pruning: successive_halving`` is the form that
stops: there every trial starts at full effort, and one that falls behind is cut off in the middle
of the schedule of its learning rate. Here every rung is a whole training, whose network is kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

from evonas.errors import OptionError
from evonas.recipe.options import Share
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Findings, Strategy
from evonas.strategies.random import RandomSearch
from evonas.trial import Objective, Proposal, Trial, TrialState

_Place = tuple[float, int]  # the value, smaller being better, and the trial's number
MakeStrategy = Callable[[SearchSpace, Sequence[Objective]], Strategy]
Eta = Annotated[int, Field(ge=2)]  # By 1 rungs would never rise.
_ALMOST_FULL = 0.95  # From here on a fidelity counts as 1, as 9 times 0.111 does.


@runtime_checkable
class Judge(Protocol):
    """A source that learns from trials of all rungs, and says who is promoted."""

    def learn(self, trial: Trial) -> None:
        """Take in an event of any rung, at its own fidelity, beside what ``tell`` tells."""

    def promising(self, trials: Sequence[Trial], eta: int) -> list[Trial]:
        """Those of a rung's trials that deserve to be trained longer, the best first.

        Args:
            trials: Those that were not.
            eta: One in so many is.
        """


class _Rung:
    """The places of a rung's completed trials, the best first, and of those not promoted.

    They are kept in order as trials end: an ask does not grow with their number.
    """

    def __init__(self) -> None:
        self.complete: list[_Place] = []
        self.left: list[_Place] = []

    def add(self, place: _Place) -> None:
        """A trial completed."""
        insort(self.complete, place)
        insort(self.left, place)

    def promote(self, place: _Place) -> None:
        """A trial is trained longer."""
        at = bisect_left(self.left, place)
        if self.left[at : at + 1] == [place]:
            del self.left[at]


class SuccessiveHalving(Strategy):
    """Promote the best of every rung; with nothing to promote, start a trial of another strategy.

    That strategy, the source, is told of the lowest rung alone: there its trials have had equal
    effort, and each ends once. From higher rungs it would take the merit of longer training for
    that of the few architectures that had it. A source that knows how to tell the two apart, as
    ``guided_evolution`` does, learns from all rungs, and says which of a rung's trials are the
    best; of others it is those with the best values. A trial that failed or was pruned is not
    promoted, and a promotion that failed is not repeated.

    Args:
        of: The source.
        eta: One in so many trials of a rung is promoted; by that factor rungs differ in effort.
        min_fidelity: Effort of the lowest rung, (0, 1]; the highest is 1.

    Attributes:
        source: The source.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        of: MakeStrategy = RandomSearch,
        eta: Eta = 3,
        min_fidelity: Share = 1 / 9,
    ) -> None:
        super().__init__(space, objectives)
        self.fidelities = rungs(eta, min_fidelity)
        self._eta, self.source = eta, of(space, objectives)
        self._rungs = {fidelity: _Rung() for fidelity in self.fidelities}
        self._judge = self.source if isinstance(self.source, Judge) else None
        if self.source.fidelities != (1.0,):
            source = type(self.source).__name__
            raise OptionError("of", f"must propose at full effort, as {source} does not")

    def ask(self, rng: Random) -> Proposal | None:
        """A promotion, from the highest rung possible, or a new trial at the lowest."""
        for low, high in reversed(list(pairwise(self.fidelities))):
            if trial := self._best(self._rungs[low]):
                return replace(trial.proposal, fidelity=high, resume_from=trial.number)
        proposal = self.source.ask(rng)
        return proposal and replace(proposal, fidelity=self.fidelities[0])

    def _best(self, rung: _Rung) -> Trial | None:
        """Who of a rung is promoted next; None if nobody is yet."""
        places = len(rung.complete) // self._eta
        if self._judge is None:
            if rung.left and bisect_left(rung.complete, rung.left[0]) < places:
                return self.told.latest[rung.left[0][1]]
            return None
        if len(rung.complete) - len(rung.left) >= places:
            return None
        left = [self.told.latest[number] for _, number in rung.left]
        return next(iter(self._judge.promising(left, self._eta)), None)

    def tell(self, trial: Trial) -> None:
        """The source is told of new trials of the lowest rung, and leaves alone all others."""
        super().tell(trial)
        if self._judge is not None:
            self._judge.learn(trial)
        proposal = trial.proposal
        if trial.state is TrialState.COMPLETE and proposal.fidelity in self._rungs:
            self._rungs[proposal.fidelity].add(self._place(trial))
        if trial.state is TrialState.RUNNING and proposal.resume_from is not None:
            below = self.told.latest[proposal.resume_from]
            self._rungs[below.proposal.fidelity].promote(self._place(below))
        if proposal.fidelity == self.fidelities[0] and proposal.resume_from is None:
            self.source.tell(replace(trial, proposal=replace(proposal, fidelity=1.0)))
        else:
            self.source.told.exclude(trial.architecture)

    def _place(self, trial: Trial) -> _Place:
        return -self.objectives[0].key(trial.metrics), trial.number

    def findings(self) -> Findings:
        """The source's."""
        return self.source.findings()


def rungs(eta: int, min_fidelity: float) -> tuple[float, ...]:
    """``min_fidelity`` times the powers of ``eta`` below 1, and 1."""
    lower: list[float] = []
    fidelity = min_fidelity
    while fidelity < _ALMOST_FULL:
        lower.append(fidelity)
        fidelity *= eta
    return (*lower, 1.0)
