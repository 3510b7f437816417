"""Small networks of the cells that DARTS relaxes: an operation on every edge, nothing pruned.

Liu, Simonyan and Yang, DARTS: differentiable architecture search, ICLR 2019. Complexity-controlled
search takes three such cells, for images of 28×28 or 32×32 pixels: 28 operations to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import nn

from evonas.architecture import Architecture, Categorical, Domain, Value
from evonas.spaces.base import Condition, Cost, SearchSpace, Task, at_least
from evonas.spaces.parts import layers
from evonas.spaces.parts.blocks import named_classifier
from evonas.spaces.parts.cell_operations import FactorizedReduction, layers_of, relu_conv_norm
from evonas.spaces.parts.cells import STEM, CellNetwork, stem
from evonas.spaces.parts.layers import Layer
from evonas.spaces.parts.supernet import Supernet

KINDS: Mapping[str, tuple[str, ...]] = {
    "zero": ("none",),  # the first: what has no effect
    "identity": ("skip_connect",),
    "pooling": ("max_pool_3x3", "avg_pool_3x3"),
    "convolution": ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
}
OPERATIONS = tuple(operation for operations in KINDS.values() for operation in operations)
CELLS = ("normal", "reduction")
INPUTS = (0, 1)  # states: the outputs of the cell before the last and of the last one
NODES = (2, 3, 4, 5)
EDGES = tuple((i, j) for j in NODES for i in range(j))


class DARTS(SearchSpace):
    """A normal and a reduction cell of four nodes, with one of eight operations on every edge.

    Node 2 sums what comes from the inputs 0 and 1, the outputs of the cell before the last and of
    the last cell; node 3 what comes from these and from node 2; and so on to node 5. A cell puts
    out the concatenation of its nodes. The choices are ``normal_0_2``…``normal_4_5`` and
    ``reduction_0_2``…``reduction_4_5``, named by the states that the edge leads from and to. In
    the middle of the network is the reduction cell; it halves the size and doubles the channels.

    Nothing comes from a node that nothing comes to: edges from it have no effect. Nor have the
    reduction cell's if no cell reads it. An input that no edge leads from is not computed. Cells
    are not identified up to isomorphism, so that an edge keeps its place, and its weights.

    The points are ``darts_v2``, the cells that DARTS (second order) found for CIFAR-10, and the
    networks of one operation ``all_sep_conv`` (3×3), ``all_max_pool`` and ``all_skip``.

    Args:
        channels: Of every node before the reduction.
        cells: In a row.
    """

    def __init__(self, channels: int = 16, cells: int = 3) -> None:
        at_least(channels=(channels, 2), cells=(cells, 3))
        self._channels, self._cells, self._middle = channels, cells, cells // 2
        self.domains: dict[str, Domain] = {}
        self.conditions: dict[str, Condition] = {}
        for cell in CELLS:
            for i, j in EDGES:
                self.domains[f"{cell}_{i}_{j}"] = Categorical(OPERATIONS)
                self.conditions[f"{cell}_{i}_{j}"] = partial(self._has_effect, cell, i)
        self.points = _POINTS

    def _has_effect(self, cell: str, state: int, choices: Mapping[str, Any]) -> bool:
        """Whether anything comes along the edges from a state, and out of the cell."""
        if cell == "reduction" and not self._reduces(_edges("normal", choices)):
            return False
        to_it = (choices[f"{cell}_{i}_{state}"] for i in range(state))
        return state in INPUTS or any(operation != "none" for operation in to_it)

    def _reduces(self, normal: tuple[_Edge, ...]) -> bool:
        """Whether the reduction cell is read, by way of the normal ones behind it."""
        return self._middle in _read([normal] * self._cells, self._middle)

    def size(self) -> int:
        """Number of architectures: of normal cells, times that of reduction cells if it is read."""
        empty, one_input, both = (_cells_of(inputs) for inputs in (0, 1, 2))
        before = self._reduces((_Edge(0, 2, "skip_connect"),))
        read = both - one_input + (one_input - empty) * before
        return read * both + (both - read)

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network."""
        cells: dict[str, nn.Module] = {}
        before = last = STEM * self._channels
        for place in self._places(architecture):
            cells[place.name] = _Cell(place, before, last)
            before, last = last, len(NODES) * place.channels
        return CellNetwork(stem(task, self._channels), cells, last, task.classes)

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        """Count it; equal operations at one size are counted once."""
        known: dict[tuple[str, int, Task], Cost] = {}
        costs = [layers.cost(stem(task, self._channels), task)]
        before = last = replace(task, channels=STEM * self._channels)
        for place in self._places(architecture):
            inside = replace(last, channels=place.channels)
            made = place.made(inside)
            for state in place.reads:
                shape = (before, last)[state]
                costs.append(layers.cost(place.entry(state, shape.channels), shape))
            for edge in place.edges:
                shape = inside if edge.start in INPUTS else made
                key = edge.operation, place.stride_of(edge), shape
                if key not in known:
                    known[key] = layers.cost(place.layers(edge), shape)
                costs.append(known[key])
            before, last = last, replace(made, channels=len(NODES) * place.channels)
        costs.append(layers.cost(named_classifier(last.channels, task.classes), last))
        total = Cost(sum(cost.params for cost in costs), sum(cost.flops for cost in costs))
        return total.named()

    def build_supernet(self, task: Task) -> Supernet:
        """Every operation on every edge."""
        uniform = (self.reference(_uniform(operation)) for operation in OPERATIONS)
        return Supernet(self, task, list(uniform))

    def modules(self, architecture: Architecture) -> dict[str, list[str]]:
        """Names of the network's modules that each choice decides: one in every cell of its kind.

        A choice of no operation has none.
        """
        found: dict[str, list[str]] = {name: [] for name in self.domains}
        for number, place in enumerate(self._places(architecture)):
            cell = CELLS[number == self._middle]
            for edge in place.edges:
                choice = f"{cell}_{edge.start}_{edge.end}"
                found[choice].append(f"cells.{place.name}.edges.{_name(edge)}")
        return found

    def _places(self, architecture: Architecture) -> list[_Place]:
        """The cells in a row; one that no other reads has no edges."""
        normal, reduction = (_edges(cell, architecture.choices) for cell in CELLS)
        row = [reduction if i == self._middle else normal for i in range(self._cells)]
        live = _read(row)
        return [
            _Place(
                name=f"cell{i + 1}",
                edges=edges if i in live else (),
                channels=self._channels * (2 if i >= self._middle else 1),
                stride=2 if i == self._middle else 1,
                reduced=i == self._middle + 1,
            )
            for i, edges in enumerate(row)
        ]


def kinds(architecture: Architecture) -> dict[str, int]:
    """How many of an architecture's 28 edges are a pooling, a convolution, an identity, or zero."""
    chosen = list(architecture.choices.values())
    return {kind: sum(map(chosen.count, operations)) for kind, operations in KINDS.items()}


class _Edge(NamedTuple):
    """From a state, to a node, by an operation that is not ``none``."""

    start: int
    end: int
    operation: str


def _edges(cell: str, choices: Mapping[str, Any]) -> tuple[_Edge, ...]:
    operations = ((i, j, str(choices[f"{cell}_{i}_{j}"])) for i, j in EDGES)
    return tuple(_Edge(*edge) for edge in operations if edge[2] != "none")


def _read(cells: list[tuple[_Edge, ...]], first: int = 0) -> set[int]:
    """Places of the cells, from the first one on, that reach the classifier."""
    live = {len(cells) - 1}
    for place in range(len(cells) - 1, first, -1):
        if place in live:
            live |= {place - 2 + edge.start for edge in cells[place] if edge.start in INPUTS}
    return live


def _cells_of(states: int, nodes: int = len(NODES)) -> int:
    """Number of cells with so many states to begin with, and so many nodes to come."""
    if not nodes:
        return 1
    ways: int = len(OPERATIONS) ** states - 1  # to have something come to the next node
    return _cells_of(states, nodes - 1) + ways * _cells_of(states + 1, nodes - 1)


class _Place(NamedTuple):
    """A cell somewhere in a network.

    Attributes:
        name: Unique within the network.
        edges: By node, then by state.
        channels: Of every node.
        stride: 2 if it halves the size.
        reduced: Whether the cell before it has: its first input is then twice as large.
    """

    name: str
    edges: tuple[_Edge, ...]
    channels: int
    stride: int
    reduced: bool

    @property
    def reads(self) -> list[int]:
        """The inputs that an edge leads from."""
        return sorted({edge.start for edge in self.edges} & set(INPUTS))

    def entry(self, state: int, channels: int) -> dict[str, Layer]:
        """What brings an input of so many channels to the cell's size and channels."""
        if state == 0 and self.reduced:
            return {"reduce": Layer(FactorizedReduction, channels, self.channels)}
        return relu_conv_norm(channels, self.channels)

    def stride_of(self, edge: _Edge) -> int:
        """The inputs are as large as before the reduction, the nodes as after it."""
        return self.stride if edge.start in INPUTS else 1

    def layers(self, edge: _Edge) -> dict[str, Layer]:
        """Those of an edge's operation."""
        operation = "identity" if edge.operation == "skip_connect" else edge.operation
        return layers_of(operation, self.channels, self.stride_of(edge))

    def made(self, inside: Task) -> Task:
        """The shape of a node, from that of the inputs after the entries."""
        height, width = (-(-size // self.stride) for size in inside.input_shape[1:])
        return replace(inside, height=height, width=width)


class _Cell(nn.Module):
    """Operations are named by their edge and themselves: weights of one name fit."""

    def __init__(self, place: _Place, *channels: int) -> None:
        super().__init__()
        self._place = place
        self.inputs = nn.ModuleDict(
            {str(i): layers.network(place.entry(i, channels[i])) for i in place.reads}
        )
        self.edges = nn.ModuleDict(
            {_name(edge): layers.network(place.layers(edge)) for edge in place.edges}
        )

    def forward(self, *outputs: torch.Tensor) -> torch.Tensor:
        """Outputs of the cell before the last, and of the last one, to (N, 4 · channels, H, W)."""
        states = {i: self.inputs[str(i)](outputs[i]) for i in self._place.reads}
        for node in NODES:
            incoming = [
                self.edges[_name(edge)](states[edge.start])
                for edge in self._place.edges
                if edge.end == node
            ]
            states[node] = reduce(torch.add, incoming) if incoming else self._zeros(outputs[1])
        return torch.cat([states[node] for node in NODES], dim=1)

    def _zeros(self, last: torch.Tensor) -> torch.Tensor:
        """A node that nothing comes to."""
        height, width = (-(-size // self._place.stride) for size in last.shape[2:])
        return last.new_zeros(len(last), self._place.channels, height, width)


def _name(edge: _Edge) -> str:
    return "_".join(map(str, edge))


def _uniform(operation: str) -> dict[str, Value]:
    return {f"{cell}_{i}_{j}": operation for cell in CELLS for i, j in EDGES}


def _point(**cells: dict[str, str]) -> dict[str, Value]:
    """Choices from the edges of each operation, such as ``"0_2 1_2"``."""
    return _uniform("none") | {
        f"{cell}_{edge}": operation
        for cell, operations in cells.items()
        for operation, edges in operations.items()
        for edge in edges.split()
    }


_POINTS = {
    "darts_v2": _point(
        normal={
            "sep_conv_3x3": "0_2 1_2 0_3 1_3 1_4",
            "skip_connect": "0_4 0_5",
            "dil_conv_3x3": "2_5",
        },
        reduction={"max_pool_3x3": "0_2 1_2 1_3 0_4 1_5", "skip_connect": "2_3 2_4 2_5"},
    ),
    "all_sep_conv": _uniform("sep_conv_3x3"),
    "all_max_pool": _uniform("max_pool_3x3"),
    "all_skip": _uniform("skip_connect"),
}
