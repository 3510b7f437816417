"""Generational evolution with selection, crossover and mutation: a (mu + lambda) strategy.

Bäck, Fogel and Michalewicz, Handbook of evolutionary computation, 1997. A generation is bred when
the one before it has ended, so workers wait at its end; ``aging_evolution`` never makes them.
Measured figures: docs/results.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

from evonas.recipe.options import Count, Probability
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.breeding import child, tournament
from evonas.trial import Objective, Proposal


class Evolution(Strategy):
    """Breed a generation from the best of all before it.

    Args:
        population_size: Survivors of a generation, the best of survivors and offspring; also the
            size of a generation, and of the random one that comes first.
        tournament_size: Drawn with replacement, the best becomes a parent.
        crossover: Probability that a child has two parents, 0…1.
        mutation: Probability that a child of two parents is mutated, too; of one it always is.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        population_size: Count = 20,
        tournament_size: Count = 3,
        crossover: Probability = 0.5,
        mutation: Probability = 0.5,
    ) -> None:
        super().__init__(space, objectives)
        self._size, self._entrants = population_size, tournament_size
        self._crossover, self._mutation = crossover, mutation

    def ask(self, rng: Random) -> Proposal | None:
        """A child of the population; nothing while a whole generation has yet to end."""
        begun = len(self.told.latest) % self._size  # how many of this generation
        if begun == 0 and self.told.running:
            return None
        offspring = set(itertools.islice(reversed(self.told.latest), begun))
        before = (trial for trial in self.told.ranked() if trial.number not in offspring)
        population = list(itertools.islice(before, self._size))  # the best of all generations
        attempts = itertools.count()

        def bred() -> Proposal:
            parents = [tournament(population, self.objectives[0], self._entrants, rng)]
            if rng.random() < self._crossover:
                parents.append(tournament(population, self.objectives[0], self._entrants, rng))
            return child(self.space, parents, self._mutation, rng, next(attempts))

        return self.new(rng, bred if population else None)
