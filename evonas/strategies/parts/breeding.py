"""How parents are chosen and children made of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from evonas.spaces.base import SearchSpace
from evonas.trial import Objective, Proposal, Trial

# After every so many children in vain a child is mutated once more: the neighbourhood is known.
_NEAR = 5


def tournament(
    population: Sequence[Trial], objective: Objective, entrants: int, rng: Random
) -> Trial:
    """The best of so many, drawn with replacement."""
    drawn = [rng.choice(population) for _ in range(entrants)]
    return max(drawn, key=lambda trial: objective.key(trial.metrics))


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
