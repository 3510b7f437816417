"""Convolutional networks for small images: what each choice does."""

from __future__ import annotations

import pytest
import torch
from spaces_helper import assert_counted
from torch import nn

from evonas.architecture import Value
from evonas.spaces.base import Task
from evonas.spaces.cnn import CNN
from evonas.spaces.parts.blocks import ACTIVATIONS
from evonas.training.inheritance import transplant

SPACE = CNN()
TASK = Task(channels=3, height=32, width=32, classes=10)
PLAIN: dict[str, Value] = {"activation": "silu", "shortcut": True}
PLAIN |= {f"{name}{i}": value for i in range(1, 5) for name, value in (("depth", 2), ("width", 16))}
PLAIN |= {f"{name}{i}": value for i in range(1, 5) for name, value in (("kernel", 3), ("se", True))}
PLAIN |= {"down2": "max_pool", "down3": "avg_pool", "down4": "stride"}


def built(task: Task = TASK, **changed: Value) -> nn.Module:
    return SPACE.build(SPACE.architecture({**PLAIN, **changed}), task)


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_are_counted_as_built(activation: str, shortcut: bool) -> None:
    choices = {**PLAIN, "activation": activation, "shortcut": shortcut}
    assert_counted(SPACE, SPACE.architecture(choices), TASK)


@pytest.mark.parametrize(("down", "side"), [("max_pool", 4), ("stride", 4), ("none", 8)])
def test_a_stage_halves_the_size_or_keeps_it(down: str, side: int) -> None:
    network = built(down4=down)
    features = nn.Sequential(*list(network.children())[:-3])
    assert features(torch.randn(2, *TASK.input_shape)).shape == (2, 16, side, side)


def test_images_that_cannot_be_halved_further_are_not() -> None:
    tiny = Task(channels=1, height=3, width=2, classes=4)
    assert built(tiny)(torch.randn(2, 1, 3, 2)).shape == (2, 4)


def test_a_shortcut_adds_what_is_read_and_changes_no_name() -> None:
    torch.manual_seed(0)
    with_it, without = built().eval(), built(shortcut=False).eval()
    assert shapes(with_it) == shapes(without)
    without.load_state_dict(with_it.state_dict())
    x = torch.randn(2, 16, 8, 8)
    block, alone = (network.get_submodule("stage3_block2") for network in (with_it, without))
    torch.testing.assert_close(block(x), alone(x) + x)


def test_a_child_inherits_through_another_activation_and_shortcut() -> None:
    parent, child = built(), built(activation="relu", shortcut=False)
    assert transplant(child, parent.state_dict()) == 1
    for name, value in child.named_parameters():
        assert torch.equal(value, parent.state_dict()[name]), name
