"""Stages of simplified MBConv blocks: the family of the CIFAR-100 study's better networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from evonas.architecture import Architecture, Categorical, Domain, Integer, Value
from evonas.recipe.options import Count
from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import ConvNorm, mbconv, named_classifier, named_stages
from evonas.spaces.parts.layers import Layer, LayeredSpace
from evonas.spaces.parts.supernet import Supernet


class MBConv(LayeredSpace):
    """A 1×1 stem and four stages of MBConv blocks, max-pooling between the stages.

    The choices are ``stem`` channels and, per stage, ``depth``, ``channels`` and ``expansion``
    (inner channels per input channel of a block). The points ``model4``…``model8`` are the
    study's networks, exact to the parameter.

    Args:
        max_depth: Most blocks of a stage.
        max_width: Most channels of a stage; in steps of 4, sampled log-uniformly.
    """

    def __init__(self, max_depth: Count = 4, max_width: Annotated[int, Field(ge=8)] = 256) -> None:
        self.domains: dict[str, Domain] = {
            "stem": Integer(8, min(64, max_width), step=4, log=True, role="width")
        }
        for i in range(1, 5):
            self.domains[f"depth{i}"] = Integer(1, max_depth, role="depth")
            self.domains[f"channels{i}"] = Integer(8, max_width, step=4, log=True, role="width")
            self.domains[f"expansion{i}"] = Categorical((1, 2, 3, 4, 6))
        self.points = {
            "model4": _point(16, (1, 16), (1, 32), (1, 32), (1, 100)),
            "model5": _point(32, (1, 32), (1, 32), (1, 64), (1, 100)),
            "model6": _point(32, (1, 32), (1, 64), (1, 128), (1, 256)),
            "model7": _point(32, (1, 32), (1, 64), (2, 128), (1, 256)),
            "model8": _point(32, (1, 32), (2, 64), (2, 128), (2, 256)),
        }

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        choices = {name: int(value) for name, value in architecture.choices.items()}
        channels, stages = choices["stem"], []
        stem = {"stem": ConvNorm(task.channels, channels, bias=True)}
        for i in range(1, 5):
            stage: list[Layer] = []
            for _ in range(choices[f"depth{i}"]):
                outputs, inner = choices[f"channels{i}"], channels * choices[f"expansion{i}"]
                stage.append(mbconv(channels, outputs, inner))
                channels = outputs
            stages.append(stage)
        blocks = named_stages(stages, min(task.height, task.width))
        return stem | blocks | named_classifier(channels, task.classes)

    def build_supernet(self, task: Task) -> Supernet:
        """The largest network, and two whose width changes at every stage: that takes a shortcut.

        A stage that is the widest in one of the two is a step narrower in the other.
        """
        largest = {name: domain.values()[-1] for name, domain in self.domains.items()}
        widths = ("stem", *(f"channels{i}" for i in range(1, 5)))
        narrower = {name: self.domains[name].values()[-2:][0] for name in widths}
        changing = [largest | {name: narrower[name] for name in widths[i::2]} for i in (0, 1)]
        covering = [self.reference(choices) for choices in (*changing, largest)]
        return Supernet(self, task, covering)


def _point(stem: int, *stages: tuple[int, int]) -> dict[str, Value]:
    """Choices from (depth, channels) per stage; the study's expansion is always 4."""
    choices: dict[str, Value] = {"stem": stem}
    for i, (depth, channels) in enumerate(stages, start=1):
        choices |= {f"depth{i}": depth, f"channels{i}": channels, f"expansion{i}": 4}
    return choices
