"""Rungs: who is promoted, what the source is told, in whatever order trials end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from strategies_helper import VALUE, Run, cube, haphazard, refused, total

from evonas.errors import OptionError
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.evolution import Evolution
from evonas.strategies.guided_evolution import GuidedEvolution
from evonas.strategies.random import RandomSearch
from evonas.strategies.successive_halving import MakeStrategy, SuccessiveHalving, rungs
from evonas.testing import check_strategy
from evonas.trial import Direction, Objective, Proposal, Trial, TrialState

LARGE = cube(8, 1000)
NO_SOURCES = {  # of several fidelities, or not for any space
    "successive_halving",
    "hyperband",
    "hypernet",
    "projected_ascent",
}
SOURCES = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "reinforce" else [])
    for name in sorted(Registry().origins("strategy"))
    if name not in NO_SOURCES
]


def halving(space: SearchSpace = LARGE, **settings: Any) -> SuccessiveHalving:
    return SuccessiveHalving(space, VALUE, **settings)


def small_evolution(space: SearchSpace, objectives: Sequence[Objective]) -> AgingEvolution:
    return AgingEvolution(space, objectives, population_size=6, tournament_size=3)


def quick_guide(space: SearchSpace, objectives: Sequence[Objective]) -> GuidedEvolution:
    return GuidedEvolution(space, objectives, startup_trials=3, children=8)


def promotable(events: Sequence[Trial], eta: int, fidelities: tuple[float, ...]) -> int | None:
    """The paper's rule, naively: whom it would promote now, from the highest rung possible."""
    done = [e for e in events if e.state is TrialState.COMPLETE]
    promoted = {e.proposal.resume_from for e in events}
    for fidelity in reversed(fidelities[:-1]):
        rung = [t for t in done if t.proposal.fidelity == fidelity]
        rung.sort(key=lambda t: (-t.metrics["value"], t.number))
        for trial in rung[: len(rung) // eta]:
            if trial.number not in promoted:
                return trial.number
    return None


@pytest.mark.parametrize(
    ("eta", "lowest", "expected"),
    [
        (3, 1 / 9, [1 / 9, 1 / 3, 1]),
        (3, 0.111, [0.111, 0.333, 1]),
        (2, 0.2, [0.2, 0.4, 0.8, 1]),
        (4, 0.5, [0.5, 1]),
        (3, 1.0, [1]),
    ],
)
def test_rungs_rise_by_eta_to_full_effort(eta: int, lowest: float, expected: list[float]) -> None:
    assert rungs(eta, lowest) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))
def test_with_several_running_and_ending_in_any_order_the_rule_is_the_papers(seed: int) -> None:
    eta = 2 + seed % 3
    strategy = halving(eta=eta, min_fidelity=eta**-2.0)
    events = haphazard(Run(strategy, seed), 150)
    trials = {e.number: e.proposal for e in events}
    for place, event in enumerate(events):
        if event.state is not TrialState.RUNNING:
            continue
        below = event.proposal.resume_from
        assert below == promotable(events[:place], eta, strategy.fidelities)
        if below is None:
            assert event.proposal.fidelity == strategy.fidelities[0]
        else:
            rise = strategy.fidelities.index(event.proposal.fidelity)
            expected = replace(trials[below], fidelity=strategy.fidelities[rise], resume_from=below)
            assert event.proposal == expected
            assert trials[below].fidelity == strategy.fidelities[rise - 1]
    assert {e.proposal.fidelity for e in events} == set(strategy.fidelities)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_about_one_in_eta_is_promoted_and_these_are_the_best(direction: Direction) -> None:
    run = Run(SuccessiveHalving(LARGE, (Objective("value", direction),)))
    trials = [run.step() for _ in range(400)]
    lowest, middle, top = (
        [t for t in trials if t.proposal.fidelity == fidelity]
        for fidelity in run.strategy.fidelities
    )
    for lower, higher in ((lowest, middle), (middle, top)):
        assert len(lower) // 3 - 1 <= len(higher) <= len(lower) / 3 + 2 * len(lower) ** 0.5
        went = {t.proposal.resume_from for t in higher}
        assert len(went) == len(higher), "nobody is promoted twice"
        values = sorted((t.metrics["value"] for t in lower), reverse=direction == "max")
        best = set(values[: len(values) // 6])
        assert all(t.number in went for t in lower[:-9] if t.metrics["value"] in best)


def test_a_promotion_that_fails_is_not_repeated() -> None:
    run = Run(halving())
    for value in (1.0, 3.0, 2.0):
        run.step(value)
    promoted = run.start()
    assert promoted.proposal.resume_from == 1
    run.fail(promoted)
    assert all(run.step(0.0).proposal.resume_from is None for _ in range(3))
    assert run.start().proposal.resume_from == 2, "the second best of six"


class Told(RandomSearch):
    """Random search that writes down what it is told."""

    def __init__(self, space: SearchSpace, objectives: object) -> None:
        super().__init__(space, VALUE)
        self.events: list[Trial] = []

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        self.events.append(trial)


def test_the_source_is_told_of_the_lowest_rung_at_full_effort_and_of_every_end_once() -> None:
    source = Told(LARGE, VALUE)
    run = Run(SuccessiveHalving(LARGE, VALUE, of=lambda space, objectives: source))
    ends = 0
    for number in range(60):
        trial = run.start()
        if number % 7 == 3:
            run.fail(trial)
        elif number % 7 == 5:
            run.end(trial, 0.5, state=TrialState.PRUNED)
        else:
            run.end(trial, float(number % 10))
        ends += trial.proposal.resume_from is None
    assert 30 < ends < 60
    assert {e.proposal.fidelity for e in source.events} == {1.0}
    lowest = [e for e in run.events if e.proposal.fidelity == run.strategy.fidelities[0]]
    assert [(e.number, e.state, e.metrics) for e in source.events] == [
        (e.number, e.state, e.metrics) for e in lowest
    ]


def test_children_descend_from_real_trials() -> None:
    run = Run(SuccessiveHalving(LARGE, VALUE, of=small_evolution))
    trials = [run.step() for _ in range(80)]
    bred = [t for t in trials if t.proposal.parents and t.proposal.resume_from is None]
    assert len(bred) > 30
    for child in bred:
        parent = trials[child.proposal.parents[0]]
        assert parent.proposal.fidelity == run.strategy.fidelities[0]
        before, after = parent.architecture.choices, child.architecture.choices
        assert sum(before[name] != after[name] for name in before) == 1


def test_a_small_space_is_searched_to_its_end_and_promoted_to_its_end() -> None:
    run = Run(halving(cube(2, 3)))
    while (trial := run.try_start()) is not None:
        run.end(trial, total(trial.architecture))
    assert len({event.architecture.id for event in run.events}) == 9
    assert promotable(run.events, 3, run.strategy.fidelities) is None


def test_while_the_source_waits_there_are_promotions() -> None:
    run = Run(SuccessiveHalving(LARGE, VALUE, of=partial(Evolution, population_size=6)))
    first = [run.start() for _ in range(6)]
    assert run.try_start() is None
    for trial in first[:3]:
        run.end(trial, total(trial.architecture))
    assert run.start().proposal.resume_from is not None
    assert run.try_start() is None, "the generation has not ended"


def test_trials_of_other_searches_are_left_alone() -> None:
    run = Run(halving(cube(1, 4)))
    points = list(run.strategy.space.enumerate())
    for number, fidelity in enumerate((1.0, 0.77)):
        foreign = Trial(-number - 1, Proposal(points[number], fidelity))
        run.strategy.tell(foreign)
        run.end(foreign, 9.0)
    left = {run.step(1.0).architecture.id for _ in range(2)}
    assert left == {point.id for point in points[2:]}
    assert run.try_start() is None


@pytest.mark.parametrize("source", [RandomSearch, small_evolution, quick_guide])
def test_told_any_beginning_it_asks_for_what_it_asked_for(source: MakeStrategy) -> None:
    def make() -> SuccessiveHalving:
        return SuccessiveHalving(cube(5, 4), VALUE, of=source)

    events = haphazard(Run(make()), 60)
    for cut, event in enumerate(events):
        if event.state is TrialState.RUNNING:
            resumed = make()
            for told in events[:cut]:
                resumed.tell(told)
            assert resumed.ask(Random(f"0/{event.number}")) == event.proposal


@pytest.mark.parametrize("name", SOURCES)
def test_any_strategy_is_a_source(name: str) -> None:
    source = Registry().find("strategy", name)
    assert check_strategy(lambda space: SuccessiveHalving(space, VALUE, of=source), 30) == []


@pytest.mark.parametrize(
    ("option", "value"), [("eta", 1), ("min_fidelity", 0.0), ("min_fidelity", 1.5)]
)
def test_senseless_settings_are_refused(option: str, value: float) -> None:
    assert f"strategy.{option}: Input should be" in refused(SuccessiveHalving, **{option: value})


def test_a_source_with_rungs_of_its_own_is_refused() -> None:
    with pytest.raises(OptionError, match="of: must propose at full effort"):
        halving(of=SuccessiveHalving)


def test_one_rung_is_the_source_itself() -> None:
    one, source = Run(halving(min_fidelity=1.0)), Run(RandomSearch(LARGE, VALUE))
    assert [one.step() for _ in range(20)] == [source.step() for _ in range(20)]


def test_a_source_that_judges_is_told_of_all_rungs_and_promotes_by_its_own_mind() -> None:
    class Seen(GuidedEvolution):
        def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
            super().__init__(space, objectives, startup_trials=3, children=8)
            self.rungs: list[float] = []

        def learn(self, trial: Trial) -> None:
            super().learn(trial)
            self.rungs.append(trial.proposal.fidelity)

        def promising(self, trials: Sequence[Trial], eta: int) -> list[Trial]:
            return sorted(trials, key=lambda trial: trial.number) if len(trials) > 5 else []

    strategy = SuccessiveHalving(LARGE, VALUE, of=Seen)
    run = Run(strategy)
    promoted = []
    for number in range(60):
        trial = run.step(float(number % 7))
        if trial.proposal.resume_from is not None and trial.proposal.fidelity < 0.5:
            promoted.append(trial.proposal.resume_from)
    assert promoted == sorted(promoted), "in the order of its own"
    assert promoted[0] == 0
    source = strategy.source
    assert isinstance(source, Seen)
    assert set(source.rungs) >= set(strategy.fidelities[:2])
    assert len(source.rungs) == len(run.events)


def test_no_more_are_promoted_than_places_whoever_judges() -> None:
    run = Run(SuccessiveHalving(LARGE, VALUE, of=quick_guide))
    trials = [run.step() for _ in range(90)]
    for low in run.strategy.fidelities[:-1]:
        rung = [trial for trial in trials if trial.proposal.fidelity == low]
        went = {t.proposal.resume_from for t in trials} & {t.number for t in rung}
        assert 0 < len(went) <= len(rung) // 3
