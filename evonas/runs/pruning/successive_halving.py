"""Successive halving in the form that stops trials and never waits.

Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020.
"""

from __future__ import annotations

from typing import Annotated

from optuna.pruners import SuccessiveHalvingPruner
from pydantic import Field

from evonas.recipe.options import Count
from evonas.runs.pruning.base import Rule


class Halving(SuccessiveHalvingPruner, Rule):
    """Go on at a rung only with the best of all trials that reached it.

    Rungs are the steps ``min_steps`` times a power of ``reduction_factor``. The first trials are
    judged by few others.

    Args:
        min_steps: The lowest rung.
        reduction_factor: One of so many trials passes a rung; the paper's eta.
    """

    def __init__(
        self, min_steps: Count = 1, reduction_factor: Annotated[int, Field(ge=2)] = 3
    ) -> None:
        super().__init__(min_steps, reduction_factor)
