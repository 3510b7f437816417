"""A proposal with parents came from them, to a small space's last point, and under tight limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
from conftest import bounded
from strategies_helper import VALUE, Grid, Run, total

from evonas.architecture import Architecture, Integer
from evonas.recipe.registry import Registry
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.base import Strategy
from evonas.strategies.evolution import Evolution
from evonas.trial import Limit, Proposal

SMALL = {"population_size": 8}
STRATEGIES: dict[str, dict[str, Any]] = {
    "aging_evolution": {**SMALL, "tournament_size": 3},
    "evolution": SMALL,
    "guided_evolution": {**SMALL, "children": 20},
    "local_search": {},
    "nsga2": SMALL,
    "successive_halving": {"of": partial(AgingEvolution, population_size=8, tournament_size=3)},
    "hyperband": {"of": partial(Evolution, population_size=4), "min_fidelity": 1 / 3},
}


class Recorded(Grid):
    """A cube that writes down whom its architectures are made of."""

    def __init__(self, dimensions: int, options: int) -> None:
        super().__init__(**{f"x{i}": Integer(0, options - 1) for i in range(dimensions)})
        self.made: dict[str, set[str]] = {}  # ids: of a child, and of whom it was made

    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        return self._made(super().mutate(parent, rng), parent)

    def crossover(self, a: Architecture, b: Architecture, rng: Random) -> Architecture:
        return self._made(super().crossover(a, b, rng), a, b)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        return (self._made(child, architecture) for child in super().neighbours(architecture))

    def _made(self, child: Architecture, *parents: Architecture) -> Architecture:
        self.made.setdefault(child.id, set()).update(parent.id for parent in parents)
        return child

    def ancestors(self, child: Architecture) -> set[str]:
        found, left = set[str](), [child.id]
        while left:
            further = self.made.get(left.pop(), set()) - found
            found |= further
            left += further
        return found


def limited(most: int) -> Recorded:
    """Of 256 points those with a small sum; only what is made within the limit is written down."""
    space = bounded(Recorded(4, 4), {"total": Limit(max=most)}, lambda a: {"total": total(a)})
    assert isinstance(space, Recorded)
    space.made = {}
    return space


SPACES: dict[str, Callable[[], Recorded]] = {
    "27 points": lambda: Recorded(3, 3),
    "81 points": lambda: Recorded(4, 3),
    "256 points": lambda: Recorded(4, 4),
    "35 of 256 points": lambda: limited(3),
    "5 of 256 points": lambda: limited(1),
}


def exhausted(strategy: Strategy, space: Recorded) -> Iterator[Proposal]:
    """Proposals of a search to its end, some of whose trials fail; then all were proposed."""
    run, proposed = Run(strategy), set()
    while (trial := run.try_start()) is not None:
        if trial.number % 7 == 3:
            run.fail(trial)
        else:
            run.end(trial, total(trial.architecture))
        proposed.add(trial.architecture)
        yield trial.proposal
    assert proposed == set(space.enumerate())


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_child_was_made_of_the_parents_it_names(name: str, kind: str) -> None:
    space = SPACES[kind]()
    strategy = Registry().find("strategy", name)(space, VALUE, **STRATEGIES[name])
    architectures, children = [], 0
    for proposal in exhausted(strategy, space):
        architectures.append(proposal.architecture)
        if proposal.resume_from is None:
            parents = {architectures[number].id for number in proposal.parents}
            assert parents <= space.ancestors(proposal.architecture)
            children += bool(parents)
        if name != "local_search":  # it makes all neighbours at once, and tries them one by one
            space.made.clear()
    assert children or kind == "5 of 256 points"


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", ["aging_evolution", "local_search"])
def test_a_mutant_differs_from_its_parent_in_one_choice(name: str, kind: str) -> None:
    space = SPACES[kind]()
    strategy = Registry().find("strategy", name)(space, VALUE, **STRATEGIES[name])
    architectures = []
    for proposal in exhausted(strategy, space):
        architectures.append(proposal.architecture)
        for parent in proposal.parents:
            before, after = architectures[parent].choices, proposal.architecture.choices
            assert sum(before[choice] != after[choice] for choice in before) == 1
