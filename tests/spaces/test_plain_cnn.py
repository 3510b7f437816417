"""Plain CNNs: options, the network's layers, parameters by hand."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from evonas.errors import InvalidArchitecture, RecipeError
from evonas.recipe.options import bind
from evonas.recipe.registry import Registry
from evonas.recipe.schema import SpaceSection
from evonas.spaces.base import Task
from evonas.spaces.plain_cnn import PlainCNN

TASK = Task(channels=3, height=16, width=16, classes=10)


def test_layers_follow_the_choices() -> None:
    space = PlainCNN()
    choices = {"k1": 1, "k2": 3, "k3": 2, "k4": 1, "c1": 4, "c2": 8, "c3": 12, "c4": 16}
    network = space.build(space.architecture(choices), TASK)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [4, 8, 8, 8, 12, 12, 16]
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 3
    inputs = [3, 4, 8, 8, 8, 12, 12]
    weights = sum(9 * i * c.out_channels for i, c in zip(inputs, convolutions, strict=True))
    per_channel = sum(3 * c.out_channels for c in convolutions)
    expected = weights + per_channel + (16 + 1) * 10
    assert sum(p.numel() for p in network.parameters()) == expected


def test_a_small_image_is_pooled_less_often() -> None:
    space = PlainCNN()
    network = space.build(space.point("small"), Task(1, 2, 2, 2))
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 1
    assert network(torch.randn(2, 1, 2, 2)).shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 0}, r"space\.max_depth: .*not 0"),
        ({"max_width": 3}, r"space\.max_width: .*not 3"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bind(Registry(), "space", SpaceSection(name="plain_cnn", **options), "space")()


def test_options_bound_the_choices() -> None:
    space = PlainCNN(max_depth=2, max_width=20)
    assert space.size() == (2 * 5) ** 4
    for seed in range(100):
        choices = space.sample(Random(seed)).choices
        assert all(1 <= int(choices[f"k{i}"]) <= 2 for i in range(1, 5))
        assert all(int(choices[f"c{i}"]) in range(4, 21, 4) for i in range(1, 5))
    with pytest.raises(InvalidArchitecture, match="k1"):
        space.architecture({**space.sample(Random(0)).choices, "k1": 3})


def test_the_named_point_may_exceed_what_is_searched() -> None:
    assert PlainCNN(max_width=28, max_depth=1).point("small") == PlainCNN().point("small")


def test_narrower_networks() -> None:
    space = PlainCNN()
    half = space.scaled(space.point("small"), 0.5)
    assert [half.choices[f"c{i}"] for i in range(1, 5)] == [4, 4, 8, 16]
    assert space.build(half, TASK)(torch.randn(2, 3, 16, 16)).shape == (2, 10)
