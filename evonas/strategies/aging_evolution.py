"""Aging (regularized) evolution.

Real, Aggarwal, Huang and Le, Regularized evolution for image classifier architecture search,
AAAI 2019. Asynchronous: a child is bred whenever a worker is free, from the trials told so far.
Measured figures: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from evonas.errors import OptionError
from evonas.recipe.options import Count
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.breeding import tournament
from evonas.trial import Objective, Proposal


class AgingEvolution(Strategy):
    """Breed from the winner of a tournament; the oldest of the population dies.

    Args:
        population_size: Living trials; also how many random ones come first.
        tournament_size: Drawn with replacement, the best becomes the parent.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        population_size: Count = 50,
        tournament_size: Count = 10,
    ) -> None:
        super().__init__(space, objectives)
        if population_size < tournament_size:
            reason = f"{population_size} is smaller than tournament_size {tournament_size}"
            raise OptionError("population_size", reason)
        self._size, self._entrants = population_size, tournament_size

    def ask(self, rng: Random) -> Proposal | None:
        """A random architecture until the population is full, then a mutated tournament winner."""
        population = self.told.complete[-self._size :]
        if not population or len(population) + len(self.told.running) < self._size:
            return self.new(rng)

        def mutant() -> Proposal:
            parent = tournament(population, self.objectives[0], self._entrants, rng)
            child = self.space.mutate(parent.architecture, rng)
            return Proposal(child, parents=(parent.number,))

        return self.new(rng, mutant)
