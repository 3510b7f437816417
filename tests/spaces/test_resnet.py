"""Residual networks: what each choice does. Published costs: tests/golden."""

from __future__ import annotations

import pytest
import torch
from spaces_helper import IMAGENET, check_costs
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.parts import cost
from evonas.spaces.resnet import ResNet

SPACE = ResNet()
TASK = Task(channels=3, height=32, width=32, classes=10)
FOR_SMALL_IMAGES = ("small_resnet50", "receptive_v1", "receptive_v2", "receptive_v4")


def built(architecture: Architecture, task: Task = TASK) -> nn.Module:
    with torch.device("meta"):
        return SPACE.build(architecture, task)


@pytest.mark.parametrize("name", FOR_SMALL_IMAGES)
def test_points_for_small_images_have_the_parameters_of_resnet50(name: str) -> None:
    assert SPACE.costs(SPACE.point(name), IMAGENET)["params"] == 25_557_032


def test_points_for_small_images_pool_where_they_say() -> None:
    pools = {
        name: [n for n, m in built(SPACE.point(name)).named_children() if "pool" in n]
        for name in ("resnet50", *FOR_SMALL_IMAGES)
    }
    assert pools == {
        "resnet50": ["stem_pool", "pool"],
        "small_resnet50": ["pool"],
        "receptive_v1": ["pool3", "pool"],
        "receptive_v2": ["pool2", "pool3", "pool"],
        "receptive_v4": ["pool2", "pool3", "pool"],
    }


def test_receptive_fields() -> None:
    fields = {
        name: cost.receptive_field(built(SPACE.point(name)), TASK)
        for name in ("resnet18", "resnet50", *FOR_SMALL_IMAGES)
    }
    assert fields["resnet18"] == 435
    assert fields["resnet50"] == 427
    assert fields["small_resnet50"] < fields["receptive_v1"] < fields["receptive_v2"]


def test_costs_are_those_of_the_built_network() -> None:
    check_costs(SPACE, TASK, Task(1, 5, 9, 4))


def test_groups_and_width_of_a_bottleneck() -> None:
    choices = dict(SPACE.points["resnet50"]) | {"width1": 24, "cardinality": 16}
    convolution = built(SPACE.architecture(choices)).get_submodule(
        "stage1_block1.body.spatial.conv"
    )
    assert isinstance(convolution, nn.Conv2d)
    assert (convolution.groups, convolution.out_channels) == (16, 16)


def test_bottleneck_choices_have_no_effect_on_basic_blocks() -> None:
    basic = dict(SPACE.points["resnet18"])
    assert SPACE.architecture(basic) == SPACE.architecture(basic | {"cardinality": 32})
    assert "widening" not in SPACE.active(basic)


def test_a_deeper_child_starts_by_computing_what_its_parent_did() -> None:
    task = Task(3, 16, 16, 4)
    for block in ("basic", "bottleneck"):
        choices = dict(SPACE.points["resnet18"]) | {"block": block, "stem_pool": False}
        choices |= {f"width{i}": 8 for i in range(1, 5)}
        parent = SPACE.build(SPACE.architecture(choices), task).eval()
        child = SPACE.build(SPACE.architecture(choices | {"depth2": 3}), task).eval()
        child.load_state_dict(parent.state_dict(), strict=False)
        child.get_submodule("stage2_block3").become_identity()  # type: ignore[operator]
        images = torch.randn(4, 3, 16, 16)
        assert torch.allclose(parent(images), child(images), atol=1e-5)


@pytest.mark.parametrize(("option", "value"), [("max_depth", 0), ("max_width", 7)])
def test_options_out_of_range(option: str, value: int) -> None:
    with pytest.raises(RecipeError, match=rf"space\.{option}: Input should be"):
        check(ResNet, {option: value}, "space")
