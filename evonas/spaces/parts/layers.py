"""Layers as data: a network is described once, as a tree, and built and counted from that.

``Layer`` is a leaf, a module of torch or of one's own; ``Row``, ``Sum`` and ``Gate`` put layers
together. ``build`` makes the modules; ``cost`` sends a ``Meter`` through, which keeps account of
the shape. Building and counting a network of fifty layers on the meta device takes a tenth of a
second, this count less than a millisecond.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from evonas.architecture import Architecture
from evonas.spaces.base import SearchSpace, Task

_BYTES = 4  # A value of an activation is a 32-bit float.
_SMALL = 0.01  # A normalised channel times this is next to nothing.


class FeatureMap:
    """An activation of one image. Two of one shape are two: a map equals itself alone."""

    __slots__ = ("channels", "height", "values", "width")

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.values = channels * height * width

    @property
    def shape(self) -> tuple[int, int, int]:
        """Without the batch dimension."""
        return self.channels, self.height, self.width


class Meter:
    """Adds up what a network costs while the map of one image goes through it.

    ``params`` are parameters. ``flops`` are those of one image's forward pass, two per multiply-add
    of convolutions and matrix products, as in ``parts/cost.py``. ``peak_memory`` is the working
    memory of inference on a small device, in bytes: that of the largest set of activations of one
    image, 32-bit floats, that are live together (Lin et al., MCUNet, NeurIPS 2020; Liberis, Dudziak
    and Lane, µNAS, EuroMLSys 2021). While a layer runs, what it reads, what it makes and whatever
    waits beside it are live; normalisation and activation functions overwrite what they read,
    unless it waits for another reader.

    Attributes:
        counted: Names of the costs, each an attribute. A further one is counted here alone.
        start: The map of the image.
        here: The map that the next layer reads. To go on from another one, set it.
    """

    counted: ClassVar = ("params", "flops", "peak_memory")

    def __init__(self, task: Task) -> None:
        self.start = self.here = FeatureMap(*task.input_shape)
        self.params = self.flops = 0
        self.peak_memory = _BYTES * self.here.values
        self._waiting: tuple[FeatureMap, ...] = ()
        self._held = 0  # Values of what waits.

    def costs(self) -> dict[str, float]:
        """All costs so far, by name."""
        return {name: float(getattr(self, name)) for name in self.counted}

    def sums(self, before: tuple[int, ...] = (0, 0)) -> tuple[int, ...]:
        """Those of the costs that are sums over layers, less what they were before."""
        return self.params - before[0], self.flops - before[1]

    def add(self, sums: tuple[int, ...]) -> None:
        """Count what was counted elsewhere (``sums``)."""
        self.params += sums[0]
        self.flops += sums[1]

    @property
    def shared(self) -> bool:
        """Whether something else has still to read what is here."""
        return self.here in self._waiting

    def follow(self, other: Meter) -> None:
        """Count what another meter did, whose start is as what is here: in shape and ``shared``."""
        self.add(other.sums())
        beside = self._held - (self.here.values if self.shared else 0)
        self.peak_memory = max(self.peak_memory, other.peak_memory + _BYTES * beside)
        if other.here is not other.start:
            self.here = FeatureMap(*other.here.shape)

    def make(self, channels: int, height: int, width: int) -> None:
        """What a layer makes of what is here: a new map, which is here from now on."""
        read, self.here = self.here, FeatureMap(channels, height, width)
        live = self._held + self.here.values + (0 if read in self._waiting else read.values)
        if _BYTES * live > self.peak_memory:  # max() would take as long as all of this
            self.peak_memory = _BYTES * live

    def overwrite(self) -> None:
        """What works in place, unless somebody waits for what is here: then it makes a new map."""
        if self.shared:
            self.make(*self.here.shape)

    def holding(self, *maps: FeatureMap) -> _Holding:
        """A context in which maps are live, because something later reads them."""
        return _Holding(self, maps)

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
        here = self.here
        height, width = here.height, here.width
        padding = dilation * (kernel // 2) if padding is None else padding
        if stride > 1 or dilation * (kernel - 1) != 2 * padding:  # else the size is kept
            height = _slid(height, dilation * (kernel - 1) + 1, stride, padding)
            width = _slid(width, dilation * (kernel - 1) + 1, stride, padding)
        self.slide(outputs, height, width, here.channels // groups * kernel**2, bias)

    def slide(self, outputs: int, height: int, width: int, weights: int, bias: bool) -> None:
        """At every pixel of a map so many weights, and perhaps a bias, for each of its channels."""
        self.params += outputs * (weights + bias)
        self.flops += 2 * outputs * weights * height * width
        self.make(outputs, height, width)

    def norm(self) -> None:
        """Batch or layer normalisation with scale and shift."""
        self.params += 2 * self.here.channels
        self.overwrite()

    def pool(
        self, kernel: int, stride: int | None = None, padding: int = 0, ceil: bool = False
    ) -> None:
        """A window that slides over the image."""
        stride = stride or kernel
        height = _slid(self.here.height, kernel, stride, padding, ceil)
        width = _slid(self.here.width, kernel, stride, padding, ceil)
        self.make(self.here.channels, height, width)

    def average(self, output_size: int = 1) -> None:
        """Pooling to so many pixels a side, whatever comes in: global pooling by default."""
        self.make(self.here.channels, output_size, output_size)

    def linear(self, outputs: int, bias: bool = True) -> None:
        """A linear layer over all that a flattened image has."""
        self.slide(outputs, 1, 1, self.here.values, bias)


class _Holding:
    """A class and no generator: there are many."""

    __slots__ = ("_before", "_maps", "_meter")

    def __init__(self, meter: Meter, maps: tuple[FeatureMap, ...]) -> None:
        self._meter, self._maps = meter, maps

    def __enter__(self) -> None:
        meter = self._meter
        self._before = meter._waiting, meter._held
        for each in self._maps:
            if each not in meter._waiting:
                meter._waiting += (each,)
                meter._held += each.values

    def __exit__(self, *error: object) -> None:
        self._meter._waiting, self._meter._held = self._before


def _slid(size: int, kernel: int, stride: int, padding: int, ceil: bool = False) -> int:
    room = size + 2 * padding - kernel
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1  # the last window must begin within the image
    return count - 1 if (count - 1) * stride >= size + padding else count


class Layer:
    """A module to be built from its arguments, or, as its subclasses are, made of other layers.

    Args:
        kind: The module's class. Beside ``__init__`` it has a static method ``cost(meter, …)`` of
            the same arguments; torch's own common layers need none.
        arguments: Of both.
    """

    __slots__ = ("arguments", "keywords", "kind")

    def __init__(self, kind: type[nn.Module], /, *arguments: Any, **keywords: Any) -> None:
        self.kind, self.arguments, self.keywords = kind, arguments, keywords

    def build(self) -> nn.Module:
        """A freshly initialised module."""
        return self.kind(*self.arguments, **self.keywords)

    def cost(self, meter: Meter) -> None:
        """Send the meter through."""
        count = _OF_TORCH.get(self.kind) or getattr(self.kind, "cost")  # noqa: B009
        count(meter, *self.arguments, **self.keywords)


class Row(Layer):
    """Layers one after another.

    Args:
        kind: What they are built as.
        parts: By name; None is left out.
    """

    __slots__ = ("parts",)
    kind: type[nn.Sequential]

    def __init__(self, kind: type[nn.Sequential] = nn.Sequential, /, **parts: Layer | None) -> None:
        self.kind = kind
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def build(self) -> nn.Sequential:
        """A freshly initialised module."""
        return self.kind(OrderedDict((name, part.build()) for name, part in self.parts.items()))

    def cost(self, meter: Meter) -> None:
        """Send the meter through one after another."""
        for part in self.parts.values():
            part.cost(meter)


class Sum(Layer):
    """What a body and a shortcut make of one input, added.

    Args:
        body: The one.
        shortcut: The other, which runs first; None: the input itself.
        last: What the sum goes through.
    """

    __slots__ = ("body", "last", "shortcut")

    def __init__(
        self, body: Layer, shortcut: Layer | None = None, last: Layer | None = None
    ) -> None:
        self.body, self.shortcut, self.last = body, shortcut, last

    def build(self) -> nn.Module:
        """A freshly initialised module."""
        parts = (self.body, self.shortcut, self.last)
        return Added(*(part.build() if part else nn.Identity() for part in parts))

    def cost(self, meter: Meter) -> None:
        """The input waits for the body while the shortcut runs, what that makes for the sum."""
        read = waiting = meter.here
        if self.shortcut:
            with meter.holding(read):
                self.shortcut.cost(meter)
            waiting, meter.here = meter.here, read
        with meter.holding(waiting):
            self.body.cost(meter)
            meter.make(*waiting.shape)
        if self.last:
            self.last.cost(meter)


class Gate(Layer):
    """The input times what the parts, one after another, make of it."""

    def __init__(self, **parts: Layer) -> None:
        self.row = Row(**parts)

    def build(self) -> nn.Module:
        """A freshly initialised module."""
        return Gated(self.row.build())

    def cost(self, meter: Meter) -> None:
        """The input waits for the product."""
        read = meter.here
        with meter.holding(read):
            self.row.cost(meter)
            meter.make(*read.shape)


class Added(nn.Module):
    """A ``Sum``, built."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.last = body, shortcut, last

    def become_identity(self) -> None:
        """Start with next to nothing beside the shortcut; no-op if that changes the shape."""
        *_, end = self.body.modules()
        norms = [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]
        if not isinstance(self.shortcut, nn.Identity):
            return
        if isinstance(end, nn.Conv2d):  # pre-activated: before its ReLU nothing may be zero
            for parameter in end.parameters():
                nn.init.zeros_(parameter)
        elif norms:
            # Not zero before a ReLU that ends the body: through it nothing would ever flow back.
            scale = _SMALL if isinstance(end, nn.ReLU | nn.ReLU6) else 0.0
            nn.init.constant_(norms[-1].weight, scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to what the body and the shortcut make of it."""
        waiting = self.shortcut(x)
        out: torch.Tensor = self.last(self.body(x) + waiting)
        return out


class Gated(nn.Module):
    """A ``Gate``, built."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        scaled: torch.Tensor = x * self.gate(x)
        return scaled


def network(layers: Mapping[str, Layer]) -> nn.Sequential:
    """The layers in a row, each with its name."""
    return Row(**layers).build()


def costs(layers: Mapping[str, Layer], task: Task) -> dict[str, float]:
    """What ``network(layers)`` costs on images of the task, by name.

    In a stage the same layer comes again and again: it costs the same, and no higher peak.
    """
    meter = Meter(task)
    last: Layer | None = None
    shape, sums = meter.here.shape, meter.sums()
    for layer in layers.values():
        if layer is last and meter.here.shape == shape:
            meter.add(sums)
        else:
            last, shape, before = layer, meter.here.shape, meter.sums()
            layer.cost(meter)
            sums = meter.sums(before)
    return meter.costs()


class LayeredSpace(SearchSpace):
    """A space whose networks are layers in a row: built and counted from what ``layers`` says."""

    counted = Meter.counted

    @abstractmethod
    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers by name, in order."""

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network."""
        return network(self.layers(architecture, task))

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        """Count it: also ``peak_memory``, as ``Meter`` says."""
        return costs(self.layers(architecture, task), task)


def _pool(
    meter: Meter,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> None:
    meter.pool(kernel_size, stride, padding, ceil_mode)


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


_IN_PLACE = (nn.Hardsigmoid, nn.Hardswish, nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.SiLU)
_NOTHING = (nn.Dropout, nn.Flatten, nn.Identity)  # Their output is their input, in inference.
_OF_TORCH: Mapping[type[nn.Module], Callable[..., None]] = {  # of the modules' own arguments
    nn.AdaptiveAvgPool2d: Meter.average,
    nn.AvgPool2d: _pool,
    nn.BatchNorm2d: lambda meter, num_features: meter.norm(),
    nn.Conv2d: _convolution,
    nn.Linear: lambda meter, in_features, out_features, bias=True: meter.linear(out_features, bias),
    nn.MaxPool2d: _pool,
    **dict.fromkeys(_IN_PLACE, lambda meter, *arguments, **keywords: meter.overwrite()),
    **dict.fromkeys(_NOTHING, lambda meter, *arguments, **keywords: None),
}
