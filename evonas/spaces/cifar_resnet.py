"""Residual networks of three stages: those that papers train on CIFAR, and their kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.recipe.options import Count
from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import ConvNorm, conv, named_classifier, once
from evonas.spaces.parts.layers import Layer, LayeredSpace, Meter, Row, Sum

_STAGES = range(1, 4)


class CIFARResNet(LayeredSpace):
    """A 3×3 stem and three stages of blocks of two 3×3 convolutions, for images of 32 pixels or so.

    He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2. The second and
    the third stage halve the size. The choices are the ``stem``'s channels, each stage's ``depth``
    (blocks) and ``width`` (channels), and how blocks are made. With ``preactivation`` normalisation
    and ReLU come before the convolutions, and once more at the end (He et al., Identity mappings in
    deep residual networks, ECCV 2016; Zagoruyko and Komodakis, Wide residual networks, BMVC 2016).
    Where the shape changes the ``shortcut`` takes every second pixel and adds channels of zeros
    (``pad``, the first paper's option A, without parameters; of a narrower stage it drops the
    last), or is a 1×1 convolution, alone (``conv``) or with normalisation (``conv_norm``, option B
    of most implementations). Convolutions have no ``bias``, which normalisation would undo: it is
    not searched, but references may have it.

    The points ``resnet20`` … ``resnet56`` are the first paper's, with option A, and ``wrn_16_2`` is
    the wide residual network of 16 layers and twice the width. ``mlperf_tiny_resnet8`` is the
    reference model for image classification of the MLPerf Tiny benchmark (Banbury et al., NeurIPS
    Datasets and Benchmarks 2021); that pads strided convolutions on the right and below alone.

    Args:
        max_depth: Most blocks of a stage.
        max_width: Of a stage; in steps of 8, sampled log-uniformly.
    """

    def __init__(self, max_depth: Count = 9, max_width: Annotated[int, Field(ge=8)] = 128) -> None:
        width = Integer(8, max_width, step=8, log=True, role="width")
        self.domains = {
            "preactivation": Categorical((False, True)),
            "shortcut": Categorical(("pad", "conv", "conv_norm")),
            "bias": Integer(0, 0),
            "stem": Integer(8, min(64, max_width), step=8, log=True, role="width"),
            **{f"depth{i}": Integer(1, max_depth, log=True, role="depth") for i in _STAGES},
            **{f"width{i}": width for i in _STAGES},
        }
        self.points = POINTS

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        choices = architecture.choices
        channels, bias = int(choices["stem"]), bool(choices["bias"])
        preactivation, shortcut = bool(choices["preactivation"]), str(choices["shortcut"])
        stem = (conv if preactivation else ConvNorm)(task.channels, channels, 3, bias=bias)
        named: dict[str, Layer] = {"stem": stem}
        make = _preactivated if preactivation else _block
        for i in _STAGES:
            width = int(choices[f"width{i}"])
            for number in range(1, int(choices[f"depth{i}"]) + 1):
                stride = 2 if i > 1 and number == 1 else 1
                named[f"stage{i}_block{number}"] = make(channels, width, stride, shortcut, bias)
                channels = width
        if preactivation:
            named["end"] = _norm_relu(channels)
        return named | named_classifier(channels, task.classes)


class Padded(nn.Module):
    """A shortcut without parameters: every ``stride``-th pixel, channels of zeros at the end."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self._added, self._stride = outputs - inputs, stride

    @staticmethod
    def cost(meter: Meter, inputs: int, outputs: int, stride: int) -> None:
        """No parameters and no FLOPs, but a new map."""
        height, width = (-(-size // stride) for size in meter.here.shape[1:])
        meter.make(outputs, height, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride), rounded up."""
        kept = x[:, :, :: self._stride, :: self._stride]
        return functional.pad(kept, (0, 0, 0, 0, 0, self._added))


@once
def _block(inputs: int, outputs: int, stride: int, shortcut: str, bias: bool) -> Layer:
    """Two convolutions, each with normalisation, a ReLU between them and after the sum."""
    body = Row(
        first=ConvNorm(inputs, outputs, 3, stride, bias=bias),
        second=ConvNorm(outputs, outputs, 3, bias=bias, activation=None),
    )
    return Sum(body, _shortcut(shortcut, inputs, outputs, stride, bias), Layer(nn.ReLU))


@once
def _preactivated(inputs: int, outputs: int, stride: int, shortcut: str, bias: bool) -> Layer:
    """Normalisation and ReLU before each convolution; a shortcut with layers reads behind them.

    Names are the same with and without.
    """
    convolutions = Row(
        first=conv(inputs, outputs, 3, stride, bias=bias),
        between=_norm_relu(outputs),
        second=conv(outputs, outputs, 3, bias=bias),
    )
    fitted = _shortcut(shortcut, inputs, outputs, stride, bias)
    if fitted is None:
        return Sum(Row(begin=_norm_relu(inputs), sum=Row(body=convolutions)))
    return Row(body=Row(begin=_norm_relu(inputs), sum=Sum(convolutions, fitted)))


def _norm_relu(channels: int) -> Layer:
    return Row(norm=Layer(nn.BatchNorm2d, channels), activation=Layer(nn.ReLU))


def _shortcut(kind: str, inputs: int, outputs: int, stride: int, bias: bool) -> Layer | None:
    """None where the shape does not change."""
    if inputs == outputs and stride == 1:
        return None
    match kind:
        case "pad":
            return Layer(Padded, inputs, outputs, stride)
        case "conv":
            return conv(inputs, outputs, 1, stride, bias=bias)
        case _:
            return ConvNorm(inputs, outputs, 1, stride, bias=bias, activation=None)


def _point(depth: int, width: int = 16, **others: Value) -> dict[str, Value]:
    """Choices of a network with equal depths, whose widths double from stage to stage."""
    choices: dict[str, Value] = {"preactivation": False, "shortcut": "pad", "bias": 0, "stem": 16}
    choices |= {f"depth{i}": depth for i in _STAGES}
    choices |= {f"width{i}": width * 2 ** (i - 1) for i in _STAGES}
    return choices | others


POINTS = {
    "resnet20": _point(3),
    "resnet32": _point(5),
    "resnet44": _point(7),
    "resnet56": _point(9),
    "wrn_16_2": _point(2, 32, preactivation=True, shortcut="conv"),
    "mlperf_tiny_resnet8": _point(1, shortcut="conv", bias=1),
}
