"""MBConv networks: options, blocks, the study's points."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from evonas.errors import RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.parts.layers import Added

TASK = Task(channels=3, height=16, width=16, classes=10)


def test_blocks_follow_the_choices() -> None:
    space = MBConv()
    network = space.build(space.point("model8"), TASK)
    blocks = [m for m in network.modules() if isinstance(m, Added)]
    shapes = [(b.body[0][0].in_channels, b.body[2][0].out_channels) for b in blocks]  # type: ignore[index,union-attr]
    assert shapes == [(32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    inner = [b.body[1][0].groups for b in blocks]  # type: ignore[index,union-attr]
    assert inner == [4 * inputs for inputs, _ in shapes]
    assert [isinstance(b.shortcut, nn.Identity) for b in blocks] == [a == b for a, b in shapes]
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 3


def test_the_expansion_sets_the_inner_width() -> None:
    space = MBConv(max_depth=1, max_width=16)
    choices = dict(space.sample(Random(0)).choices)
    counted = []
    for expansion in (1, 2, 3, 4, 6):
        architecture = space.architecture({**choices, "expansion2": expansion})
        block = [m for m in space.build(architecture, TASK).modules() if isinstance(m, Added)][1]
        inner = int(choices["channels1"]) * expansion
        assert block.body[0][0].out_channels == inner  # type: ignore[index,union-attr]
        counted.append(sum(p.numel() for p in block.parameters()))
    assert counted == sorted(counted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 0}, r"space\.max_depth: .*not 0"),
        ({"max_width": 7}, r"space\.max_width: .*7"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(MBConv, options, "space")


@pytest.mark.parametrize("options", [{}, {"max_depth": 2}, {"max_width": 300}])
def test_the_named_points_are_in_the_space(options: dict[str, int]) -> None:
    space = MBConv(**options)
    assert list(space.points) == ["model4", "model5", "model6", "model7", "model8"]
    assert len({space.point(name).id for name in space.points}) == 5


def test_points_may_exceed_what_is_searched() -> None:
    small = MBConv(max_depth=1, max_width=128)
    assert small.point("model8") == MBConv().point("model8")


def test_the_narrowest_space_still_builds() -> None:
    space = MBConv(max_depth=1, max_width=8)
    assert space.size() == 5**4
    architecture = space.sample(Random(0))
    for height, width in ((1, 1), (2, 9)):
        task = Task(1, height, width, 2)
        assert space.build(architecture, task)(torch.randn(2, 1, height, width)).shape == (2, 2)


def test_narrower_networks() -> None:
    space = MBConv()
    quarter = space.scaled(space.point("model4"), 0.25)
    assert quarter.choices["stem"] == 4
    assert [quarter.choices[f"channels{i}"] for i in range(1, 5)] == [4, 8, 8, 24]
    assert space.build(quarter, TASK)(torch.randn(2, 3, 16, 16)).shape == (2, 10)
