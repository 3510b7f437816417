"""Tree-structured Parzen estimator, by Optuna's ask and tell.

Bergstra, Bardenet, Bengio and Kégl, Algorithms for hyper-parameter optimization, NeurIPS 2011;
Watanabe, Tree-structured Parzen estimator, 2023. Measured figures: docs/results.md.

The study lives in memory and is a mirror of the trial events, so it never needs to be stored. The
sampler is made anew for every suggestion from the generator that the search hands out, and only
what was told stays in the model: that makes a resumed run propose what it would have proposed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState as State

from evonas.architecture import Architecture, Categorical, Domain
from evonas.recipe.options import Count
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal, Trial, TrialState, keys

_SUGGESTIONS = 25  # The sampler is asked so often before the space itself is sampled.


class TPE(Strategy):
    """Sample where good trials are dense and bad ones are not.

    Failed trials are told to Optuna as FAIL, which it leaves out of its model. Pruned trials of a
    single objective it ranks behind the completed ones, by how far they came. A suggestion that
    was tried before or that the constraints refuse is asked again, each time with half the
    candidates: the sampler turns from the best of the good region to any point of it.

    Args:
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
        # Optuna is told the options' places: to it True, 1 and 1.0 would be one.
        self._indexed = {n: d for n, d in space.domains.items() if isinstance(d, Categorical)}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=["maximize"] * len(objectives))
        self._mirrored: dict[int, int] = {}  # our number of a trial → Optuna's

    def ask(self, rng: Random) -> Proposal | None:
        """The sampler's first suggestion that is new and allowed."""
        for attempt in range(_SUGGESTIONS):
            candidates = max(1, self._candidates >> attempt)
            suggested = self._suggest(rng.getrandbits(32), candidates)
            if suggested and suggested.key not in self.told.proposed:
                return suggested
        return self.new(rng)

    def tell(self, trial: Trial) -> None:
        """Mirror the event into the study; who was pruned is added once more, with its last value.

        Optuna takes in a pruned trial whole or not at all.
        """
        super().tell(trial)
        if trial.state is TrialState.RUNNING:
            self._mirrored[trial.number] = len(self._study.get_trials(deepcopy=False))
            self._add(trial.architecture, State.RUNNING)
        elif trial.state is TrialState.COMPLETE:
            self._study.tell(self._mirrored[trial.number], keys(self.objectives, trial.metrics))
        else:
            self._study.tell(self._mirrored[trial.number], state=State.FAIL)
            objective, *others = self.objectives
            ranks = trial.curve and objective.metric in trial.metrics and not others
            if trial.state is TrialState.PRUNED and ranks:
                value = objective.key(trial.metrics)
                self._add(trial.architecture, State.PRUNED, {trial.curve[-1][0]: value})

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
        self._study.tell(suggestion.number, state=State.FAIL)
        places = {name: suggestion.params[name] for name in self._indexed}
        options = {name: self._indexed[name].options[place] for name, place in places.items()}
        architecture = self.space.valid(suggestion.params | options)
        return Proposal(architecture) if architecture else None

    def _add(
        self, architecture: Architecture, state: State, values: Mapping[int, float] | None = None
    ) -> None:
        """Add a trial to the study, with its values by step."""
        choices = architecture.choices
        places = {name: domain.index(choices[name]) for name, domain in self._indexed.items()}
        self._study.add_trial(
            optuna.create_trial(
                state=state,
                params={**choices, **places},
                distributions=self._distributions,
                intermediate_values=dict(values or {}),
            )
        )


class _Sampler(optuna.samplers.TPESampler):
    """A TPE sampler told its search space, in place of intersecting it from all trials."""

    def __init__(self, distributions: dict[str, BaseDistribution], **settings: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
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
        return CategoricalDistribution(range(domain.size))
    logarithmic = domain.log and domain.step == 1  # Optuna has no steps on that scale
    return IntDistribution(domain.low, domain.values()[-1], logarithmic, domain.step)
