"""NSGA-II, steady-state: evolution towards a whole Pareto front.

Deb, Pratap, Agarwal and Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II,
IEEE Transactions on Evolutionary Computation 2002, with its rules for constraints; steady-state
after Durillo, Nebro, Luna and Alba, EMO 2009, who find its fronts better than a generation's: a
child is bred whenever a worker is free, and joins when its trial ends. Sorting, crowding distance
and tournaments are DEAP's. Measured figures: docs/results.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random
from typing import Annotated

from deap import base, tools
from pydantic import Field

from evonas.recipe.options import Probability
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.breeding import Individual, child, global_random
from evonas.trial import Objective, Proposal, Trial, TrialState, keys

_FEWEST = 4  # DEAP's tournaments draw from so many or more, and give as many winners.
_BELOW_ALL = -1e150  # No metric has a value as low as this.


class _Fitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
    def __init__(self, values: tuple[float, ...]) -> None:
        self.weights = (1.0,) * len(values)
        super().__init__(values)


class NSGA2(Strategy):
    """Breed from winners of tournaments by dominance, then by distance from others of the front.

    A trial with the metric ``violation`` above 0 is infeasible: anything feasible is better, of two
    infeasible ones that with less violation.

    Args:
        population_size: Living trials; also how many random ones come first.
        crossover: Probability that a child has two parents, 0…1.
        mutation: Probability that a child of two parents is mutated, too; of one it always is.
    """

    multi_objective = True

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        population_size: Annotated[int, Field(ge=_FEWEST)] = 20,
        crossover: Probability = 0.9,
        mutation: Probability = 0.6,
    ) -> None:
        super().__init__(space, objectives)
        self._size, self._crossover, self._mutation = population_size, crossover, mutation
        self._population: list[Individual] = []

    def ask(self, rng: Random) -> Proposal | None:
        """A random architecture until the population is full, then a child of it."""
        living = len(self._population)
        if living < _FEWEST or living + len(self.told.running) < self._size:
            return self.new(rng)
        attempts = itertools.count()

        def bred() -> Proposal:
            with global_random(rng):
                winners = tools.selTournamentDCD(self._population, _FEWEST)
            parents = [winner.trial for winner in winners[: 1 + (rng.random() < self._crossover)]]
            return child(self.space, parents, self._mutation, rng, next(attempts))

        return self.new(rng, bred)

    def tell(self, trial: Trial) -> None:
        """A trial that ended joins the population, and the worst leaves; failures do not join."""
        super().tell(trial)
        if trial.state is TrialState.RUNNING:
            return
        violation = trial.metrics.get("violation", 0.0)
        if violation > 0:
            # Pareto dominance among such values is what Deb's rules say.
            values: tuple[float, ...] = (_BELOW_ALL * (1 + violation),) * len(self.objectives)
        elif trial.state is TrialState.COMPLETE:
            values = keys(self.objectives, trial.metrics)
        else:
            return
        joined = [*self._population, Individual(trial, _Fitness(values))]
        self._population = tools.selNSGA2(joined, self._size)
