"""Tree-structured Parzen estimator, by Optuna's ask and tell.

Bergstra, Bardenet, Bengio and Kégl, Algorithms for hyper-parameter optimization, NeurIPS 2011;
Watanabe, Tree-structured Parzen estimator, 2023. Measured figures: docs/results.md.

The study lives in memory and is a mirror of the trial events, so it never needs to be stored. The
sampler is made anew for every ask from the generator that the search hands out: that, and not a
sampler's hidden state, is what makes a resumed run propose what it would have proposed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from evonas.architecture import Architecture, Categorical, Domain
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.objective import Objective
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Proposal, Trial, TrialState

_SUGGESTIONS = 25  # asks of the sampler before the space itself is sampled


class TPE(Strategy):
    """Sample where good trials are dense and bad ones are not.

    Failed trials are told to Optuna as FAIL, which it leaves out of its model. A suggestion that
    the constraints refuse is told the same way and asked again, so that the limits stay hard.

    Args:
        space: What to search.
        objectives: One or more.
        startup_trials: Random trials before the model is used.
        candidates: Points that the acquisition function compares per ask.
    """

    multi_objective = True

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        startup_trials: int = 10,
        candidates: int = 24,
    ) -> None:
        super().__init__(space, objectives)
        for name, value in (("startup_trials", startup_trials), ("candidates", candidates)):
            if value < 1:
                raise RecipeError(f"strategy.{name}: must be at least 1, not {value}")
        self._settings = {"n_startup_trials": startup_trials, "n_ei_candidates": candidates}
        self._distributions = {name: _distribution(d) for name, d in space.domains.items()}
        with _quiet():
            self._study = optuna.create_study(directions=["maximize"] * len(objectives))
        self._mirrored: dict[int, int] = {}  # our number of a trial → Optuna's
        self._asked: tuple[Architecture, int] | None = None

    def ask(self, rng: Random) -> Proposal | None:
        """The sampler's first suggestion that is new and allowed."""
        with _quiet():
            seed = rng.getrandbits(32)
            self._study.sampler = _Sampler(self._distributions, seed=seed, **self._settings)
            for _ in range(_SUGGESTIONS):
                suggestion = self._study.ask(fixed_distributions=self._distributions)
                architecture = self._accept(suggestion.params)
                if architecture is not None:
                    self._asked = architecture, suggestion.number
                    return Proposal(architecture)
                self._study.tell(suggestion.number, state=optuna.trial.TrialState.FAIL)
        sampled = self._unseen(lambda: self.space.sample(rng), rng)
        return Proposal(sampled) if sampled else None

    def tell(self, trial: Trial) -> None:
        """Mirror the event into the study."""
        super().tell(trial)
        with _quiet():
            if trial.state is TrialState.RUNNING:
                self._mirrored[trial.number] = self._start(trial.architecture)
            elif trial.state is TrialState.COMPLETE:
                values = [objective.key(trial.metrics) for objective in self.objectives]
                self._study.tell(self._mirrored[trial.number], values)
            else:
                number = self._mirrored[trial.number]
                self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    def _accept(self, params: Mapping[str, Any]) -> Architecture | None:
        try:
            architecture = self.space.architecture(params)
        except InvalidArchitecture:
            return None
        return architecture if self._is_new(architecture) else None

    def _start(self, architecture: Architecture) -> int:
        """Optuna's number of the running trial: the one it suggested, or one added for it."""
        if self._asked is not None and self._asked[0] == architecture:
            return self._asked[1]
        self._study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=dict(architecture.choices),
                distributions=self._distributions,
            )
        )
        return len(self._study.get_trials(deepcopy=False)) - 1


class _Sampler(optuna.samplers.TPESampler):
    """A TPE sampler told its search space, in place of intersecting it from all trials."""

    def __init__(self, distributions: dict[str, BaseDistribution], **settings: Any) -> None:
        super().__init__(multivariate=True, constant_liar=True, **settings)
        self._evonas_space = {n: d for n, d in distributions.items() if not d.single()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._evonas_space


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Categorical):
        return CategoricalDistribution(domain.options)
    if domain.log and domain.step == 1:
        return IntDistribution(domain.low, domain.high, log=True)
    high = domain.values()[-1]
    return IntDistribution(domain.low, high, step=domain.step)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its experimental warnings and its log lines about the study in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
