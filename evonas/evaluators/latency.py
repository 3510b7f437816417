"""Latency beside another evaluator's metrics: an objective, or a limit that spares a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import quantiles

from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper, hold
from evonas.recipe.options import Count, Natural
from evonas.training.latency import timings
from evonas.training.loop import seeded
from evonas.trial import Trial

_MEASURED = ("latency", "latency_q1", "latency_q3")


class Latency(Wrapper):
    """Measure every network's forward pass before it is trained: metric ``latency``, milliseconds.

    That is a median; the quartiles, ``latency_q1`` and ``latency_q3``, tell how far to trust it.
    The whole network is measured, freshly built, on the device that it is trained on. A trial
    outside the recipe's ``constraints.latency`` ends there, pruned. Trials that run side by side
    disturb each other's figures: use the serial executor, or one worker per device.

    Args:
        context: The world; its data are needed.
        of: The evaluator to wrap.
        batch_size: Images in the batch.
        runs: Timed runs, of which the median counts.
        warmup: Runs before them.
    """

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        batch_size: Count = 1,
        runs: Count = 30,
        warmup: Natural = 10,
    ) -> None:
        self._task = context.data_for("latency").task
        super().__init__(context, of(context))
        self.metrics = tuple(dict.fromkeys((*self.inner.metrics, *_MEASURED)))
        self._settings = (batch_size, runs, warmup)

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The inner evaluator's metrics and the latency, of finals too."""
        space, device = self.context.space, self.context.device
        with seeded(0, device):
            network = space.build(trial.architecture, self._task)
        times = timings(network, self._task, device, *self._settings)
        first, middle, third = quantiles(times, method="inclusive") if times[1:] else times * 3
        measured = dict(zip(_MEASURED, (middle, first, third), strict=True))
        if self.context.limits and trial.proposal.stage == "search":  # before anything is trained
            hold(self.context.limits, {**measured, **space.costs(trial.architecture, self._task)})
        return {**self.inner.evaluate(trial, report), **measured}
