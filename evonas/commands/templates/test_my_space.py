"""The space through the public contract kit, and whatever is special about it."""

from __future__ import annotations

from pathlib import Path
from random import Random

from torch import nn

from evonas import Registry, Task
from evonas.testing import check_space

PLUGINS = Path(__file__).parents[1]
MySpace = Registry((PLUGINS,)).find("space", "my_space")


def test_it_keeps_the_contract() -> None:
    assert check_space(MySpace()) == []


def test_a_network_has_the_convolutions_chosen() -> None:
    space = MySpace()
    for seed in range(20):
        architecture = space.sample(Random(seed))
        network = space.build(architecture, Task(channels=3, height=16, width=16, classes=10))
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == architecture.choices["depth"]
