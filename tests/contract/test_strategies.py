"""Every built-in strategy through the public kit, and the kit through bad strategies."""

from __future__ import annotations

import random
from random import Random

import numpy as np
import pytest

from evonas.objective import Objective
from evonas.registry import Registry
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.testing import check_strategy
from evonas.trial import Proposal

OBJECTIVES = (Objective("value"),)
BUILT_IN = sorted(Registry().origins("strategy"))
SETTINGS = [
    *((name, {}) for name in BUILT_IN),
    ("aging_evolution", {"population_size": 8, "tournament_size": 3}),
    ("aging_evolution", {"population_size": 1, "tournament_size": 1}),
    ("tpe", {"startup_trials": 1, "candidates": 1}),
]


def test_there_are_strategies() -> None:
    assert {"aging_evolution", "random", "tpe"} <= set(BUILT_IN)


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_a_built_in_strategy_keeps_the_contract(name: str, settings: dict[str, int]) -> None:
    strategy = Registry().find("strategy", name)
    outside = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert check_strategy(lambda space: strategy(space, OBJECTIVES, **settings)) == []
    assert (random.getstate(), np.random.get_state()[1].tolist()) == outside  # noqa: NPY002


class Bad(Strategy):
    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, OBJECTIVES)


class Repeats(Bad):
    def ask(self, rng: Random) -> Proposal:
        return Proposal(self.space.sample(rng))


class OwnRandomness(Bad):
    def ask(self, rng: Random) -> Proposal | None:
        architecture = self._unseen(lambda: self.space.sample(Random()), Random())
        return Proposal(architecture) if architecture else None


class GlobalRandomness(Bad):
    def ask(self, rng: Random) -> Proposal | None:
        architecture = self._unseen(lambda: self.space.sample(random), rng)  # type: ignore[arg-type]
        return Proposal(architecture) if architecture else None


class IgnoresHistory(Bad):
    """Goes through the space by a counter of its own, which a resumed run does not have."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self._points = space.enumerate()

    def ask(self, rng: Random) -> Proposal | None:
        point = next(self._points, None)
        return Proposal(point) if point else None


class GivesUp(Bad):
    def ask(self, rng: Random) -> Proposal | None:
        architecture = self._unseen(lambda: self.space.sample(rng), rng)
        return Proposal(architecture) if architecture and len(self._proposed) < 5 else None


@pytest.mark.parametrize(
    ("strategy", "finding"),
    [
        (Repeats, "the same architecture is proposed twice"),
        (Repeats, "in an exhausted space it repeats itself"),
        (OwnRandomness, "two searches of one seed differ"),
        (GlobalRandomness, "two searches of one seed differ"),
        (IgnoresHistory, "it goes on differently"),
        (GivesUp, "of a space of 9 points only 5 are proposed"),
    ],
)
def test_the_kit_catches(strategy: type[Bad], finding: str) -> None:
    problems = check_strategy(strategy)
    assert any(finding in problem for problem in problems), problems
