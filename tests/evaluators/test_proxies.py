"""Zero-cost proxies: values worked out by hand, and nothing changed on the way."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch
from torch import nn

from evonas.evaluators.parts.proxies import (
    PROXIES,
    Undefined,
    grad_norm,
    jacob_cov,
    naswot,
    snip,
    synflow,
)
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import EDGES, NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.loop import seeded

TASK = Task(channels=3, height=8, width=8, classes=10)
SPACES = (PlainCNN(1, 8), MBConv(1, 8), NASBench201(2, 1))


def linear(*weights: list[list[float]]) -> nn.Sequential:
    """Linear layers without bias in a row, for inputs of shape (N, features)."""
    layers = []
    for values in weights:
        layer = nn.Linear(len(values[0]), len(values), bias=False)
        layer.weight = nn.Parameter(torch.tensor(values))
        layers.append(layer)
    return nn.Sequential(*layers)


def batch(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(TASK.classes, (size,), generator=rng)
    return torch.randn(size, *TASK.input_shape, generator=rng), labels


def network(space: SearchSpace) -> nn.Module:
    with seeded(0, "cpu"):
        return space.build(space.sample(Random(0)), TASK)


class HalfSquare(nn.Module):
    """Its gradient at an image is the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x**2).flatten(1) / 2


ONE, FIRST = torch.ones(1, 1), torch.tensor([0])  # an image of one number, of the first class
MISS = 1 / (1 + math.e**2)  # probability of the wrong class between the logits 1 and -1


def test_synflow() -> None:
    small = linear([[1.0, -2.0], [3.0, 4.0]], [[-1.0, 2.0]])
    # |W2| |W1| (1, 1) = 1 · 3 + 2 · 7 = 17 flows through each of the two layers.
    assert synflow(small, torch.zeros(4, 2), FIRST) == pytest.approx(math.log(2 * 17))


def test_synflow_counts_no_bias_and_leaves_normalisation_out() -> None:
    first, last = linear([[1.0, -2.0], [3.0, 4.0]], [[-1.0, 2.0]])
    last.bias = nn.Parameter(torch.tensor([-5.0]))
    norm = nn.BatchNorm1d(2)
    nn.init.constant_(norm.weight, 9)
    small = nn.Sequential(first, norm, nn.ReLU(), nn.LayerNorm(2), last)
    assert synflow(small, torch.zeros(1, 2), FIRST) == pytest.approx(math.log(2 * 17))


def test_synflow_does_not_look_at_the_images() -> None:
    images, labels = batch()
    made = network(SPACES[0])
    assert synflow(made, images, labels) == synflow(made, -images, labels)


def test_snip() -> None:
    # The logits' gradient is (-MISS, MISS), that of the hidden number -2 MISS.
    assert snip(linear([[1.0]], [[1.0], [-1.0]]), ONE, FIRST) == pytest.approx(4 * MISS)


def test_grad_norm_sums_the_norms_of_the_layers() -> None:
    value = grad_norm(linear([[1.0]], [[1.0], [-1.0]]), ONE, FIRST)
    assert value == pytest.approx((2 + math.sqrt(2)) * MISS)


@pytest.mark.parametrize(
    ("images", "eigenvalues"),
    [
        ([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], (1.0, 1.0)),
        ([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]], (1.5, 0.5)),
        ([[1.0, 2.0, 3.0], [3.0, 5.0, 7.0]], (2.0, 0.0)),
    ],
)
def test_jacob_cov(images: list[list[float]], eigenvalues: tuple[float, ...]) -> None:
    stable = [v + 1e-5 for v in eigenvalues]
    expected = -sum(math.log(v) + 1 / v for v in stable)
    value = jacob_cov(HalfSquare(), torch.tensor(images), FIRST)
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("inplace", [False, True])
def test_naswot(inplace: bool) -> None:
    images = torch.tensor([[1.0, -1.0, 2.0], [3.0, 1.0, -1.0]])  # on: 1 0 1 and 1 1 0
    once = nn.Sequential(nn.ReLU(inplace))
    assert naswot(once, images, FIRST) == pytest.approx(math.log(3 * 3 - 1 * 1))
    twice = nn.Sequential(nn.ReLU(inplace), nn.ReLU6(inplace))
    assert naswot(twice, images, FIRST) == pytest.approx(math.log(6 * 6 - 2 * 2))


@pytest.mark.parametrize("name", PROXIES)
def test_a_network_that_works_in_place_does_not_change_the_images(name: str) -> None:
    images, labels = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    given = images.clone()
    made = nn.Sequential(nn.ReLU(inplace=True), *linear([[0.5] * 8] * 4))
    assert math.isfinite(PROXIES[name](made, given, labels))
    assert torch.equal(given, images)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("name", PROXIES)
def test_a_network_gives_one_finite_number_and_stays_as_it_is(
    name: str, space: SearchSpace
) -> None:
    made = network(space).eval()
    images, labels = batch()
    made(images).sum().backward()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    gradients = [p.grad.clone() for p in made.parameters() if p.grad is not None]
    copied = images.clone()

    first, second = (PROXIES[name](made, images, labels) for _ in range(2))

    assert math.isfinite(first)
    assert first == second
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
    after = [p.grad for p in made.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.modules())
    assert not any(m.training for m in made.modules())
    assert torch.equal(images, copied)
    assert not images.requires_grad


def test_a_cell_that_lets_nothing_through() -> None:
    space = NASBench201(2, 1)
    cell = space.architecture({f"edge_{i}_{j}": "none" for i, j in EDGES})
    made, given = space.build(cell, TASK), batch()
    assert snip(made, *given) == 0
    for name, reason in (
        ("synflow", "the flow through the network is 0"),
        ("jacob_cov", "an image has no gradient"),
        ("naswot", "do not tell the images of the batch apart"),
    ):
        with pytest.raises(Undefined, match=f"{name}: .*{reason}"):
            PROXIES[name](made, *given)


@pytest.mark.parametrize(
    ("name", "made", "reason"),
    [
        ("synflow", linear([[1e30]] * 10, *[[[1e30] * 10] * 10] * 10), "the flow .* is inf"),
        ("synflow", HalfSquare(), "no convolution and no linear layer"),
        ("snip", HalfSquare(), "no convolution and no linear layer"),
        ("snip", linear([[math.nan]]), "snip: nan is not a finite number"),
        ("grad_norm", linear([[math.inf], [0.0]]), "grad_norm: nan is not"),
        ("naswot", nn.Sequential(nn.GELU()), r"calls no nn\.ReLU or nn\.ReLU6 module"),
    ],
)
def test_no_value_is_said_in_words(name: str, made: nn.Module, reason: str) -> None:
    with pytest.raises(Undefined, match=reason):
        PROXIES[name](made, torch.ones(2, 1), torch.tensor([0, 0]))
