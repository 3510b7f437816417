"""One trial after another, in a worker process."""

from __future__ import annotations

from concurrent.futures import Future
from functools import cached_property

from evonas.errors import RecipeError
from evonas.evaluators.base import Evaluator
from evonas.executors.base import Executor, MakeEvaluator, Watch, run_trial
from evonas.executors.processes import Processes
from evonas.recipe.options import NonNegative
from evonas.trial import Trial


class Serial(Executor):
    """Run one trial at a time, on the first device.

    Args:
        make_evaluator: Builds the evaluator for a device; picklable, if trials are isolated.
        devices: Of which the first is used.
        isolate: Whether trials run in a worker process. If not, one that ends its process, or
            hangs, does so to the search: for looking into a trial with a debugger.
        timeout: Seconds that one trial of the search may take; then its worker is killed. Only if
            isolated.
        grace: As of ``processes``, if isolated; else a trial has any time.

    Raises:
        RecipeError: If the timeout is smaller than 1, or trials that are not isolated have one.
    """

    workers = 1

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        devices: tuple[str, ...],
        isolate: bool = True,
        timeout: float | None = None,
        grace: NonNegative = 60.0,
    ) -> None:
        super().__init__(make_evaluator, devices)
        self._pool: Processes | None = None
        if isolate:
            self._pool = Processes(make_evaluator, devices[:1], 1, timeout=timeout, grace=grace)
            self.grace = grace
        elif timeout is not None:
            raise RecipeError("executor.timeout: a trial in this process cannot be ended")

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        """Start the trial in the worker; or run it here, and return its finished future."""
        if self._pool is not None:
            self._pool.deadline = self.deadline
            return self._pool.submit(trial, watch)
        future: Future[Trial] = Future()
        future.set_result(run_trial(self._evaluator, trial, watch))
        return future

    def close(self, kill: bool = False) -> None:
        """End the worker, as ``processes`` does."""
        if self._pool is not None:
            self._pool.close(kill)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self.make_evaluator(self.devices[0])
