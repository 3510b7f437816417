"""Asynchronous Hyperband: several brackets of successive halving, each from a higher rung upwards.

Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar, Hyperband: a novel bandit-based approach to
hyperparameter optimization, JMLR 2018; asynchronous as in Li et al., A system for massively
parallel hyperparameter tuning, MLSys 2020, whose brackets never wait. It costs some effort and
insures against short trials that mislead. Measured figures: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from evonas.recipe.options import Share
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Findings, Strategy
from evonas.strategies.random import RandomSearch
from evonas.strategies.successive_halving import Eta, MakeStrategy, SuccessiveHalving, rungs
from evonas.trial import Objective, Proposal, Trial


class Hyperband(Strategy):
    """Successive halving from every rung at once, with equal effort for each of these brackets.

    The bracket that spent the least comes next. The first one starts at the lowest rung; the last
    one has the highest rung alone and is the source itself, at full effort. Every bracket has a
    source of its own, for results of unequal effort do not compare; no two try one architecture.

    Args:
        of: Makes the sources: the strategy that proposes new architectures.
        eta: As ``SuccessiveHalving``'s.
        min_fidelity: As ``SuccessiveHalving``'s, of the first bracket.
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
        self._brackets = {
            lowest: SuccessiveHalving(space, objectives, of, eta, lowest)
            for lowest in self.fidelities
        }
        self._spent = dict.fromkeys(self.fidelities, 0.0)
        self._trials: dict[int, tuple[float, float]] = {}  # number → bracket, fidelity

    def ask(self, rng: Random) -> Proposal | None:
        """What the bracket that spent the least wants; if it waits, the next one."""
        for lowest in sorted(self.fidelities, key=self._spent.__getitem__):
            if (proposal := self._brackets[lowest].ask(rng)) is not None:
                return proposal
        return None

    def tell(self, trial: Trial) -> None:
        """Tell the trial's bracket of it; the others leave its architecture alone."""
        super().tell(trial)
        fidelity, rung = trial.proposal.fidelity, trial.proposal.resume_from
        if trial.number not in self._trials:
            fresh = (fidelity, 0.0)  # the bracket that begins here, and nothing before
            home, before = fresh if rung is None else self._trials.get(rung, fresh)
            self._trials[trial.number] = home, fidelity
            if home in self._spent:
                self._spent[home] += fidelity - before
        home, _ = self._trials[trial.number]
        for lowest, bracket in self._brackets.items():
            if lowest == home:
                bracket.tell(trial)
            else:
                bracket.source.told.exclude(trial.architecture)

    def findings(self) -> Findings:
        """Those of the brackets' sources."""
        each = [bracket.findings() for bracket in self._brackets.values()]
        return Findings(tuple(line for findings in each for line in findings.lines))
