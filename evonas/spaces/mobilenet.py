"""Mobile networks: MobileNet V1, V2 and V3, MnasNet and EfficientNet in one space."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from evonas.architecture import Architecture, Categorical, Domain, Integer, Value
from evonas.recipe.options import Count, Positive
from evonas.spaces.base import Task, divisible
from evonas.spaces.parts.blocks import ACTIVATIONS, ConvNorm, inverted, separable
from evonas.spaces.parts.layers import Layer, LayeredSpace

STAGES = range(1, 8)
_EXPANSIONS = (1.0, 1.5, 2.0, 2.3, 2.5, 3.0, 3.67, 4.0, 4.5, 5.0, 6.0)


class MobileNet(LayeredSpace):
    """A stem, seven stages of depthwise blocks, and a 1×1 convolution before the classifier.

    A stage has ``depth`` blocks (0: there is none) of ``width`` channels: depthwise-``separable``
    convolutions (Howard et al., MobileNets, 2017) or ``inverted`` residuals (Sandler et al.,
    MobileNetV2, CVPR 2018), with ``kernel`` 3, 5 or 7, ``stride``, ``activation``, and for inverted
    ones the ``expansion`` of the first block, that of the ``others``, and squeeze-and-excitation:
    to a quarter of the block's ``input`` (MnasNet, Tan et al., CVPR 2019; EfficientNet, Tan and Le,
    ICML 2019) or of its ``inner`` channels with a hard sigmoid (Howard et al., MobileNetV3, ICCV
    2019). ``head`` channels come last (0: none), a ``hidden`` linear layer after the pooling
    likewise. The points are the published networks, exact to torchvision's and timm's parameters.

    Args:
        max_depth: Most blocks of a stage.
        max_width: Of a stage; in steps of 8, sampled log-uniformly.
        multiplier: Of the stem's and the stages' widths, rounded to multiples of 8; of the head and
            the hidden layer too if it is more than 1 (MobileNetV2).
    """

    def __init__(
        self,
        max_depth: Count = 4,
        max_width: Annotated[int, Field(ge=8)] = 320,
        multiplier: Positive = 1.0,
    ) -> None:
        self._multiplier = multiplier
        activation = Categorical(tuple(ACTIVATIONS))
        self.domains: dict[str, Domain] = {
            "stem": Integer(8, min(64, max_width), step=8, log=True, role="width"),
            "stem_stride": Integer(1, 2),
            "stem_activation": activation,
        }
        of_a_stage: dict[str, Domain] = {
            "depth": Integer(0, max_depth, role="depth"),
            "width": Integer(8, max_width, step=8, log=True, role="width"),
            "block": Categorical(("inverted", "separable")),
            "kernel": Integer(3, 7, step=2),
            "stride": Integer(1, 2),
            "activation": activation,
            "expansion": Categorical(_EXPANSIONS, ordered=True),
            "others": Categorical(_EXPANSIONS, ordered=True),
            "se": Categorical(("none", "input", "inner")),
        }
        self._of_a_stage = tuple(of_a_stage)
        for i in STAGES:
            self.domains |= {f"{name}{i}": domain for name, domain in of_a_stage.items()}
            self.conditions = {**self.conditions, **_conditions(i)}
        self.domains["depth1"] = Integer(1, max_depth, role="depth")  # the one that is always there
        self.domains |= {
            "head": Integer(0, 4 * max_width, step=8, role="width"),
            "head_activation": activation,
            "hidden": Integer(0, 4 * max_width, step=8, role="width"),
        }
        self.points = POINTS | {
            name: {**self.scaled(self.reference(POINTS[base]), width, depth).choices, **fixed}
            for name, (base, width, depth, fixed) in SCALED.items()
        }

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        """Where there are no other blocks than the first, they are like it: a deeper copy's are."""
        alone = (i for i in STAGES if int(choices[f"depth{i}"]) == 1)
        return {**choices, **{f"others{i}": choices[f"expansion{i}"] for i in alone}}

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        choices = architecture.choices
        channels = divisible(int(choices["stem"]) * self._multiplier)
        activation = ACTIVATIONS[str(choices["stem_activation"])]
        stride = int(choices["stem_stride"])
        stem = ConvNorm(task.channels, channels, 3, stride, activation=activation)
        named: dict[str, Layer] = {"stem": stem}
        for i in STAGES:
            stage = {name: choices[f"{name}{i}"] for name in self._of_a_stage}
            width = divisible(int(stage["width"]) * self._multiplier)
            for number in range(1, int(stage["depth"]) + 1):
                block = _block(stage, channels, width, first=number == 1)
                named[f"stage{i}_{stage['block']}{number}"] = block
                channels = width
        return named | self._head(choices, channels, task.classes)

    def _head(self, choices: Mapping[str, Value], channels: int, classes: int) -> dict[str, Layer]:
        activation = ACTIVATIONS[str(choices["head_activation"])]
        named: dict[str, Layer] = {}
        if choices["head"]:
            head = divisible(int(choices["head"]) * max(1.0, self._multiplier))
            named["head"] = ConvNorm(channels, head, activation=activation)
            channels = head
        named |= {"pool": Layer(nn.AdaptiveAvgPool2d, 1), "flatten": Layer(nn.Flatten)}
        if choices["hidden"]:
            hidden = divisible(int(choices["hidden"]) * max(1.0, self._multiplier))
            named["hidden"] = Layer(nn.Linear, channels, hidden)
            named["hidden_activation"] = Layer(activation)
            channels = hidden
        named["classifier"] = Layer(nn.Linear, channels, classes)
        return named


def _conditions(i: int) -> dict[str, Any]:
    """A stage that is not there has no choices, a separable convolution nothing inside."""

    def there(choices: Mapping[str, Value]) -> bool:
        return int(choices[f"depth{i}"]) > 0

    def expanded(choices: Mapping[str, Value]) -> bool:
        return there(choices) and choices[f"block{i}"] == "inverted"

    def several(choices: Mapping[str, Value]) -> bool:
        return expanded(choices) and int(choices[f"depth{i}"]) > 1

    of_all = dict.fromkeys(("width", "block", "kernel", "stride", "activation"), there)
    of_inverted = {"expansion": expanded, "others": several, "se": expanded}
    return {f"{name}{i}": condition for name, condition in (of_all | of_inverted).items()}


def _block(stage: Mapping[str, Value], inputs: int, outputs: int, first: bool) -> Layer:
    kernel, stride = int(stage["kernel"]), int(stage["stride"]) if first else 1
    activation = ACTIVATIONS[str(stage["activation"])]
    if stage["block"] == "separable":
        return separable(inputs, outputs, kernel, stride, activation)
    expansion = float(stage["expansion" if first else "others"])
    inner = inputs if expansion == 1 else divisible(inputs * expansion)
    squeezed = {
        "none": 0,
        "input": max(1, inputs // 4),
        "inner": divisible(inner // 4),
    }[str(stage["se"])]
    gate = nn.Hardsigmoid if stage["se"] == "inner" else nn.Sigmoid
    return inverted(inputs, outputs, inner, kernel, stride, squeezed, activation, gate)


def _stage(
    depth: int, width: int, stride: int, kernel: int = 3, expansion: float = 6.0, **rest: Value
) -> dict[str, Value]:
    """Choices of a stage, all of whose blocks expand alike unless the rest names ``others``."""
    stage: dict[str, Value] = {"depth": depth, "width": width, "stride": stride, "kernel": kernel}
    return stage | {"expansion": expansion, "others": expansion} | rest


def _point(
    stem: int, *stages: dict[str, Value], head: int, hidden: int = 0, **of_all: Value
) -> dict[str, Value]:
    """Choices of a network of up to seven stages; ``of_all`` hold unless a stage says otherwise."""
    defaults = {"block": "inverted", "activation": "relu6", "se": "none"} | of_all
    activation = defaults["activation"]
    choices: dict[str, Value] = {"stem": stem, "stem_stride": 2, "stem_activation": activation}
    choices |= {"head": head, "head_activation": activation, "hidden": hidden}
    for i, stage in itertools.zip_longest(STAGES, stages, fillvalue=_stage(0, 8, 1)):
        choices |= {f"{name}{i}": value for name, value in (defaults | stage).items()}
    return choices


_B0 = [
    _stage(1, 16, 1, expansion=1.0),
    _stage(2, 24, 2),
    _stage(2, 40, 2, kernel=5),
    _stage(3, 80, 2),
    _stage(3, 112, 1, kernel=5),
    _stage(4, 192, 2, kernel=5),
    _stage(1, 320, 1),
]
POINTS: dict[str, Mapping[str, Value]] = {
    "mobilenet_v1": _point(
        32,
        _stage(1, 64, 1),
        _stage(2, 128, 2),
        _stage(2, 256, 2),
        _stage(6, 512, 2),
        _stage(2, 1024, 2),
        head=0,
        block="separable",
    ),
    "mobilenet_v2": _point(
        32,
        _stage(1, 16, 1, expansion=1.0),
        _stage(2, 24, 2),
        _stage(3, 32, 2),
        _stage(4, 64, 2),
        _stage(3, 96, 1),
        _stage(3, 160, 2),
        _stage(1, 320, 1),
        head=1280,
    ),
    "mobilenet_v3_small": _point(
        16,
        _stage(1, 16, 2, expansion=1.0, activation="relu", se="inner"),
        _stage(2, 24, 2, expansion=4.5, others=3.67, activation="relu"),
        _stage(3, 40, 2, kernel=5, expansion=4.0, others=6.0, se="inner"),
        _stage(2, 48, 1, kernel=5, expansion=3.0, se="inner"),
        _stage(3, 96, 2, kernel=5, se="inner"),
        head=576,
        hidden=1024,
        activation="hswish",
    ),
    "mobilenet_v3_large": _point(
        16,
        _stage(1, 16, 1, expansion=1.0, activation="relu"),
        _stage(2, 24, 2, expansion=4.0, others=3.0, activation="relu"),
        _stage(3, 40, 2, kernel=5, expansion=3.0, activation="relu", se="inner"),
        _stage(2, 80, 2, others=2.5),
        _stage(2, 80, 1, expansion=2.3),
        _stage(2, 112, 1, se="inner"),
        _stage(3, 160, 2, kernel=5, se="inner"),
        head=960,
        hidden=1280,
        activation="hswish",
    ),
    "mnasnet1_0": _point(
        32,
        _stage(1, 16, 1, expansion=1.0),
        _stage(3, 24, 2, expansion=3.0),
        _stage(3, 40, 2, kernel=5, expansion=3.0),
        _stage(3, 80, 2, kernel=5),
        _stage(2, 96, 1),
        _stage(4, 192, 2, kernel=5),
        _stage(1, 320, 1),
        head=1280,
        activation="relu",
    ),
    "semnasnet_100": _point(
        32,
        _stage(1, 16, 1, expansion=1.0),
        _stage(2, 24, 2),
        _stage(3, 40, 2, kernel=5, expansion=3.0, se="input"),
        _stage(4, 80, 2),
        _stage(2, 112, 1, se="input"),
        _stage(3, 160, 2, kernel=5, se="input"),
        _stage(1, 320, 1),
        head=1280,
        activation="relu",
    ),
    "efficientnet_b0": _point(32, *_B0, head=1280, activation="silu", se="input"),
    "efficientnet_lite0": _point(32, *_B0, head=1280),
}
# Base, published factors of width and depth, and what they leave alone.
SCALED: dict[str, tuple[str, float, float, dict[str, Value]]] = {
    "mobilenetv3_small_075": ("mobilenet_v3_small", 0.75, 1.0, {"hidden": 1024}),
    "mobilenetv3_large_075": ("mobilenet_v3_large", 0.75, 1.0, {"hidden": 1280}),
    "mnasnet0_5": ("mnasnet1_0", 0.5, 1.0, {"head": 1280}),
    "mnasnet0_75": ("mnasnet1_0", 0.75, 1.0, {"head": 1280}),
    "mnasnet1_3": ("mnasnet1_0", 1.3, 1.0, {"head": 1280}),
    "efficientnet_b1": ("efficientnet_b0", 1.0, 1.1, {}),
    "efficientnet_b2": ("efficientnet_b0", 1.1, 1.2, {}),
    "efficientnet_b3": ("efficientnet_b0", 1.2, 1.4, {}),
    "efficientnet_b4": ("efficientnet_b0", 1.4, 1.8, {}),
    "efficientnet_b5": ("efficientnet_b0", 1.6, 2.2, {}),
    "efficientnet_b6": ("efficientnet_b0", 1.8, 2.6, {}),
    "efficientnet_b7": ("efficientnet_b0", 2.0, 3.1, {}),
}
