"""Choices of the training beside those of the network."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from evonas.architecture import Architecture, Categorical
from evonas.errors import RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run as runs
from evonas.runs.assemble import assemble
from evonas.runs.journal import read_journal
from evonas.runs.network import read as read_network
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.darts import DARTS
from evonas.spaces.mbconv import MBConv
from evonas.spaces.parts.tuned import Tuned, domain, training_choices
from evonas.spaces.plain_cnn import PlainCNN
from evonas.spaces.regnet import RegNet
from evonas.spaces.sequential import Sequential
from evonas.testing import check_space
from evonas.trial import Limit

TRAINING = {
    "learning_rate": domain([0.02, 0.2, "log"]),
    "augmentation": domain(["none", "crop", "standard"]),
}
TASK = Task(3, 16, 16, 10)


@pytest.mark.parametrize(
    "make", [MBConv, Sequential, pytest.param(RegNet, marks=pytest.mark.slow), partial(DARTS, 4)]
)
def test_it_keeps_the_contract(make: Any) -> None:
    space = Tuned(make(), TRAINING)
    assert check_space(space, points=3) == []
    assert space.name == make().name
    assert space.size() == make().size() * 9 * 3


def test_a_range_is_a_ladder() -> None:
    rates = domain([0.01, 1.0, "log"])
    assert rates.ordered
    assert rates.values()[0] == 0.01
    assert rates.values()[-1] == 1.0
    assert rates.values()[4] == pytest.approx(0.1)
    assert domain([0.0, 0.4, "linear"]).values() == pytest.approx([0.05 * n for n in range(9)])
    assert domain([1e-3, 1e-4]) == Categorical((1e-4, 1e-3), ordered=True)
    assert not domain(["crop", "none"]).ordered


@pytest.mark.parametrize("values", [[0.2, 0.02, "log"], [0.0, 0.2, "log"], [1, 1, "linear"]])
def test_what_does_not_rise_is_no_range(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="is no range"):
        domain(values)


def test_the_network_does_not_know() -> None:
    space, plain = Tuned(MBConv(), TRAINING), MBConv()
    architecture = space.sample(Random(0))
    assert set(training_choices(architecture)) == set(TRAINING)
    network = space.network(architecture)
    assert plain.architecture(network.choices).id == network.id
    assert space.costs(architecture, TASK) == plain.costs(network, TASK)
    wider = space.scaled(architecture, width=2)
    assert training_choices(wider) == training_choices(architecture)
    assert space.network(wider).id == plain.scaled(network, width=2).id


def changed(a: Architecture, b: Architecture) -> set[str]:
    return {name for name in a.choices if a.choices[name] != b.choices[name]}


def test_children_change_either() -> None:
    space = Tuned(PlainCNN(), TRAINING)
    parent, other = space.sample(Random(0)), space.sample(Random(1))
    steps = Counter(frozenset(changed(parent, space.mutate(parent, Random(n)))) for n in range(400))
    assert all(len(step) == 1 for step in steps)
    of_training = sum(n for step, n in steps.items() if min(step).startswith("training."))
    assert of_training / 400 == pytest.approx(2 / 10, abs=0.06)  # two of ten choices
    child = space.crossover(parent, other, Random(3))
    for name, value in child.choices.items():
        assert value in (parent.choices[name], other.choices[name])


def test_limits_are_the_networks() -> None:
    space: SearchSpace = Tuned(MBConv(), TRAINING).limited({"params": Limit(max=50_000)}, TASK)
    parent = space.sample(Random(0))
    for n in range(20):
        parent = space.mutate(parent, Random(n))
        assert space.costs(parent, TASK)["params"] <= 50_000


RECIPE: dict[str, Any] = {
    "name": "tuned",
    "dataset": {"name": "npz", "path": "images.npz", "validation": 0.4},
    "space": {
        "name": "plain_cnn",
        "max_depth": 1,
        "max_width": 8,
        "training": {"learning_rate": [0.01, 0.1, "log"], "weight_decay": [0.0, 0.001]},
    },
    "strategy": {"name": "guided_evolution"},
    "evaluation": {"name": "train", "epochs": 1, "batch_size": 16},
    "budget": {"trials": 12},
    "tracking": "console",
}


def images() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8, 3), np.uint8), np.arange(60) % 2
    np.savez("images.npz", x_train=x, y_train=y, x_test=x, y_test=y)


def test_a_search_over_both_from_recipe_to_network() -> None:
    images()
    recipe = reading.validate(RECIPE, "here")
    folder = runs.start(recipe, Registry(), Path("run")).run_dir
    _, events = read_journal(folder)
    rates = {event.architecture.choices["training.learning_rate"] for event in events}
    assert len(rates) > 2
    assert reading.load(folder / reading.FILE).space.training == RECIPE["space"]["training"]
    assert read_network(folder).predict(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 2)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"space": {"training": {"rate": [1, 2]}}}, r"space\.training\.rate"),
        ({"space": {"training": {"learning_rate": [0.1]}}}, r"space\.training\.learning_rate"),
        ({"space": {"training": {"learning_rate": [2, 1, "log"]}}}, "from 2 to 1 is no range"),
        (
            {"space": {"training": {"learning_rate": [-1, 1]}}},
            r"training\.learning_rate: .*0",
        ),
        ({"space": {"training": {"augmentation": ["none", "all"]}}}, r"training\.augmentation: "),
        (
            {"evaluation": {"name": "supernet", "epochs": 1, "of": "train"}},
            "space.training: evaluation 'supernet' trains no network by it",
        ),
        (
            {"evaluation": {"name": "zero_cost", "training": False, "of": "train"}},
            "space.training: evaluation 'zero_cost' trains no network by it",
        ),
    ],
)
def test_what_nothing_would_follow_is_refused(changes: dict[str, Any], complaint: str) -> None:
    images()
    content = {**RECIPE, **changes}
    content["space"] = {**RECIPE["space"], **changes.get("space", {})}
    if content["evaluation"]["name"] == "zero_cost":
        content |= {"objectives": {"synflow": "max"}}
    with pytest.raises(RecipeError, match=complaint):
        assemble(reading.validate(content, "here"), Registry(), Path("run"))
