"""A space without networks, and a search driven by hand: trials end when and how a test says."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from torch import nn

from evonas.architecture import Architecture, Domain, Integer
from evonas.errors import RecipeError
from evonas.recipe import options
from evonas.spaces.base import SearchSpace, Task
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Trial, TrialState

VALUE = (Objective("value"),)


class Grid(SearchSpace):
    def __init__(self, **domains: Domain) -> None:
        self.domains = domains

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


def cube(dimensions: int, options: int) -> Grid:
    return Grid(**{f"x{i}": Integer(0, options - 1) for i in range(dimensions)})


def total(architecture: Architecture) -> float:
    return float(sum(int(value) for value in architecture.choices.values()))


def refused(strategy: type[Strategy], **settings: object) -> str:
    """What a recipe is told that gives a strategy these settings."""
    with pytest.raises(RecipeError) as refusal:
        options.check(strategy, settings, "strategy")
    return str(refusal.value)


def parents(strategy: Strategy, asks: int = 200) -> set[int]:
    """Who becomes a parent in many asks without anything told between."""
    proposals = [strategy.ask(Random(f"parents/{n}")) for n in range(asks)]
    return {number for proposal in proposals if proposal for number in proposal.parents}


class Run:
    """Asks and tells like ``search``, and keeps the events."""

    def __init__(self, strategy: Strategy, seed: int = 0) -> None:
        self.strategy, self.seed, self.count = strategy, seed, 0
        self.events: list[Trial] = []

    def start(self) -> Trial:
        trial = self.try_start()
        assert trial is not None
        return trial

    def try_start(self) -> Trial | None:
        """A trial that runs, or None if the strategy asks for nothing."""
        proposal = self.strategy.ask(Random(f"{self.seed}/{self.count}"))
        if proposal is None:
            return None
        trial = Trial(self.count, proposal)
        self.count += 1
        return self._tell(trial)

    def end(self, trial: Trial, *values: float, state: TrialState = TrialState.COMPLETE) -> Trial:
        """End a trial: COMPLETE with ``value``, or ``value`` and ``cost``."""
        metrics = dict(zip(("value", "cost"), values, strict=False))
        return self._tell(replace(trial, state=state, metrics=metrics))

    def fail(self, trial: Trial) -> Trial:
        return self._tell(trial.failed("on purpose"))

    def step(self, *values: float) -> Trial:
        """Start a trial and end it; without values its total is the value."""
        trial = self.start()
        return self.end(trial, *(values or (total(trial.architecture),)))

    def _tell(self, trial: Trial) -> Trial:
        self.strategy.tell(trial)
        self.events.append(trial)
        return trial


def haphazard(run: Run, trials: int) -> list[Trial]:
    """The events of a search: up to five run at once, and end in any order and in any way."""
    rng, running = Random(run.seed), []
    for _ in range(trials):
        running.append(run.start())
        while len(running) > rng.randrange(5):
            ended = running.pop(rng.randrange(len(running)))
            match rng.randrange(6):
                case 0:
                    run.fail(ended)
                case 1:
                    run.end(ended, 1e9, state=TrialState.PRUNED)
                case _:
                    run.end(ended, rng.choice((0.0, 1.0, total(ended.architecture))))
    return run.events
