"""What a trial reports, whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping

from evonas.executors.base import Watch


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
