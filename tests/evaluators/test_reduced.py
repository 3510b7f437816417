"""Reduced proxies: the inner evaluator sees a smaller world, costs and the end do not shrink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from evaluators_helper import SPACE, context, data, evaluate, trial

from evonas.errors import DataError, RecipeError
from evonas.evaluators.base import Context, Evaluator, Final, Reporter
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.train import Train
from evonas.spaces.nasbench201 import NASBench201
from evonas.testing import check_evaluator
from evonas.training import cost
from evonas.trial import Trial

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 10}


class Witness(Evaluator):
    """An evaluator that says what world it was in."""

    metrics = ("images", "size", "width")

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        assert self.context.data is not None
        train = self.context.data.train
        assert self.context.data.val.images.shape[1:] == train.images.shape[1:]
        return {
            "images": len(train),
            "size": train.images.shape[1],
            "width": float(trial.architecture.choices["c4"]),
        }

    def finish(self, trial: Trial, report: Reporter) -> Final | None:
        return Final(self.evaluate(trial, report))


def witnessed(**options: Any) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """What the inner evaluator saw of a trial, and of the end."""
    reduced = Reduced(context(), of=Witness, **options)
    final = reduced.finish(trial(), lambda step, metrics: None)
    assert final is not None
    return evaluate(reduced, trial())[0], final.metrics


WIDTH = float(trial().architecture.choices["c4"])
FULL = {"images": 60.0, "size": 8.0, "width": WIDTH}


@pytest.mark.parametrize(
    ("options", "smaller"),
    [
        ({}, {}),
        ({"data": 0.5}, {"images": 30.0}),
        ({"resolution": 4}, {"size": 4.0}),
        ({"width": 0.5}, {"width": WIDTH / 2}),
        (
            {"data": 0.2, "resolution": 2, "width": 0.5},
            {"images": 12, "size": 2, "width": WIDTH / 2},
        ),
    ],
)
def test_each_option_reduces_what_it_says(
    options: dict[str, Any], smaller: dict[str, float]
) -> None:
    assert WIDTH == 8  # twice the step, so that it can be halved
    seen, final = witnessed(**options)
    assert {name: seen[name] for name in FULL} == FULL | smaller
    assert final == FULL


def test_the_share_of_the_data_is_stratified() -> None:
    class Labels(Witness):
        metrics = ("0", "1", "2")

        def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
            assert self.context.data is not None
            assert self.context.data.test is None
            assert len(self.context.data.val) == 15
            return {str(k): v for k, v in Counter(self.context.data.train.labels.tolist()).items()}

    seen, _ = evaluate(Reduced(context(), of=Labels, data=0.5), trial())
    assert [seen[str(k)] for k in range(3)] == [10, 10, 10]


def test_costs_are_those_of_the_architecture_itself() -> None:
    reduced = Reduced(context(), of=partial(Train, **QUICK), resolution=4, width=0.5)
    metrics, _ = evaluate(reduced, trial())
    counted = cost.count(SPACE, trial().architecture, data().task)
    assert {name: metrics[name] for name in counted} == counted
    assert set(metrics) == set(reduced.metrics)


def test_it_keeps_the_contract() -> None:
    reduced = Reduced(context(), of=partial(Train, **QUICK), data=0.5, resolution=6, width=0.5)
    assert check_evaluator(reduced, trial().architecture) == []


def test_the_end_is_that_of_the_inner_evaluator() -> None:
    inner = partial(Train, **QUICK)
    reduced = Reduced(context(), of=inner, data=0.5, resolution=4, width=0.5)
    reduced_final = reduced.finish(trial(), lambda step, metrics: None)
    final = inner(context()).finish(trial(), lambda step, metrics: None)
    assert final is not None
    assert reduced_final is not None
    assert reduced_final.curve == final.curve
    assert reduced_final.metrics["test_accuracy"] == final.metrics["test_accuracy"]


def test_reductions_nest() -> None:
    def inner(world: Context) -> Evaluator:
        return Reduced(world, of=Witness, data=0.5)

    seen, _ = evaluate(Reduced(context(), of=inner, data=0.5, resolution=4), trial())
    assert (seen["images"], seen["size"]) == (15, 4)


def test_a_space_without_width_cannot_be_narrowed() -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.width: .*'nasbench201'.*no choice with"):
        Reduced(context(NASBench201(2, 1)), of=Witness, width=0.5)
    Reduced(context(NASBench201(2, 1)), of=Witness, data=0.5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("data", 0.0), ("data", 1.5), ("width", 0.0), ("width", 2.0), ("resolution", 0)],
)
def test_impossible_options_are_refused(option: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"evaluation\.{option}: must be"):
        Reduced(context(), of=Witness, **{option: value})  # type: ignore[arg-type]


def test_a_share_too_small_for_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"evaluation\.data: cannot split 60 images by class"):
        Reduced(context(), of=Witness, data=0.01)


def test_without_data_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="needs a dataset section"):
        Reduced(context(data=None), of=Witness)
