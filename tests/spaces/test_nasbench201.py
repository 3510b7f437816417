"""NAS-Bench-201 cells: the graph that the choices draw."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.spaces.base import Task
from evonas.spaces.nasbench201 import EDGES, OPERATIONS, NASBench201, _Cell

TASK = Task(channels=3, height=16, width=16, classes=10)


def uniform(operation: str, **others: str) -> Architecture:
    choices = {f"edge_{i}_{j}": operation for i, j in EDGES} | others
    return NASBench201().architecture(choices)


def cell(architecture: Architecture, channels: int = 2) -> nn.Module:
    operations = {(i, j): str(architecture.choices[f"edge_{i}_{j}"]) for i, j in EDGES}
    return _Cell(operations, channels).eval()


def test_the_space_has_the_size_of_the_benchmark() -> None:
    assert NASBench201().size() == len(OPERATIONS) ** len(EDGES) == 15_625


def test_a_cell_of_skips_counts_the_paths() -> None:
    x = torch.randn(1, 2, 4, 4)
    assert torch.allclose(cell(uniform("skip_connect"))(x), 4 * x)  # 0-3, 0-1-3, 0-2-3, 0-1-2-3


def test_a_cell_without_edges_gives_zeros() -> None:
    x = torch.randn(1, 2, 4, 4)
    assert not cell(uniform("none"))(x).any()


@pytest.mark.parametrize(
    ("edges", "paths"),
    [
        (("edge_0_3",), 1),
        (("edge_0_1", "edge_1_3"), 1),
        (("edge_0_1", "edge_1_2", "edge_2_3"), 1),
        (("edge_0_1", "edge_1_2"), 0),  # a dead end
        (("edge_0_3", "edge_0_2", "edge_2_3"), 2),
    ],
)
def test_edges_connect_the_nodes_in_their_names(edges: tuple[str, ...], paths: int) -> None:
    x = torch.randn(1, 2, 4, 4)
    drawn = uniform("none", **dict.fromkeys(edges, "skip_connect"))
    assert torch.allclose(cell(drawn)(x), paths * x)


def test_average_pooling_ignores_the_padding() -> None:
    only = uniform("none", edge_0_3="avg_pool_3x3")
    ones = torch.ones(1, 2, 4, 4)
    assert torch.allclose(cell(only)(ones), ones)


@pytest.mark.parametrize(("name", "kernel"), [("nor_conv_1x1", 1), ("nor_conv_3x3", 3)])
def test_convolutions_are_relu_conv_bn(name: str, kernel: int) -> None:
    built = cell(uniform("none", edge_0_3=name))
    (convolution,) = (m for m in built.modules() if isinstance(m, nn.Conv2d))
    assert convolution.kernel_size == (kernel, kernel)
    assert convolution.bias is None
    negative = -torch.rand(1, 2, 4, 4)
    assert not built(negative).any()  # ReLU comes first, and a fresh normalisation shifts nothing


def test_three_stages_double_the_channels_and_halve_the_size() -> None:
    space = NASBench201(channels=4, cells=2)
    network = space.build(uniform("skip_connect"), TASK)
    sizes: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, _Cell):
            module.register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape[1:])))
    network(torch.randn(2, 3, 16, 16))
    assert sizes == [(4, 16, 16)] * 2 + [(8, 8, 8)] * 2 + [(16, 4, 4)] * 2


@pytest.mark.parametrize("size", [1, 7, 28])
def test_odd_sizes(size: int) -> None:
    space = NASBench201(channels=2, cells=1)
    network = space.build(space.sample(Random(size)), Task(1, size, size, 3))
    assert network.eval()(torch.randn(2, 1, size, size)).shape == (2, 3)


def test_impossible_options_are_refused() -> None:
    for options in ({"channels": 0}, {"cells": 0}):
        with pytest.raises(RecipeError, match=rf"space\.{next(iter(options))}: .*not 0"):
            NASBench201(**options)


def test_it_has_no_width() -> None:
    space = NASBench201()
    with pytest.raises(InvalidArchitecture, match="no choice with role 'width'"):
        space.scaled(space.sample(Random(0)), 0.5)
