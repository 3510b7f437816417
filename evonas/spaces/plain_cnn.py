"""Plain convolutional networks: the family that the CIFAR-100 study searched first."""

from __future__ import annotations

from torch import nn

from evonas.architecture import Architecture, Integer
from evonas.errors import RecipeError
from evonas.spaces import layers
from evonas.spaces.base import Cost, SearchSpace
from evonas.spaces.layers import Layer
from evonas.spaces.operations import ConvNorm, named_classifier, named_stages
from evonas.spaces.sharing import Supernet
from evonas.task import Task


class PlainCNN(SearchSpace):
    """Four blocks of k 3×3 convolutions with c channels, max-pooling between them.

    Every convolution has a bias, batch normalisation and ReLU; average pooling and a linear layer
    end the network. The choices are ``k1``…``k4`` and ``c1``…``c4``; ``small`` is the study's
    third network.

    Args:
        max_depth: Largest k.
        max_width: Largest c; c goes in steps of 4 and is sampled log-uniformly.
    """

    def __init__(self, max_depth: int = 3, max_width: int = 128) -> None:
        if max_depth < 1:
            raise RecipeError(f"space.max_depth: must be at least 1, not {max_depth}")
        if max_width < 4:
            raise RecipeError(f"space.max_width: must be at least 4, not {max_width}")
        depth = Integer(1, max_depth, role="depth")
        width = Integer(4, max_width, step=4, log=True, role="width")
        self.domains = {f"k{i}": depth for i in range(1, 5)} | {f"c{i}": width for i in range(1, 5)}
        ones = dict.fromkeys(("k1", "k2", "k3", "k4"), 1)
        self.points = {"small": ones | {"c1": 4, "c2": 8, "c3": 16, "c4": 32}}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network."""
        return layers.network(self._layers(architecture, task))

    def cost(self, architecture: Architecture, task: Task) -> Cost:
        """Count it."""
        return layers.cost(self._layers(architecture, task), task)

    def _layers(self, architecture: Architecture, task: Task) -> dict[str, Layer]:
        choices = architecture.choices
        channels, blocks = task.channels, []
        for i in range(1, 5):
            block: list[Layer] = []
            for _ in range(int(choices[f"k{i}"])):
                width = int(choices[f"c{i}"])
                block.append(Layer(ConvNorm, channels, width, kernel=3, bias=True))
                channels = width
            blocks.append(block)
        stages = named_stages(blocks, min(task.height, task.width))
        return stages | named_classifier(channels, task.classes)

    def build_supernet(self, task: Task) -> Supernet:
        """The largest network holds the weights of all others."""
        largest = {name: domain.values()[-1] for name, domain in self.domains.items()}
        return Supernet(self, task, [self.architecture(largest)])
