"""What the tests of several spaces share."""

from __future__ import annotations

from random import Random

from evonas.architecture import Architecture
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import cost

IMAGENET = Task(channels=3, height=224, width=224, classes=1000)


def costs_of_built(space: SearchSpace, architecture: Architecture, task: Task) -> dict[str, float]:
    """Counted on the network itself, by torch."""
    return cost.of_built(lambda: space.build(architecture, task), task)


def assert_counted(space: SearchSpace, architecture: Architecture, task: Task) -> None:
    """What is counted is what is built, as far as torch counts it."""
    counted, built = space.costs(architecture, task), costs_of_built(space, architecture, task)
    assert {name: counted[name] for name in built} == built


def check_costs(space: SearchSpace, *tasks: Task) -> None:
    """Of random and mutated points: what is counted is what is built."""
    for seed in range(8):
        rng = Random(seed)
        architecture = space.sample(rng)
        for each in (architecture, space.mutate(architecture, rng)):
            for task in tasks:
                assert_counted(space, each, task)
