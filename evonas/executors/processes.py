"""Trials in worker processes, one per slot, each with its own device and its share of the cores.

A trial whose worker dies, by a segmentation fault say, is run once more, in another one; if that
dies as well, or there was not enough memory, it has failed, and nothing else is lost. A worker
leads a process group, so that what a trial starts ends with it; POSIX only.
"""

from __future__ import annotations

import atexit
import os
from concurrent.futures import Future
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from evonas.executors.base import Executor, MakeEvaluator, Watch
from evonas.executors.parts import gpus
from evonas.executors.parts.pool import Pool
from evonas.executors.parts.workers import slots
from evonas.recipe.options import Count, NonNegative
from evonas.training.devices import VISIBLE, cores, outer_name, placements
from evonas.trial import Trial


def _number_or_auto(value: Any) -> Any:
    if value != "auto" and (not isinstance(value, int) or value < 1):
        raise ValueError(f"must be a whole number from 1 on or auto, not {value!r}")
    return value


class Processes(Executor):
    """Run trials side by side, each in one of a fixed number of worker processes.

    Workers are started when first needed and kept. The evaluator is built in the worker, with
    ``make_evaluator("cpu")`` or, as a worker sees one GPU only, ``make_evaluator("cuda")``.
    A trial whose worker dies twice, cannot build its evaluator or takes too long is FAILED.

    Args:
        make_evaluator: Builds the evaluator for a device; picklable.
        devices: "cpu", or the GPUs to use: ("cuda:0", "cuda:1").
        workers: Number of workers; by default one per GPU, or one per core (see ``placements``).
        per_device: Workers per GPU when ``workers`` is not given; ``auto``: by its memory and the
            cores, with NVIDIA's MPS if that is there (see ``parts/gpus.py``).
        timeout: Seconds that one trial of the search may take; then its worker is killed.
        grace: Seconds that running trials have left after Ctrl-C or SIGTERM; what has not ended by
            then begins again when the run is resumed.
    """

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        devices: tuple[str, ...],
        workers: Count | None = None,
        per_device: Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)] = 1,
        timeout: Annotated[float, Field(ge=1)] | None = None,
        grace: NonNegative = 60.0,
    ) -> None:
        super().__init__(make_evaluator, devices)
        self.grace = grace
        visible = os.environ.get(VISIBLE)
        names = [outer_name(device, visible) for device in devices if device != "cpu"]
        self._service = gpus.Service()
        if per_device == "auto":
            shared = bool(names) and workers is None
            per_device = gpus.reckoned(names, cores(), self._service.start()) if shared else 1
        placed = [
            replace(placement, env={**placement.env, **self._service.env})
            for placement in placements(devices, workers, per_device, cores(), visible)
        ]
        self.workers = len(placed)
        self._pool = Pool(slots(make_evaluator, placed, timeout))
        atexit.register(self.close, kill=True)

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        """Start the trial in an idle worker, or as soon as there is one."""
        return self._pool.submit(trial, watch, self.deadline)

    def close(self, kill: bool = False) -> None:
        """End all workers; ``kill``: running trials become FAILED, waiting ones are cancelled."""
        self._pool.close(kill)
        self._service.close()
        atexit.unregister(self.close)
