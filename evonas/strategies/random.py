"""Random search: every proposal drawn independently; the baseline that any strategy must beat.

Li and Talwalkar, Random search and reproducibility for neural architecture search, UAI 2019.
"""

from __future__ import annotations

from random import Random

from evonas.strategies.base import Strategy
from evonas.trial import Proposal


class RandomSearch(Strategy):
    """Draw from the space's own distribution, without repetition."""

    multi_objective = True

    def ask(self, rng: Random) -> Proposal | None:
        """Draw a new architecture."""
        return self.new(rng)
