"""Tree-structured Parzen estimator, by Optuna's ask and tell.

Bergstra, Bardenet, Bengio and Kégl, Algorithms for hyper-parameter optimization, NeurIPS 2011;
Watanabe, Tree-structured Parzen estimator, 2023. Measured figures: docs/results.md.

The study lives in memory and is a mirror of the trial events, so it never needs to be stored. The
sampler is made anew for every suggestion from the generator that the search hands out, and only
what was told stays in the model: that makes a resumed run propose what it would have proposed.
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
from evonas.errors import InvalidArchitecture
from evonas.recipe.options import Count
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal, Trial, TrialState

_SUGGESTIONS = 25  # The sampler is asked so often before the space itself is sampled.


class TPE(Strategy):
    """Sample where good trials are dense and bad ones are not.

    Failed trials are told to Optuna as FAIL, which it leaves out of its model. Pruned trials of a
    single objective it ranks behind the completed ones, by how far they came. A suggestion that
    was tried before or that the constraints refuse is asked again, each time with half the
    candidates: the sampler turns from the best of the good region to any point of it.

    Args:
        space: What to search.
        objectives: One or more.
        startup_trials: Random trials before the model is used.
        candidates: Points that the acquisition function compares for a suggestion.
    """

    multi_objective = True

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        startup_trials: Count = 10,
        candidates: Count = 24,
    ) -> None:
        super().__init__(space, objectives)
        self._startup_trials, self._candidates = startup_trials, candidates
        self._distributions = {name: _distribution(d) for name, d in space.domains.items()}
        with _quiet():
            self._study = optuna.create_study(directions=["maximize"] * len(objectives))
        self._mirrored: dict[int, int] = {}  # our number of a trial → Optuna's

    def ask(self, rng: Random) -> Proposal | None:
        """The sampler's first suggestion that is new and allowed."""
        with _quiet():
            for attempt in range(_SUGGESTIONS):
                candidates = max(1, self._candidates >> attempt)
                suggested = self._suggest(rng.getrandbits(32), candidates)
                if suggested is not None and suggested.key not in self.told.proposed:
                    return suggested
        return self.new(rng)

    def tell(self, trial: Trial) -> None:
        """Mirror the event into the study."""
        super().tell(trial)
        with _quiet():
            if trial.state is TrialState.RUNNING:
                self._mirrored[trial.number] = self._add(trial.architecture)
            elif trial.state is TrialState.COMPLETE:
                values = [objective.key(trial.metrics) for objective in self.objectives]
                self._study.tell(self._mirrored[trial.number], values)
            else:
                number = self._mirrored[trial.number]
                self._study.tell(number, state=optuna.trial.TrialState.FAIL)
                if trial.state is TrialState.PRUNED:
                    self._add_pruned(trial)

    def _suggest(self, seed: int, candidates: int) -> Proposal | None:
        """A suggestion of a fresh sampler; None if it is not allowed."""
        self._study.sampler = _Sampler(
            self._distributions,
            seed=seed,
            n_startup_trials=self._startup_trials,
            n_ei_candidates=candidates,
        )
        suggestion = self._study.ask(fixed_distributions=self._distributions)
        # Out of the model again: it enters, in canonical form, when the trial is told to run.
        self._study.tell(suggestion.number, state=optuna.trial.TrialState.FAIL)
        try:
            return Proposal(self.space.architecture(self._decoded(suggestion.params)))
        except InvalidArchitecture:
            return None

    def _add_pruned(self, trial: Trial) -> None:
        """Add a pruned trial with its last value, if there is one; it has to be added whole."""
        (objective, *others), curve = self.objectives, trial.curve
        if others or not curve or objective.metric not in trial.metrics:
            return
        self._study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.PRUNED,
                params=self._encoded(trial.architecture),
                distributions=self._distributions,
                intermediate_values={curve[-1][0]: objective.key(trial.metrics)},
            )
        )

    def _add(self, architecture: Architecture) -> int:
        """Add a running trial; returns Optuna's number of it."""
        self._study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=self._encoded(architecture),
                distributions=self._distributions,
            )
        )
        return len(self._study.get_trials(deepcopy=False)) - 1

    def _encoded(self, architecture: Architecture) -> dict[str, Any]:
        """Choices as Optuna has them: of ordered options, which are numbers to it, the index."""
        return {
            name: domain.index(architecture.choices[name])
            if isinstance(domain, Categorical) and domain.ordered
            else architecture.choices[name]
            for name, domain in self.space.domains.items()
        }

    def _decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: domain.options[params[name]]
            if isinstance(domain, Categorical) and domain.ordered
            else params[name]
            for name, domain in self.space.domains.items()
        }


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
        if domain.ordered:
            return IntDistribution(0, domain.size - 1)
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
