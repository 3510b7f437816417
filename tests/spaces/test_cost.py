"""Costs: by hand for single layers, and equal to torch's counter on networks that are built."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from evonas.architecture import Architecture, Categorical
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.parts import cost
from evonas.spaces.plain_cnn import PlainCNN

SPACES: Mapping[str, SearchSpace] = {
    "plain_cnn": PlainCNN(2, 32),
    "mbconv": MBConv(2, 32),
    "nasbench201": NASBench201(4, 1),
}
TASK = Task(channels=3, height=9, width=12, classes=7)


@pytest.mark.parametrize(
    ("layer", "params", "flops"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 3 * 8 * 9 + 8, 2 * 3 * 8 * 9 * 9 * 12),
        (nn.Conv2d(3, 8, 3, padding=1, bias=False), 3 * 8 * 9, 2 * 3 * 8 * 9 * 9 * 12),
        (nn.Conv2d(3, 8, 1, stride=3), 3 * 8 + 8, 2 * 3 * 8 * 3 * 4),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 9 + 6, 2 * 6 * 9 * 9 * 12),
        (nn.Sequential(nn.Flatten(), nn.Linear(324, 7)), 324 * 7 + 7, 2 * 324 * 7),
        (nn.BatchNorm2d(3), 6, 0),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)), 0, 0),
    ],
)
def test_single_layers_by_hand(layer: nn.Module, params: int, flops: int) -> None:
    assert cost.params(layer, TASK) == params
    assert cost.flops(layer.to("meta"), TASK) == flops


@pytest.mark.parametrize("name", SPACES)
def test_networks_cost_what_the_built_ones_do(name: str) -> None:
    space = SPACES[name]
    for seed in range(3):
        architecture = space.sample(Random(seed))
        network = space.build(architecture, TASK).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(1, *TASK.input_shape))
        trainable = [p for p in network.parameters() if p.requires_grad]
        counted = space.costs(architecture, TASK)
        assert counted["params"] == sum(p.numel() for p in trainable)
        assert counted["flops"] == counter.get_total_flops()


def test_what_is_frozen_counts_too() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    assert cost.params(network, TASK) == 4 * 3 + 3 + 3 * 2 + 2


def test_counting_leaves_a_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for mode in (True, False):
        network.train(mode)
        cost.flops(network, TASK)
        assert network.training == network[1].training == mode
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


class Slim(PlainCNN):
    """Counted on the meta device, and of one cost."""

    counted = ("params",)
    costs = SearchSpace.costs


def test_what_is_named_is_counted_and_nothing_else() -> None:
    space = Slim(2, 32)
    architecture = space.sample(Random(0))
    params = SPACES["plain_cnn"].costs(architecture, TASK)["params"]
    assert space.costs(architecture, TASK) == {"params": params}
    for each in SPACES.values():
        assert tuple(each.costs(each.sample(Random(0)), TASK)) == each.counted


class Devices(TorchDispatchMode):
    """Notes on which devices tensors are made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tensor.device.type)
        return out


@pytest.mark.parametrize("name", SPACES)
def test_counting_allocates_nothing(name: str) -> None:
    space = SPACES[name]
    state = torch.random.get_rng_state()
    with Devices() as devices:
        space.costs(space.sample(Random(0)), TASK)
    assert devices.seen <= {"meta"}
    assert torch.equal(state, torch.random.get_rng_state())


class Enormous(SearchSpace):
    """A network of two terabytes."""

    def __init__(self) -> None:
        self.domains = {"one": Categorical((1,))}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(324, 1 << 30), nn.Linear(1 << 30, task.classes)
        )


def test_a_network_larger_than_the_memory_is_counted() -> None:
    space = Enormous()
    counted = space.costs(space.sample(Random(0)), TASK)
    assert counted["params"] == (324 + 1 + 7) * (1 << 30) + 7
    assert counted["flops"] == 2 * (324 + 7) * (1 << 30)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("alexnet", 195),
        ("vgg16", 212),
        ("resnet18", 435),
        ("resnet50", 427),
        ("mobilenet_v2", 491),
        ("inception_v3", 1311),
    ],
)
def test_receptive_fields_of_published_networks(name: str, field: int) -> None:
    """Those of Araujo, Norris and Sim, Distill 2019, for torchvision's variants."""
    from torchvision import models

    with torch.device("meta"):
        network = (
            models.get_model(name, init_weights=False)
            if "incep" in name
            else (models.get_model(name))
        )
    assert cost.receptive_field(network, Task(3, 299, 299, 1000)) == field


def test_receptive_fields_by_hand() -> None:
    dilated = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=2, dilation=2)
    )
    assert cost.receptive_field(dilated, TASK) == 3 + 1 + 2 * 4
    assert cost.receptive_field(nn.Sequential(nn.Flatten(), nn.Linear(324, 7)), TASK) == 1
    pooled = nn.Sequential(nn.Conv2d(3, 4, 5), nn.AvgPool2d(3, 2), nn.AdaptiveAvgPool2d(1))
    assert cost.receptive_field(pooled, TASK) == 5 + 2
    assert pooled.training
