"""Aging (regularized) evolution.

Real, Aggarwal, Huang and Le, Regularized evolution for image classifier architecture search,
AAAI 2019. Asynchronous: a child is bred whenever a worker is free, from the trials told so far.
Selection and toolbox are DEAP's. Measured figures: docs/results.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from random import Random

from deap import base, tools

from evonas.architecture import Architecture
from evonas.errors import RecipeError, at_least
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.deap import Individual, global_random
from evonas.trial import Objective, Proposal, Trial, TrialState


class AgingEvolution(Strategy):
    """Breed from the winner of a tournament; the oldest of the population dies.

    Args:
        space: What to search.
        objectives: Exactly one.
        population_size: Living trials; also how many random ones come first.
        tournament_size: Drawn with replacement, the best becomes the parent.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        population_size: int = 50,
        tournament_size: int = 10,
    ) -> None:
        super().__init__(space, objectives)
        at_least("strategy", 1, population_size=population_size, tournament_size=tournament_size)
        if population_size < tournament_size:
            raise RecipeError(
                f"strategy.population_size: {population_size} is smaller than "
                f"strategy.tournament_size {tournament_size}"
            )
        self._population_size = population_size
        self._population: deque[Individual] = deque(maxlen=population_size)
        self._toolbox = base.Toolbox()
        self._toolbox.register("select", tools.selTournament, k=1, tournsize=tournament_size)
        self._toolbox.register("mutate", space.mutate)

    def ask(self, rng: Random) -> Proposal | None:
        """A random architecture until the population is full, then a mutated tournament winner."""
        if (
            not self._population
            or len(self._population) + len(self._running) < self._population_size
        ):
            architecture = self._unseen(lambda: self.space.sample(rng), rng)
            return Proposal(architecture) if architecture else None
        parent = self._population[0].trial

        def breed() -> Architecture:
            nonlocal parent
            with global_random(rng):
                parent = self._toolbox.select(self._population)[0].trial
            child: Architecture = self._toolbox.mutate(parent.architecture, rng)
            return child

        architecture = self._unseen(breed, rng)
        return Proposal(architecture, parents=(parent.number,)) if architecture else None

    def tell(self, trial: Trial) -> None:
        """Completed trials join the population, in order of completion; the oldest leaves."""
        super().tell(trial)
        if trial.state is TrialState.COMPLETE:
            value = self.objectives[0].key(trial.metrics)
            self._population.append(Individual(trial, value))

    def living(self) -> Iterable[int]:
        """The population, the youngest first."""
        return [individual.trial.number for individual in reversed(self._population)]
