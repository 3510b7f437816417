"""Any trade-off's architecture, from a run that learnt a sampler: no further training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from evonas.errors import HistoryError, RecipeError, TooManyFailures
from evonas.evaluators.base import ability
from evonas.executors.base import run_trial
from evonas.runs import run
from evonas.runs.assemble import Samples
from evonas.strategies.hypernet import COMPLEXITY
from evonas.trial import Proposal, Trial, figure

_ROUNDING = 0.02  # .33, .33, .33 sum to .99


def parse(text: str) -> tuple[float, ...]:
    """Weights of pooling, identity and convolution, made to sum to 1 exactly.

    Raises:
        RecipeError: If they are not three, not numbers, negative, or sum to something else.
    """
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(COMPLEXITY) or not all(w >= 0 for w in weights):
        raise _wrong(text, f"must be three numbers, 0 or more: {', '.join(COMPLEXITY)}")
    total = math.fsum(weights)
    if not abs(total - 1) <= _ROUNDING:
        raise _wrong(text, f"must sum to 1, not to {total:g}")
    return tuple(weight / total for weight in weights)


def sample(run_dir: Path, complexity: str, note: Callable[[str], None]) -> list[str]:
    """The architecture of a complexity, and what it is worth with the run's shared weights.

    Args:
        run_dir: The run folder.
        complexity: As ``parse`` takes it.
        note: Told what a person wants to know on the way.

    Returns:
        Lines to print.

    Raises:
        HistoryError: If the folder holds no run, or none that has learnt a sampler.
        RecipeError: If the complexity is none.
    """
    weights = parse(complexity)
    assembly = run.reopened(run_dir)
    evaluator = assembly.evaluator
    source = ability(evaluator, Samples)  # type: ignore[type-abstract]
    if source is None:
        name = assembly.recipe.evaluation.name
        raise HistoryError(f"{run_dir}: its evaluation {name!r} learns no sampler; hypernet does")
    if not evaluator.prepare(note, lambda: True):
        raise HistoryError(f"{run_dir} is not trained yet; go on with: evonas resume {run_dir}")
    architecture = source.sampler()(weights)
    ended = run_trial(evaluator, Trial(0, Proposal(architecture)))
    if ended.error is not None:
        raise TooManyFailures(ended.error)
    names: dict[str, list[str]] = {}
    for name, value in architecture.choices.items():
        names.setdefault(str(value), []).append(name)
    return [
        f"architecture {architecture.id}",
        *(f"  {value:<14} {' '.join(places)}" for value, places in sorted(names.items())),
        *(f"  {name:<14} {figure(value)}" for name, value in ended.metrics.items()),
    ]


def _wrong(text: str, reason: str) -> RecipeError:
    return RecipeError(f"--complexity {text}: {reason}; such as 0.33,0.33,0.33")
