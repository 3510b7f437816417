"""The cells of NASNet, and what AmoebaNet, PNASNet and DARTS found among them.

Zoph, Vasudevan, Shlens and Le, Learning transferable architectures for scalable image recognition,
CVPR 2018.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Annotated, NamedTuple

from pydantic import Field

from evonas.architecture import Architecture, Categorical, Domain, Integer, Value
from evonas.recipe.options import Count
from evonas.spaces.base import Condition, Task
from evonas.spaces.parts.cell_operations import OPERATIONS
from evonas.spaces.parts.cells import CELLS, INPUTS, STEM, Cell, Edge, Place, stacked, staged
from evonas.spaces.parts.layers import Layer, LayeredSpace

_COMBINATIONS = 5
_STATES = range(len(INPUTS), len(INPUTS) + _COMBINATIONS)  # Combinations make these.
_SIDES = ("left", "right")
_STAGES = (1, 2, 3)
_OUTPUTS = ("unused", "all", *(f"unused+{state}" for state in range(_STATES[-1])))
_AROUND = 0.1  # The share of the mutations that change what is not within a cell.
_NAMES = tuple(OPERATIONS)


class Element(NamedTuple):
    """Half of a combination: an operation on a hidden state."""

    state: int
    operation: str

    def place(self) -> tuple[int, int]:
        """What elements are ordered by."""
        return self.state, _NAMES.index(self.operation)


Pair = tuple[Element, Element]


class NASNet(LayeredSpace):
    """A normal and a reduction cell of pairwise combinations, stacked in three stages.

    A combination takes two states and an operation on each, and adds them up to a new state. States
    are numbered: 0 and 1 are the outputs of the cell before the last and of the last cell, 2 to 6
    what the ``combinations`` make, four as in DARTS or five as in NASNet. So the choices
    ``normal_3_left_op`` and ``normal_3_left_input`` are half of what makes state 3. A cell puts out
    the concatenation of the states in ``normal_output``: those of its own that no combination
    ``unused``, one more beside them (``unused+0``), or ``all`` of its own. Around the cells there
    are ``filters``, doubled by either reduction, and ``repeats1`` to ``repeats3``, the normal cells
    of each stage. Cells that differ in the order of states or sides alone are one architecture;
    ``size`` counts them all, and so is an upper bound.

    A mutation is one of AmoebaNet's (Real, Aggarwal, Huang and Le, Regularized evolution for image
    classifier architecture search, AAAI 2019): another state or another operation for half of a
    combination; one in ten changes something else.

    The points are networks for CIFAR-10, with the concatenations of the authors' code. Parameters
    without the auxiliary head, and as published: ``nasnet_a`` (6 @ 768) 3,328,234 and 3.3 million;
    ``amoebanet_a`` (N = 6, F = 32) 2,558,858 and 2.6; ``amoebanet_a_36`` 3,207,106 and 3.2;
    ``pnasnet5`` (Liu et al., ECCV 2018) 3,176,602 and 3.2; ``darts_v2`` (Liu, Simonyan and Yang,
    ICLR 2019) 3,349,342 and 3.3. PNASNet's reductions are the first of a stage's three cells.

    Args:
        max_repeats: Most normal cells of a stage.
        max_filters: Of the first stage; in steps of 4, sampled log-uniformly.
    """

    def __init__(
        self, max_repeats: Count = 6, max_filters: Annotated[int, Field(ge=4)] = 48
    ) -> None:
        self.domains: dict[str, Domain] = {
            "combinations": Integer(_COMBINATIONS - 1, _COMBINATIONS),
            "filters": Integer(4, max_filters, step=4, log=True, role="width"),
        }
        for stage in _STAGES:
            self.domains[f"repeats{stage}"] = Integer(1, max_repeats, role="depth")
        self.conditions: dict[str, Condition] = {}
        for cell in CELLS:
            for state, side in itertools.product(_STATES, _SIDES):
                name = f"{cell}_{state}_{side}"
                self.domains[f"{name}_input"] = Categorical(range(state))
                self.domains[f"{name}_op"] = Categorical(_NAMES)
                if state == _STATES[-1]:
                    self.conditions |= {f"{name}_input": _has_all, f"{name}_op": _has_all}
            self.domains[f"{cell}_output"] = Categorical(_OUTPUTS)
        several = [name for name, domain in self.domains.items() if domain.size > 1]
        self._around = [name for name in several if not name.endswith(("_op", "_input"))]
        self.points = _POINTS

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        """States in the order that makes the cell's description the first of all orders."""
        settled = dict(choices)
        for cell in CELLS:
            settled |= _spelled(cell, *_ordered(*_read(cell, choices)))
        return settled

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Another state or operation for half of a combination, or a change around the cells."""
        return (self._mutant(parent, rng) for _ in itertools.repeat(None))

    def _mutant(self, parent: Architecture, rng: Random) -> Mapping[str, Value]:
        if rng.random() < _AROUND:
            return self.changed(parent, rng.choice(self._around), rng)
        cell = rng.choice(CELLS)
        pairs, output = _read(cell, parent.choices)
        place, side = rng.randrange(len(pairs)), rng.randrange(len(_SIDES))
        pair = list(pairs[place])
        state, operation = pair[side]
        if rng.random() < 0.5:
            others = set(range(len(INPUTS) + len(pairs))) - _descendants(pairs, place) - {state}
            pair[side] = Element(rng.choice(sorted(others)), operation)
        else:
            pair[side] = Element(state, rng.choice([o for o in _NAMES if o != operation]))
        pairs[place] = (pair[0], pair[1])
        return {**parent.choices, **_spelled(cell, *_ordered(pairs, output))}

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        stem = STEM * int(architecture.choices["filters"])
        return stacked(task, stem, list(_places(architecture.choices)))


def _has_all(choices: Mapping[str, Value]) -> bool:
    return int(choices["combinations"]) == _COMBINATIONS


def _read(cell: str, choices: Mapping[str, Value]) -> tuple[list[Pair], str]:
    """The combinations of a cell, and its output."""
    pairs = []
    for state in _STATES[: int(choices["combinations"])]:
        left, right = (
            Element(int(choices[f"{name}_input"]), str(choices[f"{name}_op"]))
            for name in (f"{cell}_{state}_left", f"{cell}_{state}_right")
        )
        pairs.append((left, right))
    return pairs, str(choices[f"{cell}_output"])


def _spelled(cell: str, pairs: Sequence[Pair], output: str) -> dict[str, Value]:
    """The choices that ``_read`` reads."""
    choices: dict[str, Value] = {f"{cell}_output": output}
    for made, pair in zip(_STATES, pairs, strict=False):
        for side, (state, operation) in zip(_SIDES, pair, strict=True):
            choices[f"{cell}_{made}_{side}_input"] = state
            choices[f"{cell}_{made}_{side}_op"] = operation
    return choices


def _ordered(pairs: Sequence[Pair], output: str) -> tuple[list[Pair], str]:
    """The first of all descriptions of a cell.

    State by state the smallest combination of what is there already comes next; where two are
    equal, both ways are followed.
    """
    ways: list[dict[int, int]] = [{state: state for state in INPUTS}]  # old numbers → new ones
    described: list[Pair] = []
    for made in _STATES[: len(pairs)]:
        ready = [(numbers, *pair) for numbers in ways for pair in _ready(pairs, numbers)]
        described.append(min((pair for *_, pair in ready), key=lambda p: [e.place() for e in p]))
        ways = [{**numbers, old: made} for numbers, old, pair in ready if pair == described[-1]]
    states = _concatenated(pairs, output)
    ends = [sorted(numbers[state] for state in states) for numbers in ways]
    return described, next(o for o in _OUTPUTS if _concatenated(described, o) in ends)


def _ready(pairs: Sequence[Pair], numbers: Mapping[int, int]) -> Iterator[tuple[int, Pair]]:
    """Old number and new description of the combinations whose states have their new numbers."""
    for old, pair in zip(_STATES, pairs, strict=False):
        if old not in numbers and all(element.state in numbers for element in pair):
            renumbered = (Element(numbers[state], operation) for state, operation in pair)
            left, right = sorted(renumbered, key=Element.place)
            yield old, (left, right)


def _concatenated(pairs: Sequence[Pair], output: str) -> list[int]:
    """The states that a cell puts out."""
    own = set(_STATES[: len(pairs)])
    if output == "all":
        return sorted(own)
    more = {int(output.partition("+")[2])} if "+" in output else set()
    return sorted(own.difference(element.state for pair in pairs for element in pair) | more)


def _descendants(pairs: Sequence[Pair], place: int) -> set[int]:
    """The state that a combination makes, and all that are made of it; in canonical order."""
    descendants = {_STATES[place]}
    for made, pair in zip(_STATES, pairs, strict=False):
        if any(element.state in descendants for element in pair):
            descendants.add(made)
    return descendants


def _places(choices: Mapping[str, Value]) -> Iterator[Place]:
    """The cells in a row."""
    read = (_read(cell, choices) for cell in CELLS)
    normal, reduction = (_cell(pairs, _concatenated(pairs, output)) for pairs, output in read)
    repeats = [int(choices[f"repeats{stage}"]) for stage in _STAGES]
    return staged(normal, reduction, int(choices["filters"]), repeats)


def _cell(pairs: Sequence[Pair], output: Sequence[int]) -> Cell:
    """Edges are named by the state that they help to make, their side, and their kind.

    An input that is put out must be as large as the nodes: a node of its own stands for it.
    """
    nodes: list[tuple[Edge, ...]] = []
    for made, pair in enumerate(pairs, start=len(INPUTS)):
        left, right = (
            Edge(f"{made}_{side}_{OPERATIONS[operation].kind}", state, OPERATIONS[operation])
            for side, (state, operation) in zip(_SIDES, pair, strict=True)
        )
        nodes.append((left, right))
    states = list(output)
    for place, state in enumerate(output):
        if state in INPUTS:
            states[place] = len(INPUTS) + len(nodes)
            nodes.append((Edge(f"output_{state}", state, OPERATIONS["identity"]),))
    return Cell(tuple(nodes), tuple(states))


_SHORT = {
    "id": "identity",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "s7": "sep_conv_7x7",
    "d3": "dil_conv_3x3",
    "avg": "avg_pool_3x3",
    "max": "max_pool_3x3",
    "lines": "conv_1x7_7x1",
}


def _published(output: str, *pairs: str) -> tuple[list[Pair], str]:
    """A cell from its output and its combinations, such as ``"0:s3 1:max"``."""
    elements = [half.split(":") for pair in pairs for half in pair.split()]
    made = [Element(int(state), _SHORT[operation]) for state, operation in elements]
    return list(zip(made[::2], made[1::2], strict=True)), output


def _point(
    filters: int, repeats: Sequence[int], **cells: tuple[list[Pair], str]
) -> dict[str, Value]:
    """Choices, those without effect among them."""
    choices: dict[str, Value] = {"filters": filters}
    choices |= {f"repeats{stage}": n for stage, n in zip(_STAGES, repeats, strict=True)}
    for name, (pairs, output) in cells.items():
        absent = [(Element(0, "identity"),) * 2] * (_COMBINATIONS - len(pairs))
        choices |= {"combinations": len(pairs), **_spelled(name, [*pairs, *absent], output)}
    return choices


_NASNET = {
    "normal": _published(
        "unused+0", "1:s5 0:s3", "0:s5 0:s3", "1:avg 0:id", "0:avg 0:avg", "1:s3 1:id"
    ),
    "reduction": _published(
        "unused+3", "1:s5 0:s7", "1:max 0:s7", "1:avg 0:s5", "3:id 2:avg", "2:s3 1:max"
    ),
}
_AMOEBANET = {
    "normal": _published(
        "unused+0", "1:avg 1:max", "0:s3 0:id", "1:id 0:avg", "1:s3 2:s5", "5:avg 1:s3"
    ),
    "reduction": _published(
        "all", "0:s3 1:avg", "1:max 2:s7", "0:max 1:max", "4:s3 1:lines", "0:avg 1:s7"
    ),
}
_PNASNET = dict.fromkeys(
    CELLS,
    _published("all", "0:s5 0:max", "1:s7 1:max", "1:s5 1:s3", "4:s3 1:max", "0:s3 1:id"),
)
_DARTS = {
    "normal": _published("all", "0:s3 1:s3", "0:s3 1:s3", "1:s3 0:id", "0:id 2:d3"),
    "reduction": _published("all", "0:max 1:max", "2:id 1:max", "0:max 2:id", "2:id 1:max"),
}
_POINTS = {
    "nasnet_a": _point(32, (6, 6, 6), **_NASNET),
    "amoebanet_a": _point(32, (6, 6, 6), **_AMOEBANET),
    "amoebanet_a_36": _point(36, (6, 6, 6), **_AMOEBANET),
    "pnasnet5": _point(48, (3, 2, 2), **_PNASNET),
    "darts_v2": _point(36, (6, 6, 6), **_DARTS),
}
