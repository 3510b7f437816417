"""The worked example of a strategy: it climbs, restarts, and keeps the contract."""

from __future__ import annotations

from random import Random

import pytest
from conftest import ROOT

from evonas.architecture import Architecture, Integer
from evonas.commands import checking
from evonas.errors import RecipeError
from evonas.recipe import options
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Trial, TrialState

REGISTRY = Registry((ROOT / "plugins",))
ONE_PLUS_ONE = REGISTRY.find("strategy", "one_plus_one")


class Slope(SearchSpace):
    def __init__(self) -> None:
        self.domains = {f"x{i}": Integer(0, 9) for i in range(5)}

    def build(self, architecture: Architecture, task: object):  # type: ignore[no-untyped-def]
        raise NotImplementedError("nothing is built here")


def searched(strategy: Strategy, values: list[float] | None = None, trials: int = 0) -> list[Trial]:
    """Trials told one by one, with these values or the sums of their choices."""
    found: list[Trial] = []
    for number in range(trials or len(values or ())):
        proposal = strategy.ask(Random(number))
        assert proposal is not None
        strategy.tell(Trial(number, proposal))
        total = float(sum(int(value) for value in proposal.architecture.choices.values()))
        value = values[number] if values else total
        found.append(Trial(number, proposal, TrialState.COMPLETE, {"value": value}))
        strategy.tell(found[-1])
    return found


def make(patience: int) -> Strategy:
    strategy: Strategy = ONE_PLUS_ONE(Slope(), (Objective("value"),), patience)
    return strategy


def test_it_keeps_the_contract() -> None:
    assert checking.check(REGISTRY, "strategy", "one_plus_one") == []


def test_the_better_or_equal_child_is_the_next_parent() -> None:
    trials = searched(make(10), [5.0, 3.0, 5.0, 6.0, 1.0, 2.0])
    assert [trial.proposal.parents for trial in trials] == [(), (0,), (0,), (2,), (3,), (3,)]


def test_after_too_many_in_vain_it_starts_again() -> None:
    trials = searched(make(2), [5.0, 3.0, 4.0, 1.0, 0.0, 2.0])
    parents = [trial.proposal.parents for trial in trials]
    assert parents == [(), (0,), (0,), (), (3,), (3,)], "and what was before is forgotten"


def test_it_climbs_further_than_chance() -> None:
    def best(trials: list[Trial]) -> float:
        return max(trial.metrics["value"] for trial in trials)

    chance = REGISTRY.find("strategy", "random")(Slope(), (Objective("value"),))
    assert best(searched(make(30), trials=100)) > best(searched(chance, trials=100)) + 3


def test_senseless_patience_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"strategy\.patience: Input should be greater than"):
        options.check(ONE_PLUS_ONE, {"patience": 0}, "strategy")
