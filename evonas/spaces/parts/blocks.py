"""Blocks that several spaces are made of, as trees of layers, and the ends of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from evonas.spaces.parts.layers import Gate, Layer, Meter, Row, Sum

Describe = TypeVar("Describe", bound=Callable[..., Layer | None])
Activation = type[nn.Module]
ACTIVATIONS: Mapping[str, Activation] = {  # by the names that choices have
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "silu": nn.SiLU,
}
_RELU = Layer(nn.ReLU)
_TREES = 2**10  # So many descriptions of each kind of block are remembered.


def once(describe: Describe) -> Describe:
    """Descriptions are never changed: one of the same arguments serves a whole stage."""
    return cast(Describe, lru_cache(maxsize=_TREES)(describe))


def conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False
) -> Layer:
    """A convolution; stride 1 keeps the size. Parameters: inputs · outputs · kernel² / groups."""
    return Layer(nn.Conv2d, inputs, outputs, kernel, stride, kernel // 2, 1, groups, bias)


class ConvNorm(Layer):
    """A convolution, batch normalisation and an activation: one layer, since most are."""

    __slots__ = ("activation", "convolution", "inputs")

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        self.inputs, self.activation = inputs, activation
        self.convolution = outputs, kernel, stride, groups, bias

    def build(self) -> nn.Module:
        """A freshly initialised module."""
        outputs, kernel, stride, groups, bias = self.convolution
        return Row(
            Chain,
            conv=conv(self.inputs, outputs, kernel, stride, groups, bias),
            norm=Layer(nn.BatchNorm2d, outputs),
            activation=Layer(self.activation) if self.activation else None,
        ).build()

    def cost(self, meter: Meter) -> None:
        """Those of the convolution and the normalisation."""
        meter.conv(*self.convolution)
        meter.params += 2 * self.convolution[0]


@once
def separable(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, activation: Activation = nn.ReLU
) -> Row:
    """Depthwise convolution, then 1×1 convolution, each with normalisation and activation.

    Howard et al., MobileNets, 2017. Multiply-adds per output pixel: inputs · (kernel² + outputs),
    where a plain convolution has inputs · kernel² · outputs.
    """
    return Row(
        Chain,
        depthwise=ConvNorm(inputs, inputs, kernel, stride, inputs, activation=activation),
        pointwise=ConvNorm(inputs, outputs, activation=activation),
    )


@once
def squeeze_excitation(
    channels: int, squeezed: int, activation: Activation = nn.ReLU, gate: Activation = nn.Sigmoid
) -> Gate | None:
    """Scale every channel by a gate that sees the mean of all of them; None if ``squeezed`` is 0.

    Hu, Shen and Sun, Squeeze-and-excitation networks, CVPR 2018. Parameters: 2 · channels ·
    squeezed + channels + squeezed.
    """
    if not squeezed:
        return None
    return Gate(
        pool=Layer(nn.AdaptiveAvgPool2d, 1),
        reduce=conv(channels, squeezed, bias=True),
        activation=Layer(activation),
        expand=conv(squeezed, channels, bias=True),
        gate=Layer(gate),
    )


@once
def mbconv(inputs: int, outputs: int, inner: int) -> Sum:
    """Simplified inverted residual block: no squeeze-and-excitation, ReLU after every convolution.

    1×1 expansion to ``inner`` channels, 3×3 depthwise, 1×1 projection, each with bias, batch
    normalisation and ReLU. The shortcut is the identity, or a 1×1 convolution with bias where the
    number of channels changes. After Sandler et al., MobileNetV2, CVPR 2018.
    """
    body = Row(
        expand=ConvNorm(inputs, inner, bias=True),
        depthwise=ConvNorm(inner, inner, kernel=3, groups=inner, bias=True),
        project=ConvNorm(inner, outputs, bias=True),
    )
    return Sum(body, None if inputs == outputs else Layer(Projection, inputs, outputs))


@once
def basic(inputs: int, outputs: int, stride: int = 1, squeezed: int = 0) -> Sum:
    """ResNet's block of two 3×3 convolutions, with squeeze-and-excitation if ``squeezed``.

    He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016.
    """
    body = Row(
        first=ConvNorm(inputs, outputs, 3, stride),
        second=ConvNorm(outputs, outputs, 3, activation=None),
        excite=squeeze_excitation(outputs, squeezed),
    )
    return Sum(body, _fit(inputs, outputs, stride), _RELU)


@once
def bottleneck(
    inputs: int,
    outputs: int,
    inner: int,
    stride: int = 1,
    groups: int = 1,
    squeezed: int = 0,
    squeezed_inner: int = 0,
) -> Sum:
    """1×1 convolution to ``inner`` channels, 3×3 in groups, 1×1 to ``outputs``.

    ResNet's (He et al., CVPR 2016, the stride in the 3×3 convolution), in groups ResNeXt's (Xie et
    al., CVPR 2017). Squeeze-and-excitation comes at the end in SE-ResNet (``squeezed``), after the
    3×3 convolution in RegNetY (``squeezed_inner``, Radosavovic et al., CVPR 2020).
    """
    body = Row(
        reduce=ConvNorm(inputs, inner),
        spatial=ConvNorm(inner, inner, 3, stride, groups),
        excite_inner=squeeze_excitation(inner, squeezed_inner),
        expand=ConvNorm(inner, outputs, activation=None),
        excite=squeeze_excitation(outputs, squeezed),
    )
    return Sum(body, _fit(inputs, outputs, stride), _RELU)


def _fit(inputs: int, outputs: int, stride: int) -> Layer | None:
    """A 1×1 convolution on the shortcut where the shape changes."""
    if inputs == outputs and stride == 1:
        return None
    return ConvNorm(inputs, outputs, stride=stride, activation=None)


@once
def inverted(
    inputs: int,
    outputs: int,
    inner: int,
    kernel: int = 3,
    stride: int = 1,
    squeezed: int = 0,
    activation: Activation = nn.ReLU6,
    gate: Activation = nn.Sigmoid,
) -> Layer:
    """1×1 expansion to ``inner`` channels, depthwise convolution, linear 1×1 projection.

    Sandler et al., MobileNetV2, CVPR 2018; with squeeze-and-excitation if ``squeezed`` (Howard et
    al., MobileNetV3, ICCV 2019; Tan and Le, EfficientNet, ICML 2019). There is no expansion where
    ``inner`` equals ``inputs``, and no shortcut where the shape changes; names are the same with
    and without.
    """
    expand = ConvNorm(inputs, inner, activation=activation) if inner != inputs else None
    body = Row(
        expand=expand,
        depthwise=ConvNorm(inner, inner, kernel, stride, inner, activation=activation),
        excite=squeeze_excitation(inner, squeezed, gate=gate),
        project=ConvNorm(inner, outputs, activation=None),
    )
    return Sum(body) if inputs == outputs and stride == 1 else Row(body=body)


class Chain(nn.Sequential):
    """Convolutions, normalisations and activations that may start by passing on what comes in."""

    def become_identity(self) -> None:
        """Start by passing on what comes in, as in Net2DeeperNet; no-op if the shape changes.

        The scale that a normalisation must undo is that of the first batch.
        """
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        if any(c.in_channels != c.out_channels or c.stride != (1, 1) for c in convolutions):
            return
        for convolution in convolutions:
            _pass_on(convolution)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                undo = _Undo()
                undo.handle = module.register_forward_pre_hook(undo)


class Projection(nn.Conv2d):
    """A 1×1 convolution with bias that an identity may turn into."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    @staticmethod
    def cost(meter: Meter, inputs: int, outputs: int) -> None:
        """That of the convolution."""
        meter.conv(outputs, bias=True)

    def become_identity(self) -> None:
        """Start by passing on the channels that both sides have."""
        _pass_on(self)


def _pass_on(convolution: nn.Conv2d) -> None:
    nn.init.dirac_(convolution.weight, convolution.groups)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


class _Undo:
    """Has a normalisation undo itself at its first training batch.

    An object and no closure: a copy of the network, such as a moving average, has its own.
    """

    handle: RemovableHandle

    @torch.no_grad()
    def __call__(self, norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        if not norm.training:
            return
        std, mean = torch.std_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
        norm.weight.copy_(std)
        norm.bias.copy_(mean)
        self.handle.remove()


def named_classifier(channels: int, classes: int) -> dict[str, Layer]:
    """Global average pooling and a linear layer: (channels + 1) · classes parameters."""
    return {
        "pool": Layer(nn.AdaptiveAvgPool2d, 1),
        "flatten": Layer(nn.Flatten),
        "classifier": Layer(nn.Linear, channels, classes),
    }


def named_stages(stages: Sequence[Sequence[Layer]], size: int) -> dict[str, Layer]:
    """The stages in a row, a 2×2 max-pooling between them for as long as there is room.

    They are named by position: ``stage1_block1``, ``pool1``, …. Where a module comes in the network
    depends on the depth of the stages before it, its name does not: a mutant shares the names, and
    so the weights, of all that the mutation left alone.

    Args:
        stages: Layers that keep the size.
        size: The smaller side of the input, pixels.
    """
    layers: dict[str, Layer] = {}
    for index, stage in enumerate(stages):
        if index and size >= 2:
            layers[f"pool{index}"] = Layer(nn.MaxPool2d, 2)
            size //= 2
        for number, block in enumerate(stage, start=1):
            layers[f"stage{index + 1}_block{number}"] = block
    return layers
