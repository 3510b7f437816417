"""Exhaustive search: every architecture of a small space, in the order of its domains.

It finds the best there is, and so says how good the others are: on NAS-Bench-201's 15,625 recorded
cells it takes seconds. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from evonas.errors import OptionError
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal

_LARGEST = 1_000_000  # A space of more points is not meant to be gone through.


class Grid(Strategy):
    """Propose every architecture once, of a space of a million at most."""

    multi_objective = True

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        super().__init__(space, objectives)
        if space.size() > _LARGEST:
            raise OptionError(
                "name",
                f"grid is for spaces of at most {_LARGEST:,} points; "
                f"{space.name} has {space.size():.3g}",
            )
        self._points = map(Proposal, space.enumerate())
        self._next: Proposal | None = None

    def ask(self, rng: Random) -> Proposal | None:
        """The first architecture that was never proposed."""
        while self._next is None or self._next.key in self.told.proposed:
            self._next = next(self._points, None)
            if self._next is None:
                return None
        return self._next
