"""Local search: try the neighbours of the best, move to whatever is better, restart at the top.

White, Nolen and Savani, Exploring the loss landscape in neural architecture search, UAI 2021, who
find it hard to beat where scores are not noisy. Asynchronous, and by first improvement: the centre
moves as soon as a neighbour is better. Measured figures: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from evonas.architecture import Architecture
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal, Trial, TrialState


class LocalSearch(Strategy):
    """Climb from a random architecture; from a local optimum start again.

    Neighbours differ in one choice, an ordered one by a step. They are tried in random order.

    Args:
        space: What to search.
        objectives: Exactly one.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        super().__init__(space, objectives)
        self._centre: Trial | None = None
        self._untried: list[Architecture] = []  # neighbours of the centre
        self._climb: set[int] = set()  # trials since the last start

    def ask(self, rng: Random) -> Proposal | None:
        """A neighbour of the centre; when all were tried and have ended, a random architecture."""
        if self._centre is not None:
            self._untried = [point for point in self._untried if self._is_new(point)]
            if self._untried:
                return Proposal(rng.choice(self._untried), parents=(self._centre.number,))
            if self._running & self._climb:
                return None
        architecture = self._unseen(lambda: self.space.sample(rng), rng)
        return Proposal(architecture) if architecture else None

    def tell(self, trial: Trial) -> None:
        """A trial without parents starts a climb, a better one of the climb is its new centre."""
        super().tell(trial)
        if trial.state is TrialState.RUNNING:
            if not trial.proposal.parents and self._centre is not None:
                self._centre, self._climb = None, set()
            self._climb.add(trial.number)
            return
        if trial.state is TrialState.COMPLETE and trial.number in self._climb:
            key = self.objectives[0].key
            if self._centre is None or key(trial.metrics) > key(self._centre.metrics):
                self._centre = trial
                self._untried = list(self.space.neighbours(trial.architecture))

    def living(self) -> Iterable[int]:
        """The centre, and what may become it."""
        centre = () if self._centre is None else (self._centre.number,)
        return (*centre, *(self._running & self._climb))
