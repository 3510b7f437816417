"""The median stopping rule: Golovin et al., Google Vizier, KDD 2017."""

from __future__ import annotations

from optuna.pruners import MedianPruner

from evonas.recipe.options import Count, Natural
from evonas.runs.pruning.base import Rule


class Median(MedianPruner, Rule):
    """Stop a trial whose best value so far is below the median of the completed trials' values.

    The median is taken over their values at the same step.

    Args:
        startup_trials: Completed trials before the first one is stopped.
        warmup_steps: Steps before this one stop no trial; steps usually count epochs from 1.
        interval_steps: A trial is judged once in so many steps.
    """

    def __init__(
        self, startup_trials: Natural = 5, warmup_steps: Natural = 0, interval_steps: Count = 1
    ) -> None:
        super().__init__(startup_trials, warmup_steps, interval_steps)
