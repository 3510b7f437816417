"""Zero-cost proxies: values worked out by hand, and nothing changed on the way."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from evonas.evaluators.parts.proxies import (
    PROXIES,
    Undefined,
    grad_norm,
    jacob_cov,
    naswot,
    norms,
    snip,
    swap,
    synflow,
    zico,
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


def test_zico() -> None:
    # One weight of 0: both classes have probability 1/2, so the gradient at an image x of the
    # first class is -x/2 in the first row of weights and x/2 in the second.
    small, labels = linear([[0.0], [0.0]]), torch.tensor([0, 0])
    # Means over the halves: (1 + 3) / 4 = 1; deviations |1 - 3| / 4 = 1/2; both rows: 2 + 2.
    assert zico(small, torch.tensor([[1.0], [3.0]]), labels) == pytest.approx(math.log(4))
    # The deviation is that of the gradient with its sign: |1 + 3| / 4 = 1.
    assert zico(small, torch.tensor([[1.0], [-3.0]]), labels) == pytest.approx(math.log(2))


def test_zico_sums_the_logarithms_of_the_layers_and_leaves_out_what_does_not_vary() -> None:
    first, last = linear([[1.0, 1.0]], [[1.0], [-1.0]])
    # The second input is always 0, so its weight has no gradient; the hidden number is the first.
    images = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    wrong = [1 / (1 + math.e ** (2 * x)) for x in (1, 3)]  # probability of the second class
    hidden = [-2 * p * x for p, x in zip(wrong, (1, 3), strict=True)]  # of the first weight
    rows = [p * x for p, x in zip(wrong, (1, 3), strict=True)]  # of both of the last, but for sign
    ratios = [sum(map(abs, g)) / abs(g[0] - g[1]) for g in (hidden, rows)]
    expected = math.log(ratios[0]) + math.log(2 * ratios[1])
    value = zico(nn.Sequential(first, last), images, torch.tensor([0, 0]))
    assert value == pytest.approx(expected, rel=1e-5)


def test_zico_takes_the_halves_of_the_batch_as_batches() -> None:
    images, labels = batch(6)
    made = network(SPACES[0])
    gradients = []
    for half in (slice(0, 3), slice(3, 6)):
        made.zero_grad()
        nn.functional.cross_entropy(made(images[half]), labels[half]).backward()
        kinds = (nn.Conv2d, nn.Linear)
        layers = [m.weight.grad for m in made.modules() if isinstance(m, kinds)]
        gradients.append([g.double().numpy().copy() for g in layers if g is not None])
    expected = 0.0
    for one, other in zip(*gradients, strict=True):
        deviation = np.std([one, other], axis=0)
        varies = deviation > 0
        expected += np.log((np.abs([one, other]).mean(0)[varies] / deviation[varies]).sum())
    assert zico(made, images, labels) == pytest.approx(expected)


@pytest.mark.parametrize("inplace", [False, True])
def test_swap(inplace: bool) -> None:
    images = torch.tensor([[1.0, -1.0, 2.0, 0.0], [3.0, 1.0, -1.0, -5.0]])
    once = nn.Sequential(nn.ReLU(inplace))
    assert swap(once, images, FIRST) == 4  # on and on, off and on, on and off, off and off
    assert swap(once, images[:, :3], FIRST) == 3
    assert swap(once, images[:, :1].repeat(1, 9), FIRST) == 1
    shifted = nn.Sequential(nn.ReLU(inplace), nn.Threshold(0.0, -1.0), nn.ReLU6(inplace))
    assert swap(shifted, images, FIRST) == 4, "the second layer has no new pattern"


@pytest.mark.parametrize("size", [2, 64, 65, 130])
def test_swap_tells_patterns_apart_by_every_image(size: int) -> None:
    # Unit i is on for image i alone, and the last two units for none.
    images = torch.cat([torch.eye(size), torch.zeros(size, 2)], dim=1)
    assert swap(nn.Sequential(nn.ReLU()), images, FIRST) == size + 1


def test_norms() -> None:
    convolution = nn.Conv2d(1, 2, 1, bias=False)
    convolution.weight = nn.Parameter(torch.tensor([3.0, -4.0]).view(2, 1, 1, 1))
    twice = nn.Sequential(convolution, nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(4, 3))
    images = torch.tensor([[[[1.0, 2.0]]], [[[-1.0, -2.0]]]])
    # The second channel is the first one, but for its scale, which normalisation undoes: rank 1.
    assert norms(twice, images, FIRST) == pytest.approx(1 * 7 / 5, rel=1e-4)


def test_norms_sums_ranks_and_spreads_apart() -> None:
    images, labels = batch()
    made = network(MBConv(1, 8)).train()
    outputs, spreads = [], []
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, given, output: outputs.append(output))
        if isinstance(module, nn.Conv2d):
            w = module.weight.detach().numpy().ravel()
            spreads.append(np.linalg.norm(w, 1) / np.linalg.norm(w, 2))
    with torch.no_grad():
        made(images)
    ranks = []
    for output in outputs:
        singular = np.linalg.svd(
            output.transpose(0, 1).flatten(1).double().numpy(), compute_uv=False
        )
        ranks.append((singular**2).sum() / singular[0] ** 2)
    value = norms(network(MBConv(1, 8)), images, labels)
    assert value == pytest.approx(sum(ranks) * sum(spreads), rel=1e-4)


def test_norms_of_layer_normalisation_and_of_zeros() -> None:
    one = nn.Conv1d(1, 1, 1, bias=False)
    nn.init.constant_(one.weight, 1.0)
    images = torch.tensor([[[1.0, -1.0, 0.0]], [[1.0, 1.0, -2.0]]])  # of orthogonal rows
    expected = torch.linalg.svdvals(nn.functional.layer_norm(images, (3,))[:, 0]) ** 2
    value = norms(nn.Sequential(one, nn.LayerNorm(3)), images, FIRST)
    assert value == pytest.approx(float(expected.sum() / expected[0]), rel=1e-4)
    nn.init.zeros_(one.weight)
    silent = nn.Sequential(nn.BatchNorm1d(1), one, nn.BatchNorm1d(1), nn.Conv1d(1, 1, 1))
    assert norms(silent, images, FIRST) == pytest.approx(1.0)


@pytest.mark.parametrize("name", PROXIES)
def test_a_network_that_works_in_place_does_not_change_the_images(name: str) -> None:
    images = torch.randn(4, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    labels, given = torch.arange(4), images.clone()
    with seeded(0, "cpu"):
        convolution = nn.Conv2d(1, 1, 1)
    layers = (convolution, nn.BatchNorm2d(1), nn.Flatten(), *linear([[0.5] * 8] * 4))
    made = nn.Sequential(nn.ReLU(inplace=True), *layers)
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
        ("zico", "no gradient differs between the halves"),
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
        ("swap", nn.Sequential(nn.GELU()), r"calls no nn\.ReLU or nn\.ReLU6 module"),
        ("zico", HalfSquare(), "no convolution and no linear layer"),
        ("zico", linear([[1.0], [1.0]]), "no gradient differs between the halves of the batch"),
        ("zico", linear([[math.nan], [1.0]]), "zico: nan is not a finite number"),
        ("norms", linear([[1.0], [1.0]]), "no normalisation layer or no convolution"),
        ("norms", nn.Sequential(nn.LayerNorm(1)), "no normalisation layer or no convolution"),
        ("norms", nn.Sequential(nn.Conv1d(2, 2, 1)), "no normalisation layer or no convolution"),
        ("norms", nn.Sequential(*linear([[math.nan]]), nn.LayerNorm(1)), "output is not finite"),
    ],
)
def test_no_value_is_said_in_words(name: str, made: nn.Module, reason: str) -> None:
    with pytest.raises(Undefined, match=reason):
        PROXIES[name](made, torch.ones(2, 1), torch.tensor([0, 0]))
