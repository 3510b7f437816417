"""Residual networks of three stages: what each choice does. Published costs: tests/golden."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType

import pytest
import torch
from spaces_helper import assert_counted, check_costs
from torch import nn
from torch.nn import functional

from evonas.architecture import Value
from evonas.errors import RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.cifar_resnet import CIFARResNet, Padded
from evonas.spaces.resnet import ResNet
from evonas.training.inheritance import transplant

SPACE = CIFARResNet()
TASK = Task(channels=3, height=32, width=32, classes=10)
TINY = dict(SPACE.points["resnet20"]) | {"depth1": 2, "depth2": 2, "depth3": 2}
TINY |= {"stem": 8, "width1": 8, "width2": 8, "width3": 16}
SMALL_POINTS = [
    *((SPACE, name) for name in SPACE.points),
    *((ResNet(), f"resnet10_{size}") for size in ("xxxs", "xxs", "xs", "s")),
]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def built(choices: dict[str, Value], task: Task = TASK) -> nn.Module:
    return SPACE.build(SPACE.reference(choices), task)


@pytest.mark.parametrize(("space", "name"), SMALL_POINTS, ids=lambda v: getattr(v, "name", v))
def test_points_take_a_step_and_are_counted_as_built(
    space: CIFARResNet | ResNet, name: str
) -> None:
    assert_counted(space, space.point(name), TASK)
    network = space.build(space.point(name), TASK)
    images, labels = torch.randn(8, *TASK.input_shape), torch.arange(8)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    losses = []
    for _ in range(2):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in network.parameters() if p.ndim > 1)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("name", "kinds", "layers"),
    [
        *((f"resnet{n}", nn.Conv2d | nn.Linear, n) for n in (20, 32, 44, 56)),
        ("wrn_16_2", nn.Conv2d, 16),  # its three 1×1 shortcuts count, its classifier does not
    ],
)
def test_networks_have_the_layers_that_they_are_called_by(
    name: str, kinds: UnionType | type, layers: int
) -> None:
    modules = built(dict(SPACE.points[name])).modules()
    assert sum(isinstance(module, kinds) for module in modules) == layers


@pytest.mark.parametrize(
    ("shortcut", "params", "mega_macs"),
    [("pad", 269_722, 40.55), ("conv", 272_282, 40.81), ("conv_norm", 272_474, 40.81)],
)
def test_resnet20_by_its_shortcut(shortcut: str, params: int, mega_macs: float) -> None:
    """With option B it has the multiply-adds that pytorch-cifar-models states."""
    choices = dict(SPACE.points["resnet20"]) | {"shortcut": shortcut}
    counted = SPACE.costs(SPACE.architecture(choices), TASK)
    assert counted["params"] == params
    assert counted["flops"] / 2e6 == pytest.approx(mega_macs, abs=5e-3)


def test_a_padded_shortcut_takes_every_second_pixel_and_adds_zeros() -> None:
    x = torch.randn(2, 3, 5, 6)
    wider = Padded(3, 5, 2)(x)
    assert torch.equal(wider[:, :3], x[:, :, ::2, ::2])
    assert wider.shape == (2, 5, 3, 3)
    assert not wider[:, 3:].any()
    assert torch.equal(Padded(3, 2, 1)(x), x[:, :2])


def test_a_preactivated_block_adds_to_what_comes_in_untouched() -> None:
    network = built(TINY | {"preactivation": True}).eval()
    block = network.get_submodule("stage1_block2")
    x = torch.randn(2, 8, 5, 5)
    begin, convolutions = map(block.get_submodule, ("body.begin.norm", "body.sum.body"))
    assert torch.equal(block(x), x + convolutions(functional.relu(begin(x))))


def test_a_shortcut_with_layers_reads_behind_the_activation() -> None:
    choices = TINY | {"preactivation": True, "shortcut": "conv"}
    block = built(choices).eval().get_submodule("stage2_block1")
    x = torch.randn(2, 8, 6, 6)
    read = block.get_submodule("body.begin")(x)
    both = [block.get_submodule(f"body.sum.{part}")(read) for part in ("body", "shortcut")]
    assert torch.equal(block(x), both[0] + both[1])


def test_names_of_a_preactivated_block_do_not_depend_on_its_shortcut() -> None:
    choices = TINY | {"preactivation": True}
    names = [
        {n for n, _ in built(changed).named_parameters() if n.startswith("stage1_block1")}
        for changed in (choices, choices | {"stem": 16})
    ]
    assert names[0] == names[1] != set()


@pytest.mark.parametrize("preactivation", [False, True])
def test_a_deeper_child_starts_by_computing_what_its_parent_did_and_learns(
    preactivation: bool,
) -> None:
    task = Task(3, 16, 16, 4)
    choices = TINY | {"preactivation": preactivation}
    parent, child = built(choices, task), built(choices | {"depth2": 3}, task)
    transplant(child, parent.state_dict())
    images = torch.randn(8, 3, 16, 16)
    assert torch.allclose(parent.eval()(images), child.eval()(images), atol=1e-5)
    optimizer = torch.optim.SGD(child.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(child.train()(images), torch.arange(8) % 4).backward()
        optimizer.step()
    new = {n: p for n, p in child.named_parameters() if n.startswith("stage2_block3")}
    assert new
    assert all(p.grad is not None and p.grad.any() for p in new.values())


def test_biases_are_of_references_alone() -> None:
    choices = dict(SPACE.points["resnet20"])
    biased = SPACE.costs(SPACE.reference(choices | {"bias": 1}), TASK)["params"]
    convolutions = 16 * 7 + 32 * 6 + 64 * 6  # by their outputs
    assert biased == 269_722 + convolutions
    assert SPACE.domains["bias"].size == 1


def test_costs_are_those_of_the_built_network() -> None:
    check_costs(SPACE, TASK, Task(1, 5, 9, 4))


@pytest.mark.parametrize(("option", "value"), [("max_depth", 0), ("max_width", 7)])
def test_options_out_of_range(option: str, value: int) -> None:
    with pytest.raises(RecipeError, match=rf"space\.{option}: Input should be"):
        check(CIFARResNet, {option: value}, "space")
