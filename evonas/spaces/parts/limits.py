"""Hard limits on what architectures cost, met before anything is trained.

A network that takes no image of the task, as it pools too often for it, is outside any limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from evonas.architecture import Architecture
from evonas.errors import InfeasibleConstraints, InvalidArchitecture, PluginError
from evonas.recipe.registry import blamed
from evonas.trial import Limit

if TYPE_CHECKING:
    from evonas.spaces.base import SearchSpace, Task

TRIES = 50  # Drawing, or mutating, is given up after so many candidates that exceed the limits.
_REPAIRS = 10  # Of the random points that miss the limits, so many of the nearest are repaired.
_STEPS = 120  # A repair has so many mutations.
_DETOURS = 0.05  # This share of them may increase the violation: the way out of dead ends.


class Limits:
    """The limits of a space, with what is known of its costs; see ``SearchSpace.limited``.

    Args:
        space: The space without them.
        bounds: Limit per cost that the space counts.
        task: What the costs are those of.

    Attributes:
        drawn: Architectures drawn at random so far.
        accepted: Those of them that met the limits.
    """

    def __init__(self, space: SearchSpace, bounds: Mapping[str, Limit], task: Task) -> None:
        self.space, self.bounds, self.task = space, dict(bounds), task
        self.drawn = self.accepted = 0
        self._costs: dict[str, Mapping[str, float]] = {}  # by architecture
        self._impossible: dict[str, InvalidArchitecture] = {}

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Costs of any architecture of the space, counted once.

        Raises:
            InvalidArchitecture: If its network takes no image of the task.
            PluginError: Whatever else a plugin's space raises.
        """
        if architecture.id in self._impossible:
            raise self._impossible[architecture.id]
        if architecture.id not in self._costs:
            doing = f"cannot count {dict(architecture.choices)}"
            try:
                with blamed(self.space.builder, doing, timed=True):
                    self._costs[architecture.id] = self.space.costs(architecture, self.task)
            except InvalidArchitecture as error:
                self._impossible[architecture.id] = error
                raise
        return self._costs[architecture.id]

    def violation(self, architecture: Architecture) -> float:
        """How far outside the limits, relative to them; 0 within, infinite if it is impossible."""
        try:
            costs = self.costs(architecture)
        except InvalidArchitecture:
            return math.inf
        return sum(limit.violation(costs[name]) for name, limit in self.bounds.items())

    def sample(self, rng: Random) -> Architecture:
        """Draw until the limits are met.

        If fifty draws in a row fail, the nearest of them are repaired by mutations that reduce the
        violation, so that a tight limit costs a second and not the run.

        Raises:
            InfeasibleConstraints: If neither drawing nor repairing finds an architecture.
        """
        drawn: list[Architecture] = []
        for _ in range(TRIES):
            drawn.append(self.space.sample(rng))
            self.drawn += 1
            if self.violation(drawn[-1]) == 0:
                self.accepted += 1
                return drawn[-1]
        repaired: list[Architecture] = []
        for start in sorted(drawn, key=self.violation)[:_REPAIRS]:
            repaired.append(self._repair(start, rng))
            if self.violation(repaired[-1]) == 0:
                return repaired[-1]
        raise self.missed(repaired)

    def _repair(self, start: Architecture, rng: Random) -> Architecture:
        """Walk by mutations that seldom increase the violation; the nearest point on the way."""
        here = nearest = start
        for _ in range(_STEPS):
            if self.violation(nearest) == 0:
                break
            child = self.space.mutate(here, rng)
            if self.violation(child) <= self.violation(here) or rng.random() < _DETOURS:
                here = child
            nearest = min(nearest, here, key=self.violation)
        return nearest

    def missed(self, candidates: Sequence[Architecture]) -> InfeasibleConstraints:
        """The error for having found only architectures that exceed the limits.

        Raises:
            PluginError: If none of them is possible at all, whatever the limits.
        """
        try:
            costs = self.costs(min(candidates, key=self.violation))
        except InvalidArchitecture as error:
            raise PluginError(
                f"of {len(candidates)} networks of space {self.space.name!r} none is possible: "
                f"{error}"
            ) from error
        bounds = ", ".join(
            f"{name} {limit} (nearest found: {costs[name]:,.0f})"
            for name, limit in self.bounds.items()
        )
        return InfeasibleConstraints(
            f"constraints: found nothing in space {self.space.name!r} with {bounds}"
        )
