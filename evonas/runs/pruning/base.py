"""Early stopping: a trial whose learning curve is hopeless ends before its time, as PRUNED.

It pays where trials are long, and it costs where curves cross: what is slow at first and best at
last is lost. The rules are Optuna's, told by ask and tell in a study in memory.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence

import optuna
from optuna.pruners import BasePruner

from evonas.errors import RecipeError
from evonas.trial import Objective, Trial, TrialState

_END = {
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}


class Rule(BasePruner):
    """When a running trial is hopeless: a pruner of Optuna's, by its name and options in recipes.

    Options are the annotated arguments of the constructor. The one method, ``prune(study, trial)``,
    is asked at every new step of a trial's curve: ``trial.last_step`` and
    ``trial.intermediate_values`` are its curve so far, ``study.get_trials(deepcopy=False)`` the
    other trials of its fidelity with theirs. Larger is better, whatever the objective's direction.
    A resumed run goes on with a fresh one, which is asked again at every step of the history.
    """


class Pruner:
    """Decides which running trial is hopeless: a fold over trial events, like a strategy.

    Every trial is mirrored into a study, one study per fidelity since curves of different effort
    do not compare. Each step of a curve is judged once, when it is reported, or else when the
    trial's end is told: so a pruner that was told a history knows what it would know had it
    watched those trials run. No trial is stopped where completed ones ended: that would save
    nothing, and lose its result.

    Args:
        objectives: Exactly one; its metric is looked for on the curves.
        rule: Says so.

    Raises:
        RecipeError: There are several objectives.
    """

    def __init__(self, objectives: Sequence[Objective], rule: Rule) -> None:
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
