"""Networks known by name, as one space."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
import torch

from evonas.architecture import Integer
from evonas.errors import RecipeError
from evonas.recipe.options import bind
from evonas.recipe.registry import Registry
from evonas.recipe.schema import SpaceSection
from evonas.spaces.base import Task
from evonas.spaces.named import Named
from evonas.spaces.resnet import ResNet
from evonas.testing import check_space

TASK = Task(3, 32, 32, 10)
SMALL = {"space": "plain_cnn", **{f"k{i}": 1 for i in range(1, 5)}}
SMALL |= {f"c{i}": 5 for i in range(1, 5)}  # between what is searched
NETWORKS = ["resnet/resnet10_xs", "mbconv/model4", SMALL]


def test_it_keeps_the_contract() -> None:
    assert check_space(Named(NETWORKS)) == []


def test_its_networks_are_those_of_their_own_spaces() -> None:
    space, resnet = Named(NETWORKS), ResNet()
    assert space.size() == len(list(space.enumerate())) == 3
    one = space.architecture({"network": "resnet/resnet10_xs"})
    own = resnet.point("resnet10_xs")
    assert space.costs(one, TASK)["params"] == resnet.costs(own, TASK)["params"]
    shapes = [
        {name: tensor.shape for name, tensor in of.build(architecture, TASK).state_dict().items()}
        for of, architecture in ((space, one), (resnet, own))
    ]
    assert shapes[0] == shapes[1]
    unnamed = next(a for a in space.enumerate() if "plain_cnn" in str(a.choices["network"]))
    assert space.build(unnamed, TASK)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert space.sample(Random(0)).space == "named"


@pytest.mark.parametrize(
    ("networks", "text"),
    [
        ([], r"space\.networks"),
        (["resnet/resnet10_xss"], "unknown network of resnet 'resnet10_xss'.*resnet10_xs"),
        (["resnett/a"], r"unknown space 'resnett'"),
        (["resnet"], "unknown network of resnet ''"),
        ([{"space": "plain_cnn", "k1": 1}], "choice .* is missing"),
        ([{"k1": 1}], "unknown space ''"),
        (["mbconv/model4", "mbconv/model4"], "there twice"),
    ],
)
def test_what_is_no_network_is_one_line(networks: list[object], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        bind(Registry(), "space", SpaceSection(name="named", networks=networks), "space")()


@pytest.mark.parametrize("name", ["anynet", "cnn", "mbconv", "nasnet", "regnet", "sequential"])
def test_numbers_that_no_network_has_are_one_line_and_others_are_built(name: str) -> None:
    space = Registry().find("space", name)()
    choices = space.sample(Random(0)).choices
    for key, domain in space.domains.items():
        for value in (0, 1, 3) if isinstance(domain, Integer) else ():
            network = {"space": name, **choices, key: value}
            with suppress(RecipeError):
                section = SpaceSection(name="named", networks=[network])
                named = bind(Registry(), "space", section, "space")()
                assert named.costs(named.sample(Random(0)), TASK)["params"] > 0
