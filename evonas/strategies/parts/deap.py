"""What strategies need around DEAP: individuals, breeding, and a fence round its randomness."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

from deap import base

from evonas.architecture import Architecture
from evonas.errors import RecipeError
from evonas.trial import Trial

_NEAR = 5  # children that were tried before, for every further mutation


class _Fitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
    def __init__(self, values: tuple[float, ...]) -> None:
        self.weights = (1.0,) * len(values)
        super().__init__(values)


class Individual:
    """What DEAP selects among: a trial with a fitness of one or more values."""

    def __init__(self, trial: Trial, *values: float) -> None:
        self.trial = trial
        self.fitness = _Fitness(values)


def check_chances(**options: float) -> None:
    """Raise RecipeError for an option of a strategy that is no probability."""
    for name, chance in options.items():
        if not 0 <= chance <= 1:
            raise RecipeError(f"strategy.{name}: must be in [0, 1], not {chance}")


def offspring(
    toolbox: base.Toolbox, parents: Sequence[Trial], mutation: float, rng: Random, draw: int
) -> Architecture:
    """A child of one parent, mutated, or of two: by crossover, and mutated with a chance.

    Args:
        toolbox: With ``mate`` and ``mutate``.
        parents: One or two.
        mutation: Probability that a child of two is mutated, too.
        rng: Draws.
        draw: How many children were tried before, in vain: where the neighbourhood is known, they
            are mutated further.
    """
    child: Architecture = parents[0].architecture
    if len(parents) == 2:
        child = toolbox.mate(child, parents[1].architecture, rng)
    mutations = len(parents) == 1 or rng.random() < mutation
    for _ in range(mutations + draw // _NEAR):
        child = toolbox.mutate(child, rng)
    return child


@contextmanager
def global_random(rng: Random) -> Iterator[None]:
    """Let DEAP, which draws from the module ``random``, draw from ``rng``."""
    outside = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
    finally:
        rng.setstate(random.getstate())
        random.setstate(outside)
