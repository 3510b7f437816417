"""The smallest useful space: three named choices, and one method that builds a network."""

from __future__ import annotations

import math

from torch import nn

from evonas.architecture import Architecture, Categorical, Integer
from evonas.spaces.base import SearchSpace, Task

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class TinyMLP(SearchSpace):
    """All pixels in a row, through equally wide hidden layers."""

    def __init__(self) -> None:
        self.domains = {
            "layers": Integer(1, 3, role="depth"),
            "units": Integer(8, 256, step=8, log=True, role="width"),
            "activation": Categorical(tuple(ACTIVATIONS)),
        }

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network: (N, channels, height, width) in, logits (N, classes) out."""
        choices = architecture.choices
        inputs, units = math.prod(task.input_shape), int(choices["units"])
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(int(choices["layers"])):
            layers += [nn.Linear(inputs, units), ACTIVATIONS[str(choices["activation"])]()]
            inputs = units
        return nn.Sequential(*layers, nn.Linear(inputs, task.classes))
