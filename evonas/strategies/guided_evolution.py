"""Guided evolution: aging evolution whose children are screened by a surrogate.

Real, Aggarwal, Huang and Le, Regularized evolution for image classifier architecture search, AAAI
2019, bred and screened as in White, Neiswanger and Savani, BANANAS, AAAI 2021. The surrogate is an
ensemble of Gaussian processes (scikit-learn's) of several length scales and noises, averaged by
their marginal likelihoods: Rasmussen and Williams, Gaussian processes for machine learning, 2006,
chapter 5. It learns how far a trial is behind the best on a logarithmic scale, so that it tells the
good from the best, whatever the metric's scale. Children are compared by an upper confidence bound
whose weight is drawn for every proposal: Berk, Gupta, Rana and Venkatesh, Randomised Gaussian
process upper confidence bound, IJCAI 2020. So a few asks explore, most exploit, and workers that
ask at once get different answers. Measured figures: docs/results.md.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random

import numpy as np
from deap import base, tools
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from threadpoolctl import ThreadpoolController

from evonas.architecture import Architecture, Categorical, Domain, Value
from evonas.errors import InfeasibleConstraints, at_least
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.deap import Individual, global_random
from evonas.trial import Objective, Proposal, Trial, TrialState

_LENGTHS = (0.5, 0.84, 1.41)  # of the members; two points without a common choice are at 1.41
_NOISES = (0.01, 0.1)  # of the members, as a share of the variance of what they learn
_LEARNT = 75  # of the best trials, and as many of the youngest: bounds the cost of an ask
_LEVELS = 16  # of an ordered choice, at most
_NEAREST = 0.05  # of the median distance to the best: finer differences near it are not learnt
_WEIGHT = 6.0  # mean weight of the uncertainty in the confidence bound
_IMMIGRANTS = 0.25  # share of the children that are random


class GuidedEvolution(Strategy):
    """Breed many children of tournament winners, and propose the one that a surrogate prefers.

    A pruned trial counts as one as bad as the worst completed; a failed one teaches nothing.

    Args:
        space: What to search.
        objectives: Exactly one.
        startup_trials: Random trials before the surrogate is used.
        population_size: The youngest completed trials, which may become parents.
        tournament_size: Drawn with replacement, the best becomes the parent.
        children: Bred for every proposal.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        startup_trials: int = 10,
        population_size: int = 50,
        tournament_size: int = 5,
        children: int = 100,
    ) -> None:
        super().__init__(space, objectives)
        at_least("strategy", 1, startup_trials=startup_trials, population_size=population_size)
        at_least("strategy", 1, tournament_size=tournament_size, children=children)
        self._startup_trials, self._children = startup_trials, children
        self._population: deque[Individual] = deque(maxlen=population_size)
        self._completed = 0
        self._best: list[Individual] = []  # rising
        self._worst = math.inf
        self._youngest: deque[Individual] = deque(maxlen=_LEARNT)
        self._pruned: deque[Trial] = deque(maxlen=_LEARNT)
        self._encoding = _Encoding(space)
        self._surrogate: _Surrogate | None = None
        self._threads = ThreadpoolController().select(user_api="blas")
        self._toolbox = base.Toolbox()
        self._toolbox.register("select", tools.selTournament, k=1, tournsize=tournament_size)

    def ask(self, rng: Random) -> Proposal | None:
        """Random architectures at first, then the child with the largest upper confidence bound."""
        if self._completed > 1 and self._completed + len(self._running) >= self._startup_trials:
            children = list(self._breed(rng))
            if children:
                points = self._encoding([child.architecture for child in children])
                weight = _WEIGHT * rng.expovariate(1)
                with self._threads.limit(limits=1):  # for matrices this small more are slower
                    bounds = self._fitted().bounds(points, weight)
                return children[int(np.argmax(bounds))]
        architecture = self._unseen(lambda: self.space.sample(rng), rng)
        return Proposal(architecture) if architecture else None

    def tell(self, trial: Trial) -> None:
        """Completed trials join the population; what the surrogate learns has changed."""
        super().tell(trial)
        if trial.state is TrialState.RUNNING:
            return
        if trial.state is TrialState.COMPLETE:
            individual = Individual(trial, self.objectives[0].key(trial.metrics))
            self._completed += 1
            self._population.append(individual)
            self._youngest.append(individual)
            bisect.insort(self._best, individual, key=_value)
            del self._best[:-_LEARNT]
            self._worst = min(self._worst, _value(individual))
        elif trial.state is TrialState.PRUNED:
            self._pruned.append(trial)
        self._surrogate = None

    def living(self) -> Iterable[int]:
        """The population, the youngest first."""
        return [individual.trial.number for individual in reversed(self._population)]

    def _breed(self, rng: Random) -> Iterator[Proposal]:
        """New children, each once: mutants of tournament winners, and some random immigrants."""
        seen: set[str] = set()
        for _ in range(self._children):
            try:
                if rng.random() < _IMMIGRANTS:
                    child = Proposal(self.space.sample(rng))
                else:
                    child = self._mutant(rng)
            except InfeasibleConstraints:  # tight limits: each failure takes a second
                return
            if child.architecture.id not in seen and self._is_new(child.architecture):
                seen.add(child.architecture.id)
                yield child

    def _mutant(self, rng: Random) -> Proposal:
        """One mutation, and each time with a chance of one half another."""
        with global_random(rng):
            parent: Trial = self._toolbox.select(self._population)[0].trial
        child = self.space.mutate(parent.architecture, rng)
        while rng.random() < 0.5:
            child = self.space.mutate(child, rng)
        return Proposal(child, parents=(parent.number,))

    def _fitted(self) -> _Surrogate:
        """The surrogate of what was told: of the best trials and of the youngest."""
        if self._surrogate is None:
            learnt = {i.trial.number: i for i in (*self._best, *self._youngest)}.values()
            trials = [*(individual.trial for individual in learnt), *self._pruned]
            values = [*map(_value, learnt), *(self._worst for _ in self._pruned)]
            encoded = self._encoding([trial.architecture for trial in trials])
            self._surrogate = _Surrogate(encoded, np.array(values))
        return self._surrogate


def _value(individual: Individual) -> float:
    value: float = individual.fitness.values[0]
    return value


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
        rows = [self._row(architecture.choices) for architecture in architectures]
        return np.array(rows)

    def _row(self, choices: Mapping[str, Value]) -> NDArray[np.float64]:
        return np.concatenate(
            [part[type(choices[name]), choices[name]] for name, part in self._parts.items()]
        )


def _encoded(domain: Domain, value: Value) -> NDArray[np.float64]:
    """One-hot; of what is ordered, thermometer: as many levels are full as it is high."""
    if isinstance(domain, Categorical) and not domain.ordered:
        one: NDArray[np.float64] = np.eye(1, domain.size, domain.index(value))[0]
        return one
    levels = min(domain.size - 1, _LEVELS)
    height = domain.index(value) / (domain.size - 1) * levels
    full: NDArray[np.float64] = np.clip(height - np.arange(levels), 0.0, 1.0)
    return math.sqrt(2 / levels) * full


class _Surrogate:
    """An ensemble of Gaussian processes.

    Args:
        points: Of shape (trials, features).
        values: Of the trials, larger is better.
    """

    def __init__(self, points: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        behind = values.max() - values
        learnt = -np.log(behind / (np.median(behind) or 1.0) + _NEAREST)
        self._members = [
            GaussianProcessRegressor(
                RBF(length), alpha=noise, optimizer=None, normalize_y=True
            ).fit(points, learnt)
            for length in _LENGTHS
            for noise in _NOISES
        ]
        evidence = np.array([member.log_marginal_likelihood_value_ for member in self._members])
        weights = np.exp(evidence - evidence.max())
        self._weights = weights / weights.sum()

    def bounds(self, points: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
        """Upper confidence bounds: the ensemble's mean and so many standard deviations."""
        told = [member.predict(points, return_std=True) for member in self._members]
        means, deviations = (np.array(part) for part in zip(*told, strict=True))
        mean = self._weights @ means
        variance = self._weights @ (deviations**2 + (means - mean) ** 2)
        bounds: NDArray[np.float64] = mean + weight * np.sqrt(variance)
        return bounds
