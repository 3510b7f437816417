"""Ask a trained sampler for architectures all over the simplex of complexities.

The evaluation ``hypernet`` learns a function from S, the weights of pooling, identity and
convolution, to architectures; this strategy has those of a grid of S evaluated, and ends with the
table of S, accuracy, parameters and operations. Nothing is random.

Measured on MNIST (``recipes/mnist_hypernet.yaml``, six epochs): from 3,826 to 8,416 parameters, and
from 1 to 21 poolings, 1 to 19 identities and 3 to 19 convolutions, gradually over the whole grid;
96.4 to 97.8 % with shared weights. Tables: docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, RecipeError, at_least
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import COMPLEXITY, Sampler, Strategy
from evonas.trial import Objective, Proposal, Trial, TrialState

_MIDDLE = (1 / 3, 1 / 3, 1 / 3)


class Hypernet(Strategy):
    """Propose what the sampler gives for a grid of S, from the middle outwards, each once.

    Args:
        space: What to search; architectures that exceed its limits are left out.
        objectives: One or more.
        sampler: From S to an architecture.
        steps: Between the smallest and the largest weight; there are (steps + 1)(steps + 2) / 2
            points.
        least: The smallest weight of the grid. With 9 steps and 0.05833 it has the values 0.15,
            1/3 and 0.70 among others.
    """

    multi_objective = True
    samples = True

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        sampler: Sampler | None = None,
        steps: int = 9,
        least: float = 7 / 120,
    ) -> None:
        super().__init__(space, objectives)
        if sampler is None:
            raise RecipeError("strategy.name: hypernet must be the run's own, in no other strategy")
        at_least("strategy", 1, steps=steps)
        if not 0 <= least < 1 / 3:
            raise RecipeError(f"strategy.least: must be in [0, 1/3), not {least}")
        self._sampler = sampler
        self._grid = grid(steps, least)
        self._sampled: dict[tuple[float, ...], Architecture] = {}
        self._complete: dict[str, Trial] = {}

    def ask(self, rng: Random) -> Proposal | None:
        """The first architecture of the grid that was never proposed."""
        for complexity in sorted(self._grid, key=lambda point: math.dist(point, _MIDDLE)):
            architecture = self._sample(complexity)
            if self._is_new(architecture) and self._is_allowed(architecture):
                return Proposal(architecture)
        return None

    def tell(self, trial: Trial) -> None:
        """Keep what was measured."""
        super().tell(trial)
        if trial.state is TrialState.COMPLETE:
            self._complete[trial.architecture.id] = trial

    def living(self) -> Iterable[int]:
        """Nobody: proposals have no parents."""
        return ()

    def table(self) -> Sequence[Mapping[str, float]]:
        """S and what its architecture was measured to be, for every S of the grid that was."""
        rows = []
        for complexity in self._grid if self._complete else ():
            trial = self._complete.get(self._sample(complexity).id)
            if trial is not None:
                weights = zip((f"S_{kind}" for kind in COMPLEXITY), complexity, strict=True)
                rows.append({**dict(weights), "trial": float(trial.number), **trial.metrics})
        return rows

    def _sample(self, complexity: tuple[float, ...]) -> Architecture:
        if complexity not in self._sampled:
            self._sampled[complexity] = self._sampler(complexity)
        return self._sampled[complexity]

    def _is_allowed(self, architecture: Architecture) -> bool:
        try:
            self.space.architecture(architecture.choices)
        except InvalidArchitecture:
            return False
        return True


def grid(steps: int, least: float) -> list[tuple[float, ...]]:
    """Evenly spaced points of the simplex whose coordinates are ``least`` or more."""
    return [
        tuple(least + (1 - 3 * least) * n / steps for n in (i, j, steps - i - j))
        for i in range(steps + 1)
        for j in range(steps + 1 - i)
    ]
