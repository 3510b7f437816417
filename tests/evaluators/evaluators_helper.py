"""A small learnable data set, and a world to evaluate in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.recipe.options import Part, check
from evonas.spaces.base import SearchSpace
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.checkpoints import Checkpoints, Continued
from evonas.training.data import Arrays, Data, Images, Labels, split
from evonas.trial import Proposal, Trial

SPACE = PlainCNN(1, 8)
CLASSES = 3


class Untrained(Evaluator):
    """Fails a trial that comes as far as a training."""

    metrics = ("val_accuracy",)
    takes = frozenset({"data"})

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        if trial.proposal.stage == "search":
            raise NotImplementedError("a trial was trained")
        return {"val_accuracy": float(trial.proposal.repeat)}


def _part(count: int, size: int, seed: int) -> tuple[Images, Labels]:
    """Noise, brighter in the channel that is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = rng.integers(0, 120, (count, size, size, 3), dtype=np.uint8)
    images += (80 * np.eye(CLASSES, dtype=np.uint8))[labels][:, None, None, :]
    return images, labels


def data(train: int = 75, size: int = 8) -> Data:
    """A fifth of the training images is the validation split."""
    arrays = Arrays(_part(train, size, 0), _part(30, size, 1))
    return split(arrays, validation=0.2, seed=0, source="made up")


def context(space: SearchSpace = SPACE, seed: int = 0, **changes: Any) -> Context:
    """A world on the CPU."""
    return replace(Context(space, data(), "cpu", seed), **changes)


def trial(number: int = 0, fidelity: float = 1.0, space: SearchSpace = SPACE) -> Trial:
    """A trial of some architecture."""
    return Trial(number, Proposal(space.sample(Random(0)), fidelity))


def final(number: int = 0, repeat: int = 0, space: SearchSpace = SPACE) -> Trial:
    """A final training of the same architecture."""
    architecture = space.sample(Random(0))
    proposal = Proposal(architecture, parents=(number,), repeat=repeat, stage="final")
    return Trial(number, proposal)


def kept(folder: Path) -> Continued:
    """A store of weights, which finals leave theirs in."""
    return Continued(Checkpoints(folder / "weights", 1.0))


def make(
    cls: type[Evaluator],
    world: Context,
    of: Callable[[Context], Evaluator] | None = None,
    **options: Any,
) -> Evaluator:
    """An evaluator as a recipe makes it: with its options checked, in the section evaluation."""
    checked = check(cls, {**options, **({"of": "train"} if of else {})}, "evaluation")
    made: Evaluator = Part("it", cls, checked | ({"of": of} if of else {}), "evaluation")(world)
    return made


def evaluate(
    evaluator: Evaluator, given: Trial
) -> tuple[Mapping[str, float], list[tuple[int, Mapping[str, float]]]]:
    """Metrics and curve."""
    curve: list[tuple[int, Mapping[str, float]]] = []
    metrics = evaluator.evaluate(given, lambda step, metrics: curve.append((step, metrics)))
    return metrics, curve
