"""Exhaustive search: every architecture of a small space, in the order of its domains.

It finds the best there is, and so says how good the others are: on NAS-Bench-201's 15,625 recorded
cells it takes seconds. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from evonas.architecture import Architecture
from evonas.errors import RecipeError
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal

_LARGEST = 1_000_000


class Grid(Strategy):
    """Propose every architecture once.

    Args:
        space: What to search; of a million points at most.
        objectives: One or more.
    """

    multi_objective = True

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        super().__init__(space, objectives)
        if space.size() > _LARGEST:
            raise RecipeError(
                f"strategy.name: grid is for spaces of at most {_LARGEST:,} points; "
                f"{space.name} has {space.size():.3g}"
            )
        self._points = space.enumerate()
        self._next: Architecture | None = None

    def ask(self, rng: Random) -> Proposal | None:
        """The first architecture that was never proposed."""
        while self._next is None or not self._is_new(self._next):
            self._next = next(self._points, None)
            if self._next is None:
                return None
        return Proposal(self._next)

    def living(self) -> Iterable[int]:
        """Nobody: proposals have no parents."""
        return ()
