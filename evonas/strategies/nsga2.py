"""NSGA-II, steady-state: evolution towards a whole Pareto front.

Deb, Pratap, Agarwal and Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II,
IEEE Transactions on Evolutionary Computation 2002, with its rules for constraints; steady-state
after Durillo, Nebro, Luna and Alba, EMO 2009, who find its fronts better than a generation's: a
child is bred whenever a worker is free, and joins when its trial ends. Sorting, crowding distance
and tournaments are DEAP's. Measured figures: docs/results.md.
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
from evonas.trial import Objective, Proposal, Trial, TrialState, keys

_FEWEST = 4  # that DEAP's tournaments draw from
_BELOW_ALL = -1e150  # a value that no metric has


class NSGA2(Strategy):
    """Breed from winners of tournaments by dominance, then by distance from others of the front.

    A trial with the metric ``violation`` above 0 is infeasible: anything feasible is better, of two
    infeasible ones that with less violation.

    Args:
        space: What to search.
        objectives: One or more.
        population_size: Living trials; also how many random ones come first.
        crossover: Probability that a child has two parents, 0…1.
        mutation: Probability that a child of two parents is mutated, too; of one it always is.
    """

    multi_objective = True

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        population_size: int = 20,
        crossover: float = 0.9,
        mutation: float = 0.6,
    ) -> None:
        super().__init__(space, objectives)
        at_least("strategy", _FEWEST, population_size=population_size)
        check_chances(crossover=crossover, mutation=mutation)
        self._size, self._crossover, self._mutation = population_size, crossover, mutation
        self._population: list[Individual] = []
        self._toolbox = base.Toolbox()
        self._toolbox.register("select", tools.selTournamentDCD, k=_FEWEST)
        self._toolbox.register("mate", space.crossover)
        self._toolbox.register("mutate", space.mutate)
        self._toolbox.register("survive", tools.selNSGA2, k=population_size)

    def ask(self, rng: Random) -> Proposal | None:
        """A random architecture until the population is full, then a child of it."""
        living = len(self._population)
        if living < _FEWEST or living + len(self._running) < self._size:
            architecture = self._unseen(lambda: self.space.sample(rng), rng)
            return Proposal(architecture) if architecture else None
        parents: list[Trial] = []
        draws = itertools.count()

        def breed() -> Architecture:
            with global_random(rng):
                parents[:] = [winner.trial for winner in self._toolbox.select(self._population)[:2]]
            if rng.random() >= self._crossover:
                del parents[1]
            return offspring(self._toolbox, parents, self._mutation, rng, next(draws))

        found = self._unseen(breed, rng)
        numbers = tuple(parent.number for parent in parents)
        return Proposal(found, parents=numbers) if found else None

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
        self._population = self._toolbox.survive([*self._population, Individual(trial, *values)])

    def living(self) -> Iterable[int]:
        """The population."""
        return [individual.trial.number for individual in self._population]
