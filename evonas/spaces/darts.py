"""Small networks of the cells that DARTS relaxes: an operation on every edge, nothing pruned.

Liu, Simonyan and Yang, DARTS: differentiable architecture search, ICLR 2019. Complexity-controlled
search takes three such cells, for images of 28×28 or 32×32 pixels: 28 operations to choose.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from evonas.architecture import Architecture, Categorical, Domain, Value
from evonas.spaces.base import Condition, Task
from evonas.spaces.parts.cell_operations import OPERATIONS
from evonas.spaces.parts.cells import CELLS, INPUTS, STEM, Cell, Edge, Place, stacked
from evonas.spaces.parts.layers import Layer, LayeredSpace
from evonas.spaces.parts.supernet import Supernet

OPERATIONS_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "zero": ("none",),  # The first of all: the value of what has no effect.
    "identity": ("skip_connect",),
    "pooling": ("max_pool_3x3", "avg_pool_3x3"),
    "convolution": ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
}
NODES = (2, 3, 4, 5)
EDGES = tuple((i, j) for j in NODES for i in range(j))


class DARTS(LayeredSpace):
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

    operations = tuple(name for names in OPERATIONS_BY_KIND.values() for name in names)

    def __init__(
        self,
        channels: Annotated[int, Field(ge=2)] = 16,
        cells: Annotated[int, Field(ge=3)] = 3,
    ) -> None:
        self._channels, self._cells, self._middle = channels, cells, cells // 2
        self.domains: dict[str, Domain] = {}
        self.conditions: dict[str, Condition] = {}
        for cell in CELLS:
            for i, j in EDGES:
                self.domains[f"{cell}_{i}_{j}"] = Categorical(self.operations)
                self.conditions[f"{cell}_{i}_{j}"] = partial(self._has_effect, cell, i)
        self.points = _POINTS

    def _has_effect(self, cell: str, state: int, choices: Mapping[str, Any]) -> bool:
        """Whether anything comes along the edges from a state, and out of the cell."""
        if cell == "reduction" and not self._reduces(_inputs_of("normal", choices)):
            return False
        to_it = (choices[f"{cell}_{i}_{state}"] for i in range(state))
        return state in INPUTS or any(operation != "none" for operation in to_it)

    def _reduces(self, normal: Collection[int]) -> bool:
        """Whether the reduction cell is read if normal ones, those behind it, read these inputs."""
        return self._middle in _live([normal] * self._cells)

    def size(self) -> int:
        """Number of architectures: of normal cells, times that of reduction cells if it is read."""
        empty, one_input, both = (_count_cells(inputs) for inputs in (0, 1, 2))
        read = both - one_input + (one_input - empty) * self._reduces({0})
        return read * both + (both - read)

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        return stacked(task, STEM * self._channels, self._places(architecture))

    def build_supernet(self, task: Task) -> Supernet:
        """Every operation on every edge."""
        return Supernet(self, task, [self.reference(_uniform(name)) for name in self.operations])

    def modules(self, architecture: Architecture) -> dict[str, list[str]]:
        """Names of the network's modules that each choice decides: one in every cell of its kind.

        A choice of no operation has none.
        """
        found: dict[str, list[str]] = {name: [] for name in self.domains}
        for number, place in enumerate(self._places(architecture)):
            kind = CELLS[number == self._middle]
            for (i, j), edge in _edges(kind, architecture.choices).items():
                if edge in place.cell.edges:
                    found[f"{kind}_{i}_{j}"].append(f"cells.{place.name}.edges.{edge.name}")
        return found

    def _places(self, architecture: Architecture) -> list[Place]:
        """The cells in a row; one that no other reads has no edges."""
        normal, reduction = (_cell(_edges(kind, architecture.choices)) for kind in CELLS)
        row = [reduction if i == self._middle else normal for i in range(self._cells)]
        live = _live([cell.reads for cell in row])
        return [
            Place(
                name=f"cell{i + 1}",
                cell=cell if i in live else _cell({}),
                channels=self._channels * (2 if i >= self._middle else 1),
                stride=2 if i == self._middle else 1,
            )
            for i, cell in enumerate(row)
        ]


def count_kinds(architecture: Architecture) -> dict[str, int]:
    """How many of an architecture's 28 edges are a pooling, a convolution, an identity, or zero."""
    names = list(architecture.choices.values())
    return {kind: sum(map(names.count, of_kind)) for kind, of_kind in OPERATIONS_BY_KIND.items()}


def _edges(cell: str, choices: Mapping[str, Any]) -> dict[tuple[int, int], Edge]:
    """By their states, but for those of no operation; weights of one name fit."""
    edges = {}
    for i, j in EDGES:
        name = str(choices[f"{cell}_{i}_{j}"])
        if name != "none":
            operation = OPERATIONS["identity" if name == "skip_connect" else name]
            edges[i, j] = Edge(f"{i}_{j}_{name}", i, operation)
    return edges


def _cell(edges: Mapping[tuple[int, int], Edge]) -> Cell:
    nodes = (tuple(edge for (_, end), edge in edges.items() if end == node) for node in NODES)
    return Cell(tuple(nodes), output=NODES)


def _inputs_of(cell: str, choices: Mapping[str, Any]) -> set[int]:
    """The inputs that an edge leads from."""
    return {i for i, j in EDGES if i in INPUTS and choices[f"{cell}_{i}_{j}"] != "none"}


def _live(inputs: Sequence[Collection[int]]) -> set[int]:
    """Places of the cells that reach the classifier, by what each reads."""
    live = {len(inputs) - 1}
    for place in range(len(inputs) - 1, 0, -1):
        if place in live:
            live |= {place - len(INPUTS) + state for state in inputs[place]}
    return live


def _count_cells(states: int, nodes: int = len(NODES)) -> int:
    """Number of cells with so many states to begin with, and so many nodes to come."""
    if not nodes:
        return 1
    ways: int = len(DARTS.operations) ** states - 1  # to have something come to the next node
    return _count_cells(states, nodes - 1) + ways * _count_cells(states + 1, nodes - 1)


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
