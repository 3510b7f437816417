"""Chains of layers: their mutations, and weights that follow a layer that moves."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from spaces_helper import check_costs
from torch import nn

from evonas.architecture import Architecture, Value
from evonas.errors import RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.sequential import Sequential
from evonas.training.inheritance import rename, transplant

SPACE = Sequential(max_layers=5, max_width=32)
TASK = Task(channels=3, height=12, width=12, classes=4)
Chain = list[tuple[str, int, int]]


def of(chain: Chain, space: Sequential = SPACE) -> Architecture:
    choices: dict[str, Value] = {"depth": len(chain)}
    for i in range(1, 6):
        kind, width, kernel = chain[i - 1] if i <= len(chain) else ("conv", 8, 3)
        choices |= {f"type{i}": kind, f"width{i}": width, f"kernel{i}": kernel}
    return space.architecture(choices)


def chain_of(architecture: Architecture) -> Chain:
    c = architecture.choices
    numbers = range(1, int(c["depth"]) + 1)
    return [(str(c[f"type{i}"]), int(c[f"width{i}"]), int(c[f"kernel{i}"])) for i in numbers]


PARENT: Chain = [("conv", 16, 3), ("max_pool", 8, 3), ("separable", 16, 5)]


def test_a_mutation_adds_drops_or_changes_one_layer() -> None:
    parent, moves = of(PARENT), Counter[str]()
    before = chain_of(parent)
    for seed in range(400):
        child = SPACE.mutate(parent, Random(seed))
        after = chain_of(child)
        assert child != parent
        if len(after) == 4:
            moves["add"] += 1
            assert any(after[:i] + after[i + 1 :] == before for i in range(4))
        elif len(after) == 2:
            moves["drop"] += 1
            assert any(before[:i] + before[i + 1 :] == after for i in range(3))
        else:
            moves["change"] += 1
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert min(moves[move] for move in ("add", "drop", "change")) > 80


def test_settings_without_effect_are_fixed() -> None:
    pool = [("max_pool", 8, 3)]
    assert of(pool) == of([("max_pool", 32, 7)])
    assert of([("residual", 16, 3)]) == of([("residual", 16, 7)])
    assert of([("conv", 16, 3)]) != of([("conv", 16, 7)])


def test_size_is_exact() -> None:
    small = Sequential(max_layers=2, max_width=8)
    layers = 2 * 1 * 3 + 1 + 2  # conv and separable of three kernels, residual, two poolings
    assert small.size() == layers + layers**2
    assert len(list(small.enumerate())) == small.size()


def test_costs_are_those_of_the_built_network() -> None:
    check_costs(SPACE, TASK, Task(1, 5, 9, 4))


def test_layers_are_recognised_where_they_have_moved_to() -> None:
    child = [PARENT[0], ("residual", 16, 3), *PARENT[1:]]
    assert SPACE.relatives(of(child), of(PARENT)) == {
        "layer1": "layer1",
        "layer2": None,
        "layer3": "layer2",
        "layer4": "layer3",
    }
    wider = [PARENT[0], PARENT[1], ("separable", 32, 5)]
    assert SPACE.relatives(of(wider), of(PARENT))["layer3"] == "layer3"
    other = [PARENT[0], ("avg_pool", 8, 3), PARENT[2]]
    assert SPACE.relatives(of(other), of(PARENT))["layer2"] is None
    assert SPACE.relatives(of(PARENT[1:]), of(PARENT)) == {"layer1": "layer2", "layer2": "layer3"}


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("layer", [("conv", 16, 5), ("separable", 16, 3), ("residual", 16, 3)])
def test_an_added_layer_leaves_what_is_computed(layer: tuple[str, int, int], place: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(32, 3, 12, 12)
    parent = SPACE.build(of(PARENT), TASK)
    for _ in range(20):
        parent(images)  # for the statistics of the normalisation
    chain = [*PARENT[:place], layer, *PARENT[place:]]
    child = SPACE.build(of(chain), TASK)
    transplant(child, rename(parent.state_dict(), SPACE.relatives(of(chain), of(PARENT))))
    # In training, where an added normalisation undoes itself by the statistics of the batch.
    ours, theirs = child.train()(images), parent.train()(images)
    assert (ours - theirs).abs().max() < 0.02 * theirs.std()


def test_a_dropped_layer_takes_only_its_own_weights() -> None:
    parent = SPACE.build(of(PARENT), TASK)
    short = [PARENT[0], PARENT[2]]
    child = SPACE.build(of(short), TASK)
    moved = SPACE.relatives(of(short), of(PARENT))
    assert transplant(child, rename(parent.state_dict(), moved)) == 1.0
    for ours, theirs in (("layer1", "layer1"), ("layer2", "layer3")):
        weights = [m.get_submodule(n).state_dict() for m, n in ((child, ours), (parent, theirs))]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_the_named_point() -> None:
    space = Sequential()
    network = space.build(space.point("small"), TASK)
    assert [type(m).__name__ for m in network][:6] == [
        "Chain",
        "MaxPool2d",
        "Chain",
        "MaxPool2d",
        "Chain",
        "Added",
    ]
    assert isinstance(network[-1], nn.Linear)


@pytest.mark.parametrize(("option", "value"), [("max_layers", 1), ("max_width", 7)])
def test_options_out_of_range(option: str, value: int) -> None:
    with pytest.raises(RecipeError, match=rf"space\.{option}: Input should be"):
        check(Sequential, {option: value}, "space")
