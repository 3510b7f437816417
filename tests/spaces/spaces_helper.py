"""What the tests of several spaces share."""

from __future__ import annotations

import torch

from evonas.architecture import Architecture
from evonas.spaces.base import Cost, SearchSpace
from evonas.task import Task
from evonas.training import cost

IMAGENET = Task(channels=3, height=224, width=224, classes=1000)


def costs_of_built(space: SearchSpace, architecture: Architecture, task: Task) -> Cost:
    """Counted on the network itself, by torch."""
    with torch.device("meta"):
        network = space.build(architecture, task)
    return Cost(int(cost.params(network, task)), int(cost.flops(network, task)))
