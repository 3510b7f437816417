"""Cells as data: any graph is built, run and counted as it is described."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from evonas.spaces.base import Task
from evonas.spaces.parts import cost, layers
from evonas.spaces.parts.cell_operations import OPERATIONS, Operation, relu_conv_norm
from evonas.spaces.parts.cells import Cell, Cells, Edge, Place, stacked
from evonas.spaces.parts.layers import Meter

TASKS = (Task(3, 12, 9, 4), Task(1, 1, 1, 2), Task(2, 7, 8, 3))
CONV = Operation("conv", relu_conv_norm, 3)
IDENTITY = OPERATIONS["identity"]


def drawn(rng: Random, inputs: int) -> Cell:
    """Any graph: nodes of no edge up to three, of which any are put out."""
    nodes = tuple(
        tuple(
            Edge(f"{end}_{i}", rng.randrange(end), rng.choice(list(OPERATIONS.values())))
            for i in range(rng.randrange(4))
        )
        for end in range(inputs, inputs + 4)
    )
    output = tuple(sorted(rng.sample(range(inputs, inputs + 4), rng.randint(1, 4))))
    return Cell(nodes, output, inputs)


def places(rng: Random) -> list[Place]:
    cells = [drawn(rng, rng.randint(1, 2)) for _ in range(3)]
    rows = [(rng.choice(cells), rng.choice((2, 3, 5)), rng.choice((1, 1, 2))) for _ in range(6)]
    return [Place(f"cell{i}", *row) for i, row in enumerate(rows)]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_counted_is_what_is_built(seed: int) -> None:
    rng, task = Random(seed), TASKS[seed % len(TASKS)]
    named = stacked(task, 4, places(rng), norm=layers.Layer(nn.Identity))
    with torch.device("meta"):
        network = layers.network(named)
    counted = layers.costs(named, task)
    assert counted["params"] == cost.params(network, task)
    assert counted["flops"] == cost.flops(network, task)


@pytest.mark.parametrize("seed", range(12))
def test_the_meter_holds_the_shape_of_the_output(seed: int) -> None:
    cells, task = Cells(4, places(Random(seed))), Task(4, 9, 12, 2)
    meter = Meter(task)
    cells.cost(meter)
    out = cells.build().eval()(torch.zeros(1, *task.input_shape))
    assert meter.here.shape == tuple(out.shape[1:])


def test_equal_graphs_at_different_places_are_counted_each() -> None:
    cell = Cell(((Edge("conv", 0, CONV),),), output=(1,), inputs=1, entry=None)
    once, wide, twice = (
        Cells(4, [Place(f"cell{i}", cell, channels) for i, channels in enumerate(row)])
        for row in ((4,), (6,), (4, 6))
    )
    meters = [Meter(Task(4, 8, 8, 2)) for _ in range(3)]
    for cells, meter in zip((once, wide, twice), meters, strict=True):
        cells.cost(meter)
    assert meters[2].params == meters[0].params + meters[1].params
    assert meters[2].flops == meters[0].flops + meters[1].flops
    assert meters[0].flops == 2 * 4 * 4 * 9 * 64


def test_equal_cells_on_maps_of_different_sizes_are_counted_each() -> None:
    cell = Cell(((Edge("conv", 0, CONV),),), output=(1,), inputs=1, entry=None)
    meter = Meter(Task(4, 8, 8, 2))
    Cells(4, [Place(name, cell, 4, stride=2) for name in ("one", "two", "three")]).cost(meter)
    assert meter.flops == 2 * 4 * 4 * 9 * (16 + 4 + 1)


def test_a_cell_of_one_input_reads_the_last_output_and_one_of_two_the_one_before() -> None:
    """Of three cells, the last puts out what the first does where it reads state 0."""
    first = Cell(((Edge("a", 0, IDENTITY), Edge("b", 0, IDENTITY)),), (1,), inputs=1, entry=None)
    for state, times in ((0, 2), (1, 4)):
        last = Cell(((Edge("a", state, IDENTITY),),), (2,))
        row = [Place("one", first, 2), Place("two", first, 2), Place("three", last, 2)]
        network = Cells(2, row).build()
        entries = network.get_submodule("three.entries")
        assert [name for name, _ in entries.named_children()] == [str(state)]
        setattr(entries, str(state), nn.Identity())
        x = torch.randn(2, 2, 4, 4)
        assert torch.equal(network(x), times * x)


def test_an_input_of_before_a_reduction_is_reduced_too() -> None:
    both = Cell(((Edge("a", 0, IDENTITY), Edge("b", 1, IDENTITY)),), (2,))
    row = [Place("one", both, 2), Place("two", both, 4, 2), Place("three", both, 4)]
    network = Cells(3, row).build()
    kinds = {
        f"{place}{state}": list(
            dict(network.get_submodule(f"{place}.entries.{state}").named_children())
        )
        for place in ("two", "three")
        for state in (0, 1)
    }
    plain = ["relu", "conv", "norm"]
    assert kinds == {"two0": plain, "two1": plain, "three0": ["reduce"], "three1": plain}
    assert network(torch.randn(2, 3, 7, 8)).shape == (2, 4, 4, 4)


def test_what_nothing_comes_to_is_zero_and_as_large_as_the_rest() -> None:
    empty = Cell(((), (Edge("a", 0, IDENTITY),)), output=(1, 2), inputs=1, entry=None)
    x = torch.randn(3, 2, 5, 5)
    out = Cells(2, [Place("cell", empty, 2)]).build()(x)
    assert torch.equal(out, torch.cat([torch.zeros(3, 2, 5, 5), x], dim=1))
    nothing = Cells(2, [Place("cell", Cell(((), ()), (2, 3)), 4, 2)]).build()
    assert nothing(x).shape == (3, 8, 3, 3)
    assert not list(nothing.parameters())
