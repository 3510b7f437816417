"""The shared pieces: sizes, parameters by the formulas of their docstrings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evonas.spaces.parts import layers
from evonas.spaces.parts.blocks import ConvNorm, mbconv, named_classifier, named_stages
from evonas.spaces.parts.layers import Layer


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_a_convolution_keeps_the_size(kernel: int) -> None:
    out = ConvNorm(3, 6, kernel).build()(torch.randn(2, 3, 5, 8))
    assert out.shape == (2, 6, 5, 8)
    assert out.min() >= 0


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (1, False), (6, True)])
def test_a_convolution_has_the_parameters_it_says(groups: int, bias: bool) -> None:
    block = ConvNorm(6, 12, kernel=3, groups=groups, bias=bias).build()
    assert parameters(block) == 6 * 12 * 9 // groups + 2 * 12 + bias * 12


def test_mbconv_of_equal_channels_adds_its_input_as_it_is() -> None:
    block = mbconv(4, 4, inner=8).build().eval()
    assert isinstance(block.shortcut, nn.Identity)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x + block.body(x))


def test_mbconv_of_other_channels_projects_its_input() -> None:
    block = mbconv(4, 6, inner=8).build()
    assert block(torch.randn(2, 4, 6, 6)).shape == (2, 6, 6, 6)
    expansion, depthwise = 4 * 8 + 3 * 8, 8 * 9 + 3 * 8
    projection, shortcut = 8 * 6 + 3 * 6, 4 * 6 + 6
    assert parameters(block) == expansion + depthwise + projection + shortcut


def test_the_classifier_takes_any_size() -> None:
    head = layers.network(named_classifier(5, 3))
    for size in (1, 4, 7):
        assert head(torch.randn(2, 5, size, size)).shape == (2, 3)
    assert parameters(head) == (5 + 1) * 3


@pytest.mark.parametrize(("size", "pools"), [(1, 0), (2, 1), (3, 1), (4, 2), (8, 3), (32, 3)])
def test_pooling_between_stages_while_there_is_room(size: int, pools: int) -> None:
    relu = Layer(nn.ReLU)
    network = layers.network(named_stages([[relu], [relu], [relu, relu], [relu]], size))
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network) == pools
    assert sum(isinstance(layer, nn.ReLU) for layer in network) == 5
    assert isinstance(network[0], nn.ReLU)
    out = network(torch.randn(1, 2, size, size + 3))
    assert out.shape[2] == max(1, size >> pools)


def test_names_say_where_a_block_is_whatever_comes_before_it() -> None:
    shallow = named_stages([[Layer(nn.ReLU)], [Layer(nn.Tanh)]], size=8)
    deep = named_stages([[Layer(nn.ReLU)] * 3, [Layer(nn.Tanh)]], size=8)
    assert list(shallow) == ["stage1_block1", "pool1", "stage2_block1"]
    assert list(deep) == [*(f"stage1_block{i}" for i in (1, 2, 3)), "pool1", "stage2_block1"]
    assert deep["stage2_block1"].kind is nn.Tanh
    assert list(named_classifier(5, 3)) == ["pool", "flatten", "classifier"]
