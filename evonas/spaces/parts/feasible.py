"""Hard limits on an architecture's costs, met before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING

from evonas.architecture import Architecture, Value
from evonas.errors import InfeasibleConstraints, InvalidArchitecture
from evonas.spaces.base import Cost, SearchSpace
from evonas.trial import Limit

if TYPE_CHECKING:
    from torch import nn

    from evonas.spaces.base import Task
    from evonas.spaces.parts.supernet import Supernet

_TRIES = 50  # random points before the search for a feasible one turns to repairing
_REPAIRS = 10  # of the nearest random points
_STEPS = 120  # mutations of a repair
_DETOURS = 0.05  # share of the mutations that may increase the violation: the way out of dead ends


class Feasible(SearchSpace):
    """A space without the architectures that exceed the limits.

    Sampling draws again until the limits are met. If fifty draws in a row fail, the nearest of them
    are repaired by mutations that reduce the violation, so that a tight limit costs a second and
    not the run.

    Args:
        space: The space to constrain.
        limits: Limit per cost.
        measure: Costs of an architecture, the limited ones among them.

    Attributes:
        drawn: Architectures drawn at random so far.
        accepted: Those of them that met the limits.
    """

    def __init__(
        self,
        space: SearchSpace,
        limits: Mapping[str, Limit],
        measure: Callable[[Architecture], Mapping[str, float]],
    ) -> None:
        self.space, self.limits, self._measure = space, dict(limits), measure
        self.domains, self.points = space.domains, space.points
        self.conditions, self.rules = space.conditions, space.rules
        self.name = space.name  # type: ignore[misc]  # stands in for the space in everything
        self.drawn = self.accepted = 0
        self._costs: dict[str, Mapping[str, float]] = {}

    @property
    def acceptance(self) -> float | None:
        """Share of random draws that met the limits; None before the first."""
        return self.accepted / self.drawn if self.drawn else None

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network."""
        return self.space.build(architecture, task)

    def cost(self, architecture: Architecture, task: Task) -> Cost | None:
        """The space's own count."""
        return self.space.cost(architecture, task)

    def relatives(self, child: Architecture, parent: Architecture) -> Mapping[str, str | None]:
        """The space's own."""
        return self.space.relatives(child, parent)

    def build_supernet(self, task: Task) -> Supernet:
        """The space's own: it covers what the limits forbid, too."""
        return self.space.build_supernet(task)

    def architecture(self, choices: Mapping[str, Value]) -> Architecture:
        """Make an architecture; one that exceeds the limits is invalid."""
        architecture = self.space.architecture(choices)
        if self._violation(architecture) > 0:
            raise InvalidArchitecture(f"{architecture.id} exceeds the limits")
        return architecture

    def reference(self, choices: Mapping[str, Value]) -> Architecture:
        """The space's own, which may exceed the limits."""
        return self.space.reference(choices)

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        """The space's own."""
        return self.space.canonical(choices)

    def sample(self, rng: Random) -> Architecture:
        """Draw until the limits are met.

        Raises:
            InfeasibleConstraints: If neither drawing nor repairing finds an architecture.
        """
        drawn: list[Architecture] = []
        for _ in range(_TRIES):
            drawn.append(self.space.sample(rng))
            self.drawn += 1
            if self._violation(drawn[-1]) == 0:
                self.accepted += 1
                return drawn[-1]
        repaired: list[Architecture] = []
        for start in sorted(drawn, key=self._violation)[:_REPAIRS]:
            repaired.append(self._repair(start, rng))
            if self._violation(repaired[-1]) == 0:
                return repaired[-1]
        raise InfeasibleConstraints(self._explain(min(repaired, key=self._violation)))

    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        """The space's own mutation, again until the limits are met; else a random architecture."""
        for _ in range(_TRIES):
            child = self.space.mutate(parent, rng)
            if self._violation(child) == 0:
                return child
        return self.sample(rng)

    def crossover(self, a: Architecture, b: Architecture, rng: Random) -> Architecture:
        """The space's own crossover, again until the limits are met; else a random architecture."""
        for _ in range(_TRIES):
            child = self.space.crossover(a, b, rng)
            if self._violation(child) == 0:
                return child
        return self.sample(rng)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """The space's own neighbours that meet the limits."""
        return (n for n in self.space.neighbours(architecture) if self._violation(n) == 0)

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture that meets the limits."""
        return (a for a in self.space.enumerate() if self._violation(a) == 0)

    def size(self) -> int:
        """Size of the unconstrained space: an upper bound."""
        return self.space.size()

    def scaled(
        self, architecture: Architecture, width: float = 1.0, depth: float = 1.0
    ) -> Architecture:
        """The space's own scaling."""
        return self.space.scaled(architecture, width, depth)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Costs of any architecture of the space, the limited ones; measured once."""
        if architecture.id not in self._costs:
            self._costs[architecture.id] = self._measure(architecture)
        return self._costs[architecture.id]

    def _violation(self, architecture: Architecture) -> float:
        costs = self.costs(architecture)
        return sum(limit.violation(costs[name]) for name, limit in self.limits.items())

    def _repair(self, start: Architecture, rng: Random) -> Architecture:
        """Walk by mutations that seldom increase the violation; the nearest point on the way."""
        here = nearest = start
        for _ in range(_STEPS):
            if self._violation(nearest) == 0:
                break
            child = self.space.mutate(here, rng)
            if self._violation(child) <= self._violation(here) or rng.random() < _DETOURS:
                here = child
            nearest = min(nearest, here, key=self._violation)
        return nearest

    def _explain(self, nearest: Architecture) -> str:
        costs = self.costs(nearest)
        wanted = ", ".join(
            f"{name} {limit} (nearest found: {costs[name]:,.0f})"
            for name, limit in self.limits.items()
        )
        return f"constraints: found nothing in space {self.space.name!r} with {wanted}"
