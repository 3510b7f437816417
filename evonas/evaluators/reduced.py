"""Reduced proxies: the same evaluation on fewer images, at a lower resolution, in narrower nets.

EcoNAS (Zhou et al., CVPR 2020) compares such proxies. Costs are those of the architecture itself,
not of its reduced stand-in; the final training is not reduced at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.recipe.options import Count, Share
from evonas.trial import Trial


class Reduced(Wrapper):
    """Run another evaluator in a smaller world.

    Args:
        context: The world; its data are needed.
        of: The evaluator to wrap.
        data: Share of the training images, stratified, 0…1.
        resolution: Pixels a side; default: as they are.
        width: Factor on every choice that the space declares as width.
        depth: Factor on every choice that the space declares as depth.
    """

    changes = frozenset({"data"})

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        data: Share = 1.0,
        resolution: Count | None = None,
        width: Share = 1.0,
        depth: Share = 1.0,
    ) -> None:
        whole = context.data_for("reduced")
        smaller = whole.subset(data, context.seed)
        if resolution is not None:
            smaller = smaller.resized(resolution)
        super().__init__(context, of(replace(context, data=smaller)))
        if "latency" in self.metrics:
            raise OptionError(
                "of",
                "latency is to be that of the whole network; write it the other way round: "
                "{name: latency, of: {name: reduced, of: …}}",
            )
        self.trainer = of(context)
        self.takes = self.inner.takes  # its own data are made of those that it is given
        self._task = whole.task
        factors = {"width": width, "depth": depth}
        self._scale = {role: factor for role, factor in factors.items() if factor != 1}
        first = {name: domain.values()[0] for name, domain in context.space.domains.items()}
        for role, factor in self._scale.items():  # whether any choice of the space has the role
            try:
                context.space.scaled(Architecture(context.space.name, first), **{role: factor})
            except InvalidArchitecture as error:
                raise OptionError(role, str(error)) from error

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The inner evaluator's metrics in the smaller world, with the costs of the full one."""
        architecture, space = trial.architecture, self.context.space
        if self._scale:
            small = space.scaled(architecture, **self._scale)
            trial = replace(trial, proposal=replace(trial.proposal, architecture=small))
        return {**self.inner.evaluate(trial, report), **space.costs(architecture, self._task)}
