"""The contract of a search strategy: a fold over trial events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import ClassVar

from evonas.architecture import Architecture
from evonas.errors import InfeasibleConstraints
from evonas.spaces.base import SearchSpace
from evonas.trial import Objective, Proposal, Trial, TrialState

Sampler = Callable[[Sequence[float]], Architecture]  # weights of COMPLEXITY, which sum to 1
COMPLEXITY = ("pooling", "identity", "convolution")  # kinds of operation, in a sampler's order
_TRIES = 100
_ENUMERABLE = 100_000


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
        samples: Whether it is handed the evaluation's ``sampler`` as a third argument.
        fidelities: Of its proposals, rising.
    """

    multi_objective: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    fidelities: tuple[float, ...] = (1.0,)

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self._proposed: set[tuple[str, float, int]] = set()
        self._running: set[int] = set()

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

        Overriding methods call this one first: it remembers what was proposed, and what runs.
        """
        self._proposed.add(trial.proposal.key)
        if trial.state is TrialState.RUNNING:
            self._running.add(trial.number)
        else:
            self._running.discard(trial.number)

    def exclude(self, architecture: Architecture) -> None:
        """Never propose an architecture: somebody else tries it."""
        self._proposed.add(Proposal(architecture).key)

    def living(self) -> Iterable[int] | None:
        """Numbers of the trials that later proposals may descend from or continue.

        What was kept for others, such as their weights, may be deleted; if there is no room for
        all of these, that of the last ones, too. None: any trial may be named.
        """
        return None

    def remarks(self) -> Sequence[str]:
        """What a person should know of the search when it is over, a line each.

        Like proposals a pure function of what was told.
        """
        return ()

    def table(self) -> Sequence[Mapping[str, float]]:
        """What the run ends with beside its ranking: rows of the same columns; may be empty.

        Like remarks a pure function of what was told.
        """
        return ()

    def _unseen(self, draw: Callable[[], Architecture], rng: Random) -> Architecture | None:
        """The first new architecture at full fidelity among draws, else random ones, else any.

        Returns:
            None when the space is exhausted: every point was proposed or, in a space too large
            to enumerate, a thousand random points in a row were, or no further one meets the
            constraints.
        """
        for source, tries in ((draw, _TRIES), (lambda: self.space.sample(rng), 10 * _TRIES)):
            for _ in range(tries):
                try:
                    architecture = source()
                except InfeasibleConstraints:  # tight limits: as good as exhausted
                    break
                if self._is_new(architecture):
                    return architecture
        if self.space.size() > _ENUMERABLE:
            return None
        left = [point for point in self.space.enumerate() if self._is_new(point)]
        return rng.choice(left) if left else None

    def _is_new(self, architecture: Architecture) -> bool:
        return Proposal(architecture).key not in self._proposed
