"""Neural architecture search by evolution and its rivals, logged to MLflow.

What a plugin or a notebook takes is importable from here::

    from evonas import Architecture, Categorical, Integer, SearchSpace, Task

    run = evonas.run("digits_evo", {"budget.trials": 20})
    run.trials, run.best, run.front, run.report()

Nothing is imported before it is asked for: most commands need no torch, and no plugin needs MLflow.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.architecture import Architecture, Categorical, Domain, Integer
    from evonas.datasets.base import Dataset
    from evonas.errors import DataError, EvonasError, InvalidArchitecture, OptionError
    from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
    from evonas.executors.base import Executor
    from evonas.recipe.options import (
        Count,
        Decay,
        Natural,
        NonNegative,
        Positive,
        Probability,
        Share,
    )
    from evonas.recipe.registry import Registry
    from evonas.runs.notebook import Run, load, resume, run
    from evonas.runs.pruning.base import Rule
    from evonas.spaces.base import SearchSpace, Task
    from evonas.spaces.parts.layers import Gate, Layer, LayeredSpace, Meter, Row, Sum
    from evonas.strategies.base import Strategy
    from evonas.trackers.base import Report, RunInfo, Tracker
    from evonas.training.data import Arrays, Data
    from evonas.trial import Limit, Objective, Proposal, Trial, TrialState
    from evonas.trials import Trials

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Arrays",
    "Categorical",
    "Context",
    "Count",
    "Data",
    "DataError",
    "Dataset",
    "Decay",
    "Domain",
    "Evaluator",
    "EvonasError",
    "Executor",
    "Gate",
    "Integer",
    "InvalidArchitecture",
    "Layer",
    "LayeredSpace",
    "Limit",
    "Meter",
    "Natural",
    "NonNegative",
    "Objective",
    "OptionError",
    "Positive",
    "Probability",
    "Proposal",
    "Registry",
    "Report",
    "Reporter",
    "Row",
    "Rule",
    "Run",
    "RunInfo",
    "SearchSpace",
    "Share",
    "Strategy",
    "Sum",
    "Task",
    "Tracker",
    "Trial",
    "TrialState",
    "Trials",
    "Wrapper",
    "load",
    "resume",
    "run",
]
_ROOMS = {
    "architecture": ("Architecture", "Categorical", "Domain", "Integer"),
    "datasets.base": ("Dataset",),
    "errors": ("DataError", "EvonasError", "InvalidArchitecture", "OptionError"),
    "evaluators.base": ("Context", "Evaluator", "Reporter", "Wrapper"),
    "executors.base": ("Executor",),
    "recipe.options": (
        *("Count", "Decay", "Natural", "NonNegative", "Positive", "Probability", "Share"),
    ),
    "recipe.registry": ("Registry",),
    "runs.notebook": ("Run", "load", "resume", "run"),
    "runs.pruning.base": ("Rule",),
    "spaces.base": ("SearchSpace", "Task"),
    "spaces.parts.layers": ("Gate", "Layer", "LayeredSpace", "Meter", "Row", "Sum"),
    "strategies.base": ("Strategy",),
    "trackers.base": ("Report", "RunInfo", "Tracker"),
    "training.data": ("Arrays", "Data"),
    "trial": ("Limit", "Objective", "Proposal", "Trial", "TrialState"),
    "trials": ("Trials",),
}
# Read when torch is imported: threads that wait for each other sleep. Those that spin take the core
# from whoever they wait for, if the machine has other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'evonas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"evonas.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
