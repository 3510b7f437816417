"""NAS-Bench-201 cells: the graph that the choices draw."""

from __future__ import annotations

from random import Random

import pytest
import torch
from spaces_helper import check_costs
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.nasbench201 import EDGES, NASBench201

TASK = Task(channels=3, height=16, width=16, classes=10)


def uniform(operation: str, **others: str) -> Architecture:
    choices = {f"edge_{i}_{j}": operation for i, j in EDGES} | others
    return NASBench201().architecture(choices)


def cell(architecture: Architecture, channels: int = 2) -> nn.Module:
    network = NASBench201(channels, cells=1).build(architecture, TASK)
    return network.get_submodule("cells.stage1_cell1").eval()


def test_the_space_has_the_size_of_the_benchmark() -> None:
    assert NASBench201().size() == len(NASBench201.operations) ** len(EDGES) == 15_625


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
    for name, module in network.get_submodule("cells").named_children():
        if not name.startswith("reduction"):
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
            check(NASBench201, options, "space")


def test_the_count_is_that_of_the_network() -> None:
    for space in (NASBench201(channels=3, cells=2), NASBench201(channels=1, cells=1)):
        check_costs(space, TASK, Task(1, 28, 28, 10), Task(3, 5, 9, 4), Task(1, 1, 1, 2))


def test_a_reduction_averages_what_there_is_beside_two_convolutions() -> None:
    network = NASBench201(channels=2, cells=1).build(uniform("none"), TASK)
    reduction = network.get_submodule("cells.reduction1").eval()
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    out, edges = reduction(x), reduction.get_submodule("edges")
    body, shortcut = edges.get_submodule("body"), edges.get_submodule("shortcut")
    means = torch.tensor([[2.0, 3.5], [6.5, 8.0]])  # of 0 1 3 4, 2 5, 6 7 and 8
    pooled = shortcut.get_submodule("pool")(x)
    assert torch.equal(pooled, torch.stack([means, means + 9])[None])
    assert torch.equal(out, body(x) + shortcut(x))
    assert out.shape == (1, 4, 2, 2)


def test_it_has_no_width() -> None:
    space = NASBench201()
    with pytest.raises(InvalidArchitecture, match="no choice with role 'width'"):
        space.scaled(space.sample(Random(0)), 0.5)
