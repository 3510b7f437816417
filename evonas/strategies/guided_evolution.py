"""Guided evolution: aging evolution whose children are screened by a surrogate.

Real, Aggarwal, Huang and Le, Regularized evolution for image classifier architecture search, AAAI
2019, bred and screened as in White, Neiswanger and Savani, BANANAS, AAAI 2021. The surrogate is an
ensemble of Gaussian processes (scikit-learn's) of several length scales and noises, averaged by
their marginal likelihoods: Rasmussen and Williams, Gaussian processes for machine learning, 2006,
chapter 5. Children are compared by an upper confidence bound whose weight is drawn for every
proposal: Berk, Gupta, Rana and Venkatesh, Randomised Gaussian process upper confidence bound, IJCAI
2020. Measured figures: docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from threadpoolctl import ThreadpoolController

from evonas.architecture import Architecture, Domain, Value
from evonas.errors import InfeasibleConstraints
from evonas.recipe.options import Count
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.breeding import tournament
from evonas.trial import Objective, Proposal, Trial

# A member of the ensemble has one of these length scales and one of these noises. Two points
# without a common choice are 1.41 apart: the longest scale takes the whole space for related, the
# shortest little more than an architecture's mutants. A noise is a share of the variance learnt.
_LENGTHS = (0.5, 0.84, 1.41)
_NOISES = (0.01, 0.1)
# So many of the best trials are learnt, and as many of the youngest, for a fit takes cubic time.
_LEARNT = 75
# An ordered choice has at most so many coordinates.
_LEVELS = 16
# Nearer to the best than this share of the median distance, differences are not learnt: the
# logarithm would tear apart what only noise tells apart.
_NEAREST = 0.05
# The weight of the uncertainty in the confidence bound is drawn with this mean.
_WEIGHT = 6.0
# This share of the children is random: mutants alone would never leave where the population is.
_IMMIGRANTS = 0.25


class GuidedEvolution(Strategy):
    """Breed many children of tournament winners, and propose the one that a surrogate prefers.

    A pruned trial counts as one as bad as the worst completed; a failed one teaches nothing.

    Args:
        startup_trials: Random trials before the surrogate is used.
        population_size: The youngest completed trials, which may become parents.
        tournament_size: Drawn with replacement, the best becomes the parent.
        children: Bred for every proposal.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        startup_trials: Count = 10,
        population_size: Count = 50,
        tournament_size: Count = 5,
        children: Count = 100,
    ) -> None:
        super().__init__(space, objectives)
        self._startup_trials, self._children = startup_trials, children
        self._size, self._entrants = population_size, tournament_size
        self._encoding = _Encoding(space)
        self._surrogate: tuple[int, _Surrogate] | None = None  # and of how many ended trials
        self._threads = ThreadpoolController().select(user_api="blas")

    def ask(self, rng: Random) -> Proposal | None:
        """Random architectures at first, then the child with the largest upper confidence bound."""
        complete = len(self.told.complete)
        if complete < 2 or complete + len(self.told.running) < self._startup_trials:
            return self.new(rng)
        children = list(self._bred(rng))
        if not children:
            return self.new(rng)
        points = self._encoding([child.architecture for child in children])
        # An exponential draw is mostly small and seldom large: most asks exploit, a few explore,
        # and workers that ask at once, of one surrogate, get different answers.
        weight = _WEIGHT * rng.expovariate(1)
        with self._threads.limit(limits=1):  # for matrices this small more are slower
            bounds = self._fitted().bounds(points, weight)
        return children[int(np.argmax(bounds))]

    def _bred(self, rng: Random) -> Iterator[Proposal]:
        """New children, each once: mutants of tournament winners, and some random immigrants."""
        keys = set()
        for _ in range(self._children):
            try:
                child = self._child(rng)
            except InfeasibleConstraints:  # tight limits: each failure takes a second
                return
            if child.key not in keys and child.key not in self.told.proposed:
                keys.add(child.key)
                yield child

    def _child(self, rng: Random) -> Proposal:
        """One mutation of a parent, and each time with a chance of one half another."""
        if rng.random() >= _IMMIGRANTS:
            population = self.told.complete[-self._size :]
            parent = tournament(population, self.objectives[0], self._entrants, rng)
            try:
                mutant = self.space.mutate(parent.architecture, rng)
                while rng.random() < 0.5:
                    mutant = self.space.mutate(mutant, rng)
                return Proposal(mutant, parents=(parent.number,))
            except InfeasibleConstraints:  # no way on from there: one immigrant more
                pass
        return Proposal(self.space.sample(rng))

    def _fitted(self) -> _Surrogate:
        """The surrogate of what was told; made anew when a trial has ended since the last ask.

        The best tell where the top is, the youngest where children are bred now, and the pruned
        where not to go: they have no value of full effort, so they get the worst there is.
        """
        ended = len(self.told.ended)
        if self._surrogate is None or self._surrogate[0] != ended:
            best = reversed([*islice(self.told.ranked(), _LEARNT)])
            learnt = {t.number: t for t in (*best, *self.told.complete[-_LEARNT:])}.values()
            pruned = self.told.pruned[-_LEARNT:]
            values = [self._value(trial) for trial in learnt]
            if pruned:
                values += [min(map(self._value, self.told.complete))] * len(pruned)
            points = self._encoding([trial.architecture for trial in (*learnt, *pruned)])
            self._surrogate = ended, _Surrogate(points, np.array(values))
        return self._surrogate[1]

    def _value(self, trial: Trial) -> float:
        return self.objectives[0].key(trial.metrics)


class _Encoding:
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

    def __call__(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Points of shape (architectures, features)."""
        rows = (
            [part[type(a.choices[name]), a.choices[name]] for name, part in self._parts.items()]
            for a in architectures
        )
        return np.array([np.concatenate(row) for row in rows])


def _encoded(domain: Domain, value: Value) -> NDArray[np.float64]:
    """One-hot; of what is ordered, thermometer: as many levels are full as it is high."""
    if not domain.ordered:
        one: NDArray[np.float64] = np.eye(1, domain.size, domain.index(value))[0]
        return one
    levels = min(domain.size - 1, _LEVELS)
    height = domain.index(value) / (domain.size - 1) * levels
    full: NDArray[np.float64] = np.clip(height - np.arange(levels), 0.0, 1.0)
    return math.sqrt(2 / levels) * full


class _Surrogate:
    """An ensemble of Gaussian processes: no single length scale or noise suits every space.

    Args:
        points: Of shape (trials, features).
        values: Of the trials, larger is better.
    """

    def __init__(self, points: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        # How far behind the best, on a logarithmic scale and in units of the median: a metric's
        # scale and offset do not matter, and what is among the good is told apart as finely as
        # good from bad. Larger is better.
        behind = values.max() - values
        learnt = -np.log(behind / (np.median(behind) or 1.0) + _NEAREST)
        self._members = [
            GaussianProcessRegressor(
                RBF(length), alpha=noise, optimizer=None, normalize_y=True
            ).fit(points, learnt)
            for length in _LENGTHS
            for noise in _NOISES
        ]
        # Hyperparameters are averaged by their marginal likelihoods and not optimised: with few
        # trials a single optimum is overconfident, and six fits cost less than one optimisation.
        evidence = np.array([member.log_marginal_likelihood_value_ for member in self._members])
        weights = np.exp(evidence - evidence.max())
        self._weights = weights / weights.sum()

    def bounds(self, points: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
        """Upper confidence bounds: the ensemble's mean and so many standard deviations."""
        predicted = [member.predict(points, return_std=True) for member in self._members]
        means, deviations = (np.array(part) for part in zip(*predicted, strict=True))
        mean = self._weights @ means
        # Of the mixture: the members' own variances, and how far they disagree.
        variance = self._weights @ (deviations**2 + (means - mean) ** 2)
        bounds: NDArray[np.float64] = mean + weight * np.sqrt(variance)
        return bounds
