"""Vision transformers and MLP-Mixers: any image, published sizes, counts that hold everywhere."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.nn import functional

from evonas.architecture import Architecture, Value
from evonas.commands import checking
from evonas.errors import InvalidArchitecture
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import cost
from evonas.testing import check_space
from evonas.training.inheritance import transplant

REGISTRY = Registry((ROOT / "plugins",))
VIT: SearchSpace = REGISTRY.find("space", "tiny_vit")()
MIXER: SearchSpace = REGISTRY.find("space", "mlp_mixer")()
SPACES = {"tiny_vit": VIT, "mlp_mixer": MIXER}
IMAGENET = Task(channels=3, height=224, width=224, classes=1000)
TASKS = (
    Task(channels=1, height=8, width=8, classes=10),
    Task(channels=1, height=28, width=28, classes=10),
    Task(channels=3, height=5, width=9, classes=4),
    Task(channels=1, height=1, width=1, classes=3),
)
each_space = pytest.mark.parametrize("name", SPACES)
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: "x".join(map(str, t.input_shape)))


def vit(**choices: Value) -> Architecture:
    small = {"grid": 2, "width": 32, "depth": 2, "heads": 4, "mlp_ratio": 2}
    return VIT.architecture(small | choices)


def mixer(**choices: Value) -> Architecture:
    small = {"grid": 4, "width": 16, "depth": 2, "token_hidden": 16, "channel_ratio": 2}
    return MIXER.architecture(small | choices)


@each_space
def test_they_keep_the_contract(name: str) -> None:
    assert checking.check(REGISTRY, "space", name) == []


@each_task
@each_space
def test_they_keep_it_for_any_image(name: str, task: Task) -> None:
    assert check_space(SPACES[name], task, points=2) == []


@pytest.mark.parametrize(
    ("name", "point", "params"),
    [("tiny_vit", "vit_tiny", 5_717_416 - 2 * 192), ("mlp_mixer", "s16", 18_528_264)],
)
def test_published_sizes(name: str, point: str, params: int) -> None:
    """Those of timm's models; there is no class token here, nor its position."""
    space = SPACES[name]
    assert space.costs(space.point(point), IMAGENET)["params"] == params


@each_space
def test_the_count_is_the_same_on_every_device(name: str) -> None:
    space, task = SPACES[name], TASKS[1]
    for seed in range(10):
        architecture = space.sample(Random(seed))
        architecture = space.mutate(architecture, Random(seed)) if seed % 2 else architecture
        architecture = space.scaled(architecture, width=1.3) if seed % 3 == 0 else architecture
        network = space.build(architecture, task)
        assert space.costs(architecture, task) == {
            "params": sum(p.numel() for p in network.parameters()),
            "flops": cost.flops(network, task),
        }


def test_the_products_of_attention_are_counted() -> None:
    """By hand: 28×28 pixels, patches of 14, so 4 of them."""
    tokens, width, inner, patch = 4, 32, 64, 14
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    mlp = 2 * tokens * width * inner
    products = 4 * patch**2 * width + 2 * (attention + mlp) + width * 10
    assert VIT.costs(vit(), TASKS[1])["flops"] == 2 * products


def test_attention_is_that_of_torch() -> None:
    attention = VIT.build(vit(heads=4), TASKS[1]).block1.attention[1]
    x = torch.randn(3, 7, 32)
    query, key, value = (
        layer(x).reshape(3, 7, 4, 8).permute(0, 2, 1, 3)
        for layer in (attention.query, attention.key, attention.value)
    )
    fused = functional.scaled_dot_product_attention(query, key, value)
    expected = attention.output(fused.permute(0, 2, 1, 3).reshape(3, 7, 32))
    assert torch.allclose(attention(x), expected, atol=1e-6)


def test_heads_divide_the_width() -> None:
    with pytest.raises(InvalidArchitecture, match="heads divide the width"):
        vit(width=32, heads=3)
    assert vit(width=48, heads=3)
    for seed in range(100):
        child = VIT.mutate(VIT.sample(Random(seed)), Random(seed))
        assert int(child.choices["width"]) % int(child.choices["heads"]) == 0


def test_a_scaled_transformer_can_be_built() -> None:
    for factor in (0.6, 1.7):
        scaled = VIT.scaled(vit(width=96, heads=6), width=factor, depth=factor)
        assert int(scaled.choices["width"]) % 6
        assert VIT.build(scaled, TASKS[0])(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(("height", "width", "patch"), [(28, 28, 7), (5, 9, 2), (8, 20, 2)])
@each_space
def test_patches_cover_the_image(name: str, height: int, width: int, patch: int) -> None:
    architecture = {"tiny_vit": vit(grid=4), "mlp_mixer": mixer()}[name]
    network = SPACES[name].build(architecture, Task(1, height, width, 3))
    patches = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size for m in patches] == [(patch, patch)]
    images = torch.zeros(1, 1, height, width, requires_grad=True)
    network(images)[0, 0].backward()
    assert images.grad is not None
    assert images.grad.all()  # every pixel has an effect


def test_the_order_of_the_patches_matters() -> None:
    """By the positions alone in a transformer, by the layers across the patches in a mixer."""
    images = torch.randn(2, 1, 28, 28)
    for space, architecture in ((VIT, vit()), (MIXER, mixer())):
        network = space.build(architecture, TASKS[1])
        assert not torch.allclose(network(images), network(images.roll(14, dims=2)), atol=1e-4)
    network = VIT.build(vit(), TASKS[1])
    nn.init.zeros_(network.embed.position)
    assert torch.allclose(network(images), network(images.roll(14, dims=2)), atol=1e-4)


def test_a_deeper_mixer_begins_where_its_parent_was() -> None:
    parent, child = (MIXER.build(mixer(depth=depth), TASKS[0]) for depth in (2, 3))
    share = transplant(child, copy.deepcopy(parent.state_dict()))
    assert 0.5 < share < 1
    images = torch.randn(4, 1, 8, 8)
    assert torch.allclose(child(images), parent(images), atol=1e-6)
