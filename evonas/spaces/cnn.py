"""Convolutional networks for small images, with what there is to choose about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from evonas.architecture import Architecture, Categorical, Domain, Integer, Value
from evonas.recipe.options import Count
from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import (
    ACTIVATIONS,
    ConvNorm,
    named_classifier,
    squeeze_excitation,
)
from evonas.spaces.parts.layers import Layer, LayeredSpace, Row, Sum

_STAGES = range(1, 5)
_REDUCTION = 4  # of squeeze-and-excitation
_POOLINGS = {"max_pool": nn.MaxPool2d, "avg_pool": nn.AvgPool2d}


def _network(depth: int, *widths: int, down: str, shortcut: bool) -> dict[str, Value]:
    """Choices of a network of 3×3 convolutions and ReLU, all of whose stages are alike."""
    choices: dict[str, Value] = {"activation": "relu", "shortcut": shortcut}
    for i, width in zip(_STAGES, widths, strict=True):
        choices |= {f"depth{i}": depth, f"width{i}": width, f"kernel{i}": 3, f"se{i}": False}
        choices |= {f"down{i}": down} if i > 1 else {}
    return choices


# Of few-shot learning (Vinyals et al., Matching networks, NeurIPS 2016), of VGG (Simonyan and
# Zisserman, ICLR 2015) and of residual networks (He et al., CVPR 2016), brought to four stages.
_POINTS = {
    "conv4": _network(1, 64, 64, 64, 64, down="max_pool", shortcut=False),
    "vgg": _network(1, 16, 32, 64, 128, down="max_pool", shortcut=False),
    "resnet": _network(2, 16, 16, 32, 64, down="stride", shortcut=True),
}


class CNN(LayeredSpace):
    """Four stages of convolutions: how many, how wide, of which kernel, and all between them.

    A stage has ``depth`` convolutions of ``width`` channels and a ``kernel`` of 1 (not in the
    first), 3 or 5, each with normalisation and the network's ``activation``; with ``se``
    squeeze-and-excitation follows (Hu et al., CVPR 2018). With ``shortcut`` what keeps its shape is
    added to what it reads (He et al., CVPR 2016). A later stage begins ``down``: behind a pooling
    of 2×2, with a stride of 2, or at the size of the one before. What ``plain_cnn`` holds fast is
    chosen here, and pays: small networks differ more by that than by their widths
    (docs/results.md). The points are shapes that are known by hand, to be scaled to any size.

    Args:
        max_depth: Most convolutions of a stage.
        max_width: Of a stage, sampled log-uniformly.
        width_step: Smallest width; it goes in steps of as many.
    """

    def __init__(
        self,
        max_depth: Count = 3,
        max_width: Annotated[int, Field(ge=8)] = 128,
        width_step: Literal[1, 2, 4, 8] = 8,
    ) -> None:
        width = Integer(width_step, max_width, step=width_step, log=True, role="width")
        self.points = _POINTS
        self.domains: dict[str, Domain] = {
            "activation": Categorical(tuple(ACTIVATIONS)),
            "shortcut": Categorical((False, True)),
        }
        for i in _STAGES:
            self.domains |= {
                f"depth{i}": Integer(1, max_depth, role="depth"),
                f"width{i}": width,
                # What looks at single pixels learns little from images, and is slow on large maps.
                f"kernel{i}": Integer(3 if i == 1 else 1, 5, step=2),
                f"se{i}": Categorical((False, True)),
            }
            if i > 1:
                self.domains[f"down{i}"] = Categorical((*_POOLINGS, "stride", "none"))

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        choices = architecture.choices
        activation = ACTIVATIONS[str(choices["activation"])]
        channels, size = task.channels, min(task.height, task.width)
        named: dict[str, Layer] = {}
        for i in _STAGES:
            down = str(choices[f"down{i}"]) if i > 1 and size > 1 else "none"
            if down in _POOLINGS:
                named[f"pool{i - 1}"] = Layer(_POOLINGS[down], 2)
            size = size if down == "none" else size // 2
            width, kernel = int(choices[f"width{i}"]), int(choices[f"kernel{i}"])
            squeezed = max(1, width // _REDUCTION) if choices[f"se{i}"] else 0
            for number in range(1, int(choices[f"depth{i}"]) + 1):
                stride = 2 if down == "stride" and number == 1 else 1
                body = Row(
                    conv=ConvNorm(channels, width, kernel, stride, activation=activation),
                    excite=squeeze_excitation(width, squeezed),
                )
                added = choices["shortcut"] and stride == 1 and channels == width
                # Names, and so the weights that a child inherits, are the same either way.
                named[f"stage{i}_block{number}"] = Sum(body) if added else Row(body=body)
                channels = width
        return named | named_classifier(channels, task.classes)
