"""Residual networks: ResNet, ResNeXt, Wide ResNet, SE-ResNet, and their kin for small images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.recipe.options import Count
from evonas.spaces.base import Task, divisible
from evonas.spaces.parts.blocks import ConvNorm, basic, bottleneck, named_classifier
from evonas.spaces.parts.layers import Layer, LayeredSpace

_EXPANSION = 4  # outputs of a bottleneck per channel of width
_REDUCTION = 16  # of squeeze-and-excitation
_POOL = Layer(nn.MaxPool2d, 3, 2, 1)


class ResNet(LayeredSpace):
    """A stem and four stages of residual blocks (He et al., Deep residual learning, CVPR 2016).

    All blocks of a network are basic ones or bottlenecks. Per stage the choices are ``depth``,
    ``width`` (outputs of a basic block, a quarter of those of a bottleneck) and, from the second
    on, how it begins: with a ``stride`` in its first block, a max-pooling before it, or at the size
    of the one before. A bottleneck's 3×3 convolution has ``widening`` times ``width`` channels
    (Zagoruyko and Komodakis, Wide residual networks, BMVC 2016) in ``cardinality`` groups (Xie et
    al., ResNeXt, CVPR 2017); ``se`` adds squeeze-and-excitation (Hu et al., CVPR 2018). The points
    are the published networks, exact to torchvision's and timm's parameters, and four for images
    of some 40 pixels: ``small_resnet50`` has no pooling in its stem, ``receptive_v1`` also has the
    stride of the fourth stage, ``receptive_v2`` that of the third, replaced by a max-pooling before
    it, and ``receptive_v4`` also a stem of stride 1. ``resnet10_xxxs`` … ``resnet10_s`` are the
    students for CIFAR-100 of Kag et al., Scaffolding a student to instill knowledge, ICLR 2023
    (DiSK). Those of three stages are in ``cifar_resnet``.

    Args:
        max_depth: Most blocks of a stage.
        max_width: Of a stage; in steps of 8, sampled log-uniformly.
    """

    def __init__(self, max_depth: Count = 6, max_width: Annotated[int, Field(ge=8)] = 512) -> None:
        width = Integer(8, max_width, step=8, log=True, role="width")
        self.domains = {
            "block": Categorical(("basic", "bottleneck")),
            "stem": Integer(8, min(64, max_width), step=8, log=True, role="width"),
            "stem_kernel": Integer(3, 7, step=2),
            "stem_stride": Integer(1, 2),
            "stem_pool": Categorical((False, True)),
            **{f"depth{i}": Integer(1, max_depth, log=True, role="depth") for i in range(1, 5)},
            **{f"width{i}": width for i in range(1, 5)},
            **{f"down{i}": Categorical(("stride", "pool", "none")) for i in range(2, 5)},
            "widening": Categorical((1, 2, 4), ordered=True),
            "cardinality": Categorical((1, 2, 4, 8, 16, 32, 64), ordered=True),
            "se": Categorical((False, True)),
        }
        self.conditions = dict.fromkeys(
            ("widening", "cardinality"), lambda choices: choices["block"] == "bottleneck"
        )
        self.points = POINTS

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        choices, channels = architecture.choices, int(architecture.choices["stem"])
        kernel, stride = int(choices["stem_kernel"]), int(choices["stem_stride"])
        named: dict[str, Layer] = {"stem": ConvNorm(task.channels, channels, kernel, stride)}
        if choices["stem_pool"]:
            named["stem_pool"] = _POOL
        for i in range(1, 5):
            down = choices[f"down{i}"] if i > 1 else "none"
            if down == "pool":
                named[f"pool{i - 1}"] = _POOL
            for number in range(1, int(choices[f"depth{i}"]) + 1):
                stride = 2 if down == "stride" and number == 1 else 1
                block, channels = _block(choices, channels, int(choices[f"width{i}"]), stride)
                named[f"stage{i}_block{number}"] = block
        return named | named_classifier(channels, task.classes)


def _block(choices: Mapping[str, Value], inputs: int, width: int, stride: int) -> tuple[Layer, int]:
    """A block and the number of channels that it gives."""
    is_basic = choices["block"] == "basic"
    outputs = width if is_basic else _EXPANSION * width
    squeezed = divisible(outputs / _REDUCTION) if choices["se"] else 0
    if is_basic:
        return basic(inputs, outputs, stride, squeezed), outputs
    groups = int(choices["cardinality"])
    # Groups are equal, so there are a few channels less where they do not divide the width.
    inner = max(1, width * int(choices["widening"]) // groups) * groups
    return bottleneck(inputs, outputs, inner, stride, groups, squeezed), outputs


def _point(depths: tuple[int, int, int, int], **others: Value) -> dict[str, Value]:
    """The choices of a network for 224×224 pixels, bottlenecks unless said otherwise."""
    choices: dict[str, Value] = {"block": "bottleneck", "stem": 64, "stem_kernel": 7}
    choices |= {"stem_stride": 2, "stem_pool": True, "widening": 1, "cardinality": 1, "se": False}
    choices |= {f"depth{i}": depth for i, depth in enumerate(depths, start=1)}
    choices |= {f"width{i}": 32 * 2**i for i in range(1, 5)}
    return choices | dict.fromkeys(("down2", "down3", "down4"), "stride") | others


def _disk(*widths: int) -> dict[str, Value]:
    """One of DiSK's networks for 32×32 pixels, with one basic block a stage."""
    choices = _point((1, 1, 1, 1), block="basic", stem=widths[0], stem_pool=False)
    choices |= {"stem_kernel": 3, "stem_stride": 1}
    return choices | {f"width{i}": width for i, width in enumerate(widths, start=1)}


_18, _34, _50 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
_101, _152 = (3, 4, 23, 3), (3, 8, 36, 3)
_SMALL = _point(_50, stem_pool=False)
POINTS = {
    "resnet18": _point(_18, block="basic"),
    "resnet34": _point(_34, block="basic"),
    "resnet50": _point(_50),
    "resnet101": _point(_101),
    "resnet152": _point(_152),
    "resnext50_32x4d": _point(_50, widening=2, cardinality=32),
    "resnext101_32x8d": _point(_101, widening=4, cardinality=32),
    "resnext101_64x4d": _point(_101, widening=4, cardinality=64),
    "wide_resnet50_2": _point(_50, widening=2),
    "wide_resnet101_2": _point(_101, widening=2),
    "seresnet18": _point(_18, block="basic", se=True),
    "seresnet34": _point(_34, block="basic", se=True),
    "seresnet50": _point(_50, se=True),
    "seresnet101": _point(_101, se=True),
    "seresnet152": _point(_152, se=True),
    "seresnext50_32x4d": _point(_50, widening=2, cardinality=32, se=True),
    "resnet10_xxxs": _disk(4, 8, 8, 16),
    "resnet10_xxs": _disk(8, 8, 16, 16),
    "resnet10_xs": _disk(8, 16, 16, 32),
    "resnet10_s": _disk(8, 16, 32, 64),
    "small_resnet50": _SMALL,
    "receptive_v1": _SMALL | {"down4": "pool"},
    "receptive_v2": _SMALL | {"down4": "pool", "down3": "pool"},
    "receptive_v4": _SMALL | {"down4": "pool", "down3": "pool", "stem_stride": 1},
}
