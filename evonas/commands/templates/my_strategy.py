"""MY STRATEGY: say how it searches, and which paper it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from evonas import Count, Objective, Proposal, SearchSpace, Strategy


class MyStrategy(Strategy):
    """Mutate one of the best architectures; before there are some, draw at random.

    Args:
        space: What to search.
        objectives: What to optimise.
        parents: How many of the best are mutated.
    """

    def __init__(
        self, space: SearchSpace, objectives: Sequence[Objective], parents: Count = 5
    ) -> None:
        super().__init__(space, objectives)
        self.parents = parents

    def ask(self, rng: Random) -> Proposal | None:
        """Look at all that is known in `told`, and draw from `rng` alone: runs can be resumed."""
        best = self.told.ranking()[: self.parents]

        def child() -> Proposal:
            parent = rng.choice(best)
            return Proposal(self.space.mutate(parent.architecture, rng), parents=(parent.number,))

        # `new` asks again while a child was proposed before; None: there is nothing left.
        return self.new(rng, child if len(best) == self.parents else None)
