"""Zero-cost proxies as metrics: beside those of a training, or instead of them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Annotated, Literal

import torch
from pydantic import Field

from evonas.architecture import Architecture
from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.evaluators.parts.proxies import PROXIES, Undefined
from evonas.evaluators.parts.ranks import rank_sum
from evonas.recipe.options import Natural
from evonas.training.loop import Normalize, seeded
from evonas.trial import Trial

ProxyName = Literal["synflow", "snip", "grad_norm", "jacob_cov", "naswot", "zico", "swap", "norms"]
RANK_SUM = "rank_sum"


class ZeroCost(Wrapper):
    """Score every architecture by zero-cost proxies, at initialisation, on one batch for all.

    Without training they are, with the costs, the only metrics of a trial, and the inner evaluator
    just trains the winner. A trial fails if a proxy has no value for its network.

    As a ranking beside the number of parameters, as measured on 100 cells of NAS-Bench-201, 192
    plain CNNs and 192 MBConv networks (docs/results.md; level: the sample is too small to say):

    - synflow, snip, grad_norm: level on cells, behind on the others
    - jacob_cov: level on cells, behind on the others
    - naswot: level on cells and plain CNNs, behind on MBConv
    - zico: level on cells, behind on the others
    - swap: level on cells and plain CNNs, behind on MBConv
    - norms: ahead on cells, behind on the others

    Args:
        context: The world; its data are needed.
        of: The evaluator to wrap.
        proxies: See ``evonas.evaluators.parts.proxies``.
        batch_size: Training images that the proxies see, drawn by the run's seed.
        reference: Networks to rank every trial's among, by all ``proxies`` together: ``rank_sum``,
            see ``evonas.evaluators.parts.ranks``. Drawn once by the run's seed, within the limits.
            Every worker scores them before its first trial. 0: no such metric.
        training: Evaluate every architecture as the inner evaluator does, too.
    """

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        proxies: tuple[ProxyName, ...] = ("synflow", "snip", "grad_norm", "jacob_cov", "naswot"),
        batch_size: Annotated[int, Field(ge=2)] = 64,
        reference: Natural = 0,
        training: bool = True,
    ) -> None:
        self._data = context.data_for("zero_cost")
        if not proxies or len(set(proxies)) < len(proxies):
            raise OptionError(
                "proxies", f"must be one or more different names, not [{', '.join(proxies)}]"
            )
        super().__init__(context, of(context))
        self._proxies, self._batch_size, self._training = proxies, batch_size, training
        self._size = reference
        others = self.inner.metrics if training else context.space.counted
        ranked = (RANK_SUM,) if reference else ()
        self.metrics = tuple(dict.fromkeys((*others, *proxies, *ranked)))
        if not training:  # what is trained, or not at all, it scores without the inner evaluator
            self.reports, self.takes = (), frozenset({"data"})

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The proxies, and the inner evaluator's metrics or the costs."""
        scores = self._scores(trial.architecture, str(trial.number))  # a failure wastes no training
        if self._size:
            scores[RANK_SUM] = rank_sum(scores, self._reference)
        if self._training:
            return {**self.inner.evaluate(trial, report), **scores}
        return {**self.context.space.costs(trial.architecture, self._data.task), **scores}

    def effort(self, fidelity: float) -> float:
        """The inner evaluator's; without training the same whatever the fidelity."""
        return self.inner.effort(fidelity) if self._training else 1.0

    def _scores(
        self, architecture: Architecture, label: str, undefined: float | None = None
    ) -> dict[str, float]:
        """The proxies of a network whose weights are drawn by the run's seed and a label.

        Where one has no value ``undefined`` stands; without that, ``Undefined`` is raised.
        """
        device = self.context.device
        number = zlib.crc32(f"{self.context.seed}/{label}".encode())
        with seeded(number, device):
            network = self.context.space.build(architecture, self._data.task).to(device)
        scores: dict[str, float] = {}
        for name in self._proxies:
            with seeded(number, device):  # dropout must not depend on which others are asked for
                try:
                    scores[name] = PROXIES[name](network, *self._batch)
                except Undefined:
                    if undefined is None:
                        raise
                    scores[name] = undefined
        return scores

    @cached_property
    def _reference(self) -> Mapping[str, Sequence[float]]:
        """Scores of the reference in ascending order, by proxy; without a value means last."""
        space = self.context.space
        limits = {k: v for k, v in self.context.limits.items() if k in space.counted}
        within = space.limited(limits, self._data.task)  # as the search: no network that is too big
        rng = Random(f"{self.context.seed}/reference")
        networks = [
            self._scores(within.sample(rng), f"reference/{number}", undefined=-math.inf)
            for number in range(self._size)
        ]
        return {name: sorted(each[name] for each in networks) for name in self._proxies}

    @cached_property
    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images (N, C, H, W) and labels, on the device."""
        train = self._data.train
        rng = torch.Generator().manual_seed(self.context.seed)
        index = torch.randperm(len(train), generator=rng)[: self._batch_size]
        normalize = Normalize(*self._data.channel_statistics())
        images = normalize(train.images[index].permute(0, 3, 1, 2))
        device = self.context.device
        return images.contiguous().to(device), train.labels[index].to(device)
