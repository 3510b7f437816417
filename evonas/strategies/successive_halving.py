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

from collections.abc import Callable, Container, Sequence
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
from evonas.trial import Objective, Proposal, Trial

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
        self._judge = self.source if isinstance(self.source, Judge) else None
        if self.source.fidelities != (1.0,):
            source = type(self.source).__name__
            raise OptionError("of", f"must propose at full effort, as {source} does not")

    def ask(self, rng: Random) -> Proposal | None:
        """A promotion, from the highest rung possible, or a new trial at the lowest."""
        promoted = {trial.proposal.resume_from for trial in self.told.latest.values()}
        for low, high in reversed(list(pairwise(self.fidelities))):
            rung = [trial for trial in self.told.complete if trial.proposal.fidelity == low]
            if trial := self._best(rung, promoted):
                return replace(trial.proposal, fidelity=high, resume_from=trial.number)
        proposal = self.source.ask(rng)
        return proposal and replace(proposal, fidelity=self.fidelities[0])

    def _best(self, rung: Sequence[Trial], promoted: Container[int | None]) -> Trial | None:
        """Who of a rung is promoted next; None if nobody is yet."""
        places = len(rung) // self._eta
        if self._judge is not None:
            left = [trial for trial in rung if trial.number not in promoted]
            best = self._judge.promising(left, self._eta) if len(rung) - len(left) < places else []
        else:
            by_value = sorted(rung, key=lambda t: (-self.objectives[0].key(t.metrics), t.number))
            best = [trial for trial in by_value[:places] if trial.number not in promoted]
        return next(iter(best), None)

    def tell(self, trial: Trial) -> None:
        """The source is told of new trials of the lowest rung, and leaves alone all others."""
        super().tell(trial)
        if self._judge is not None:
            self._judge.learn(trial)
        proposal = trial.proposal
        if proposal.fidelity == self.fidelities[0] and proposal.resume_from is None:
            self.source.tell(replace(trial, proposal=replace(proposal, fidelity=1.0)))
        else:
            self.source.told.exclude(trial.architecture)

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
