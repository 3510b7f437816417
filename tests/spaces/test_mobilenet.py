"""Mobile networks: what each choice does. Published costs: tests/golden."""

from __future__ import annotations

import pytest
import torch
from spaces_helper import IMAGENET, check_costs
from torch import nn
from torchvision import models

from evonas.errors import RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.mobilenet import MobileNet
from evonas.spaces.parts import layers
from evonas.spaces.parts.blocks import Chain, separable
from evonas.spaces.parts.layers import Layer

SPACE = MobileNet()
TASK = Task(channels=3, height=32, width=32, classes=10)


@pytest.mark.parametrize("multiplier", [0.25, 0.35, 0.5, 0.75, 1.3, 1.4])
def test_the_multiplier_is_that_of_mobilenet_v2(multiplier: float) -> None:
    space = MobileNet(multiplier=multiplier)
    with torch.device("meta"):
        published = models.mobilenet_v2(width_mult=multiplier)
    counted = space.costs(space.point("mobilenet_v2"), IMAGENET)
    assert counted["params"] == sum(p.numel() for p in published.parameters())


def test_a_separable_convolution_by_hand() -> None:
    """3×3, 64×64 pixels, 256 to 256 channels: 2.4e9 multiply-adds, or 2.8e8."""
    task = Task(channels=256, height=64, width=64, classes=2)
    plain = layers.costs({"conv": Layer(nn.Conv2d, 256, 256, 3, padding=1, bias=False)}, task)
    counted = layers.costs({"conv": separable(256, 256)}, task)
    assert plain["flops"] // 2 == 2_415_919_104 == 64 * 64 * 256 * 256 * 9
    assert counted["flops"] // 2 == 277_872_640 == 64 * 64 * 256 * (9 + 256)


def test_costs_are_those_of_the_built_network() -> None:
    check_costs(SPACE, TASK, Task(1, 5, 9, 4))


def test_an_absent_stage_has_no_choices() -> None:
    choices = dict(SPACE.points["mobilenet_v3_small"])
    assert not any(name.endswith("7") for name in SPACE.active(choices) if name != "depth7")
    same = SPACE.architecture(choices | {"kernel7": 5, "se7": "inner", "width7": 64})
    assert same == SPACE.point("mobilenet_v3_small")


def test_a_separable_stage_has_nothing_inside() -> None:
    choices = dict(SPACE.points["mobilenet_v2"]) | {"block3": "separable"}
    one = SPACE.architecture(choices)
    assert one == SPACE.architecture(choices | {"expansion3": 2.0, "se3": "input"})
    with torch.device("meta"):
        network = SPACE.build(one, TASK)
    assert isinstance(network.get_submodule("stage3_separable1"), Chain)


def test_a_deeper_stage_goes_on_like_its_only_block() -> None:
    deeper = SPACE.scaled(SPACE.point("efficientnet_b0"), depth=1.1)
    assert deeper.choices["depth7"] == 2
    assert deeper.choices["others7"] == 6.0


def test_activations_and_gates_are_those_chosen() -> None:
    with torch.device("meta"):
        network = SPACE.build(SPACE.point("mobilenet_v3_large"), TASK)
    kinds = {type(m) for m in network.get_submodule("stage3_inverted1").modules()}
    assert nn.Hardsigmoid in kinds
    assert nn.Hardswish not in kinds
    assert nn.Hardswish in {type(m) for m in network.get_submodule("stage4_inverted1").modules()}


@pytest.mark.parametrize(
    ("option", "value"), [("max_depth", 0), ("max_width", 4), ("multiplier", 0.0)]
)
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"space\.{option}: Input should be"):
        check(MobileNet, {option: value}, "space")
