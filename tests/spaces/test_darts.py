"""DARTS cells without pruning: the graph that the choices draw, and what has no effect in it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from random import Random

import pytest
import torch
from spaces_helper import assert_counted
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.darts import DARTS, EDGES, _cell, _count_cells, _edges, count_kinds
from evonas.spaces.parts.cells import Cells, Place

SPACE = DARTS(channels=2)
CIFAR = Task(channels=3, height=32, width=32, classes=10)
FASHION = Task(channels=1, height=28, width=28, classes=10)
TASKS = (
    CIFAR,
    FASHION,
    Task(channels=1, height=8, width=8, classes=2),
    Task(channels=3, height=5, width=9, classes=4),
    Task(channels=1, height=7, width=7, classes=3),
    Task(channels=1, height=1, width=1, classes=3),
)
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: "x".join(map(str, t.input_shape)))


def only(**edges: str) -> Architecture:
    """These operations, and none on the other edges."""
    return SPACE.architecture(dict.fromkeys(SPACE.domains, "none") | edges)


def each(cell: str, operation: str) -> dict[str, str]:
    return {f"{cell}_{i}_{j}": operation for i, j in EDGES}


def drawn(count: int, space: DARTS = SPACE) -> list[Architecture]:
    """Random points, mutants, and networks of few edges."""
    found = [space.sample(Random(seed)) for seed in range(count)]
    found += [space.mutate(parent, Random(seed)) for seed, parent in enumerate(found)]
    for seed in range(count):
        rng = Random(seed)
        choices = {
            name: rng.choice(DARTS.operations) if rng.random() < 0.2 else "none"
            for name in space.domains
        }
        found.append(space.architecture(choices))
    return found


def cell_of(edges: Mapping[str, str], stride: int = 1) -> nn.Module:
    """A cell of two channels whose inputs come in as they are; edges such as ``0_2``."""
    named = {f"normal_{edge}": operation for edge, operation in edges.items()}
    place = Place("cell", _cell(_edges("normal", only(**named).choices)), 2, stride)
    built = Cells(2, [place]).build().get_submodule("cell")
    entries = built.get_submodule("entries")
    for name, _ in list(entries.named_children()):
        setattr(entries, name, nn.Identity())
    return built.eval()


def test_there_are_28_operations_to_choose() -> None:
    assert len(SPACE.domains) == 28
    names = [f"normal_{edge}" for edge in ("0_2", "1_2", "0_3", "1_3", "2_3", "0_4", "1_4", "2_4")]
    assert list(SPACE.domains)[:8] == names
    assert all(domain.values() == DARTS.operations for domain in SPACE.domains.values())


def test_a_cell_of_skips_adds_up_all_that_is_earlier() -> None:
    first, last = torch.randn(2, 1, 2, 4, 4)
    nodes = cell_of({f"{i}_{j}": "skip_connect" for i, j in EDGES})(first, last).split(2, dim=1)
    for node, times in zip(nodes, (1, 2, 4, 8), strict=True):
        assert torch.allclose(node, times * (first + last), atol=1e-6)


@pytest.mark.parametrize(
    ("edges", "nodes"),
    [
        ({"0_2": "skip_connect"}, ("a", "", "", "")),
        ({"1_4": "skip_connect"}, ("", "", "b", "")),
        ({"0_3": "skip_connect", "1_3": "skip_connect"}, ("", "ab", "", "")),
        ({"0_2": "skip_connect", "2_5": "skip_connect"}, ("a", "", "", "a")),
        (
            {"1_2": "skip_connect", "2_3": "skip_connect", "3_4": "skip_connect"},
            ("b", "b", "b", ""),
        ),
        ({}, ("", "", "", "")),
    ],
)
def test_edges_connect_the_states_in_their_names(
    edges: dict[str, str], nodes: tuple[str, ...]
) -> None:
    inputs = dict(zip("ab", torch.randn(2, 3, 2, 5, 4), strict=True))
    found = cell_of(edges)(*inputs.values()).split(2, dim=1)
    for node, names in zip(found, nodes, strict=True):
        expected = sum((inputs[name] for name in names), torch.zeros(3, 2, 5, 4))
        assert torch.allclose(node, expected)


@pytest.mark.parametrize("operation", DARTS.operations)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (7, 7), (1, 1)])
def test_edges_from_the_inputs_halve_the_size_of_a_reduction(
    operation: str, height: int, width: int
) -> None:
    edges = {f"{i}_{j}": operation if i < 2 else "skip_connect" for i, j in EDGES}
    inputs = torch.randn(2, 3, 2, height, width)
    out = cell_of(edges, stride=2)(*inputs)
    assert out.shape == (3, 8, -(-height // 2), -(-width // 2))
    assert out.any() == (operation != "none")


def test_pooling_takes_the_mean_and_the_largest_of_what_there_is() -> None:
    x = torch.rand(1, 2, 4, 4) + 1
    mean = cell_of({"0_2": "avg_pool_3x3"})(torch.ones(1, 2, 4, 4), x)
    largest = cell_of({"1_2": "max_pool_3x3"})(x, -x)
    assert torch.allclose(mean[:, :2], torch.ones(1, 2, 4, 4))
    assert torch.equal(largest[0, :2, 0, 0], -x[0, :, :2, :2].amin((1, 2)))


def test_convolutions_have_the_kernels_in_their_names() -> None:
    for operation, times, dilation in (("sep_conv", 2, 1), ("dil_conv", 1, 2)):
        for kernel in (3, 5):
            built = cell_of({"0_2": f"{operation}_{kernel}x{kernel}"})
            wide = [m for m in built.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
            assert [m.kernel_size for m in wide] == [(kernel, kernel)] * times
            assert {m.dilation for m in wide} == {(dilation, dilation)}


@pytest.mark.parametrize(
    ("cells", "channels"), [(3, [8, 16, 16]), (4, [8, 8, 16, 16]), (5, [8, 8, 16, 16, 16])]
)
def test_the_size_is_halved_and_the_channels_doubled_in_the_middle(
    cells: int, channels: list[int]
) -> None:
    space = DARTS(channels=2, cells=cells)
    network = space.build(space.point("all_skip"), FASHION)
    shapes: list[tuple[int, ...]] = []
    for module in network.get_submodule("cells").children():
        module.register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape[1:])))
    network(torch.randn(2, 1, 28, 28))
    assert shapes == [(8, 28, 28) if c == 8 else (16, 14, 14) for c in channels]


@pytest.mark.parametrize(
    ("name", "params"),
    [("darts_v2", 34_154), ("all_sep_conv", 103_418), ("all_max_pool", 14_266)],
)
def test_the_points_have_their_parameters(name: str, params: int) -> None:
    assert DARTS().costs(DARTS().point(name), CIFAR)["params"] == params


def test_parameters_by_hand() -> None:
    """Of the network of skips, on greyscale images: c channels, then 2c."""
    c = 16
    stem = 9 * 3 * c + 2 * 3 * c
    first = 2 * (3 * c * c + 2 * c)
    middle = (3 * c + 4 * c) * 2 * c + 2 * (2 * 2 * c) + 8 * ((2 * c) ** 2 + 2 * 2 * c)
    last = (4 * c + 8 * c) * 2 * c + 2 * (2 * 2 * c)
    network = DARTS(c).build(DARTS(c).point("all_skip"), FASHION)
    assert sum(p.numel() for p in network.parameters()) == sum(
        (stem, first, middle, last, (8 * c + 1) * 10)
    )


def test_kinds_are_counted() -> None:
    assert count_kinds(SPACE.point("darts_v2")) == {
        "pooling": 5,
        "convolution": 6,
        "identity": 5,
        "zero": 12,
    }
    for architecture in drawn(20):
        assert sum(count_kinds(architecture).values()) == 28
        assert count_kinds(architecture)["zero"] == list(architecture.choices.values()).count(
            "none"
        )


@each_task
def test_the_count_is_that_of_the_built_network(task: Task) -> None:
    for architecture in (*drawn(3), SPACE.point("darts_v2")):
        assert_counted(SPACE, architecture, task)


@pytest.mark.parametrize("cells", [4, 5])
def test_the_count_is_that_of_longer_networks(cells: int) -> None:
    space, task = DARTS(channels=3, cells=cells), TASKS[3]
    for architecture in drawn(2, space):
        assert_counted(space, architecture, task)


@each_task
def test_every_kind_of_network_can_be_trained(task: Task) -> None:
    uniform = [SPACE.architecture(dict.fromkeys(SPACE.domains, o)) for o in DARTS.operations]
    for architecture in uniform:
        logits = SPACE.build(architecture, task)(torch.randn(2, *task.input_shape))
        assert logits.shape == (2, task.classes)
        logits.square().sum().backward()


def test_a_network_without_edges_learns_how_frequent_the_classes_are() -> None:
    network = SPACE.build(only(), FASHION)
    logits = network(torch.randn(3, 1, 28, 28))
    assert torch.equal(logits, logits[:1].expand(3, -1))
    logits[:, 1].sum().backward()
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert gradients["classifier.bias"].tolist() == [0, 3] + [0] * 8
    assert set(gradients) == {"classifier.bias", "classifier.weight"}


def test_nothing_is_built_that_has_no_effect() -> None:
    for architecture in drawn(12):
        network = SPACE.build(architecture, TASKS[2])
        network(torch.randn(2, 1, 8, 8)).square().sum().backward()
        idle = [n for n, p in network.named_parameters() if p.grad is None]
        assert all(name.startswith("stem") for name in idle), idle


def test_edges_from_a_node_that_nothing_comes_to_have_no_effect() -> None:
    some = {"normal_0_2": "skip_connect"}
    dead = {"normal_3_4": "sep_conv_3x3", "normal_4_5": "skip_connect"}
    assert only(**some, **dead) == only(**some)
    assert only(**some, **dead, normal_2_3="max_pool_3x3") != only(
        **some, normal_2_3="max_pool_3x3"
    )


def test_a_reduction_that_is_not_read_has_no_effect() -> None:
    skips = each("reduction", "skip_connect")
    assert only(normal_0_2="skip_connect", **skips) == only(normal_0_2="skip_connect")
    assert only(normal_1_2="skip_connect", **skips) != only(normal_1_2="skip_connect")
    longer = DARTS(channels=2, cells=5)  # the last cell is the second after the reduction
    both = [
        longer.architecture(dict.fromkeys(longer.domains, "none") | {"normal_0_2": "skip_connect"}),
        longer.architecture({**each("normal", "none"), **skips, "normal_0_2": "skip_connect"}),
    ]
    assert both[0] != both[1]


@pytest.mark.parametrize("cells", [3, 4, 5, 6])
def test_cells_that_no_other_reads_are_left_out(cells: int) -> None:
    space = DARTS(channels=2, cells=cells)
    choices = each("normal", "none") | each("reduction", "sep_conv_3x3")
    for edge, step in (("normal_0_2", 2), ("normal_1_2", 1)):
        network = space.build(space.architecture({**choices, edge: "dil_conv_3x3"}), TASKS[2])
        live, middle = {cells}, cells // 2 + 1
        for cell in range(cells, 0, -1):
            if cell in live:
                live |= {cell - 1, cell - 2} if cell == middle else {cell - step}
        found = {n.split(".")[1] for n, _ in network.named_parameters() if n.startswith("cells")}
        assert found == {f"cell{cell}" for cell in live if cell > 0}


def test_the_size_counts_every_network_once() -> None:
    """Brute force over where there are edges, in cells of three nodes; seven operations on each."""
    edges = [f"normal_{i}_{j}" for i, j in EDGES[:9]]
    drawings = itertools.product(("none", "skip_connect"), repeat=len(edges))
    different = {only(**dict(zip(edges, drawing, strict=True))) for drawing in drawings}
    counts = [list(a.choices.values()).count("skip_connect") for a in different]
    assert sum(7**count for count in counts) == _count_cells(2, nodes=3)
    both, one = _count_cells(2), _count_cells(1)
    assert DARTS(cells=3).size() == (both - one) * both + one
    assert DARTS(cells=5).size() == (both - 1) * both + 1
    assert DARTS().size() < len(DARTS.operations) ** 28


def test_whatever_is_drawn_is_canonical_and_differs() -> None:
    for seed, architecture in enumerate(drawn(60)):
        child = SPACE.mutate(architecture, Random(seed))
        assert child != architecture
        assert SPACE.architecture(child.choices) == child


def test_a_path_computes_what_its_own_network_does() -> None:
    task = TASKS[3]
    supernet = SPACE.build_supernet(task)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.uniform_(-0.5, 0.5)
    images = torch.randn(3, *task.input_shape)
    for architecture in (*drawn(4), only(), *map(SPACE.point, SPACE.points)):
        network = supernet.extract(architecture).train()
        assert torch.equal(supernet(images, architecture), network(images))


def test_a_mutant_keeps_the_weights_of_the_edges_that_it_keeps() -> None:
    parent = SPACE.point("all_sep_conv")
    child = SPACE.architecture({**parent.choices, "normal_0_3": "sep_conv_5x5"})
    before, after = (
        {name: p.shape for name, p in SPACE.build(a, CIFAR).named_parameters()}
        for a in (parent, child)
    )
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    assert all(".0_3_sep_conv_3x3." in name for name in gone)
    assert all(".0_3_sep_conv_5x5." in name for name in new)
    assert gone
    assert all(before[name] == after[name] for name in before.keys() & after.keys())


def test_images_of_224_pixels_can_be_used() -> None:
    task = Task(channels=3, height=224, width=224, classes=3)
    network = SPACE.build(SPACE.point("darts_v2"), task)
    network(torch.randn(2, 3, 224, 224)).sum().backward()


def test_edges_are_read_in_the_order_of_their_nodes() -> None:
    choices = only(normal_1_2="skip_connect", normal_0_5="max_pool_3x3").choices
    edges = _edges("normal", choices)
    assert list(edges) == [(1, 2), (0, 5)]
    assert [(edge.name, edge.state) for edge in edges.values()] == [
        ("1_2_skip_connect", 1),
        ("0_5_max_pool_3x3", 0),
    ]


def test_impossible_options_are_refused() -> None:
    for name, value, least in (("channels", 1, 2), ("cells", 2, 3)):
        with pytest.raises(RecipeError, match=rf"space\.{name}: .* equal to {least}, not"):
            check(DARTS, {name: value}, "space")


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(InvalidArchitecture, match="sep_conv_7x7"):
        only(normal_0_2="sep_conv_7x7")


def test_factors_on_the_modules_of_a_choice_reach_every_cell_of_its_kind() -> None:
    """A factor of 0 is the operation ``none``; the edge's modules are those that it lacks."""
    supernet = SPACE.build_supernet(CIFAR)
    images = torch.randn(4, *CIFAR.input_shape)
    whole = SPACE.point("all_max_pool")
    for choice, cells in (("normal_2_4", ["cell1", "cell3"]), ("reduction_0_3", ["cell2"])):
        names = SPACE.modules(whole)[choice]
        assert [name.split(".")[1] for name in names] == cells
        less = SPACE.architecture({**whole.choices, choice: "none"})
        assert SPACE.modules(less)[choice] == []
        factors = {name: torch.tensor(0.0) for name in names}
        assert torch.equal(supernet(images, whole, factors), supernet(images, less))
        ones = {name: torch.tensor(1.0, requires_grad=True) for name in names}
        logits = supernet(images, whole, ones)
        assert torch.equal(logits, supernet(images, whole))
        logits.square().sum().backward()
        assert all(one.grad is not None and one.grad != 0 for one in ones.values())
