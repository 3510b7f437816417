"""Layers as data: what is counted is what is built."""

from __future__ import annotations

import pytest
import torch
from liveness import peak_memory
from torch import nn

from evonas.spaces.base import Task
from evonas.spaces.parts import cost, layers
from evonas.spaces.parts.blocks import (
    ConvNorm,
    basic,
    bottleneck,
    inverted,
    mbconv,
    separable,
    squeeze_excitation,
)
from evonas.spaces.parts.layers import Layer, Meter

SIZES = (Task(6, 9, 12, 3), Task(6, 1, 2, 3), Task(6, 16, 16, 3))
SQUEEZE = squeeze_excitation(6, 2)
assert SQUEEZE is not None
BLOCKS: dict[str, Layer] = {
    "convolution": Layer(nn.Conv2d, 6, 8, 3, stride=2, padding=1, groups=2),
    "dilated": Layer(nn.Conv2d, 6, 8, 3, padding=2, dilation=2, bias=False),
    "linear": Layer(nn.Linear, 6, 5),
    "norm": Layer(nn.BatchNorm2d, 6),
    "averaged": Layer(nn.AdaptiveAvgPool2d, 3),
    "conv_norm": ConvNorm(6, 9, 5, 2, 3, bias=True, activation=None),
    "squeeze": SQUEEZE,
    "basic": basic(6, 6),
    "basic_strided": basic(6, 8, 2, 4),
    "bottleneck": bottleneck(6, 12, 4, 2, 2),
    "bottleneck_excited": bottleneck(6, 6, 4, 1, 1, 3, 2),
    "separable": separable(6, 10, 5, 2),
    "inverted": inverted(6, 8, 18, 7, 2, 4),
    "inverted_alone": inverted(6, 6, 6),
    "mbconv": mbconv(6, 8, 12),
}


def whole(name: str) -> dict[str, Layer]:
    """The block between layers that take its place in a network."""
    if name == "linear":
        return {
            "pool": Layer(nn.AdaptiveAvgPool2d, 1),
            "flat": Layer(nn.Flatten),
            name: BLOCKS[name],
        }
    return {name: BLOCKS[name], "after": Layer(nn.MaxPool2d, 3, 2, 1)}


@pytest.mark.parametrize("task", SIZES, ids=lambda t: f"{t.height}x{t.width}")
@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_counted_is_what_is_built(name: str, task: Task) -> None:
    counted = layers.costs(whole(name), task)
    network = layers.network(whole(name))
    assert counted["params"] == cost.params(network, task)
    assert counted["flops"] == cost.flops(network, task)
    assert counted["peak_memory"] == peak_memory(network, task)


@pytest.mark.parametrize("task", SIZES, ids=lambda t: f"{t.height}x{t.width}")
@pytest.mark.parametrize("name", [n for n in BLOCKS if n != "linear"])
def test_the_meter_holds_the_shape_of_the_output(name: str, task: Task) -> None:
    meter = Meter(task)
    BLOCKS[name].cost(meter)
    out = BLOCKS[name].build().eval()(torch.zeros(1, *task.input_shape))
    assert meter.here.shape == tuple(out.shape[1:])


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)]
)
def test_windows_slide_as_torch_has_it(kernel: int, stride: int, padding: int, ceil: bool) -> None:
    for size in range(5, 20):
        meter = Meter(Task(1, size, size + 3, 2))
        meter.pool(kernel, stride, padding, ceil)
        pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
        assert meter.here.shape[1:] == pool(torch.zeros(1, 1, size, size + 3)).shape[2:]


def test_blocks_of_one_shape_can_start_as_the_identity() -> None:
    images = torch.rand(8, 6, 5, 5)
    for tree in (basic(6, 6), bottleneck(6, 6, 4), inverted(6, 6, 12)):
        block = tree.build()
        block.become_identity()
        assert torch.equal(block.train()(images), images)
    for tree in (basic(6, 8), bottleneck(6, 6, 4, 2)):
        block = tree.build().eval()
        before = block(images)
        block.become_identity()
        assert torch.equal(block(images), before)


def test_a_part_without_a_cost_is_a_mistake_of_the_space() -> None:
    with pytest.raises(AttributeError, match="cost"):
        layers.costs({"odd": Layer(nn.PixelShuffle, 2)}, SIZES[0])
