"""The operations of cells, as layers: each keeps the channels.

Those of NASNet (Zoph et al., CVPR 2018); the separable convolutions of half of them are DARTS's
(Liu, Simonyan and Yang, ICLR 2019), the bottlenecks AmoebaNet's (Real et al., AAAI 2019).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from evonas.spaces.parts.layers import Layer, Meter

# By name: the kind, and the kernel. What differs in its kernel alone is one kind, so that it can
# hand its weights on.
OPERATIONS: Mapping[str, tuple[str, int]] = {
    "identity": ("identity", 1),
    "sep_conv_3x3": ("sep_conv", 3),
    "sep_conv_5x5": ("sep_conv", 5),
    "sep_conv_7x7": ("sep_conv", 7),
    "dil_conv_3x3": ("dil_conv", 3),
    "dil_conv_5x5": ("dil_conv", 5),
    "avg_pool_3x3": ("avg_pool", 3),
    "max_pool_3x3": ("max_pool", 3),
    "max_pool_5x5": ("max_pool", 5),
    "max_pool_7x7": ("max_pool", 7),
    "conv_1x1": ("pointwise", 1),
    "conv_3x3": ("conv", 3),
    "conv_1x3_3x1": ("lines", 3),
    "conv_1x7_7x1": ("lines", 7),
}


def layers_of(operation: str, channels: int, stride: int) -> dict[str, Layer]:
    """What an operation consists of; it keeps the channels, and divides the size by the stride."""
    kind, kernel = OPERATIONS[operation]
    match kind:
        case "identity" if stride == 1:
            return {"identity": Layer(nn.Identity)}
        case "identity":
            return {"reduce": Layer(FactorizedReduction, channels, channels)}
        case "sep_conv":
            first = _separable(channels, kernel, stride)
            second = _separable(channels, kernel)
            return first | {f"{name}2": layer for name, layer in second.items()}
        case "dil_conv":
            return _separable(channels, kernel, stride, dilation=2)
        case "avg_pool":
            return {"pool": Layer(_AveragePool, kernel, stride)}
        case "max_pool":
            return {"pool": Layer(nn.MaxPool2d, kernel, stride, kernel // 2)}
        case "pointwise":
            return relu_conv_norm(channels, channels, stride=stride)
        case _:
            return _bottleneck(channels, kernel, stride, lines=kind == "lines")


def relu_conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> dict[str, Layer]:
    """ReLU, a convolution without bias, and batch normalisation."""
    return {
        "relu": Layer(nn.ReLU),
        "conv": Layer(nn.Conv2d, inputs, outputs, kernel, stride, kernel // 2, bias=False),
        "norm": Layer(nn.BatchNorm2d, outputs),
    }


def _separable(channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> dict[str, Layer]:
    padding = dilation * (kernel // 2)
    depthwise = (channels, channels, kernel, stride, padding, dilation, channels, False)
    return {
        "relu": Layer(nn.ReLU),
        "depthwise": Layer(nn.Conv2d, *depthwise),
        "pointwise": Layer(nn.Conv2d, channels, channels, 1, bias=False),
        "norm": Layer(nn.BatchNorm2d, channels),
    }


def _bottleneck(channels: int, kernel: int, stride: int, lines: bool) -> dict[str, Layer]:
    """A full convolution, or a row and then a column, of a quarter of the channels."""
    quarter = max(1, channels // 4)
    named = {f"{name}_in": layer for name, layer in relu_conv_norm(channels, quarter).items()}
    if lines:
        named |= {
            "relu_row": Layer(nn.ReLU),
            "row": Layer(_Line, quarter, (1, kernel), (1, stride)),
            "norm_row": Layer(nn.BatchNorm2d, quarter),
            "relu": Layer(nn.ReLU),
            "column": Layer(_Line, quarter, (kernel, 1), (stride, 1)),
            "norm": Layer(nn.BatchNorm2d, quarter),
        }
    else:
        named |= relu_conv_norm(quarter, quarter, kernel, stride)
    return named | {f"{name}_out": x for name, x in relu_conv_norm(quarter, channels).items()}


class _AveragePool(nn.AvgPool2d):
    """The mean of what there is: padding does not count."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__(kernel, stride, kernel // 2, count_include_pad=False)

    @staticmethod
    def cost(meter: Meter, kernel: int, stride: int) -> None:
        """Nothing but a smaller size."""
        meter.pool(kernel, stride, kernel // 2)


class _Line(nn.Conv2d):
    """A convolution along one axis: kernel · channels² parameters."""

    def __init__(self, channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2)
        super().__init__(channels, channels, kernel, stride, padding, bias=False)

    @staticmethod
    def cost(meter: Meter, channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        """The kernel's size times channels squared, at every pixel."""
        height, width = -(-meter.here.height // stride[0]), -(-meter.here.width // stride[1])
        meter.make(channels, height, width)
        weights = channels**2 * kernel[0] * kernel[1]
        meter.params += weights
        meter.flops += 2 * weights * height * width


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
