"""Pieces that several spaces are made of, each with its cost beside it.

``cost(meter, …)`` takes the arguments of ``__init__`` and counts what ``forward`` does with the
shape that the meter holds (``layers.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from evonas.spaces.parts.layers import Layer, Meter

_SMALL = 0.01  # of a normalised channel
Activation = type[nn.Module]


class ConvNorm(nn.Sequential):
    """A convolution, batch normalisation and an activation; stride 1 keeps the size.

    Parameters: inputs · outputs · kernel² / groups, plus 2 · outputs, plus outputs for a bias.
    """

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
        convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        super().__init__(convolution, nn.BatchNorm2d(outputs))
        if activation is not None:
            self.append(activation())

    @staticmethod
    def cost(
        meter: Meter,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        """The convolution's and the normalisation's."""
        meter.conv(outputs, kernel, stride, groups, bias)
        meter.norm()

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The normalisation."""
        return cast(nn.BatchNorm2d, self[1])

    def become_identity(self) -> None:
        """Start by passing on what comes in, as in Net2DeeperNet; no-op if the shape changes.

        The scale that the normalisation must undo is that of the first batch.
        """
        convolution = cast(nn.Conv2d, self[0])
        if convolution.in_channels != convolution.out_channels or convolution.stride != (1, 1):
            return
        nn.init.dirac_(convolution.weight, convolution.groups)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        undo = _Undo()
        undo.handle = self.norm.register_forward_pre_hook(undo)


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


class _Projection(nn.Conv2d):
    def become_identity(self) -> None:
        """Start by passing on the channels that both sides have, as an identity did."""
        nn.init.dirac_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class MBConv(nn.Module):
    """Simplified inverted residual block: no squeeze-and-excitation, ReLU after every convolution.

    1×1 expansion to ``inner`` channels, 3×3 depthwise, 1×1 projection, each with bias, batch
    normalisation and ReLU. The shortcut is the identity, or a 1×1 convolution with bias where the
    number of channels changes. After Sandler et al., MobileNetV2, CVPR 2018.
    """

    def __init__(self, inputs: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(inputs, inner, bias=True),
            ConvNorm(inner, inner, kernel=3, groups=inner, bias=True),
            ConvNorm(inner, outputs, bias=True),
        )
        self.shortcut = nn.Identity() if inputs == outputs else _Projection(inputs, outputs, 1)

    @staticmethod
    def cost(meter: Meter, inputs: int, outputs: int, inner: int) -> None:
        """Three convolutions, and a fourth on the shortcut where channels change."""
        with meter.aside():
            if inputs != outputs:
                meter.conv(outputs, bias=True)
        ConvNorm.cost(meter, inputs, inner, bias=True)
        ConvNorm.cost(meter, inner, inner, kernel=3, groups=inner, bias=True)
        ConvNorm.cost(meter, inner, outputs, bias=True)

    def become_identity(self) -> None:
        """Start with next to nothing beside the shortcut; no-op if channels change."""
        if isinstance(self.shortcut, nn.Identity):
            # Not zero: behind the last ReLU nothing would ever flow back.
            nn.init.constant_(cast(ConvNorm, self.body[2]).norm.weight, _SMALL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        out: torch.Tensor = self.body(x) + self.shortcut(x)
        return out


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate that sees the mean of all of them.

    Hu, Shen and Sun, Squeeze-and-excitation networks, CVPR 2018. Parameters: 2 · channels ·
    squeezed + channels + squeezed.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Activation = nn.ReLU,
        gate: Activation = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            activation(),
            nn.Conv2d(squeezed, channels, 1),
            gate(),
        )

    @staticmethod
    def cost(meter: Meter, channels: int, squeezed: int) -> None:
        """Two 1×1 convolutions with bias, of one pixel."""
        with meter.aside():
            meter.average()
            meter.conv(squeezed, bias=True)
            meter.conv(channels, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) to the same."""
        scaled: torch.Tensor = x * self.gate(x)
        return scaled


class _Residual(nn.Module):
    """ReLU of a body plus its input, which a 1×1 convolution fits where the shape changes.

    The body ends in a batch normalisation: of scale zero, the block passes on what comes in.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, **body: nn.Module | None) -> None:
        super().__init__()
        self.body = nn.Sequential(OrderedDict((k, v) for k, v in body.items() if v is not None))
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = ConvNorm(inputs, outputs, stride=stride, activation=None)
        self.relu = nn.ReLU()

    @staticmethod
    def shortcut_cost(meter: Meter, inputs: int, outputs: int, stride: int) -> None:
        """Of the shortcut alone; leaves the meter where the body begins."""
        with meter.aside():
            if inputs != outputs or stride != 1:
                ConvNorm.cost(meter, inputs, outputs, stride=stride)

    def become_identity(self) -> None:
        """Start by passing on what comes in; no-op if the shape changes."""
        if isinstance(self.shortcut, nn.Identity):
            silence_last_norm(self.body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: torch.Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def silence_last_norm(body: nn.Module) -> None:
    """Set the scale of a body's last batch normalisation to zero: it adds nothing at first."""
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    nn.init.zeros_(norms[-1].weight)


class BasicBlock(_Residual):
    """ResNet's block of two 3×3 convolutions, with squeeze-and-excitation if ``squeezed``.

    He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, squeezed: int = 0) -> None:
        super().__init__(
            inputs,
            outputs,
            stride,
            first=ConvNorm(inputs, outputs, 3, stride),
            second=ConvNorm(outputs, outputs, 3, activation=None),
            excite=SqueezeExcitation(outputs, squeezed) if squeezed else None,
        )

    @staticmethod
    def cost(meter: Meter, inputs: int, outputs: int, stride: int = 1, squeezed: int = 0) -> None:
        """The body's and the shortcut's."""
        _Residual.shortcut_cost(meter, inputs, outputs, stride)
        ConvNorm.cost(meter, inputs, outputs, 3, stride)
        ConvNorm.cost(meter, outputs, outputs, 3)
        if squeezed:
            SqueezeExcitation.cost(meter, outputs, squeezed)


class Bottleneck(_Residual):
    """1×1 convolution to ``inner`` channels, 3×3 in groups, 1×1 to ``outputs``.

    ResNet's (He et al., CVPR 2016, the stride in the 3×3 convolution), in groups ResNeXt's (Xie et
    al., CVPR 2017). Squeeze-and-excitation comes at the end in SE-ResNet (``squeezed``), after the
    3×3 convolution in RegNetY (``squeezed_inner``, Radosavovic et al., CVPR 2020).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        inner: int,
        stride: int = 1,
        groups: int = 1,
        squeezed: int = 0,
        squeezed_inner: int = 0,
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            stride,
            reduce=ConvNorm(inputs, inner),
            spatial=ConvNorm(inner, inner, 3, stride, groups),
            excite_inner=SqueezeExcitation(inner, squeezed_inner) if squeezed_inner else None,
            expand=ConvNorm(inner, outputs, activation=None),
            excite=SqueezeExcitation(outputs, squeezed) if squeezed else None,
        )

    @staticmethod
    def cost(
        meter: Meter,
        inputs: int,
        outputs: int,
        inner: int,
        stride: int = 1,
        groups: int = 1,
        squeezed: int = 0,
        squeezed_inner: int = 0,
    ) -> None:
        """The body's and the shortcut's."""
        _Residual.shortcut_cost(meter, inputs, outputs, stride)
        ConvNorm.cost(meter, inputs, inner)
        ConvNorm.cost(meter, inner, inner, 3, stride, groups)
        if squeezed_inner:
            SqueezeExcitation.cost(meter, inner, squeezed_inner)
        ConvNorm.cost(meter, inner, outputs)
        if squeezed:
            SqueezeExcitation.cost(meter, outputs, squeezed)


class SeparableConv(nn.Sequential):
    """Depthwise convolution, then 1×1 convolution, each with normalisation and activation.

    Howard et al., MobileNets, 2017. Multiply-adds per output pixel: inputs · (kernel² + outputs),
    where a plain convolution has inputs · kernel² · outputs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__(
            ConvNorm(inputs, inputs, kernel, stride, groups=inputs, activation=activation),
            ConvNorm(inputs, outputs, activation=activation),
        )

    @staticmethod
    def cost(
        meter: Meter,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        activation: Activation = nn.ReLU,
    ) -> None:
        """Both convolutions'."""
        ConvNorm.cost(meter, inputs, inputs, kernel, stride, groups=inputs)
        ConvNorm.cost(meter, inputs, outputs)

    def become_identity(self) -> None:
        """Start by passing on what comes in; no-op if the shape changes."""
        pointwise = cast(nn.Conv2d, cast(ConvNorm, self[1])[0])
        if pointwise.in_channels == pointwise.out_channels:
            for part in self:
                cast(ConvNorm, part).become_identity()


class InvertedResidual(nn.Module):
    """1×1 expansion to ``inner`` channels, depthwise convolution, linear 1×1 projection.

    Sandler et al., MobileNetV2, CVPR 2018; with squeeze-and-excitation if ``squeezed`` (Howard et
    al., MobileNetV3, ICCV 2019; Tan and Le, EfficientNet, ICML 2019). There is no expansion where
    ``inner`` equals ``inputs``, and no shortcut where the shape changes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        inner: int,
        kernel: int = 3,
        stride: int = 1,
        squeezed: int = 0,
        activation: Activation = nn.ReLU6,
        gate: Activation = nn.Sigmoid,
    ) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if inner != inputs:
            parts["expand"] = ConvNorm(inputs, inner, activation=activation)
        parts["depthwise"] = ConvNorm(inner, inner, kernel, stride, inner, activation=activation)
        if squeezed:
            parts["excite"] = SqueezeExcitation(inner, squeezed, gate=gate)
        parts["project"] = ConvNorm(inner, outputs, activation=None)
        self.body = nn.Sequential(parts)
        self._adds = inputs == outputs and stride == 1

    @staticmethod
    def cost(
        meter: Meter,
        inputs: int,
        outputs: int,
        inner: int,
        kernel: int = 3,
        stride: int = 1,
        squeezed: int = 0,
        activation: Activation = nn.ReLU6,
        gate: Activation = nn.Sigmoid,
    ) -> None:
        """Of the parts that are there."""
        if inner != inputs:
            ConvNorm.cost(meter, inputs, inner)
        ConvNorm.cost(meter, inner, inner, kernel, stride, inner)
        if squeezed:
            SqueezeExcitation.cost(meter, inner, squeezed)
        ConvNorm.cost(meter, inner, outputs)

    def become_identity(self) -> None:
        """Start by passing on what comes in; no-op if the shape changes."""
        if self._adds:
            silence_last_norm(self.body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: torch.Tensor = self.body(x)
        return x + out if self._adds else out


def named_classifier(channels: int, classes: int) -> OrderedDict[str, Layer]:
    """Global average pooling and a linear layer: (channels + 1) · classes parameters."""
    return OrderedDict(
        pool=Layer(nn.AdaptiveAvgPool2d, 1),
        flatten=Layer(nn.Flatten),
        classifier=Layer(nn.Linear, channels, classes),
    )


def named_stages(stages: list[list[Layer]], size: int) -> OrderedDict[str, Layer]:
    """The stages in a row, a 2×2 max-pooling between them for as long as there is room.

    They are named by position: ``stage1_block1``, ``pool1``, …. Where a module comes in the network
    depends on the depth of the stages before it, its name does not: a mutant shares the names, and
    so the weights, of all that the mutation left alone.

    Args:
        stages: Layers that keep the size.
        size: The smaller side of the input, pixels.
    """
    layers: OrderedDict[str, Layer] = OrderedDict()
    for index, stage in enumerate(stages):
        if index and size >= 2:
            layers[f"pool{index}"] = Layer(nn.MaxPool2d, 2)
            size //= 2
        for number, block in enumerate(stage, start=1):
            layers[f"stage{index + 1}_block{number}"] = block
    return layers
