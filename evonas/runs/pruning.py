"""Early stopping: a trial whose learning curve is hopeless ends before its time, as PRUNED.

It pays where trials are long, and it costs where curves cross: what is slow at first and best at
last is lost. The rules are Optuna's, told by ask and tell in a study in memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner

from evonas.errors import RecipeError, at_least
from evonas.trial import Objective, Trial, TrialState

_END = {
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}


class Median(MedianPruner):
    """Stop a trial whose best value so far is below the median of the completed trials' values.

    The median is taken over their values at the same step. Golovin et al., Google Vizier, KDD 2017.

    Args:
        startup_trials: Completed trials before the first one is stopped.
        warmup_steps: Steps before this one stop no trial; steps usually count epochs from 1.
        interval_steps: A trial is judged once in so many steps.
    """

    def __init__(
        self, startup_trials: int = 5, warmup_steps: int = 0, interval_steps: int = 1
    ) -> None:
        at_least("pruning", 0, startup_trials=startup_trials, warmup_steps=warmup_steps)
        at_least("pruning", 1, interval_steps=interval_steps)
        super().__init__(startup_trials, warmup_steps, interval_steps)


class SuccessiveHalving(SuccessiveHalvingPruner):
    """Go on at a rung only with the best of all trials that reached it.

    Rungs are the steps ``min_steps`` times a power of ``reduction_factor``. This is the form that
    stops trials and never waits: Li et al., A system for massively parallel hyperparameter tuning,
    MLSys 2020. The first trials are judged by few others.

    Args:
        min_steps: The lowest rung.
        reduction_factor: One of so many trials passes a rung; the paper's eta.
    """

    def __init__(self, min_steps: int = 1, reduction_factor: int = 3) -> None:
        at_least("pruning", 1, min_steps=min_steps)
        at_least("pruning", 2, reduction_factor=reduction_factor)
        super().__init__(min_steps, reduction_factor)


RULES: Mapping[str, type[Any]] = {"median": Median, "successive_halving": SuccessiveHalving}


class Pruner:
    """Decides which running trial is hopeless: a fold over trial events, like a strategy.

    Every trial is mirrored into a study, one study per fidelity since curves of different effort
    do not compare. Each step of a curve is judged once, when it is reported, or else when the
    trial's end is told: so a pruner that was told a history knows what it would know had it
    watched those trials run. No trial is stopped where completed ones ended: that would save
    nothing, and lose its result.

    Args:
        objectives: Exactly one; its metric is looked for on the curves.
        rule: An Optuna pruner.

    Raises:
        RecipeError: There are several objectives.
    """

    def __init__(self, objectives: Sequence[Objective], rule: BasePruner) -> None:
        if len(objectives) != 1:
            raise RecipeError(f"pruning: takes one objective, not {len(objectives)}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._objective, self._rule = objectives[0], rule
        self._studies: dict[float, optuna.Study] = {}
        self._running: dict[int, _Curve] = {}
        self._ends: dict[float, int] = {}  # fidelity → last step of completed trials
        self._lock = threading.Lock()  # executors ask from threads of their own

    def tell(self, trial: Trial) -> None:
        """Take in an event: first RUNNING, later one of COMPLETE, FAILED, PRUNED."""
        with self._lock:
            fidelity = trial.proposal.fidelity
            study = self._study(fidelity)
            if trial.state is TrialState.RUNNING:
                self._running[trial.number] = _Curve(study.ask(), fidelity, self._objective)
                return
            curve = self._running.pop(trial.number)
            for step, metrics in trial.curve:
                curve.judge(step, metrics)
            if trial.state is TrialState.COMPLETE:
                self._ends[fidelity] = max(self._ends.get(fidelity, 0), *curve.steps, 0)
                study.tell(curve.mirrored, self._objective.key(trial.metrics))
            else:
                study.tell(curve.mirrored, state=_END[trial.state])

    def should_stop(self, number: int, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether a running trial is hopeless.

        Args:
            number: The trial's; it was told to run.
            step: Where on its curve it is.
            metrics: What it reports there; without the objective's metric it goes on.
        """
        with self._lock:
            curve = self._running[number]
            return curve.judge(step, metrics) and step < self._ends.get(curve.fidelity, math.inf)

    def _study(self, fidelity: float) -> optuna.Study:
        if fidelity not in self._studies:
            sampler = optuna.samplers.RandomSampler(seed=0)  # unused: nothing is suggested
            self._studies[fidelity] = optuna.create_study(
                direction="maximize", sampler=sampler, pruner=self._rule
            )
        return self._studies[fidelity]


class _Curve:
    """The curve of a running trial, mirrored into a study."""

    def __init__(self, mirrored: optuna.Trial, fidelity: float, objective: Objective) -> None:
        self.mirrored, self.fidelity, self._objective = mirrored, fidelity, objective
        self.steps: set[int] = set()

    def judge(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether the trial is hopeless at a new step; at an old one it is not asked again."""
        if self._objective.metric not in metrics or step in self.steps or step < 0:
            return False
        self.steps.add(step)
        self.mirrored.report(self._objective.key(metrics), step)
        return bool(self.mirrored.should_prune())  # of numpy's, which is not JSON
