"""A worked example of a strategy: (1+1) evolution with restarts.

One parent, one child: whatever is at least as good as its parent takes its place, and after too
many children in vain a random architecture begins anew. Droste, Jansen and Wegener, On the analysis
of the (1+1) evolutionary algorithm, Theoretical Computer Science 2002.

A strategy has nothing to remember. ``self.told`` holds every trial that it was told: ``latest`` and
``running`` by number, ``ended`` and ``complete`` in the order in which they ended, ``best`` and
``ranking()``. What comes next is read there, and from the generator that ``ask`` is handed. So a
run that was killed goes on as it would have: its history is told again, and nothing else is needed.
Keep no counters, no clock and no generator of your own; ``evonas check strategy`` finds them.

``self.new`` asks for a proposal until it is one that was never made, and helps itself when there is
none left nearby: at random, and at last with any point that remains. A proposal names the trials
that it was made of as its parents; with evaluation ``inherit`` it begins with their weights.
"""

from collections.abc import Sequence
from random import Random

from evonas import Count, Objective, Proposal, SearchSpace, Strategy, Trial


class OnePlusOne(Strategy):
    """Mutate the best since the last restart; start again when that has long been in vain.

    Args:
        space: What to search.
        objectives: Exactly one.
        patience: Completed trials without a better or equal one before a restart.
    """

    def __init__(
        self, space: SearchSpace, objectives: Sequence[Objective], patience: Count = 30
    ) -> None:
        super().__init__(space, objectives)
        self.patience = patience

    def ask(self, rng: Random) -> Proposal | None:
        """A mutant of the parent; without one, or without hope, a random architecture."""
        climb = self.since_the_restart()
        if not climb:
            return self.new(rng)
        parent = max(climb, key=lambda trial: self.objectives[0].key(trial.metrics))
        if climb.index(parent) >= self.patience:  # so many completed after it
            return self.new(rng)

        def mutant() -> Proposal:
            return Proposal(self.space.mutate(parent.architecture, rng), parents=(parent.number,))

        return self.new(rng, mutant)

    def since_the_restart(self) -> list[Trial]:
        """Completed trials back to the last random one, the youngest first: of equals it wins."""
        climb = []
        for trial in reversed(self.told.complete):
            climb.append(trial)
            if not trial.proposal.parents:
                break
        return climb
