"""A hypernetwork: from the weights of a few kinds of operation to a choice for every edge.

Gumbel-softmax is Jang, Gu and Poole's (ICLR 2017); one path a step with a straight-through factor
follows GDAS (Dong and Yang, CVPR 2019). That the amount of a kind of operation never grows with
its weight holds by construction, as in monotonic networks (Sill, NIPS 1997).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

_LEAST = 0.01  # It is added to weights, as their logarithm is taken: lower ones hardly differ.
_TINY = 1e-6  # Uniform numbers are at least this before their logarithm is taken.


class Hypernetwork(nn.Module):
    """Maps weights S of K kinds of operation to the logits of the operations of every edge.

    On every edge the logit of a kind is a bias, which the task decides, less an increasing function
    of the kind's own weight: a straight line in log S and a small network of positive weights.
    Within its kind an operation is chosen whatever S is. So, along every line that leads to a
    corner of the simplex, where one weight grows and the ratio of the others stays, that kind's
    operations become fewer, edge by edge.

    At the start the biases are Gumbel noise and the slope of the line is one, so that of E edges a
    kind has about E / S_k / sum(1 / S): the number that minimises the S-weighted squares of the
    kinds' shares (``cost``).

    Args:
        kinds: Number of operations of each kind; K kinds.
        costs: What an operation costs on an edge, in any unit, (E, all operations), by kind.
        hidden: Width of the small network.
        rng: For the initial values.
    """

    costs: torch.Tensor
    _kind: torch.Tensor

    def __init__(
        self, kinds: Sequence[int], costs: torch.Tensor, hidden: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        edges, count = len(costs), len(kinds)
        self._sizes = tuple(kinds)
        self.register_buffer("costs", costs)
        self.register_buffer("_kind", torch.eye(count).repeat_interleave(torch.tensor(kinds), 0))
        noise = torch.rand(edges, count, generator=rng).clamp_min(_TINY)
        self.bias = nn.Parameter(gumbel(noise))
        self.slope = nn.Parameter(torch.full((edges, count), math.log(math.e - 1)))
        self.inner = nn.Parameter(torch.randn(count, hidden, generator=rng))
        self.shift = nn.Parameter(torch.randn(count, hidden, generator=rng))
        self.outer = nn.Parameter(torch.full((edges, count, hidden), -4.0))
        self.within = nn.Parameter(0.01 * torch.randn(costs.shape, generator=rng))

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (K,) to log-probabilities (E, operations)."""
        kinds = self._kinds(weights).log_softmax(1)
        within = torch.cat([x.log_softmax(1) for x in self.within.split(self._sizes, 1)], 1)
        return kinds @ self._kind.T + within

    def _kinds(self, weights: torch.Tensor) -> torch.Tensor:
        """Logits (E, K) of the kinds."""
        log = (weights + _LEAST).log()
        hidden = torch.tanh(F.softplus(self.inner) * log[:, None] + self.shift)
        curve = (F.softplus(self.outer) * hidden).sum(2)
        return self.bias - F.softplus(self.slope) * log - curve

    @torch.no_grad()
    def choices(self, weights: torch.Tensor) -> list[int]:
        """On every edge the most probable kind's most probable operation, by its number."""
        kind = self._kinds(weights).argmax(1)
        within = [x.argmax(1) for x in self.within.split(self._sizes, 1)]
        first = torch.tensor((0, *self._sizes[:-1])).cumsum(0)
        best = torch.stack(within, 1) + first
        numbers: list[int] = best.gather(1, kind[:, None]).flatten().tolist()
        return numbers

    def cost(self, weights: torch.Tensor, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Expected sum over the kinds of S_k times the square of the kind's share, 0…1.

        The share is that of the edges; the expectation over independent draws of them is exact.
        Squares, because a plain sum makes all edges tip at once where two weights are equal; the
        variance in them makes the draws certain in the end. An edge counts with the price of its
        operation, relative to what the kind costs there at present: so S decides between kinds,
        and the table within each.
        """
        probabilities = log_probabilities.exp()
        prices = probabilities * self.costs @ self._kind
        present = (prices / (probabilities @ self._kind)).detach()
        means = prices / present
        squares = means.sum(0) ** 2 + (means - means**2).sum(0)
        return weights @ squares / len(self.costs) ** 2


def gumbel(uniform: torch.Tensor) -> torch.Tensor:
    """Gumbel noise from numbers in (0, 1)."""
    return -torch.log(-torch.log(uniform))


def draw(
    log_probabilities: torch.Tensor, temperature: float, rng: torch.Generator
) -> tuple[list[int], torch.Tensor]:
    """Draw an operation for every edge.

    Args:
        log_probabilities: (E, operations).
        temperature: Of the softmax that gives the gradients.
        rng: Draws.

    Returns:
        The operations' numbers, and a factor for each one's output: 1, with the gradient of its
        softmax (straight through).
    """
    noise = torch.rand(log_probabilities.shape, generator=rng).clamp_(_TINY, 1 - _TINY)
    soft = ((log_probabilities + gumbel(noise)) / temperature).softmax(1)
    numbers = soft.detach().argmax(1)
    shares = soft.gather(1, numbers[:, None]).flatten()
    return numbers.tolist(), 1 + shares - shares.detach()


def uniform_weights(kinds: int, rng: torch.Generator) -> torch.Tensor:
    """A point drawn uniformly from the simplex: Dirichlet(1, …, 1)."""
    lengths = -torch.rand(kinds, generator=rng).clamp_min(_TINY).log()
    return lengths / lengths.sum()
