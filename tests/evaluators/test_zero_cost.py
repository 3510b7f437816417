"""Zero-cost proxies as an evaluator: metrics beside a training's, or instead of them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from evaluators_helper import SPACE, context, data, evaluate, final, make, trial

from evonas.errors import RecipeError
from evonas.evaluators.base import Evaluator, Reporter
from evonas.evaluators.parts.proxies import PROXIES
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ZeroCost
from evonas.recipe import options
from evonas.recipe.registry import Registry
from evonas.testing import check_evaluator
from evonas.training.loop import Normalize, seeded
from evonas.trial import Trial

QUICK = partial(Train, epochs=1, batch_size=30)
COSTS = SPACE.costs(trial().architecture, data().task)


class Untrained(Evaluator):
    """Has nothing but a final training."""

    metrics = ("val_accuracy",)

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        if trial.proposal.stage == "search":
            raise NotImplementedError("a trial was trained")
        return {"val_accuracy": float(trial.proposal.repeat)}


def scores(given: Trial, seed: int = 0, **how: Any) -> Mapping[str, float]:
    """The metrics of a trial that is not trained."""
    return evaluate(ZeroCost(context(seed=seed), Untrained, training=False, **how), given)[0]


def test_it_keeps_the_contract_beside_a_training_and_alone() -> None:
    for training in (True, False):
        assert check_evaluator(partial(ZeroCost, of=QUICK, training=training)) == []


def test_the_proxies_stand_beside_the_metrics_of_the_training() -> None:
    evaluator = ZeroCost(context(), of=QUICK, proxies=("snip", "naswot"))
    metrics, curve = evaluate(evaluator, trial())
    alone, alone_curve = evaluate(QUICK(context()), trial())
    assert evaluator.metrics == (*alone, "snip", "naswot")
    assert set(metrics) == set(evaluator.metrics)
    assert {name: metrics[name] for name in alone} == alone
    assert curve == alone_curve


def test_without_training_there_are_costs_and_proxies_alone() -> None:
    evaluator = ZeroCost(context(), Untrained, training=False)
    metrics, curve = evaluate(evaluator, trial())
    assert evaluator.metrics == (*COSTS, *PROXIES)
    assert set(metrics) == set(evaluator.metrics)
    assert {name: metrics[name] for name in COSTS} == COSTS
    assert curve == []


def test_the_end_is_that_of_the_inner_evaluator() -> None:
    evaluator = ZeroCost(context(), Untrained, training=False)
    assert evaluate(evaluator, final(repeat=7)) == ({"val_accuracy": 7.0}, [])


def test_the_proxies_see_a_normalised_batch_and_the_first_weights_of_the_trial() -> None:
    world = data()
    drawn = torch.randperm(len(world.train), generator=torch.Generator().manual_seed(3))[:10]
    images = world.train.images[drawn].permute(0, 3, 1, 2)
    images = Normalize(*world.channel_statistics())(images).contiguous()
    with seeded(zlib.crc32(b"3/5"), "cpu"):
        network = SPACE.build(trial().architecture, world.task)
    by_hand = {n: proxy(network, images, world.train.labels[drawn]) for n, proxy in PROXIES.items()}
    assert scores(trial(5), seed=3, batch_size=10) == COSTS | by_hand


def test_a_score_depends_on_its_trial_not_on_the_other_proxies() -> None:
    both, one = scores(trial()), scores(trial(), proxies=("naswot",))
    assert one == COSTS | {"naswot": both["naswot"]}
    assert scores(trial(1))["snip"] != both["snip"]


def test_a_batch_larger_than_the_data_is_all_of_the_data() -> None:
    assert scores(trial(), batch_size=1000) == scores(trial(), batch_size=len(data().train))


def test_it_nests_in_another_wrapper() -> None:
    inner = partial(ZeroCost, of=Untrained, proxies=("synflow",), training=False)
    reduced = Reduced(context(), of=inner, resolution=4)
    metrics, _ = evaluate(reduced, trial())
    assert reduced.metrics == (*COSTS, "synflow")
    assert metrics["flops"] == COSTS["flops"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"batch_size": 1},
            "evaluation.batch_size: Input should be greater than or equal to 2, not 1",
        ),
        ({"proxies": ()}, "evaluation.proxies: must be one or more different names, not []"),
        (
            {"proxies": ("snip", "snip")},
            "evaluation.proxies: must be one or more different names, not [snip, snip]",
        ),
    ],
)
def test_impossible_options_are_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as refused:
        make(ZeroCost, context(), Untrained, **given)
    assert str(refused.value) == line


def test_without_data_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="zero_cost needs a dataset section"):
        ZeroCost(context(data=None), Untrained)


def test_a_recipe_finds_it_and_an_unknown_proxy_is_refused() -> None:
    found = Registry().find("evaluator", "zero_cost")
    assert found is ZeroCost
    written = {"of": {"name": "train"}, "proxies": ["naswot", "snip"]}
    assert options.check(found, written, "evaluation")["proxies"] == ("naswot", "snip")
    with pytest.raises(RecipeError, match=r"evaluation\.proxies\.0: .*'synflow', 'snip'"):
        options.check(found, written | {"proxies": ["sinflow"]}, "evaluation")
