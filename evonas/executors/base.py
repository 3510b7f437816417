"""The contract of an executor, and the one place where a trial's exception becomes data."""

from __future__ import annotations

import math
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from evonas.evaluators.base import Evaluator, Infeasible, Work, hold
from evonas.recipe.registry import said
from evonas.trial import Trial, TrialState

MakeEvaluator = Callable[[str], Evaluator]  # device → evaluator; picklable
Watch = Callable[[int, Mapping[str, float]], bool]  # step, metrics → stop this trial


class Executor(ABC):
    """Runs trials on devices.

    Args:
        make_evaluator: Builds the evaluator for a device ("cpu", "cuda", "cuda:1"). It is called
            where the trials run, so it must be picklable: evaluators never are pickled.
        devices: The devices to use, in order.

    Attributes:
        workers: How many trials run at once.
        grace: Seconds that running trials have left when the user wants to stop; then they are
            ended, if they can be, and begin again when the run is resumed.
        remark: What a person must do or know before trials can run; usually nothing.
        deadline: By ``time.monotonic``, set by the search: trials of the search that have not ended
            by then are ended where that is possible: PRUNED if they have reported, else FAILED.
    """

    workers: int
    grace: float = math.inf
    remark: str = ""
    deadline: float = math.inf

    def __init__(self, make_evaluator: MakeEvaluator, devices: tuple[str, ...]) -> None:
        self.make_evaluator = make_evaluator
        self.devices = devices

    @abstractmethod
    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        """Start a trial; the future holds its final event, COMPLETE, FAILED or PRUNED.

        Args:
            trial: What to evaluate.
            watch: Called in this process, in any thread, with whatever the trial reports, which
                waits for the answer; True ends the trial as PRUNED.
        """

    def close(self, kill: bool = False) -> None:  # noqa: B027  (nothing to release is fine)
        """Release what the executor holds; ``kill``: do not wait for running trials."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(kill=kind is not None)


class BadResult(Exception):
    """An evaluator returned something that is not a set of finite metrics."""


class _Stop(BaseException):
    """Leaves ``evaluate`` from within ``report``; no Exception, which evaluators may catch."""


def run_trial(evaluator: Evaluator, trial: Trial, watch: Watch | None = None) -> Trial:
    """Evaluate a trial; whatever it raises, or a metric that is not finite, makes it FAILED.

    What it reports becomes its curve, but for numbers that are not finite: no journal holds them.
    Limits are held here, against the metrics of every trial of the search, whatever the evaluator:
    a broken one makes the trial PRUNED. Finals are not held to them: noise is measured anew.
    When ``watch`` says stop, the trial is PRUNED whatever the evaluator still does, with the
    metrics that it reported last. What ``watch`` itself raises, as a closed pipe that it was to
    tell, is no fault of the trial's, and raised again. Its effort is what was trained meanwhile,
    however it ended.
    """
    curve: list[tuple[int, Mapping[str, float]]] = []
    stopped = False
    fault: BaseException | None = None

    def report(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal stopped, fault
        if not stopped:
            point = int(step), _finite(metrics)
            curve.append(point)
            try:
                stopped = watch is not None and watch(*point)
            except BaseException as error:
                stopped, fault = True, error
        if stopped:
            raise _Stop

    start, work, before = time.perf_counter(), Work(), 0
    try:
        work = evaluator.context.work
        before = work.pixels
        result = evaluator.evaluate(trial, report)
        searched = trial.proposal.stage == "search"
        metrics = _checked(result, evaluator.metrics if searched else ())
        if searched:
            hold(evaluator.context.limits, metrics)
    except _Stop:
        ended = trial
    except Infeasible as broken:
        ended = replace(trial, state=TrialState.PRUNED, metrics=_finite(broken.metrics))
    except KeyboardInterrupt:
        raise
    # A trial runs anybody's code: everything it raises is data, and recorded with its traceback.
    except BaseException as error:
        ended = trial.failed(reason(error))
    else:
        ended = replace(trial, state=TrialState.COMPLETE, metrics=metrics)
    if fault is not None:
        raise fault
    if stopped:  # even if the evaluator caught _Stop, and returned or raised something else
        ended = replace(trial, state=TrialState.PRUNED, metrics=curve[-1][1])
    seconds = ended.metrics.get("seconds", time.perf_counter() - start)
    learnt = work.pixels - before
    effort = learnt / work.full if work.full else trial.proposal.fidelity
    return replace(ended, curve=tuple(curve), seconds=seconds, effort=effort)


def reason(error: BaseException) -> str:
    """Why a trial failed: a line, and the traceback."""
    trace = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {said(error)}\n{trace}"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    values = {str(name): float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _checked(result: Any, promised: tuple[str, ...]) -> Mapping[str, float]:
    if not isinstance(result, Mapping):
        raise BadResult(f"the evaluator returned {type(result).__name__}, not a mapping of metrics")
    if missing := [name for name in promised if name not in result]:
        raise BadResult(f"the evaluator did not return the metrics {', '.join(missing)}")
    metrics = {str(name): float(value) for name, value in result.items()}
    if bad := [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]:
        raise BadResult(f"not a finite number: {', '.join(bad)}")
    return metrics
