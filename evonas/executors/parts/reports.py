"""What a trial reports, whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evonas.executors.base import Watch
from evonas.trial import Trial, TrialState

_OVERDUE = "timeout: not done when the budget's time was over by more than a tenth"


class Reports:
    """Asks a watch about each step once, though a trial is begun again.

    Args:
        watch: Who says whether to stop; None: nobody.

    Attributes:
        curve: What was reported, by step. The pruner knows it, so the event of a trial whose worker
            died has it, too.
    """

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self.curve: dict[int, Mapping[str, float]] = {}

    def __call__(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether to stop the trial that reports this."""
        if step in self.curve:  # the worker before it came as far
            return False
        self.curve[step] = metrics
        return self._watch is not None and self._watch(step, metrics)

    def failed(self, trial: Trial, error: str, seconds: float = 0.0) -> Trial:
        """The trial, ended by ``error``, with what it had reported."""
        return replace(trial.failed(error, seconds), curve=tuple(self.curve.items()))

    def overdue(self, trial: Trial, seconds: float = 0.0) -> Trial:
        """The trial, not done by the deadline: PRUNED, if it has reported anything."""
        failed = self.failed(trial, _OVERDUE, seconds)
        if not failed.curve:
            return failed
        return replace(failed, state=TrialState.PRUNED, error=None, metrics=failed.curve[-1][1])
