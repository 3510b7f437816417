"""What is known of trials, as a function of architectures: Gaussian processes.

An ensemble of several length scales and noises, averaged by their marginal likelihoods: Rasmussen
and Williams, Gaussian processes for machine learning, 2006, algorithm 2.1 and chapter 5. Half of
the members look at the network's costs, too, so that how much these are believed is learnt.

Trials of several fidelities are learnt together. What a short training says of a long one is the
long one's value and a deviation, which has a process of its own (Kennedy and O'Hagan, Predicting
the output from a complex computer code when fast approximations are available, Biometrika 2000),
and one thing is known of the deviation beforehand: short trainings undervalue large networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, starmap

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from evonas.architecture import Architecture, Domain, Value
from evonas.errors import InvalidArchitecture
from evonas.spaces.base import SearchSpace, Task

Array = NDArray[np.float64]
Costs = Callable[[Architecture], Mapping[str, float]]

# A member of the ensemble has one of these length scales and one of these noises. Two points
# without a common choice are 1.41 apart: the longest scale takes the whole space for related, the
# shortest little more than an architecture's mutants. A noise is a share of the variance learnt.
_LENGTHS = (0.5, 0.84, 1.41)
_NOISES = (0.01, 0.1)
# The odds that costs tell anything, beforehand: costs that do not cost trials while it is learnt.
_ODDS = 0.3
# Costs, in standard deviations of their logarithms, are as far apart as they are likely to be.
_COST_LENGTH = 2.0
# The variance of the deviation of short trainings from full ones, if there are full ones.
_DEVIATIONS = (0.0, 0.3, 1.0)
# By so much, in units of what is learnt, is a network better than a training of no length shows if
# it is e times as large; with the standard deviation of that belief, and of what a pair tells.
_GAIN, _DOUBT, _NOISE = 2.0, 1.0, 1.0
# An ordered choice has at most so many coordinates.
_LEVELS = 16
# Nearer to the best than this share of the median distance, differences are not learnt: the
# logarithm would tear apart what only noise tells apart, and the best of few trials would stand out
# so far that nobody leaves its neighbourhood.
_NEAREST = 0.2
_EQUAL = 1e-9  # Logarithms that differ by less differ by rounding.
_FREE = ("params", "flops")  # The costs that are looked at.
_NOMINAL = Task(channels=3, height=32, width=32, classes=10)  # Where a run has no images.


class Encoding:
    """Architectures as points; the squared distance is twice the share of choices that differ.

    An ordered choice differs in part, in proportion to the steps between.
    """

    def __init__(self, space: SearchSpace) -> None:
        domains = {name: d for name, d in space.domains.items() if d.size > 1}
        scale = math.sqrt(len(domains))
        self._parts = {
            name: {
                (type(value), value): _encoded(domain, value) / scale for value in domain.values()
            }
            for name, domain in domains.items()
        }

    def __call__(self, architectures: Sequence[Architecture]) -> Array:
        """Points of shape (architectures, features)."""
        rows = (
            [part[type(a.choices[name]), a.choices[name]] for name, part in self._parts.items()]
            for a in architectures
        )
        return np.array([np.concatenate(row) for row in rows])


def _encoded(domain: Domain, value: Value) -> Array:
    """One-hot; of what is ordered, thermometer: as many levels are full as it is high."""
    if not domain.ordered:
        one: Array = np.eye(1, domain.size, domain.index(value))[0]
        return one
    levels = min(domain.size - 1, _LEVELS)
    height = domain.index(value) / (domain.size - 1) * levels
    full: Array = np.clip(height - np.arange(levels), 0.0, 1.0)
    return math.sqrt(2 / levels) * full


class Sizes:
    """Logarithms of the networks' costs, where counting them takes no time.

    Args:
        space: A run's, which knows its task and what it has counted; or one that counts from a
            description of its layers, which is then taken to see images of 32×32 pixels.
    """

    def __init__(self, space: SearchSpace) -> None:
        counts = space.limits is not None or type(space).costs is not SearchSpace.costs
        limits = space.limits or space.limited({}, _NOMINAL).limits
        self._names = [name for name in _FREE if name in space.counted] if counts else []
        assert limits is not None, "a limited space has limits"
        self._costs: Costs = limits.costs

    def __call__(self, architectures: Sequence[Architecture]) -> Array:
        """Of shape (architectures, costs); no columns where costs are not free."""
        return np.array([self._of(a) for a in architectures]).reshape(len(architectures), -1)

    def _of(self, architecture: Architecture) -> list[float]:
        try:
            costs = self._costs(architecture) if self._names else {}
        except InvalidArchitecture:  # it takes no image of this size, and so no part in a run on it
            costs = dict.fromkeys(self._names, 0.0)
        return [math.log1p(costs[name]) for name in self._names]


@dataclass(frozen=True)
class Learnt:
    """Trials to learn from, a row each.

    Attributes:
        points: Of shape (trials, features).
        sizes: Of shape (trials, costs).
        fidelities: Of shape (trials,).
        values: Of shape (trials,); larger is better, those of all fidelities on one scale.
        pairs: Rows of one architecture at a lower and at a higher fidelity.
    """

    points: Array
    sizes: Array
    fidelities: Array
    values: Array
    pairs: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class _Kernel:
    """Covariances; of one point at full fidelity 1.

    Attributes:
        length: Scale of the architectures.
        costs: Whether it looks at them.
        deviation: Variance of what short trainings deviate by.
    """

    length: float
    costs: bool
    deviation: float

    def __call__(self, near: Array, alike: Array, ours: Array, theirs: Array) -> Array:
        """Of squared distances, likeness by costs, and fidelities of rows and of columns."""
        kernel: Array = np.exp(-near / (2 * self.length**2))
        short = np.outer(ours < 1, theirs < 1) * self.deviation * kernel
        return ((kernel + alike) / 2 if self.costs else kernel) + short


class Surrogate:
    """An ensemble of Gaussian processes: no single length scale or noise suits every space."""

    def __init__(self, learnt: Learnt) -> None:
        self._learnt = learnt
        # How far behind the best, on a logarithmic scale and in units of the median: a metric's
        # scale and offset do not matter, and what is among the good is told apart as finely as
        # good from bad. Larger is better.
        behind = learnt.values.max() - learnt.values
        values = -np.log(behind / (np.median(behind) or 1.0) + _NEAREST)
        self._center = learnt.sizes.mean(axis=0)
        deviations = learnt.sizes.std(axis=0)
        self._varied = bool((deviations > _EQUAL).any())
        self._spread = np.where(deviations > _EQUAL, deviations, 1.0)
        self._members = list(self._fitted())  # kernels, and Cholesky factors with noise
        # Hyperparameters are averaged by their marginal likelihoods and not optimised: with few
        # trials a single optimum is overconfident, and many fits cost less than one optimisation.
        evidence = np.array([_evidence(factor, _scaled(values)) for _, factor in self._members])
        looks = np.array([kernel.costs for kernel, _ in self._members])
        evidence += math.log(_ODDS) * looks
        weights = np.exp(evidence - evidence.max())
        self._weights = weights / weights.sum()
        looking = float(self._weights @ looks)
        believed = looking if looking > 0.5 else 0.0
        full = _scaled(values + self._gains(values, believed))
        self._solved = [cho_solve((factor, True), full) for _, factor in self._members]

    def predict(self, points: Array, sizes: Array) -> tuple[Array, Array]:
        """Means and standard deviations at full fidelity, each of shape (points,).

        Args:
            points: Of shape (points, features).
            sizes: Of shape (points, costs).
        """
        learnt, fidelities = self._learnt, np.ones(len(points))
        near = _distances(points, learnt.points)
        alike = self._alike(sizes)
        means, variances = [], []
        for (kernel, factor), solved in zip(self._members, self._solved, strict=True):
            shared = kernel(near, alike, fidelities, learnt.fidelities)
            explained = solve_triangular(factor, shared.T, lower=True)
            means.append(shared @ solved)
            variances.append(np.maximum(1.0 - (explained**2).sum(axis=0), 0.0))
        each = np.array(means)
        mean = self._weights @ each
        # Of the mixture: the members' own variances, and how far they disagree.
        return mean, np.sqrt(self._weights @ (np.array(variances) + (each - mean) ** 2))

    def _fitted(self) -> Iterator[tuple[_Kernel, Array]]:
        learnt = self._learnt
        fidelities = learnt.fidelities
        near, alike = _distances(learnt.points, learnt.points), self._alike(learnt.sizes)
        looks = (False, True) if self._varied else (False,)
        deviations = _DEVIATIONS if len(set(fidelities)) > 1 else (0.0,)
        for kernel in starmap(_Kernel, product(_LENGTHS, looks, deviations)):
            shared = kernel(near, alike, fidelities, fidelities)
            for noise in _NOISES:
                yield kernel, cholesky(shared + noise * np.eye(len(shared)), lower=True)

    def _alike(self, sizes: Array) -> Array:
        """The kernel of the costs, to those of the trials learnt."""
        mine, others = ((s - self._center) / self._spread for s in (sizes, self._learnt.sizes))
        alike: Array = np.exp(-_distances(mine, others) / (2 * _COST_LENGTH**2))
        return alike

    def _gains(self, values: Array, believed: float) -> Array:
        """By how much a training in full is better than what was trained, by the networks' sizes.

        That larger networks gain more by longer training is a belief, measured on three tables
        (docs/results.md). It is held as far as costs are believed at all, and corrected by what
        pairs of trainings tell.
        """
        if not self._varied:
            return np.zeros(len(values))
        sizes = (self._learnt.sizes - self._center).mean(axis=1)
        missing = sizes * (1 - self._learnt.fidelities)
        low, high = np.array(self._learnt.pairs, dtype=int).reshape(-1, 2).T
        # Bayesian linear regression without an offset: what longer training adds to all is centred.
        larger, better = missing[low] - missing[high], values[high] - values[low]
        if len(low):
            larger, better = larger - larger.mean(), better - better.mean()
        precision = 1 / _DOUBT**2 + larger @ larger / _NOISE**2
        slope = (believed * _GAIN / _DOUBT**2 + larger @ better / _NOISE**2) / precision
        gains: Array = slope * missing
        return gains


def _distances(a: Array, b: Array) -> Array:
    """Squared Euclidean distances of shape (len(a), len(b))."""
    squares: Array = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0.0)


def _evidence(factor: Array, values: Array) -> float:
    """Logarithm of the marginal likelihood, but for a constant."""
    halved = solve_triangular(factor, values, lower=True)
    return float(-0.5 * halved @ halved - np.log(np.diag(factor)).sum())


def _scaled(values: Array) -> Array:
    """With a mean of 0 and a standard deviation of 1, or all 0."""
    centered: Array = values - values.mean()
    return centered / (centered.std() or 1.0)
