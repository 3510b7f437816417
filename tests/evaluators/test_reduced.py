"""Reduced proxies: the inner evaluator sees a smaller world, costs and the end do not shrink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from evaluators_helper import SPACE, context, data, evaluate, final, kept, make, trial

from evonas.errors import DataError, RecipeError
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.train import Train
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.testing import check_evaluator
from evonas.trial import Proposal, Trial

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 10}


DEEP = PlainCNN(2, 8)
ONES = {f"k{i}": 1 for i in range(1, 4)} | {f"c{i}": 4 for i in range(1, 4)}
DEEP_TRIAL = Trial(0, Proposal(DEEP.architecture({**ONES, "k4": 2, "c4": 8})))


class Witness(Evaluator):
    """An evaluator that says what world it was in."""

    takes = frozenset({"data"})
    metrics = ("images", "size", "width", "depth")

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        assert self.context.data is not None
        train = self.context.data.train
        assert self.context.data.val.images.shape[1:] == train.images.shape[1:]
        return {
            "images": len(train),
            "size": train.images.shape[1],
            "width": float(trial.architecture.choices["c4"]),
            "depth": float(trial.architecture.choices["k4"]),
        }


def witnessed(**options: Any) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """What the inner evaluator saw of a trial, and of the end."""
    reduced = Reduced(context(DEEP), of=Witness, **options)
    proposal = replace(DEEP_TRIAL.proposal, stage="final")
    full, _ = evaluate(reduced, replace(DEEP_TRIAL, proposal=proposal))
    return evaluate(reduced, DEEP_TRIAL)[0], full


FULL = {"images": 60.0, "size": 8.0, "width": 8.0, "depth": 2.0}
WIDTH = FULL["width"]


@pytest.mark.parametrize(
    ("options", "smaller"),
    [
        ({}, {}),
        ({"data": 0.5}, {"images": 30.0}),
        ({"resolution": 4}, {"size": 4.0}),
        ({"width": 0.5}, {"width": WIDTH / 2}),
        ({"depth": 0.5}, {"depth": 1}),
        (
            {"data": 0.2, "resolution": 2, "width": 0.5},
            {"images": 12, "size": 2, "width": WIDTH / 2},
        ),
    ],
)
def test_each_option_reduces_what_it_says(
    options: dict[str, Any], smaller: dict[str, float]
) -> None:
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
    counted = SPACE.costs(trial().architecture, data().task)
    assert {name: metrics[name] for name in counted} == counted
    assert set(metrics) == set(reduced.metrics)


def test_it_keeps_the_contract() -> None:
    of = partial(Train, **QUICK)
    assert check_evaluator(partial(Reduced, of=of, data=0.5, resolution=6, width=0.5)) == []


def test_the_end_is_that_of_the_inner_evaluator(tmp_path: Path) -> None:
    inner, world = partial(Train, **QUICK), context(weights=kept(tmp_path))
    reduced = Reduced(world, of=inner, data=0.5, resolution=4, width=0.5)
    ends, accuracies = [], []
    for evaluator in (reduced, inner(world)):
        ends.append(evaluate(evaluator, final()))
        accuracies.append(evaluator.test(final()))
    assert ends[0] == ends[1]
    assert accuracies[0] == accuracies[1] != {}


def test_reductions_nest() -> None:
    def inner(world: Context) -> Evaluator:
        return Reduced(world, of=Witness, data=0.5)

    seen, _ = evaluate(Reduced(context(), of=inner, data=0.5, resolution=4), trial())
    assert (seen["images"], seen["size"]) == (15, 4)


def test_a_space_without_width_cannot_be_narrowed() -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.width: .*'nasbench201'.*no choice with"):
        make(Reduced, context(NASBench201(2, 1)), Witness, width=0.5)
    Reduced(context(NASBench201(2, 1)), of=Witness, data=0.5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("data", 0.0), ("data", 1.5), ("width", 0.0), ("width", 2.0), ("resolution", 0)],
)
def test_impossible_options_are_refused(option: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"evaluation\.{option}: Input should be"):
        make(Reduced, context(), Witness, **{option: value})


def test_a_share_too_small_for_the_classes_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"evaluation\.data: cannot take a part .* 60 images are too few"
    ):
        Reduced(context(), of=Witness, data=0.01)


def test_without_data_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="needs a dataset section"):
        Reduced(context(data=None), of=Witness)
