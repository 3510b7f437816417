"""The contract of a search strategy: a fold over trial events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from evonas.errors import InfeasibleConstraints
from evonas.spaces.base import SearchSpace
from evonas.trial import Objective, Proposal, Trial
from evonas.trials import Trials

_DRAWS = 100  # So often a strategy draws by itself before the space is sampled.
_SAMPLES = 1000  # After so many samples in a row that are not new, a space is as good as exhausted.
_ENUMERABLE = 100_000  # A space of more points is not gone through for what is left.


@dataclass(frozen=True)
class Findings:
    """What a strategy has to say when the search is over.

    Attributes:
        lines: What a person should know, a line each.
        rows: A table beside the ranking; all rows have the same columns.
    """

    lines: tuple[str, ...] = ()
    rows: tuple[Mapping[str, float], ...] = ()


class Strategy(ABC):
    """A search strategy.

    A strategy is a fold over trial events: what it proposes next is a pure function of the events
    it was told, in their order, and of the random generator it is handed. It keeps no other
    randomness and no clock. A run is resumed by telling a fresh strategy the history.

    Args:
        space: What to search; already constrained, so whatever it samples may be proposed.
        objectives: What to optimise. Single-objective strategies are given exactly one.

    Attributes:
        multi_objective: Whether it takes several objectives.
        fidelities: Of its proposals, rising.
        told: What is known: the trials of all events it was told.
    """

    multi_objective: ClassVar[bool] = False
    fidelities: tuple[float, ...] = (1.0,)

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        self.space, self.objectives = space, tuple(objectives)
        self.told = Trials(self.objectives)

    @abstractmethod
    def ask(self, rng: Random) -> Proposal | None:
        """Propose what to try next.

        Args:
            rng: The only source of randomness, seeded by run and trial number.

        Returns:
            A proposal never made before at this fidelity, or as a further repeat of that
            architecture, or None: nothing until a running trial is told. None while nothing runs
            means that the search is over.
        """

    def tell(self, trial: Trial) -> None:
        """Take in an event: first RUNNING, later one of COMPLETE, FAILED, PRUNED.

        Most strategies need no more than to look at ``told`` when they are asked. Overriding
        methods, which keep what would be slow to find there again, call this one first.
        """
        self.told.add(trial)

    def findings(self) -> Findings:
        """What came out beside the ranking; like proposals a pure function of what was told."""
        return Findings()

    def new(self, rng: Random, draw: Callable[[], Proposal] | None = None) -> Proposal | None:
        """The first new proposal among draws; else a random one; else any that is left.

        Args:
            rng: Draws the random ones.
            draw: Makes a proposal, with the parents that it has; it is asked again while what it
                makes was proposed before. Default: a random one.

        Returns:
            None when the space is exhausted: every point was proposed or, in a space too large
            to enumerate, a thousand random ones in a row were, or no further one meets the limits.
        """

        def sample() -> Proposal:
            return Proposal(self.space.sample(rng))

        for source, tries in ((draw or sample, _DRAWS), (sample, _SAMPLES)):
            for _ in range(tries):
                try:
                    proposal = source()
                except InfeasibleConstraints:  # Tight limits: as good as exhausted.
                    break
                if proposal.key not in self.told.proposed:
                    return proposal
        if self.space.size() > _ENUMERABLE:
            return None
        points = map(Proposal, self.space.enumerate())
        left = [proposal for proposal in points if proposal.key not in self.told.proposed]
        return rng.choice(left) if left else None
