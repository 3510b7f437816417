"""The operations of cells, as layers: each keeps the channels.

Those of NASNet (Zoph et al., CVPR 2018); the separable convolutions of half of them are DARTS's
(Liu, Simonyan and Yang, ICLR 2019), the bottlenecks AmoebaNet's (Real et al., AAAI 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from evonas.spaces.parts.blocks import conv
from evonas.spaces.parts.layers import Layer, Meter, Row


class Operation(NamedTuple):
    """What an edge of a cell does.

    Attributes:
        kind: What differs in its kernel alone is of one kind, so that it can hand its weights on.
        describe: Gives the layers in a row for input channels, output channels, kernel and stride;
            the size is divided by the stride and rounded up.
        kernel: Pixels a side.
    """

    kind: str
    describe: Callable[[int, int, int, int], Row]
    kernel: int = 1


@lru_cache(maxsize=2**14)
def described(operation: Operation, inputs: int, outputs: int, stride: int = 1) -> Row:
    """The layers in a row: one description for all places that are alike."""
    return operation.describe(inputs, outputs, operation.kernel, stride)


def relu_conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> Row:
    """ReLU, a convolution without bias, and batch normalisation."""
    return Row(
        relu=Layer(nn.ReLU),
        conv=conv(inputs, outputs, kernel, stride),
        norm=Layer(nn.BatchNorm2d, outputs),
    )


def average(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    """The mean of what there is: padding does not count. The size is rounded up."""
    return Row(pool=Layer(nn.AvgPool2d, kernel, stride, (kernel - 1) // 2, kernel % 2 == 0, False))


def _largest(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    return Row(pool=Layer(nn.MaxPool2d, kernel, stride, kernel // 2))


def _halved(inputs: int, outputs: int) -> Row:
    return Row(reduce=Layer(FactorizedReduction, inputs, outputs))


def _fit(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    return relu_conv_norm(inputs, outputs) if stride == 1 else _halved(inputs, outputs)


def _identity(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    return Row(identity=Layer(nn.Identity)) if stride == 1 else _halved(inputs, outputs)


def _separable(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> Row:
    padding = dilation * (kernel // 2)
    depthwise = (inputs, inputs, kernel, stride, padding, dilation, inputs, False)
    return Row(
        relu=Layer(nn.ReLU),
        depthwise=Layer(nn.Conv2d, *depthwise),
        pointwise=conv(inputs, outputs),
        norm=Layer(nn.BatchNorm2d, outputs),
    )


def _separable_twice(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    first = _separable(inputs, inputs, kernel, stride)
    return Row(first=first, second=_separable(inputs, outputs, kernel))


def _bottleneck(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    """A full convolution of a quarter of the channels."""
    quarter = max(1, inputs // 4)
    return Row(
        narrow=relu_conv_norm(inputs, quarter),
        full=relu_conv_norm(quarter, quarter, kernel, stride),
        widen=relu_conv_norm(quarter, outputs),
    )


def _lines(inputs: int, outputs: int, kernel: int, stride: int) -> Row:
    """A row and then a column of a quarter of the channels."""
    quarter = max(1, inputs // 4)

    def line(kernel: tuple[int, int], stride: tuple[int, int]) -> Row:
        along = Layer(_Line, quarter, kernel, stride)
        return Row(relu=Layer(nn.ReLU), conv=along, norm=Layer(nn.BatchNorm2d, quarter))

    return Row(
        narrow=relu_conv_norm(inputs, quarter),
        row=line((1, kernel), (1, stride)),
        column=line((kernel, 1), (stride, 1)),
        widen=relu_conv_norm(quarter, outputs),
    )


class _Line(nn.Conv2d):
    """A convolution along one axis: kernel · channels² parameters."""

    def __init__(self, channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__(channels, channels, kernel, stride, padding, bias=False)

    @staticmethod
    def cost(meter: Meter, channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        """The kernel's size times channels squared, at every pixel."""
        height, width = -(-meter.here.height // stride[0]), -(-meter.here.width // stride[1])
        meter.slide(channels, height, width, channels * kernel[0] * kernel[1], bias=False)


class FactorizedReduction(nn.Module):
    """Halves the size: half of the channels see the even pixels, the others the odd ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    @staticmethod
    def cost(meter: Meter, inputs: int, outputs: int) -> None:
        """As one 1×1 convolution of stride 2."""
        meter.conv(outputs, stride=2)
        meter.norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / 2, W / 2), rounded up."""
        x = self.relu(x)
        shifted = functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]  # so that both have one size
        out: torch.Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))
        return out


# An input becomes as large as the last one, and has the channels of the cell's nodes.
FIT = Operation("fit", _fit)
# Those of NASNet's space, in the order in which mutations draw them.
OPERATIONS: Mapping[str, Operation] = {
    "identity": Operation("identity", _identity),
    "sep_conv_3x3": Operation("sep_conv", _separable_twice, 3),
    "sep_conv_5x5": Operation("sep_conv", _separable_twice, 5),
    "sep_conv_7x7": Operation("sep_conv", _separable_twice, 7),
    "dil_conv_3x3": Operation("dil_conv", partial(_separable, dilation=2), 3),
    "dil_conv_5x5": Operation("dil_conv", partial(_separable, dilation=2), 5),
    "avg_pool_3x3": Operation("avg_pool", average, 3),
    "max_pool_3x3": Operation("max_pool", _largest, 3),
    "max_pool_5x5": Operation("max_pool", _largest, 5),
    "max_pool_7x7": Operation("max_pool", _largest, 7),
    "conv_1x1": Operation("pointwise", relu_conv_norm),
    "conv_3x3": Operation("conv", _bottleneck, 3),
    "conv_1x3_3x1": Operation("lines", _lines, 3),
    "conv_1x7_7x1": Operation("lines", _lines, 7),
}
