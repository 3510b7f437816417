"""Layers as data: what a network is built from, and counted from without being built.

A space that describes its networks as named layers, a ``LayeredSpace``, gets both for one
description: ``network`` builds them in a row, ``cost`` sends a shape through the counts that stand
beside the blocks.
Building and counting a network of fifty layers on the meta device takes a tenth of a second, this
count less than a millisecond.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from evonas.architecture import Architecture
from evonas.spaces.base import Cost, SearchSpace, Task


class Meter:
    """Adds up parameters and FLOPs while the shape of one image goes through a network.

    FLOPs are two per multiply-add of convolutions and matrix products, as in ``training/cost.py``.

    Attributes:
        channels: Of the shape here; ``height`` and ``width`` likewise, in pixels.
        params: Parameters so far.
        flops: Of one image's forward pass so far.
    """

    def __init__(self, task: Task) -> None:
        self.channels, self.height, self.width = task.input_shape
        self.params = self.flops = 0

    def conv(
        self,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding: int | None = None,
        dilation: int = 1,
    ) -> None:
        """A convolution; ``padding`` keeps the size by default."""
        padding = dilation * (kernel // 2) if padding is None else padding
        self.pool(dilation * (kernel - 1) + 1, stride, padding)
        weights = self.channels // groups * outputs * kernel**2
        self.channels = outputs
        self.params += weights + bias * outputs
        self.flops += 2 * weights * self.height * self.width

    def norm(self) -> None:
        """Batch or layer normalisation with scale and shift."""
        self.params += 2 * self.channels

    def pool(
        self, kernel: int, stride: int | None = None, padding: int = 0, ceil: bool = False
    ) -> None:
        """A window that slides over the image."""
        stride = kernel if stride is None else stride
        self.height = _slid(self.height, kernel, stride, padding, ceil)
        self.width = _slid(self.width, kernel, stride, padding, ceil)

    def average(self) -> None:
        """Global pooling."""
        self.height = self.width = 1

    def linear(self, outputs: int, bias: bool = True) -> None:
        """A linear layer over all that a flattened image has."""
        inputs = self.channels * self.height * self.width
        self.params += inputs * outputs + bias * outputs
        self.flops += 2 * inputs * outputs
        self.channels, self.height, self.width = outputs, 1, 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count a branch; afterwards the shape is what it was before."""
        shape = self.channels, self.height, self.width
        yield
        self.channels, self.height, self.width = shape


def _slid(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    steps = (size + 2 * padding - kernel) / stride
    if not ceil:
        return math.floor(steps) + 1
    count = math.ceil(steps) + 1  # the last window must begin within the image
    return count - 1 if (count - 1) * stride >= size + padding else count


class Layer:
    """A module to be built from its arguments.

    Args:
        kind: The module's class. Beside ``__init__`` it has a static method ``cost(meter, …)`` of
            the same arguments; torch's own common layers need none.
        arguments: Of both.
    """

    def __init__(self, kind: type[nn.Module], *arguments: Any, **keywords: Any) -> None:
        self.kind, self.arguments, self.keywords = kind, arguments, keywords

    def build(self) -> nn.Module:
        """A freshly initialised module."""
        return self.kind(*self.arguments, **self.keywords)

    def cost(self, meter: Meter) -> None:
        """Send the meter through."""
        count = _OF_TORCH.get(self.kind) or getattr(self.kind, "cost")  # noqa: B009
        count(meter, *self.arguments, **self.keywords)


def network(layers: Mapping[str, Layer]) -> nn.Sequential:
    """The layers in a row, each with its name."""
    return nn.Sequential(OrderedDict((name, layer.build()) for name, layer in layers.items()))


def cost(layers: Mapping[str, Layer], task: Task) -> Cost:
    """What ``network(layers)`` costs on images of the task."""
    meter = Meter(task)
    for layer in layers.values():
        layer.cost(meter)
    return Cost(meter.params, meter.flops)


class LayeredSpace(SearchSpace):
    """A space whose networks are layers in a row: built and counted from what ``layers`` says."""

    @abstractmethod
    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers by name, in order."""

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network."""
        return network(self.layers(architecture, task))

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        """Count it."""
        return cost(self.layers(architecture, task), task).named()


def _max_pool(meter: Meter, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
    meter.pool(kernel_size, stride, padding)


def _batch_norm(meter: Meter, num_features: int) -> None:
    meter.norm()


def _average(meter: Meter, output_size: int) -> None:
    meter.average()


def _linear(meter: Meter, in_features: int, out_features: int, bias: bool = True) -> None:
    meter.linear(out_features, bias)


def _convolution(
    meter: Meter,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> None:
    meter.conv(out_channels, kernel_size, stride, groups, bias, padding, dilation)


def _nothing(meter: Meter, *arguments: Any, **keywords: Any) -> None:
    """Activations and dropout have no parameters and count no FLOPs."""


_FREE = (nn.Dropout, nn.Flatten, nn.Identity, nn.Hardswish, nn.ReLU, nn.ReLU6, nn.SiLU)
_OF_TORCH: Mapping[type[nn.Module], Callable[..., None]] = {
    nn.AdaptiveAvgPool2d: _average,
    nn.AvgPool2d: _max_pool,
    nn.BatchNorm2d: _batch_norm,
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool,
    **dict.fromkeys(_FREE, _nothing),
}
