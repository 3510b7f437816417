"""Zero-cost proxies as metrics: beside those of a training, or instead of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field

from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.evaluators.parts.proxies import PROXIES
from evonas.training.loop import Normalize, seeded
from evonas.trial import Trial

ProxyName = Literal["synflow", "snip", "grad_norm", "jacob_cov", "naswot"]


class ZeroCost(Wrapper):
    """Score every architecture by zero-cost proxies, at initialisation, on one batch for all.

    Without training they are, with the costs, the only metrics of a trial, and the inner evaluator
    just trains the winner. A trial fails if a proxy has no value for its network.

    Args:
        context: The world; its data are needed.
        of: The evaluator to wrap.
        proxies: See ``evonas.evaluators.parts.proxies``.
        batch_size: Training images that the proxies see, drawn by the run's seed.
        training: Evaluate every architecture as the inner evaluator does, too.
    """

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        proxies: tuple[ProxyName, ...] = ("synflow", "snip", "grad_norm", "jacob_cov", "naswot"),
        batch_size: Annotated[int, Field(ge=2)] = 64,
        training: bool = True,
    ) -> None:
        self._data = context.data_for("zero_cost")
        if not proxies or len(set(proxies)) < len(proxies):
            raise OptionError(
                "proxies", f"must be one or more different names, not [{', '.join(proxies)}]"
            )
        super().__init__(context, of(context))
        self._proxies, self._batch_size, self._training = proxies, batch_size, training
        others = self.inner.metrics if training else context.space.counted
        self.metrics = tuple(dict.fromkeys((*others, *proxies)))
        if not training:  # what is trained, or not at all, it scores without the inner evaluator
            self.reports, self.takes = (), frozenset({"data"})

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The proxies, and the inner evaluator's metrics or the costs."""
        scores = self._scores(trial)  # before a training that a failure would waste
        if self._training:
            return {**self.inner.evaluate(trial, report), **scores}
        return {**self.context.space.costs(trial.architecture, self._data.task), **scores}

    def effort(self, fidelity: float) -> float:
        """The inner evaluator's; without training the same whatever the fidelity."""
        return self.inner.effort(fidelity) if self._training else 1.0

    def final_effort(self) -> float | None:
        """The inner evaluator's, if trials train."""
        return super().final_effort() if self._training else None

    def _scores(self, trial: Trial) -> dict[str, float]:
        device = self.context.device
        number = zlib.crc32(f"{self.context.seed}/{trial.number}".encode())
        images, labels = self._batch
        with seeded(number, device):
            network = self.context.space.build(trial.architecture, self._data.task).to(device)
        scores: dict[str, float] = {}
        for name in self._proxies:
            with seeded(number, device):  # dropout must not depend on which others are asked for
                scores[name] = PROXIES[name](network, images, labels)
        return scores

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
