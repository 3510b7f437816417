"""How parents are chosen, by DEAP, and children made of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

from deap import tools

from evonas.spaces.base import SearchSpace
from evonas.trial import Objective, Proposal, Trial

# After every so many children in vain a child is mutated once more: the neighbourhood is known.
_NEAR = 5


def tournament(
    population: Sequence[Trial], objective: Objective, entrants: int, rng: Random
) -> Trial:
    """The best of so many, drawn with replacement."""
    individuals = [Individual(trial, objective.key(trial.metrics)) for trial in population]
    with global_random(rng):
        winner: Individual = tools.selTournament(individuals, k=1, tournsize=entrants)[0]
    return winner.trial


class Individual(NamedTuple):
    """What DEAP selects among, by a number or one of its own fitnesses."""

    trial: Trial
    fitness: Any


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


def child(
    space: SearchSpace, parents: Sequence[Trial], mutation: float, rng: Random, attempt: int
) -> Proposal:
    """A child of one parent, mutated, or of two: by crossover, and mutated with a chance.

    Args:
        space: Whose crossover and mutation these are.
        parents: One or two; the same one twice is one that is named once.
        mutation: Probability that a child of two is mutated, too.
        rng: Draws.
        attempt: How many children were tried before, in vain.
    """
    architecture = parents[0].architecture
    if len(parents) == 2:
        architecture = space.crossover(architecture, parents[1].architecture, rng)
    mutations = len(parents) == 1 or rng.random() < mutation
    for _ in range(mutations + attempt // _NEAR):
        architecture = space.mutate(architecture, rng)
    return Proposal(architecture, parents=tuple(dict.fromkeys(trial.number for trial in parents)))
