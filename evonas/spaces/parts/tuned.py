"""Networks and how they are trained, searched together.

Learning rate and architecture depend on one another: the rate that is best for a small network is
not best for a deep one (Dong, Tan and others, AutoHAS, 2020; Zela, Klein, Falkner and Hutter,
Towards automated deep learning: efficient joint neural architecture and hyperparameter search,
2018). So choices of the training may stand beside those of the network, for any strategy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from evonas.architecture import Architecture, Categorical, Domain, Value
from evonas.spaces.base import SearchSpace, Task

if TYPE_CHECKING:
    from torch import nn

    from evonas.spaces.parts.supernet import Supernet

PREFIX = "training."  # Names of such choices begin with it, which no choice of a network does.
SCALES = ("log", "linear")
_VALUES = 9  # A range is searched at so many values, both ends among them.


def domain(values: Sequence[Value]) -> Categorical:
    """The domain of a list of values, or of a range such as ``[0.02, 0.2, "log"]``.

    Numbers are ordered. A range has nine values, equally far apart, or with equal ratios.

    Raises:
        ValueError: If a range does not rise, or a logarithmic one does not begin above 0.
    """
    if len(values) == 3 and values[2] in SCALES:
        low, high = float(values[0]), float(values[1])
        if not low < high or (values[2] == "log" and low <= 0):
            raise ValueError(f"from {low:g} to {high:g} is no range ({values[2]})")
        ladder = (np.geomspace if values[2] == "log" else np.linspace)(low, high, _VALUES)
        return Categorical(tuple(float(f"{value:.4g}") for value in ladder), ordered=True)
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values):
        return Categorical(tuple(sorted(map(float, numbers))), ordered=True)
    return Categorical(tuple(values))


def training_choices(architecture: Architecture) -> dict[str, Value]:
    """Those of an architecture's choices that are of its training, without their prefix."""
    choices = architecture.choices.items()
    return {n.removeprefix(PREFIX): value for n, value in choices if n.startswith(PREFIX)}


class Tuned(SearchSpace):
    """A space with choices of the training beside those of its networks.

    Args:
        space: Of the networks.
        training: Domains of the training's choices, by the names of its options.
    """

    def __init__(self, space: SearchSpace, training: Mapping[str, Domain]) -> None:
        self._space = space
        self._training = {f"{PREFIX}{name}": domain for name, domain in training.items()}
        self.name = space.name  # type: ignore[misc]  # of the instance: that of what it holds
        self.domains = {**space.domains, **self._training}
        self.conditions, self.rules, self.counted = space.conditions, space.rules, space.counted
        first = {name: domain.values()[0] for name, domain in self._training.items()}
        self.points = {name: {**point, **first} for name, point in space.points.items()}

    @property
    def builder(self) -> type[SearchSpace]:
        """That of the space of the networks."""
        return self._space.builder

    def network(self, architecture: Architecture) -> Architecture:
        """The architecture without the choices of the training."""
        choices = architecture.choices.items()
        return Architecture(self._space.name, {n: v for n, v in choices if n not in self._training})

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """The network."""
        return self._space.build(self.network(architecture), task)

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        """Those of the network."""
        return self._space.costs(self.network(architecture), task)

    def build_supernet(self, task: Task) -> Supernet:
        """The networks'."""
        return self._space.build_supernet(task)

    def relatives(self, child: Architecture, parent: Architecture) -> Mapping[str, str | None]:
        """The networks'."""
        return self._space.relatives(self.network(child), self.network(parent))

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        """The network's; of the training every choice has an effect."""
        network = {name: value for name, value in choices.items() if name not in self._training}
        return {**self._space.canonical(network), **self._of_training(choices)}

    def draws(self, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Random networks of the space, each with a training of its own."""
        for choices in self._space.draws(rng):
            yield {**choices, **{n: domain.sample(rng) for n, domain in self._training.items()}}

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        """In each either the network is changed, or one choice of the training."""
        network = self.network(parent)
        names = [name for name, domain in self._training.items() if domain.size > 1]
        of_network = self._space.mutants(network, rng)
        share = len(names) / (len(names) + len(self._space.active(network.choices)))
        while True:
            if names and rng.random() < share:
                yield self.changed(parent, rng.choice(names), rng)
            elif (choices := next(of_network, None)) is not None:
                yield {**choices, **self._of_training(parent.choices)}
            elif not names:
                return

    def crossovers(
        self, a: Architecture, b: Architecture, rng: Random
    ) -> Iterator[Mapping[str, Value]]:
        """Networks as the space crosses them over; each choice of the training from either."""
        for choices in self._space.crossovers(self.network(a), self.network(b), rng):
            training = {name: rng.choice((a, b)).choices[name] for name in self._training}
            yield {**choices, **training}

    def size(self) -> int:
        """That of the space, times that of the training."""
        return self._space.size() * math.prod(d.size for d in self._training.values())

    def scaled(
        self, architecture: Architecture, width: float = 1.0, depth: float = 1.0
    ) -> Architecture:
        """The network scaled, its training as it was."""
        network = self._space.scaled(self.network(architecture), width, depth)
        choices = {**network.choices, **self._of_training(architecture.choices)}
        return Architecture(self.name, choices)

    def _of_training(self, choices: Mapping[str, Value]) -> dict[str, Value]:
        return {name: choices[name] for name in self._training}
