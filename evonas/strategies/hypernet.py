"""Ask a trained sampler for architectures all over the simplex of complexities.

The evaluation ``hypernet`` learns a function from S, the weights of pooling, identity and
convolution, to architectures; this strategy has those of a grid of S evaluated, and ends with the
table of S, accuracy, parameters and operations. Nothing is random. Measured figures:
docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Annotated

from pydantic import Field

from evonas.architecture import Architecture
from evonas.errors import OptionError
from evonas.recipe.options import Count
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Findings, Strategy
from evonas.trial import Objective, Proposal

COMPLEXITY = ("pooling", "identity", "convolution")  # S weighs these kinds of operation.
_MIDDLE = (1 / 3, 1 / 3, 1 / 3)  # Here the grid begins.
# Of a whole family of architectures that for S, weights of ``COMPLEXITY`` that sum to 1.
Sampler = Callable[[Sequence[float]], Architecture]


class ComplexityGrid(Strategy):
    """Propose what the sampler gives for a grid of S, from the middle outwards, each once.

    Architectures that exceed the limits are left out.

    Args:
        sampler: From S to an architecture.
        steps: Between the smallest and the largest weight; there are (steps + 1)(steps + 2) / 2
            points.
        least: The smallest weight of the grid. With 9 steps and 0.05833 it has the values 0.15,
            1/3 and 0.70 among others.
    """

    multi_objective = True

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        sampler: Sampler | None = None,
        steps: Count = 9,
        least: Annotated[float, Field(ge=0, lt=1 / 3)] = 7 / 120,
    ) -> None:
        super().__init__(space, objectives)
        if sampler is None:
            raise OptionError("name", "hypernet must be the run's own, in no other strategy")
        self._sampler = cache(sampler)
        self._grid = grid(steps, least)

    def ask(self, rng: Random) -> Proposal | None:
        """The first architecture of the grid that was never proposed."""
        for complexity in sorted(self._grid, key=lambda point: math.dist(point, _MIDDLE)):
            proposal = Proposal(self._sampler(complexity))
            if proposal.key in self.told.proposed:
                continue
            if self.space.valid(proposal.architecture.choices):
                return proposal
        return None

    def findings(self) -> Findings:
        """A table of S and what its architecture was measured to be, where it was."""
        complete = {trial.architecture.id: trial for trial in self.told.complete}
        rows = []
        for complexity in self._grid if complete else ():
            if trial := complete.get(self._sampler(complexity).id):
                weights = zip((f"S_{kind}" for kind in COMPLEXITY), complexity, strict=True)
                rows.append({**dict(weights), "trial": float(trial.number), **trial.metrics})
        return Findings(rows=tuple(rows))


def grid(steps: int, least: float) -> list[tuple[float, ...]]:
    """Evenly spaced points of the simplex whose coordinates are ``least`` or more."""
    return [
        tuple(least + (1 - 3 * least) * n / steps for n in (i, j, steps - i - j))
        for i in range(steps + 1)
        for j in range(steps + 1 - i)
    ]
