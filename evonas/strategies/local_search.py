"""Local search: try the neighbours of the best, move to whatever is better, restart at the top.

White, Nolen and Savani, Exploring the loss landscape in neural architecture search, UAI 2021, who
find it hard to beat where scores are not noisy. Asynchronous, and by first improvement: the centre
moves as soon as a neighbour is better. Measured figures: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials


class LocalSearch(Strategy):
    """Climb from a random architecture; from a local optimum start again.

    Neighbours differ in one choice, an ordered one by a step. They are tried in random order.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        super().__init__(space, objectives)
        self._climb = Trials(objectives)  # since the last start; its best is the centre
        self._centre: Trial | None = None  # whose untried neighbours these are
        self._untried: list[Proposal] = []

    def ask(self, rng: Random) -> Proposal | None:
        """A neighbour of the centre; when all were tried and have ended, a random architecture."""
        centre = self._climb.best
        if centre is None:
            return self.new(rng)
        if centre is not self._centre:
            self._centre, neighbours = centre, self.space.neighbours(centre.architecture)
            self._untried = [Proposal(n, parents=(centre.number,)) for n in neighbours]
        self._untried = [p for p in self._untried if p.key not in self.told.proposed]
        if self._untried:
            return rng.choice(self._untried)
        return None if self._climb.running else self.new(rng)

    def tell(self, trial: Trial) -> None:
        """A trial without parents starts a new climb, unless the last one has no centre yet."""
        super().tell(trial)
        runs = trial.state is TrialState.RUNNING
        if runs and not trial.proposal.parents and self._climb.best is not None:
            self._climb = Trials(self.objectives)
        if runs or trial.number in self._climb.latest:
            self._climb.add(trial)
