"""Every built-in evaluator through the public contract kit, and the kit on broken ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random

import pytest

from evonas.datasets.base import load
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.extrapolate import Extrapolate
from evonas.evaluators.hypernet import Hypernet
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.latency import Latency
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.supernet import SharedWeights
from evonas.evaluators.tabular import Tabular
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ZeroCost
from evonas.recipe.registry import Registry
from evonas.recipe.schema import DatasetSection
from evonas.spaces.base import SearchSpace
from evonas.spaces.darts import DARTS
from evonas.spaces.plain_cnn import PlainCNN
from evonas.testing import check_evaluator
from evonas.trial import Trial

SPACE = PlainCNN(1, 8)
ARCHITECTURE = SPACE.sample(Random(0))
QUICK = partial(Train, epochs=1)


def tabular(context: Context) -> Evaluator:
    path = Path("table.csv")
    path.write_text(f"architecture,valid\n{ARCHITECTURE.choices['c1']},50\n")
    return Tabular(context, path, "{c1}", {"val_accuracy": "valid"})


EVALUATORS: Mapping[str, Callable[[Context], Evaluator]] = {
    "train": QUICK,
    "reduced": partial(Reduced, of=QUICK, data=0.5, resolution=4, width=0.5),
    "tabular": tabular,
    "inherit": partial(Inherit, of=QUICK),
    "latency": partial(Latency, of=QUICK, runs=2, warmup=0),
    "hypernet": partial(Hypernet, of=QUICK, epochs=1, batch_size=16),
    "supernet": partial(SharedWeights, of=QUICK, epochs=1, batch_size=16),
    "extrapolate": partial(Extrapolate, of=QUICK),
    "zero_cost": partial(ZeroCost, of=QUICK, batch_size=8),
}

SPACES: Mapping[str, SearchSpace] = {"hypernet": DARTS(2)}  # of evaluators that need a certain one


def test_every_built_in_evaluator_is_here() -> None:
    assert set(Registry().origins("evaluator")) == set(EVALUATORS)


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_keeps_the_contract(name: str, images: Callable[..., Path]) -> None:
    data = load(DatasetSection(name="npz", path=images(), validation=0.2))
    space = SPACES.get(name, SPACE)
    context = Context(space, data, "cpu", seed=0, run_dir=Path("run").absolute())
    architecture = ARCHITECTURE if space is SPACE else space.sample(Random(0))
    assert check_evaluator(EVALUATORS[name](context), architecture) == []


class Good(Evaluator):
    """Counts the choices; the evaluators below each break one promise."""

    metrics = ("value",)

    def __init__(self) -> None:
        super().__init__(Context(SPACE, None, "cpu", seed=0))
        self.calls = itertools.count()

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        report(1, {"value": 0.0})
        return {"value": float(len(trial.architecture.choices)), "seconds": float(next(self.calls))}


class Raises(Good):
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        raise ZeroDivisionError("no such training")


class LeavesOut(Good):
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return {"other": 1.0}


class NotANumber(Good):
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return {"value": float("nan")}


class NotAMapping(Good):
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return 1.0  # type: ignore[return-value]


class Forgets(Good):
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return {"value": float(next(self.calls))}


BROKEN = {
    Raises: "ZeroDivisionError: no such training",
    LeavesOut: "did not return the metrics value",
    NotANumber: "not a finite number: value = nan",
    NotAMapping: "returned float, not a mapping",
    Forgets: "one trial gives {'value': 0.0} and then {'value': 1.0}",
}


def test_the_kit_accepts_a_good_evaluator() -> None:
    assert check_evaluator(Good(), ARCHITECTURE) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_the_kit_names_what_is_broken(broken: type[Good]) -> None:
    (problem,) = check_evaluator(broken(), ARCHITECTURE)
    assert problem.startswith("evaluate: ")
    assert BROKEN[broken] in problem
