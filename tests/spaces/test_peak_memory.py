"""Peak memory: what is counted on the description is what liveness over the built graph gives."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from conftest import TINY_SPACES
from liveness import peak_memory

from evonas.recipe.registry import Registry
from evonas.spaces.base import Task
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Limit

TASKS = (Task(3, 32, 32, 10), Task(1, 9, 14, 3))
LAYERED = (
    "plain_cnn",
    "mbconv",
    "resnet",
    "cifar_resnet",
    "mobilenet",
    "sequential",
    "anynet",
    "regnet",
)
CELLS = ("nasnet", "darts", "nasbench201")


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.channels}x{t.height}x{t.width}")
@pytest.mark.parametrize("name", [*LAYERED, *CELLS])
def test_it_is_that_of_the_built_network(name: str, task: Task) -> None:
    space = Registry().find("space", name)(**TINY_SPACES[name])
    checked = 0
    for seed in range(12):
        architecture = space.sample(Random(seed))
        if name == "nasbench201" and _has_an_empty_node(architecture.choices):
            continue  # zeros have no module that could be traced
        counted = space.costs(architecture, task)["peak_memory"]
        assert counted == peak_memory(space.build(architecture, task), task), architecture.choices
        checked += 1
    assert checked >= 3


def _has_an_empty_node(choices: Any) -> bool:
    nodes = {name.rpartition("_")[2] for name in choices}
    return any(
        all(value == "none" for name, value in choices.items() if name.endswith(f"_{node}"))
        for node in nodes
    )


def test_by_hand() -> None:
    """One convolution of 4 to 8 channels: its input and its output, 32-bit floats."""
    space = PlainCNN(1, 8)
    choices = {**{f"k{i}": 1 for i in range(1, 5)}, **{f"c{i}": 4 for i in range(1, 5)}, "c1": 8}
    task = Task(4, 8, 8, 2)
    counted = space.costs(space.architecture(choices), task)
    assert counted["peak_memory"] == 4 * (4 * 8 * 8 + 8 * 8 * 8)


def test_it_can_be_limited() -> None:
    space = PlainCNN(2, 32)
    most = 60_000
    limited = space.limited({"peak_memory": Limit(max=most)}, TASKS[0])
    for seed in range(20):
        assert space.costs(limited.sample(Random(seed)), TASKS[0])["peak_memory"] <= most
