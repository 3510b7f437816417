"""Searches by other projects, for comparison: each runs its own loop with its own defaults.

Only Optuna and DEAP are requirements of evonas; the others are run where pip has installed them:
``pip install nevergrad syne-tune neural-pipeline-search``.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from deap import algorithms, base, tools

from evonas.architecture import Architecture
from evonas.spaces.base import SearchSpace

Choices = Mapping[str, Any]
Evaluate = Callable[[Choices], float]  # larger is better; raises Spent
_PATIENCE = 1_000  # known architectures in a row: the search has converged


class Spent(Exception):
    """The trials are spent, or the search proposes nothing new: leaves a peer's loop."""


class Oracle:
    """Evaluates for a peer. What was evaluated before is answered from memory, and costs no trial.

    That is in a peer's favour: strategies of evonas do not propose twice anyway.

    Attributes:
        order: The architectures evaluated, in order.
        asked: How many proposals there were.
    """

    def __init__(
        self, space: SearchSpace, value: Callable[[Architecture], float], trials: int
    ) -> None:
        self._space, self._value, self._trials = space, value, trials
        self._values: dict[str, float] = {}
        self._known = 0
        self.order: list[Architecture] = []
        self.asked = 0

    def __call__(self, choices: Choices) -> float:
        architecture = self._space.architecture(dict(choices))
        self.asked += 1
        if architecture.id in self._values:
            self._known += 1
            if self._known >= _PATIENCE:
                raise Spent
            return self._values[architecture.id]
        if len(self.order) == self._trials:
            raise Spent
        self._known = 0
        self.order.append(architecture)
        return self._values.setdefault(architecture.id, self._value(architecture))


def optuna_search(sampler: Callable[..., optuna.samplers.BaseSampler]) -> Peer:
    """Optuna with a sampler."""

    def run(space: SearchSpace, evaluate: Evaluate, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of Spent
        study = optuna.create_study(direction="maximize", sampler=sampler(seed=seed))
        names = {name: domain.values() for name, domain in space.domains.items()}
        study.optimize(
            lambda trial: evaluate({n: trial.suggest_categorical(n, v) for n, v in names.items()})
        )

    return run


def deap_mu_plus_lambda(space: SearchSpace, evaluate: Evaluate, seed: int) -> None:
    """DEAP's eaMuPlusLambda: mu 20, lambda 20, uniform crossover .5, mutation .5 of 1 / length."""
    random.seed(seed)
    domains = list(space.domains.items())
    sizes = [domain.size for _, domain in domains]

    class Fitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
        weights = (1.0,)

    class Genome(list[int]):
        def __init__(self, genes: Any) -> None:
            super().__init__(genes)
            self.fitness = Fitness()

    def fitness(genome: Genome) -> tuple[float]:
        return (evaluate({n: d.values()[g] for (n, d), g in zip(domains, genome, strict=True)}),)

    toolbox = base.Toolbox()
    toolbox.register("evaluate", fitness)
    toolbox.register("mate", tools.cxUniform, indpb=0.5)
    upper = [size - 1 for size in sizes]
    toolbox.register("mutate", tools.mutUniformInt, low=0, up=upper, indpb=1 / len(sizes))
    toolbox.register("select", tools.selTournament, tournsize=3)
    first = [Genome(random.randrange(size) for size in sizes) for _ in range(20)]
    algorithms.eaMuPlusLambda(first, toolbox, 20, 20, 0.5, 0.5, ngen=100_000, verbose=False)


def nevergrad(name: str) -> Peer:
    """An optimizer of nevergrad; it minimises."""

    def run(space: SearchSpace, evaluate: Evaluate, seed: int) -> None:
        import nevergrad as ng  # type: ignore[import-not-found,unused-ignore]

        choices = {n: ng.p.Choice(list(d.values())) for n, d in space.domains.items()}
        point = ng.p.Dict(**choices)
        point.random_state = np.random.RandomState(seed)
        optimizer = ng.optimizers.registry[name](point, budget=300)
        while True:
            asked = optimizer.ask()
            optimizer.tell(asked, -evaluate(asked.value))

    return run


def syne_tune_evolution(space: SearchSpace, evaluate: Evaluate, seed: int) -> None:
    """Syne Tune's regularized evolution; it minimises."""
    from syne_tune.config_space import choice  # type: ignore[import-not-found,unused-ignore]
    from syne_tune.optimizer.schedulers.searchers import (  # type: ignore[import-not-found,unused-ignore]
        regularized_evolution,
    )

    config = {name: choice(list(domain.values())) for name, domain in space.domains.items()}
    searcher = regularized_evolution.RegularizedEvolution(config, random_seed=seed)
    for number in itertools.count():
        asked = searcher.suggest()
        searcher.on_trial_complete(number, asked, -evaluate(asked))


def neps_evolution(space: SearchSpace, evaluate: Evaluate, seed: int) -> None:
    """NePS's regularized evolution; it minimises."""
    import neps  # type: ignore[import-not-found,unused-ignore]
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    values = {name: list(domain.values()) for name, domain in space.domains.items()}
    operations = {name: neps.Categorical(choices) for name, choices in values.items()}
    pipeline = type("Pipeline", (neps.PipelineSpace,), operations)()
    told = neps.AskAndTell(neps.algorithms.neps_regularized_evolution(pipeline))
    while True:
        trial = told.ask()
        indices = {
            name: trial.config[f"SAMPLING__Resolvable.{name}::categorical__{len(choices)}"]
            for name, choices in values.items()
        }
        told.tell(trial, -evaluate({name: values[name][i] for name, i in indices.items()}))


Peer = Callable[[SearchSpace, Evaluate, int], None]


@dataclass(frozen=True)
class Row:
    """A peer's row of the table, and the module that it needs."""

    module: str
    run: Peer


PEERS: Mapping[str, Row] = {
    "optuna tpe": Row("optuna", optuna_search(optuna.samplers.TPESampler)),
    "optuna nsga2": Row("optuna", optuna_search(optuna.samplers.NSGAIISampler)),
    "deap eaMuPlusLambda": Row("deap", deap_mu_plus_lambda),
    "nevergrad NGOpt": Row("nevergrad", nevergrad("NGOpt")),
    "nevergrad 1+1": Row("nevergrad", nevergrad("DiscreteOnePlusOne")),
    "syne tune rea": Row("syne_tune", syne_tune_evolution),
    "neps re": Row("neps", neps_evolution),
}


def installed(name: str) -> bool:
    """Whether a peer can be run here."""
    return find_spec(PEERS[name].module) is not None
