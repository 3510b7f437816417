"""Reduced proxies: the same evaluation on fewer images, at a lower resolution, in narrower nets.

EcoNAS (Zhou et al., CVPR 2020) compares such proxies. Costs are those of the architecture itself,
not of its reduced stand-in; the final training is not reduced at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.evaluators.base import Context, Evaluator, Final, Reporter
from evonas.training import cost
from evonas.trial import Trial


class Reduced(Evaluator):
    """Run another evaluator in a smaller world.

    Args:
        context: The world; its data are needed.
        of: The evaluator to wrap.
        data: Share of the training images, stratified, 0…1.
        resolution: Pixels a side; default: as they are.
        width: Factor on every choice that the space declares as width.
    """

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        data: float = 1.0,
        resolution: int | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__(context)
        if context.data is None:
            raise RecipeError("evaluation.name: reduced needs a dataset section")
        for name, value in (("data", data), ("width", width)):
            if not 0 < value <= 1:
                raise RecipeError(f"evaluation.{name}: must be in (0, 1], not {value}")
        if resolution is not None and resolution < 1:
            raise RecipeError(f"evaluation.resolution: must be at least 1, not {resolution}")
        self._task, self._width = context.data.task, width
        smaller = context.data.subset(data, context.seed)
        if resolution is not None:
            smaller = smaller.resized(resolution)
        self._full = of(context)
        self._small = of(replace(context, data=smaller))
        self.metrics = self._full.metrics
        if width != 1:
            _require_width(context, width)

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The inner evaluator's metrics in the smaller world, with the costs of the full one."""
        reduced = trial
        if self._width != 1:
            narrow = self.context.space.scaled(trial.architecture, self._width)
            reduced = replace(trial, proposal=replace(trial.proposal, architecture=narrow))
        metrics = self._small.evaluate(reduced, report)
        return {**metrics, **cost.count(self.context.space, trial.architecture, self._task)}

    def finish(self, trial: Trial, report: Reporter) -> Final | None:
        """Not reduced."""
        return self._full.finish(trial, report)


def _require_width(context: Context, width: float) -> None:
    space = context.space
    some = Architecture(space.name, {name: d.values()[0] for name, d in space.domains.items()})
    try:
        space.scaled(some, width)
    except InvalidArchitecture as error:
        raise RecipeError(f"evaluation.width: {error}") from error
