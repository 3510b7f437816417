"""How much of its accuracy a network keeps when its images are noisy.

Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from evonas import Context, Evaluator, OptionError, Positive, Reporter, Trial, Wrapper
from evonas.evaluators.train import Train
from evonas.training.checkpoints import Continued
from evonas.training.loop import OnDevice, evaluate


class Kept(Continued):
    """The weights that a trial starts from as ever; and the network that it ends with."""

    network: torch.nn.Module | None = None

    def end(self, network: torch.nn.Module, trial: Trial, epochs: int) -> None:
        """Keep it."""
        self.network = network
        super().end(network, trial, epochs)


class Robust(Wrapper):
    """Another evaluator's metrics, and `noisy_accuracy`: that on noisy validation images.

    An evaluator gives numbers and keeps its networks to itself. Who wants to measure something
    else of a trained network takes it where it is left: at the context's weights. So this wrapper
    makes the one inside in a context with weights of its own, and any evaluator that says it
    `takes` weights can be wrapped.

    Args:
        context: The world; its data are needed.
        of: What trains: by default `train`.
        noise: Standard deviation, where pixels are from 0 to 255.
    """

    changes = frozenset({"weights"})  # who would ignore them is refused, before any trial

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator] = Train,
        noise: Positive = 25.0,
    ) -> None:
        if context.data is None or context.weights is None:
            raise OptionError("name", "robust needs a dataset section, and a run")
        self.kept = Kept(context.weights.checkpoints)
        super().__init__(context, of(replace(context, weights=self.kept)))
        self.metrics = (*self.inner.metrics, "noisy_accuracy")
        rng = torch.Generator().manual_seed(context.seed)  # the same noise for every network
        images = context.data.val.images
        noisy = images + noise * torch.randn(images.shape, generator=rng)
        val = replace(context.data.val, images=noisy.round().clamp(0, 255).to(torch.uint8))
        self.val = val.to(context.device)
        self.normalize = OnDevice(context.data, context.device).normalize

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Train, then look at what was left; final trainings are left to the evaluator inside."""
        metrics = self.inner.evaluate(trial, report)
        assert self.kept.network is not None
        scores = evaluate(self.kept.network, self.val, self.normalize)
        return {**metrics, "noisy_accuracy": scores["accuracy"]}
