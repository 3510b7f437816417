"""Published networks, cut, frozen and given a new head."""

from __future__ import annotations

from random import Random

import pytest
import torch
from spaces_helper import costs_of_built
from torch import nn
from torchvision import models

from evonas.architecture import Architecture, Value
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.recipe.options import check
from evonas.spaces.backbone import Backbone
from evonas.spaces.base import Task
from evonas.training import transfer

RESNET = Backbone("torchvision:resnet18", max_resolution=64)
TASK = Task(channels=3, height=16, width=16, classes=5)


def at(space: Backbone, **choices: Value) -> Architecture:
    return space.architecture(dict(space.points["fine_tuned"]) | choices)


def test_stages_of_a_resnet() -> None:
    """The stem before and after its pooling, and four of blocks."""
    assert RESNET.domains["cut"].size == 5
    for cut, last in enumerate(("bn1", "layer1", "layer2", "layer3", "layer4"), start=1):
        network = RESNET.build(at(RESNET, cut=cut), TASK)
        assert [name for name, m in network.named_children() if list(m.parameters())][-2] == last


def test_what_is_kept_computes_what_it_did() -> None:
    network = RESNET.build(at(RESNET), TASK).eval()
    whole = models.resnet18().eval()
    assert transfer.begin(network, whole.state_dict()) > 0.99
    whole.fc = nn.Identity()
    seen: list[torch.Tensor] = []
    network.get_submodule("head").register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    images = torch.randn(2, 3, 64, 64)
    network(images)
    assert torch.allclose(seen[0], whole(images), atol=1e-5)


def test_frozen_stages_are_not_trained_the_rest_is() -> None:
    network = RESNET.build(at(RESNET, cut=4, freeze=2), TASK)
    frozen = {n.partition(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    trained = {n.partition(".")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert trained == {"layer2", "layer3", "head"}


def test_more_cannot_be_frozen_than_is_kept() -> None:
    with pytest.raises(InvalidArchitecture, match="no more stages are frozen than kept"):
        at(RESNET, cut=2, freeze=3)


def test_heads() -> None:
    linear = RESNET.build(at(RESNET, head="linear"), TASK).get_submodule("head")
    mlp = RESNET.build(at(RESNET, head="mlp", hidden=64), TASK).get_submodule("head")
    assert [m.out_features for m in linear.modules() if isinstance(m, nn.Linear)] == [5]
    assert [m.out_features for m in mlp.modules() if isinstance(m, nn.Linear)] == [64, 5]
    assert at(RESNET, head="linear", hidden=64) == at(RESNET, head="linear", hidden=128)


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "resnet18", "regnet_y_400mf", "squeezenet1_0", "mnasnet0_5"]
)
def test_costs_are_those_of_the_built_network(name: str) -> None:
    space = Backbone(f"torchvision:{name}", max_resolution=64)
    for seed in range(3):
        rng = Random(seed)
        architecture = space.sample(rng)
        for each in (architecture, space.mutate(architecture, rng)):
            assert space.costs(each, TASK) == costs_of_built(space, each, TASK)


def test_grey_images_are_taken_and_others_refused() -> None:
    network = RESNET.build(at(RESNET, resolution=32), Task(1, 28, 28, 10)).eval()
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(InvalidArchitecture, match="1 or 3 channels, not 4"):
        RESNET.build(at(RESNET), Task(4, 28, 28, 10))


def test_size_is_exact() -> None:
    space = Backbone("torchvision:squeezenet1_0", max_resolution=32)
    assert space.size() == len(list(space.enumerate()))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("resnet18", r"must be torchvision:NAME or timm:NAME, not 'resnet18'"),
        ("torchvision:resnet19", r"torchvision has no 'resnet19'.*resnet18"),
        ("torchvision:vit_b_16", "do not run in a row"),
        ("torchvision:swin_t", "do not run in a row"),
    ],
)
def test_networks_that_will_not_do(network: str, said: str) -> None:
    with pytest.raises(RecipeError, match=rf"^network: .*{said}"):
        Backbone(network)


def test_resolutions_that_will_not_do() -> None:
    with pytest.raises(
        RecipeError, match=r"max_resolution: Input should be .* equal to 32, not 16"
    ):
        check(Backbone, {"max_resolution": 16}, "space")
    with pytest.raises(RecipeError, match=r"max_resolution: 32 is too small for torchvision:alex"):
        Backbone("torchvision:alexnet", max_resolution=32)


def test_a_network_of_timm() -> None:
    pytest.importorskip("timm")
    space = Backbone("timm:resnet18", max_resolution=32)
    network = space.build(space.point("fine_tuned"), TASK).eval()
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 5)
