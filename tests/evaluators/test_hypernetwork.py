"""The hypernetwork: what it draws, what it costs, and that S controls it."""

from __future__ import annotations

import itertools

import pytest
import torch

from evonas.evaluators.parts.hypernetwork import Hypernetwork, draw, uniform_weights

KINDS = (2, 1, 4)
KIND_OF = [kind for kind, size in enumerate(KINDS) for _ in range(size)]
EDGES = 28
PRICES = torch.tensor([1.0, 1.0, 1.0, 2.0, 4.5, 1.0, 2.2])


def make(seed: int = 0, edges: int = EDGES) -> tuple[Hypernetwork, torch.Generator]:
    rng = torch.Generator().manual_seed(seed)
    return Hypernetwork(KINDS, PRICES.repeat(edges, 1), 4, rng), rng


def disturbed(seed: int, by: float = 3.0) -> Hypernetwork:
    """Any parameters at all."""
    network, rng = make(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += by * torch.randn(parameter.shape, generator=rng)
    return network


def counts(network: Hypernetwork, weights: torch.Tensor) -> list[int]:
    chosen = [KIND_OF[number] for number in network.choices(weights)]
    return [chosen.count(k) for k in range(len(KINDS))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", range(3))
def test_a_dearer_kind_is_never_taken_more_often(kind: int, seed: int) -> None:
    """On every way to a corner of the simplex, whatever the parameters are."""
    network = disturbed(seed)
    for share in torch.linspace(0, 1, 5):
        taken = []
        for own in torch.linspace(0, 1, 21):
            others = (1 - own) * torch.stack([share, 1 - share])
            weights = torch.cat([others[:kind], own[None], others[kind:]])
            taken.append(counts(network, weights)[kind])
        assert taken == sorted(taken, reverse=True)


def test_at_the_start_the_counts_are_about_inverse_to_the_weights() -> None:
    weights = torch.tensor([0.6, 0.3, 0.1])
    total = torch.tensor([counts(make(seed)[0], weights) for seed in range(40)]).float().mean(0)
    wanted = EDGES / weights / (1 / weights).sum()
    assert (total - wanted).abs().max() < 1.5


@pytest.mark.parametrize("seed", range(2))
def test_the_cost_alone_teaches_control(seed: int) -> None:
    """From anywhere; on the way all operations but the cheapest of their kind go."""
    network, rng = make(seed)
    with torch.no_grad():
        network.bias.mul_(0.5).add_(torch.tensor([1.0, 0.0, -1.0]))
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    for _ in range(600):
        weights = uniform_weights(3, rng)
        optimizer.zero_grad()
        torch.autograd.backward(network.cost(weights, network(weights)))
        optimizer.step()
    for given in ([1 / 3, 1 / 3, 1 / 3], [0.15, 0.15, 0.7], [0.7, 0.15, 0.15], [0.1, 0.8, 0.1]):
        weights = torch.tensor(given)
        wanted = EDGES / weights / (1 / weights).sum()
        assert (torch.tensor(counts(network, weights)) - wanted).abs().max() < 4
        chosen = network.choices(weights)
        assert all(PRICES[number] == 1 for number in chosen)


def test_the_cost_is_the_expectation_over_draws() -> None:
    network, _ = make(edges=2)
    weights = torch.tensor([0.2, 0.3, 0.5])
    probabilities = network(weights).exp().detach()
    assert torch.allclose(probabilities.sum(1), torch.ones(2))
    expected = 0.0
    for a, b in itertools.product(range(7), repeat=2):
        count = torch.zeros(3)
        count[KIND_OF[a]] += 1
        count[KIND_OF[b]] += 1
        expected += float(probabilities[0, a] * probabilities[1, b] * (weights @ count**2)) / 4
    assert network.cost(weights, network(weights)).item() == pytest.approx(expected, rel=1e-4)


def test_draws_follow_the_probabilities_and_carry_gradients() -> None:
    network, rng = make(edges=1)
    weights = torch.tensor([0.2, 0.3, 0.5])
    log_probabilities = network(weights)
    drawn = [draw(log_probabilities.detach(), 0.5, rng)[0][0] for _ in range(3000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=7) / len(drawn)
    assert (shares - log_probabilities.exp()[0]).abs().max() < 0.05
    numbers, factors = draw(log_probabilities, 0.5, rng)
    assert factors.tolist() == [1.0]
    (gradient,) = torch.autograd.grad(factors.sum(), log_probabilities)
    assert gradient[0, numbers[0]] > 0
    assert gradient.sum().abs() < 1e-6


def test_weights_are_drawn_uniformly_from_the_simplex() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = torch.stack([uniform_weights(3, rng) for _ in range(2000)])
    assert torch.allclose(drawn.sum(1), torch.ones(2000))
    assert (drawn.mean(0) - 1 / 3).abs().max() < 0.02
    assert (drawn.std(0) - (1 / 18) ** 0.5).abs().max() < 0.02  # of Dirichlet(1, 1, 1)
