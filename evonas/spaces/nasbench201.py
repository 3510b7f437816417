"""The cell space of NAS-Bench-201 (Dong and Yang, ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from evonas.architecture import Architecture, Categorical
from evonas.recipe.options import Count
from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import conv
from evonas.spaces.parts.cell_operations import OPERATIONS, Operation, average, relu_conv_norm
from evonas.spaces.parts.cells import Cell, Edge, stacked, staged
from evonas.spaces.parts.layers import Layer, LayeredSpace, Row
from evonas.spaces.parts.supernet import Supernet

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # From node, to node.
_STAGES = 3
_COMPUTED = {
    "skip_connect": OPERATIONS["identity"],
    "nor_conv_1x1": Operation("conv", relu_conv_norm, 1),
    "nor_conv_3x3": Operation("conv", relu_conv_norm, 3),
    "avg_pool_3x3": OPERATIONS["avg_pool_3x3"],
}


class NASBench201(LayeredSpace):
    """A cell of four nodes with one of five operations on each of its six edges: 15,625 cells.

    The choices are ``edge_0_1``…``edge_2_3``, named by the nodes that the edge leads from and to.
    Every node is the sum of what comes to it, and the last one the output. Cells are not identified
    up to isomorphism: the benchmark trained each of them by itself.

    Args:
        channels: Of the first stage; the second and third have two and four times as many.
        cells: Per stage.
    """

    operations = ("none", *_COMPUTED)

    def __init__(self, channels: Count = 16, cells: Count = 5) -> None:
        self._channels, self._cells = channels, cells
        self.domains = {f"edge_{i}_{j}": Categorical(self.operations) for i, j in EDGES}

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        repeats = [self._cells] * _STAGES
        places = list(staged(_cell(architecture), _REDUCTION, self._channels, repeats))
        norm, relu = Layer(nn.BatchNorm2d, places[-1].outputs), Layer(nn.ReLU)
        return stacked(task, self._channels, places, norm=norm, relu=relu)

    def build_supernet(self, task: Task) -> Supernet:
        """Every operation on every edge."""
        uniform = (dict.fromkeys(self.domains, operation) for operation in self.operations)
        return Supernet(self, task, [self.reference(choices) for choices in uniform])


def _cell(architecture: Architecture) -> Cell:
    """Edges are named by their nodes and their operation: weights of one name fit."""
    nodes: dict[int, list[Edge]] = {1: [], 2: [], 3: []}
    for i, j in EDGES:
        operation = str(architecture.choices[f"edge_{i}_{j}"])
        if operation != "none":
            nodes[j].append(Edge(f"{i}_{j}_{operation}", i, _COMPUTED[operation]))
    return Cell(tuple(map(tuple, nodes.values())), output=(3,), inputs=1, entry=None)


def _body(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    first = relu_conv_norm(inputs, outputs, kernel, stride)
    return Row(first=first, second=relu_conv_norm(outputs, outputs, kernel))


def _shortcut(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    return Row(**average(inputs, inputs, kernel, stride).parts, conv=conv(inputs, outputs))


# Between stages: a residual block that halves the size and changes the number of channels.
_BODY = Edge("body", 0, Operation("body", _body, kernel=3))
_SHORTCUT = Edge("shortcut", 0, Operation("shortcut", _shortcut, kernel=2))
_REDUCTION = Cell(((_BODY, _SHORTCUT),), output=(1,), inputs=1, entry=None)
