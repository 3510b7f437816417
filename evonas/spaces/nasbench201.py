"""The cell space of NAS-Bench-201 (Dong and Yang, ICLR 2020)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import reduce

import torch
from torch import nn

from evonas.architecture import Architecture, Categorical
from evonas.spaces.base import Task, at_least
from evonas.spaces.parts.blocks import named_classifier
from evonas.spaces.parts.layers import Layer, LayeredSpace, Meter
from evonas.spaces.parts.supernet import Supernet

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # from node, to node


class NASBench201(LayeredSpace):
    """A cell of four nodes with one of five operations on each of its six edges: 15,625 cells.

    The choices are ``edge_0_1``…``edge_2_3``, named by the nodes that the edge leads from and to.
    Cells are not identified up to isomorphism: the benchmark trained each of them by itself.

    Args:
        channels: Of the first stage; the second and third have two and four times as many.
        cells: Per stage.
    """

    def __init__(self, channels: int = 16, cells: int = 5) -> None:
        at_least(channels=(channels, 1), cells=(cells, 1))
        self._channels, self._cells = channels, cells
        self.domains = {f"edge_{i}_{j}": Categorical(OPERATIONS) for i, j in EDGES}

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        operations = {(i, j): str(architecture.choices[f"edge_{i}_{j}"]) for i, j in EDGES}
        channels = self._channels
        named = OrderedDict(
            stem=Layer(nn.Conv2d, task.channels, channels, 3, padding=1, bias=False),
            stem_norm=Layer(nn.BatchNorm2d, channels),
        )
        for stage in range(1, 4):
            if stage > 1:
                named[f"reduction{stage - 1}"] = Layer(_Reduction, channels, 2 * channels)
                channels *= 2
            for number in range(1, self._cells + 1):
                named[f"stage{stage}_cell{number}"] = Layer(_Cell, operations, channels)
        named |= {"norm": Layer(nn.BatchNorm2d, channels), "relu": Layer(nn.ReLU)}
        return named | named_classifier(channels, task.classes)

    def build_supernet(self, task: Task) -> Supernet:
        """Every operation on every edge."""
        uniform = (dict.fromkeys(self.domains, operation) for operation in OPERATIONS)
        return Supernet(self, task, [self.reference(choices) for choices in uniform])


class _Zero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def _relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def _relu_conv_bn_cost(meter: Meter, outputs: int, kernel: int, stride: int = 1) -> None:
    meter.conv(outputs, kernel, stride)
    meter.norm()


def _operation(name: str, channels: int) -> nn.Module:
    match name:
        case "none":
            return _Zero()
        case "skip_connect":
            return nn.Identity()
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        case _:
            return _relu_conv_bn(channels, channels, kernel=3 if name == "nor_conv_3x3" else 1)


class _Cell(nn.Module):
    """Every node is the sum of its incoming edges; the last node is the output.

    The operations on an edge are named by the edge and their kind: weights of one name fit.
    """

    def __init__(self, operations: dict[tuple[int, int], str], channels: int) -> None:
        super().__init__()
        self._names = {(i, j): f"{i}_{j}_{name}" for (i, j), name in operations.items()}
        self.edges = nn.ModuleDict(
            {self._names[edge]: _operation(name, channels) for edge, name in operations.items()}
        )

    @staticmethod
    def cost(meter: Meter, operations: dict[tuple[int, int], str], channels: int) -> None:
        for name in operations.values():
            if name.startswith("nor_conv"):
                _relu_conv_bn_cost(meter, channels, 3 if name == "nor_conv_3x3" else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [x]
        for j in range(1, 4):
            incoming = [self.edges[self._names[i, j]](nodes[i]) for i in range(j)]
            nodes.append(reduce(torch.add, incoming))
        return nodes[-1]


class _Reduction(nn.Module):
    """Residual block that halves the size and changes the number of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _relu_conv_bn(inputs, outputs, kernel=3, stride=2),
            _relu_conv_bn(outputs, outputs, kernel=3),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    @staticmethod
    def cost(meter: Meter, inputs: int, outputs: int) -> None:
        read = meter.here
        with meter.holding(read):
            meter.pool(2, stride=2, ceil=True)
            meter.conv(outputs)
        meter.here = read
        _relu_conv_bn_cost(meter, outputs, kernel=3, stride=2)
        _relu_conv_bn_cost(meter, outputs, kernel=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x) + self.shortcut(x)
        return out
