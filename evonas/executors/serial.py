"""One trial after another, in this process."""

from __future__ import annotations

from concurrent.futures import Future
from functools import cached_property

from evonas.evaluators.base import Evaluator
from evonas.executors.base import Executor, Watch, run_trial
from evonas.trial import Trial


class Serial(Executor):
    """Run every trial at once, on the first device."""

    workers = 1

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self.make_evaluator(self.devices[0])

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        """Run the trial and return its finished future."""
        future: Future[Trial] = Future()
        future.set_result(run_trial(self._evaluator, trial, watch))
        return future
