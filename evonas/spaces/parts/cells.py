"""Networks of cells: graphs of operations, described as data, and built and counted from that.

A cell reads what was put out before it. Its states are numbered: first these inputs, then its
nodes, each of them the sum of operations on earlier states; a cell puts out some of its nodes,
concatenated. So it is in NASNet (Zoph, Vasudevan, Shlens and Le, CVPR 2018), in DARTS (Liu,
Simonyan and Yang, ICLR 2019) and in NAS-Bench-201 (Dong and Yang, ICLR 2020).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any, NamedTuple

import torch
from torch import nn

from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import conv, named_classifier
from evonas.spaces.parts.cell_operations import FIT, Operation, described
from evonas.spaces.parts.layers import FeatureMap, Layer, Meter

CELLS = ("normal", "reduction")
INPUTS = (0, 1)  # States of such cells: the outputs of the cell before the last and of the last.
STEM = 3  # The stem has three times the channels of the first cell's nodes.


class Edge(NamedTuple):
    """An operation on a state.

    Attributes:
        name: Unique within its cell; what has one name in two networks shares or inherits weights.
        state: What it reads.
        operation: What it does.
    """

    name: str
    state: int
    operation: Operation


@dataclass(frozen=True, eq=False)
class Cell:
    """The graph of a cell.

    Attributes:
        nodes: Per node, in the order in which they are computed, the edges that it is the sum of;
            it is zero without any.
        output: States that are concatenated, nodes all of them.
        inputs: How many of the last outputs are its first states; the oldest is state 0.
        entry: What every input goes through that an edge reads, so that it fits the others; without
            one there is a single input, taken as it is.
    """

    nodes: tuple[tuple[Edge, ...], ...]
    output: tuple[int, ...]
    inputs: int = len(INPUTS)
    entry: Operation | None = FIT

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Those of all nodes in a row."""
        return tuple(edge for node in self.nodes for edge in node)

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """The inputs that edges read."""
        return tuple(sorted({edge.state for edge in self.edges if edge.state < self.inputs}))


# Of what a cell reads, the oldest first: its channels, and how much larger it is than the last.
_Sources = tuple[tuple[int, int], ...]


class Place(NamedTuple):
    """A cell somewhere in a network.

    Attributes:
        name: Unique within the network.
        cell: What it computes.
        channels: Of every node.
        stride: 2 if edges from the inputs halve the size.
    """

    name: str
    cell: Cell
    channels: int
    stride: int = 1

    @property
    def outputs(self) -> int:
        """Channels that it puts out."""
        return len(self.cell.output) * self.channels

    def parts(self, sources: _Sources) -> tuple[Mapping[str, Layer], Mapping[str, Layer]]:
        """The entries by state, and the edges by name."""
        cell, width = self.cell, self.channels
        entries: dict[str, Layer] = {}
        inputs = {state: channels for state, (channels, _) in enumerate(sources)}
        if cell.entry:
            for state in cell.reads:
                entries[str(state)] = described(cell.entry, inputs[state], width, sources[state][1])
            inputs = dict.fromkeys(inputs, width)
        edges = {
            name: described(operation, inputs[state], width, self.stride)
            if state in inputs
            else described(operation, width, width)
            for name, state, operation in cell.edges
        }
        return entries, edges

    def cost(self, meter: Meter, sources: _Sources, inputs: Sequence[FeatureMap]) -> None:
        """Send the meter through; a state waits until its last reader has run."""
        entries, edges = self.parts(sources)
        cell, states = self.cell, dict(enumerate(inputs))
        for name, entry in entries.items():
            meter.here = states[int(name)]
            with meter.holding(*(states[state] for state in cell.reads if state != int(name))):
                _count(entry, meter)
            states[int(name)] = meter.here
        readers = Counter([*(edge.state for edge in cell.edges), *cell.output])
        for made, node in enumerate(cell.nodes, start=cell.inputs):
            total: FeatureMap | None = None
            for edge in node:
                readers[edge.state] -= 1
                waiting = [states[state] for state in states if readers[state]]
                meter.here = states[edge.state]
                with meter.holding(*waiting, *([total] if total else [])):
                    _count(edges[edge.name], meter)
                    if total:
                        meter.make(*total.shape)
                total = meter.here
            if not node:
                here = inputs[-1]
                sides = (-(-side // self.stride) for side in (here.height, here.width))
                meter.make(self.channels, *sides)
            states[made] = meter.here
        if len(cell.output) > 1:
            with meter.holding(*(states[state] for state in cell.output)):
                meter.make(self.outputs, meter.here.height, meter.here.width)
        else:
            meter.here = states[cell.output[0]]


def _count(layer: Layer, meter: Meter) -> None:
    """Send the meter through a layer that comes again and again, in other networks too."""
    meter.follow(_metered(layer, meter.here.shape, meter.shared))


@lru_cache(maxsize=2**14)
def _metered(layer: Layer, shape: tuple[int, int, int], shared: bool) -> Meter:
    meter = Meter(Task(*shape, classes=1))
    with meter.holding(*[meter.start] * shared):
        layer.cost(meter)
    return meter


def staged(normal: Cell, reduction: Cell, channels: int, repeats: Sequence[int]) -> Iterator[Place]:
    """Stages of so many normal cells each; between two a reduction, which doubles the channels.

    The name of a cell does not depend on how many come before its stage.
    """
    for stage, count in enumerate(repeats, start=1):
        if stage > 1:
            channels *= 2
            yield Place(f"reduction{stage - 1}", reduction, channels, stride=2)
        for number in range(1, count + 1):
            yield Place(f"stage{stage}_cell{number}", normal, channels)


def stacked(task: Task, channels: int, places: Sequence[Place], **last: Layer) -> dict[str, Layer]:
    """A whole network: a 3×3 convolution to so many channels, cells, further layers, a head."""
    return {
        "stem": conv(task.channels, channels, 3),
        "stem_norm": Layer(nn.BatchNorm2d, channels),
        "cells": Cells(channels, places),
        **last,
        **named_classifier(places[-1].outputs, task.classes),
    }


class Cells(Layer):
    """Cells in a row, each of which reads the last outputs before it, and puts out one.

    Args:
        channels: Of what comes in, which stands for all outputs before the first cell.
        places: The cells.
    """

    def __init__(self, channels: int, places: Sequence[Place]) -> None:
        self._channels, self._places = channels, places

    def build(self) -> nn.Module:
        """The cells, freshly initialised."""
        cells = {place.name: _Cell(place, sources) for place, sources in self._with_sources()}
        return _Row(OrderedDict(cells))

    def cost(self, meter: Meter) -> None:
        """Send the meter through; equal cells are counted once, and have one peak."""
        counts: dict[tuple[Any, ...], tuple[tuple[int, ...], FeatureMap]] = {}
        before = last = meter.here
        read_later = [place.cell.inputs > 1 and 0 in place.cell.reads for place in self._places[1:]]
        for (place, sources), kept in zip(self._with_sources(), [*read_later, False], strict=True):
            inputs = (before, last)[-place.cell.inputs :]
            shapes = tuple(each.shape for each in inputs)
            key = *place[1:], sources, shapes, kept, inputs[0] is last
            if key not in counts:
                sums = meter.sums()
                with meter.holding(*([last] if kept else [])):
                    place.cost(meter, sources, inputs)
                counts[key] = meter.sums(sums), meter.here
            else:
                sums, made = counts[key]
                meter.add(sums)
                meter.here = FeatureMap(*made.shape)
            before, last = last, meter.here

    def _with_sources(self) -> Iterator[tuple[Place, _Sources]]:
        before, last, stride = self._channels, self._channels, 1
        for place in self._places:
            yield place, ((before, stride), (last, 1))[-place.cell.inputs :]
            before, last, stride = last, place.outputs, place.stride


class _Row(nn.Sequential):
    """Cells that each read the last two outputs; the first reads one twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = last = x
        for cell in self:
            before, last = last, cell(before, last)
        return last


class _Cell(nn.Module):
    def __init__(self, place: Place, sources: _Sources) -> None:
        super().__init__()
        self._place = place
        self.entries, self.edges = (
            nn.ModuleDict({name: layer.build() for name, layer in parts.items()})
            for parts in place.parts(sources)
        )

    def forward(self, *outputs: torch.Tensor) -> torch.Tensor:
        """The last outputs before it, the oldest first, to (N, channels, H / stride, …)."""
        cell = self._place.cell
        states = dict(enumerate(outputs[-cell.inputs :]))
        for state, entry in self.entries.items():
            states[int(state)] = entry(states[int(state)])
        for made, edges in enumerate(cell.nodes, start=cell.inputs):
            terms = [self.edges[edge.name](states[edge.state]) for edge in edges]
            states[made] = reduce(torch.add, terms) if terms else self._zeros(outputs[-1])
        output = [states[state] for state in cell.output]
        return torch.cat(output, dim=1) if len(output) > 1 else output[0]

    def _zeros(self, last: torch.Tensor) -> torch.Tensor:
        """A node without edges."""
        height, width = (-(-size // self._place.stride) for size in last.shape[2:])
        return last.new_zeros(len(last), self._place.channels, height, width)
