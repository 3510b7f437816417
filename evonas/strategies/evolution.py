"""Generational evolution with selection, crossover and mutation: a (mu + lambda) strategy.

Bäck, Fogel and Michalewicz, Handbook of evolutionary computation, 1997; the operators are DEAP's,
as in its ``eaMuPlusLambda``. A generation is bred when the one before it has ended, so workers wait
at its end; ``aging_evolution`` never makes them. Measured figures: docs/results.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from random import Random

from deap import base, tools

from evonas.architecture import Architecture
from evonas.errors import at_least
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.deap import Individual, check_chances, global_random, offspring
from evonas.trial import Objective, Proposal, Trial, TrialState


class Evolution(Strategy):
    """Breed a generation from the best of all before it.

    Args:
        space: What to search.
        objectives: Exactly one.
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
        population_size: int = 20,
        tournament_size: int = 3,
        crossover: float = 0.5,
        mutation: float = 0.5,
    ) -> None:
        super().__init__(space, objectives)
        at_least("strategy", 1, population_size=population_size, tournament_size=tournament_size)
        check_chances(crossover=crossover, mutation=mutation)
        self._size, self._crossover, self._mutation = population_size, crossover, mutation
        self._population: list[Individual] = []
        self._offspring: list[Individual] = []
        self._started, self._ended = 0, 0
        self._toolbox = base.Toolbox()
        self._toolbox.register("select", tools.selTournament, k=1, tournsize=tournament_size)
        self._toolbox.register("mate", space.crossover)
        self._toolbox.register("mutate", space.mutate)
        self._toolbox.register("survive", tools.selBest, k=population_size)

    def ask(self, rng: Random) -> Proposal | None:
        """A child of the population; nothing while a whole generation has yet to end."""
        if self._started % self._size == 0 and self._started > self._ended:
            return None
        if not self._population:
            architecture = self._unseen(lambda: self.space.sample(rng), rng)
            return Proposal(architecture) if architecture else None
        parents: list[Trial] = []
        draws = itertools.count()

        def breed() -> Architecture:
            parents[:] = [self._select(rng)]
            if rng.random() < self._crossover:
                parents.append(self._select(rng))
            return offspring(self._toolbox, parents, self._mutation, rng, next(draws))

        found = self._unseen(breed, rng)
        numbers = tuple(dict.fromkeys(parent.number for parent in parents))
        return Proposal(found, parents=numbers) if found else None

    def tell(self, trial: Trial) -> None:
        """When a generation has ended, the best of it and of the population survive."""
        super().tell(trial)
        if trial.state is TrialState.RUNNING:
            self._started += 1
            return
        self._ended += 1
        if trial.state is TrialState.COMPLETE:
            self._offspring.append(Individual(trial, self.objectives[0].key(trial.metrics)))
        if self._ended == self._started and self._started % self._size == 0:
            self._population = self._toolbox.survive(self._population + self._offspring)
            self._offspring = []

    def living(self) -> Iterable[int]:
        """The population, and what may join it."""
        return [individual.trial.number for individual in (*self._population, *self._offspring)]

    def _select(self, rng: Random) -> Trial:
        with global_random(rng):
            winner: Individual = self._toolbox.select(self._population)[0]
        return winner.trial
