"""Plain convolutional networks: the family that the CIFAR-100 study searched first."""

from __future__ import annotations

from collections.abc import Mapping

from evonas.architecture import Architecture, Integer
from evonas.errors import OptionError
from evonas.recipe.options import Count
from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import ConvNorm, named_classifier, named_stages
from evonas.spaces.parts.layers import Layer, LayeredSpace
from evonas.spaces.parts.supernet import Supernet


class PlainCNN(LayeredSpace):
    """Four blocks of k 3×3 convolutions with c channels, max-pooling between them.

    Every convolution has a bias, batch normalisation and ReLU; average pooling and a linear layer
    end the network. The choices are ``k1``…``k4`` and ``c1``…``c4``; ``small`` is the study's
    third network.

    Args:
        max_depth: Largest k.
        max_width: Largest c, sampled log-uniformly.
        width_step: Smallest c; it goes in steps of as many.
    """

    def __init__(self, max_depth: Count = 3, max_width: Count = 128, width_step: Count = 4) -> None:
        if max_width < width_step:
            reason = f"must be at least the width_step of {width_step}, not {max_width}"
            raise OptionError("max_width", reason)
        depth = Integer(1, max_depth, role="depth")
        width = Integer(width_step, max_width, step=width_step, log=True, role="width")
        self.domains = {f"k{i}": depth for i in range(1, 5)} | {f"c{i}": width for i in range(1, 5)}
        ones = dict.fromkeys(("k1", "k2", "k3", "k4"), 1)
        self.points = {"small": ones | {"c1": 4, "c2": 8, "c3": 16, "c4": 32}}

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        choices = architecture.choices
        channels, blocks = task.channels, []
        for i in range(1, 5):
            block: list[Layer] = []
            for _ in range(int(choices[f"k{i}"])):
                width = int(choices[f"c{i}"])
                block.append(ConvNorm(channels, width, kernel=3, bias=True))
                channels = width
            blocks.append(block)
        stages = named_stages(blocks, min(task.height, task.width))
        return stages | named_classifier(channels, task.classes)

    def build_supernet(self, task: Task) -> Supernet:
        """The largest network holds the weights of all others."""
        largest = {name: domain.values()[-1] for name, domain in self.domains.items()}
        return Supernet(self, task, [self.reference(largest)])
