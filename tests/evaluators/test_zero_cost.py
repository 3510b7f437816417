"""Zero-cost proxies as an evaluator: metrics beside a training's, or instead of them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any, get_args

import pytest
import torch
from evaluators_helper import SPACE, Untrained, context, data, evaluate, final, make, trial
from torch import nn

from evonas.architecture import Architecture, Categorical
from evonas.errors import RecipeError
from evonas.evaluators.parts.proxies import PROXIES, Undefined
from evonas.evaluators.parts.ranks import rank_sum
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ProxyName, ZeroCost
from evonas.recipe import options
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.testing import check_evaluator
from evonas.training.loop import Normalize, seeded
from evonas.trial import Limit, Proposal, Trial

ALL = get_args(ProxyName)
QUICK = partial(Train, epochs=1, batch_size=30)
FEW = min(SPACE.costs(SPACE.sample(Random(n)), data().task)["params"] for n in range(20))
COSTS = SPACE.costs(trial().architecture, data().task)


class MostlyDead(SearchSpace):
    """A linear classifier behind rectifiers that, but for one network of four, are never on."""

    domains: Mapping[str, Categorical] = {"alive": Categorical((0, 1, 2, 3))}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        alive = architecture.choices["alive"] == 0
        shift = nn.Threshold(0.0 if alive else math.inf, -1.0)
        features = math.prod(task.input_shape)
        return nn.Sequential(shift, nn.ReLU(), nn.Flatten(), nn.Linear(features, task.classes))


def scores(given: Trial, seed: int = 0, **how: Any) -> Mapping[str, float]:
    """The metrics of a trial that is not trained."""
    return evaluate(ZeroCost(context(seed=seed), Untrained, training=False, **how), given)[0]


def test_it_keeps_the_contract_beside_a_training_and_alone() -> None:
    for training in (True, False):
        assert check_evaluator(partial(ZeroCost, of=QUICK, training=training)) == []
    ranked = partial(ZeroCost, of=QUICK, proxies=("snip", "swap"), reference=3, training=False)
    assert check_evaluator(ranked) == []


def test_the_proxies_stand_beside_the_metrics_of_the_training() -> None:
    evaluator = ZeroCost(context(), of=QUICK, proxies=("snip", "naswot"))
    metrics, curve = evaluate(evaluator, trial())
    alone, alone_curve = evaluate(QUICK(context()), trial())
    assert evaluator.metrics == (*alone, "snip", "naswot")
    assert set(metrics) == set(evaluator.metrics)
    assert {name: metrics[name] for name in alone} == alone
    assert curve == alone_curve


def test_without_training_there_are_costs_and_proxies_alone() -> None:
    evaluator = ZeroCost(context(), Untrained, proxies=ALL, training=False)
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
    assert scores(trial(5), seed=3, batch_size=10, proxies=ALL) == COSTS | by_hand


def test_a_score_depends_on_its_trial_not_on_the_other_proxies() -> None:
    both, one = scores(trial()), scores(trial(), proxies=("naswot",))
    assert one == COSTS | {"naswot": both["naswot"]}
    assert scores(trial(1))["snip"] != both["snip"]


def test_a_batch_larger_than_the_data_is_all_of_the_data() -> None:
    assert scores(trial(), batch_size=1000) == scores(trial(), batch_size=len(data().train))


@pytest.mark.parametrize("most", [math.inf, FEW])
def test_trials_are_ranked_in_one_population_within_the_limits(most: float) -> None:
    names, rng = ("snip", "swap"), Random("3/reference")
    world = context(seed=3, limits={"params": Limit(max=most), "seconds": Limit(max=1.0)})
    space = SPACE.limited({"params": Limit(max=most)}, data().task)
    unranked = ZeroCost(world, Untrained, names, training=False)
    reference: dict[str, list[float]] = {name: [] for name in names}
    for number in range(5):
        with seeded(zlib.crc32(f"3/reference/{number}".encode()), "cpu"):
            network = SPACE.build(space.sample(rng), data().task)
        for name in names:
            reference[name].append(PROXIES[name](network, *unranked._batch))
    evaluator = ZeroCost(world, Untrained, names, reference=5, training=False)
    assert evaluator.metrics == (*COSTS, *names, "rank_sum")
    population = {name: sorted(values) for name, values in reference.items()}
    for number in range(3):
        architecture = SPACE.sample(Random(number))
        metrics, _ = evaluate(evaluator, Trial(number, Proposal(architecture)))
        expected = rank_sum({name: metrics[name] for name in names}, population)
        assert metrics["rank_sum"] == expected


def test_a_rank_is_the_same_in_any_worker_and_order() -> None:
    def ranked(numbers: range) -> dict[int, float]:
        world = context(seed=1)
        evaluator = ZeroCost(world, Untrained, ("snip", "norms"), reference=4, training=False)
        return {n: evaluate(evaluator, trial(n))[0]["rank_sum"] for n in numbers}

    here, there = ranked(range(4)), ranked(range(3, -1, -1))
    assert here == there
    assert len(set(here.values())) > 1


def test_a_reference_network_without_a_value_ranks_last_and_such_a_trial_fails() -> None:
    space = MostlyDead()
    world = context(space, data=data())
    evaluator = ZeroCost(world, Untrained, ("naswot",), reference=8, training=False)
    alive, dead = (space.architecture({"alive": n}) for n in (0, 1))
    rng = Random("0/reference")
    drawn = [space.sample(rng).choices["alive"] for _ in range(8)]
    assert 0 < drawn.count(0) < 8
    metrics, _ = evaluate(evaluator, Trial(0, Proposal(alive)))
    lowest = 1 + 8 - drawn.count(0)
    assert math.log(lowest / 9) <= metrics["rank_sum"] <= 0
    with pytest.raises(Undefined, match="naswot"):
        evaluate(evaluator, Trial(1, Proposal(dead)))


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
            {"reference": -1},
            "evaluation.reference: Input should be greater than or equal to 0, not -1",
        ),
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


@pytest.mark.parametrize("name", ALL)
def test_what_a_proxy_is_worth_beside_the_parameters_stands_with_it(name: str) -> None:
    assert "Beside the number of parameters: " in (PROXIES[name].__doc__ or "")
    assert name in (ZeroCost.__doc__ or "").partition("Args:")[0]  # what `evonas show` prints


def test_a_recipe_finds_it_and_an_unknown_proxy_is_refused() -> None:
    assert tuple(PROXIES) == ALL
    found = Registry().find("evaluator", "zero_cost")
    assert found is ZeroCost
    written = {"of": {"name": "train"}, "proxies": ["naswot", "snip"]}
    assert options.check(found, written, "evaluation")["proxies"] == ("naswot", "snip")
    with pytest.raises(RecipeError, match=r"evaluation\.proxies\.0: .*'synflow', 'snip'"):
        options.check(found, written | {"proxies": ["sinflow"]}, "evaluation")
