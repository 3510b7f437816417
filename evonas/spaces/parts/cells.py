"""Networks of cells: two inputs, pairwise combinations of hidden states, a concatenation.

The layout is that of NASNet for CIFAR (Zoph, Vasudevan, Shlens and Le, Learning transferable
architectures for scalable image recognition, CVPR 2018), in the details that DARTS gave it (Liu,
Simonyan and Yang, ICLR 2019). Every part is described by layers, and counted by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn

from evonas.spaces.base import Cost, Task
from evonas.spaces.parts import layers
from evonas.spaces.parts.blocks import named_classifier
from evonas.spaces.parts.cell_operations import (
    OPERATIONS,
    FactorizedReduction,
    layers_of,
    relu_conv_norm,
)
from evonas.spaces.parts.layers import Layer

_SIDES = ("left", "right")
INPUTS = (0, 1)  # states: the outputs of the cell before the last and of the last one
STEM = 3  # times the filters of the first cell


def stem(task: Task, filters: int) -> dict[str, Layer]:
    """A 3×3 convolution to three times the filters."""
    return {
        "conv": Layer(nn.Conv2d, task.channels, STEM * filters, 3, padding=1, bias=False),
        "norm": Layer(nn.BatchNorm2d, STEM * filters),
    }


class Element(NamedTuple):
    """Half of a combination: an operation on a hidden state."""

    state: int
    operation: str


Pair = tuple[Element, Element]


@dataclass(frozen=True)
class Cell:
    """What a cell computes.

    Attributes:
        pairs: The sum of the first one's elements is state 2, of the second one's state 3, ….
        output: States that are concatenated.
    """

    pairs: tuple[Pair, ...]
    output: tuple[int, ...]

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """The inputs that have an effect."""
        read = {element.state for pair in self.pairs for element in pair} | set(self.output)
        return tuple(state for state in INPUTS if state in read)

    @property
    def kept(self) -> tuple[int, ...]:
        """The inputs that are concatenated."""
        return tuple(state for state in INPUTS if state in self.output)


@dataclass(frozen=True)
class Stack:
    """A whole network.

    Attributes:
        normal: The cell that keeps the size.
        reduction: The cell that halves it, between two stages.
        repeats: Normal cells per stage.
        filters: Of the first stage; every reduction doubles them.
    """

    normal: Cell
    reduction: Cell
    repeats: tuple[int, ...]
    filters: int

    def build(self, task: Task) -> nn.Module:
        """The network, freshly initialised."""
        cells: dict[str, nn.Module] = {}
        before = last = STEM * self.filters
        for place in self.places():
            cells[place.name] = _Cell(place, before, last)
            before, last = last, len(place.cell.output) * place.filters
        return CellNetwork(stem(task, self.filters), cells, last, task.classes)

    def cost(self, task: Task) -> Cost:
        """What it costs; cells of one kind and size are counted once."""
        costs = [layers.cost(stem(task, self.filters), task)]
        bodies: dict[tuple[int, int], list[Cost]] = {}
        before = last = Task(STEM * self.filters, task.height, task.width, task.classes)
        for place in self.places():
            inside = Task(place.filters, last.height, last.width, task.classes)
            kind = place.stride, place.filters
            if kind not in bodies:
                bodies[kind] = _cost_of_body(place, inside)
            costs += bodies[kind]
            for state in place.cell.reads:
                shape = (before, last)[state]
                costs.append(layers.cost(place.entry(state, shape.channels), shape))
            before, last = last, place.outcome(inside)
        costs.append(layers.cost(named_classifier(last.channels, task.classes), last))
        return Cost(sum(cost.params for cost in costs), sum(cost.flops for cost in costs))

    def places(self) -> Iterator[Place]:
        """The cells in a row. The name of one does not depend on how many come before its stage."""
        filters, reduced = self.filters, False
        for stage, repeats in enumerate(self.repeats, start=1):
            if stage > 1:
                filters *= 2
                yield Place(f"reduction{stage - 1}", self.reduction, filters, 2, reduced)
                reduced = True
            for number in range(1, repeats + 1):
                yield Place(f"stage{stage}_cell{number}", self.normal, filters, 1, reduced)
                reduced = False


class Place(NamedTuple):
    """A cell somewhere in a network.

    Attributes:
        name: Unique within the network.
        cell: What it computes.
        filters: Channels of every hidden state.
        stride: 2 if it halves the size.
        reduced: Whether the cell before it has: its first input is then twice as large.
    """

    name: str
    cell: Cell
    filters: int
    stride: int
    reduced: bool

    def entry(self, state: int, channels: int) -> dict[str, Layer]:
        """What brings an input of so many channels to the cell's size and filters."""
        if state == 0 and self.reduced:
            return {"reduce": Layer(FactorizedReduction, channels, self.filters)}
        return relu_conv_norm(channels, self.filters)

    def operations(self) -> Iterator[tuple[str, int, str]]:
        """Name, state and operation of all that comes between the entries and the concatenation."""
        for made, pair in enumerate(self.cell.pairs, start=len(INPUTS)):
            for side, element in zip(_SIDES, pair, strict=True):
                kind, _ = OPERATIONS[element.operation]
                yield f"{made}_{side}_{kind}", element.state, element.operation
        for state in self.cell.kept:
            yield f"output_{state}", state, "identity"

    def layers(self, state: int, operation: str) -> dict[str, Layer]:
        """Those of an operation on a state; the inputs are as large as before the reduction."""
        return layers_of(operation, self.filters, self.stride if state in INPUTS else 1)

    def outcome(self, inside: Task) -> Task:
        """The shape that it puts out, from that of its inputs after the entries."""
        height, width = (-(-size // self.stride) for size in (inside.height, inside.width))
        return Task(len(self.cell.output) * self.filters, height, width, inside.classes)


def _cost_of_body(place: Place, inside: Task) -> list[Cost]:
    """Of the operations in a cell; equal ones are counted once."""
    made = Task(place.filters, *place.outcome(inside).input_shape[1:], inside.classes)
    known: dict[tuple[bool, str], Cost] = {}
    costs = []
    for _, state, operation in place.operations():
        key = state in INPUTS, operation
        if key not in known:
            shape = inside if state in INPUTS else made
            known[key] = layers.cost(place.layers(state, operation), shape)
        costs.append(known[key])
    return costs


class CellNetwork(nn.Module):
    """A stem, cells that each read what the two before them put out, and a classifier.

    Args:
        stem: Whose output both inputs of the first cell are.
        cells: By name, in a row.
        channels: Of the last one.
        classes: Number of logits.
    """

    def __init__(
        self,
        stem: Mapping[str, Layer],
        cells: Mapping[str, nn.Module],
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.stem = layers.network(stem)
        self.cells = nn.ModuleDict(cells)
        self.head = layers.network(named_classifier(channels, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) to (N, classes)."""
        before = last = self.stem(images)
        for cell in self.cells.values():
            before, last = last, cell(before, last)
        logits: torch.Tensor = self.head(last)
        return logits


class _Cell(nn.Module):
    """Operations are named by the state that they help to make, the side, and their kind."""

    def __init__(self, place: Place, *channels: int) -> None:
        super().__init__()
        self._cell = place.cell
        self.inputs = nn.ModuleDict(
            {str(i): layers.network(place.entry(i, channels[i])) for i in place.cell.reads}
        )
        self.operations = nn.ModuleDict(
            {
                name: layers.network(place.layers(state, operation))
                for name, state, operation in place.operations()
            }
        )

    def forward(self, *outputs: torch.Tensor) -> torch.Tensor:
        """Outputs of the cell before the last, and of the last one, to (N, channels, H, W)."""
        states = {state: self.inputs[str(state)](outputs[state]) for state in self._cell.reads}
        operations = iter(self.operations.values())
        for made, (left, right) in enumerate(self._cell.pairs, start=len(INPUTS)):
            first, second = next(operations), next(operations)
            states[made] = first(states[left.state]) + second(states[right.state])
        for state, operation in zip(self._cell.kept, operations, strict=True):
            states[state] = operation(states[state])
        return torch.cat([states[state] for state in self._cell.output], dim=1)
