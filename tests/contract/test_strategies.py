"""Every built-in strategy through the public kit, and the kit through bad strategies."""

from __future__ import annotations

import random
from random import Random

import numpy as np
import pytest
from conftest import bounded

from evonas.architecture import Architecture, Integer
from evonas.errors import PluginError
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.testing import check_strategy, sampler_of
from evonas.trial import Limit, Objective, Proposal, Trial, TrialState

OBJECTIVES = (Objective("value"),)
BUILT_IN = sorted(Registry().origins("strategy"))
SETTINGS = [
    *((name, {}) for name in BUILT_IN if name != "guided_evolution"),
    pytest.param("guided_evolution", {}, marks=pytest.mark.slow),
    ("guided_evolution", {"startup_trials": 30, "children": 20}),
    ("aging_evolution", {"population_size": 8, "tournament_size": 3}),
    ("aging_evolution", {"population_size": 1, "tournament_size": 1}),
    ("tpe", {"startup_trials": 1, "candidates": 1}),
    ("reinforce", {"algorithm": "reinforce", "batch_size": 7}),
    ("projected_ascent", {"tolerance": 0.9, "repeats": 2}),
]


def counted(space: SearchSpace) -> SearchSpace:
    """The same points in order, with parameters and a limit on them that all meet."""
    space.domains = {name: Integer(0, domain.size - 1) for name, domain in space.domains.items()}

    def measure(architecture: Architecture) -> dict[str, float]:
        return {"params": 1.0 + sum(int(value) for value in architecture.choices.values())}

    return bounded(space, {"params": Limit(max=1.0 + 4 * len(space.domains))}, measure)


# Strategies that do not search any space: what makes the kit's one of theirs.
SPACES = {"projected_ascent": counted}


def test_there_are_strategies() -> None:
    assert {"aging_evolution", "random", "tpe"} <= set(BUILT_IN)


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_a_built_in_strategy_keeps_the_contract(name: str, settings: dict[str, int]) -> None:
    strategy = Registry().find("strategy", name)
    outside = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    suited = SPACES.get(name, lambda space: space)

    def make(space: SearchSpace) -> Strategy:
        sampler = {"sampler": sampler_of(space)} if name == "hypernet" else {}
        made: Strategy = strategy(suited(space), OBJECTIVES, **sampler, **settings)
        return made

    assert check_strategy(make) == []
    assert (random.getstate(), np.random.get_state()[1].tolist()) == outside  # noqa: NPY002


class Bad(Strategy):
    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, OBJECTIVES)


class Repeats(Bad):
    def ask(self, rng: Random) -> Proposal:
        return Proposal(self.space.sample(rng))


class OwnRandomness(Bad):
    def ask(self, rng: Random) -> Proposal | None:
        return self.new(Random())


class GlobalRandomness(Bad):
    def ask(self, rng: Random) -> Proposal | None:
        return self.new(rng, lambda: Proposal(self.space.sample(random)))  # type: ignore[arg-type]


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
        return self.new(rng) if len(self.told.proposed) < 5 else None


class Rungs(Bad):
    """Two fidelities, and promotions of whatever was proposed first."""

    fidelities: tuple[float, ...] = (0.5, 1.0)

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self._last: Trial | None = None

    def ask(self, rng: Random) -> Proposal | None:
        if self._last is not None and self._last.proposal.fidelity < 1:
            architecture = self._promoted(self._last.architecture, rng)
            return Proposal(architecture, resume_from=self._last.number)
        architectures = self.space.enumerate()
        new = (a for a in architectures if Proposal(a, 0.5).key not in self.told.proposed)
        found = next(new, None)
        return Proposal(found, 0.5) if found else None

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        self._last = trial

    def _promoted(self, architecture: Architecture, rng: Random) -> Architecture:
        return architecture


class PromotesFailures(Rungs):
    pass


class PromotesOthers(Rungs):
    def _promoted(self, architecture: Architecture, rng: Random) -> Architecture:
        return self.space.mutate(architecture, rng)


class HidesFidelities(Rungs):
    fidelities = (1.0,)


class FewOften(Rungs):
    """Five points at two fidelities are no nine points."""

    def ask(self, rng: Random) -> Proposal | None:
        return super().ask(rng) if len(self.told.proposed) < 10 else None


class NamesItself(Bad):
    def ask(self, rng: Random) -> Proposal | None:
        number = len(self.told.latest)
        return self.new(rng, lambda: Proposal(self.space.sample(rng), parents=(number,)))


class NamesFailures(Bad):
    def ask(self, rng: Random) -> Proposal | None:
        failed = (t.number for t in self.told.ended if t.state is TrialState.FAILED)
        parents = tuple(failed)[:1]
        return self.new(rng, lambda: Proposal(self.space.sample(rng), parents=parents))


@pytest.mark.parametrize(
    ("strategy", "finding"),
    [
        (Repeats, "the same architecture is proposed twice"),
        (Repeats, "in an exhausted space it repeats itself"),
        (OwnRandomness, "two searches of one seed differ"),
        (GlobalRandomness, "two searches of one seed differ"),
        (IgnoresHistory, "it goes on differently"),
        (GivesUp, "of a space of 9 points only 5 are proposed"),
        (FewOften, "of a space of 9 points only 5 are proposed"),
        (PromotesFailures, "which is no completed trial of its architecture with less effort"),
        (PromotesOthers, "which is no completed trial of its architecture with less effort"),
        (NamesFailures, "as a parent, which had not ended by then, or had failed"),
        (HidesFidelities, "fidelity 0.5 is none of strategy.fidelities"),
    ],
)
def test_the_kit_catches(strategy: type[Bad], finding: str) -> None:
    problems = check_strategy(strategy)
    assert any(finding in problem for problem in problems), problems


def test_a_trial_that_names_itself_is_not_begun() -> None:
    with pytest.raises(PluginError, match=r"NamesItself cannot ask: .*it proposed parents=\(0,\)"):
        check_strategy(NamesItself)
