"""Generations: bred from the best of all before, and only when the one before has ended."""

from __future__ import annotations

from random import Random

import pytest
from strategies_helper import VALUE, Run, cube, parents, refused

from evonas.strategies.evolution import Evolution
from evonas.strategies.random import RandomSearch
from evonas.trial import Objective, TrialState


def test_a_generation_waits_for_the_one_before() -> None:
    run = Run(Evolution(cube(5, 5), VALUE, population_size=4))
    first = [run.start() for _ in range(4)]
    assert run.strategy.ask(Random(0)) is None
    for trial in first[:3]:
        run.end(trial, 1.0)
        assert run.strategy.ask(Random(0)) is None
    run.fail(first[3])
    second = [run.start() for _ in range(4)]
    numbers = {trial.number for trial in first[:3]}
    assert all(set(trial.proposal.parents) <= numbers for trial in second)
    assert all(trial.proposal.parents for trial in second)


def test_the_best_of_all_survive() -> None:
    values = [5.0, 9.0, 1.0, 2.0, 8.0, 0.0]
    for size, chosen in ((1, {0, 1, 4}), (60, {1})):  # of a tournament of all, the best
        run = Run(Evolution(cube(5, 5), VALUE, population_size=3, tournament_size=size))
        for value in values:
            run.step(value)
        assert parents(run.strategy) == chosen


def test_without_crossover_children_have_one_parent_and_differ_in_one_choice() -> None:
    run = Run(Evolution(cube(6, 5), VALUE, population_size=5, crossover=0.0))
    by_number = {}
    for _ in range(40):
        trial = run.step()
        by_number[trial.number] = trial.architecture
        for parent in trial.proposal.parents:
            pairs = zip(
                trial.architecture.choices.values(),
                by_number[parent].choices.values(),
                strict=True,
            )
            assert sum(a != b for a, b in pairs) == 1


def test_with_crossover_alone_every_choice_is_a_parents() -> None:
    run = Run(Evolution(cube(12, 9), VALUE, population_size=10, crossover=1.0, mutation=0.0))
    by_number, two = {}, 0
    for _ in range(30):
        trial = run.step()
        by_number[trial.number] = trial.architecture
        parents = [by_number[number].choices for number in trial.proposal.parents]
        two += len(parents) == 2
        if len(parents) == 2:
            for name, value in trial.architecture.choices.items():
                assert value in (parents[0][name], parents[1][name])
    assert two > 10


def test_pruned_and_failed_trials_do_not_survive() -> None:
    run = Run(Evolution(cube(4, 5), VALUE, population_size=2))
    run.end(run.start(), 9.0, state=TrialState.PRUNED)
    run.fail(run.start())
    assert parents(run.strategy) == set()
    assert run.start().proposal.parents == ()


@pytest.mark.parametrize("way", ["max", "min"])
def test_it_is_better_than_random(way: str) -> None:
    def best(make: type) -> float:
        sign = 1 if way == "max" else -1
        objectives = (Objective("value", way),)  # type: ignore[arg-type]
        found = 0.0
        for seed in range(5):
            run = Run(make(cube(8, 8), objectives), seed)
            found += max(sign * run.step().metrics["value"] for _ in range(120))
        return found

    assert best(Evolution) > best(RandomSearch)


@pytest.mark.parametrize(
    ("option", "value"),
    [("population_size", 0), ("tournament_size", 0), ("crossover", 1.5), ("mutation", -0.1)],
)
def test_senseless_settings_are_refused(option: str, value: float) -> None:
    assert f"strategy.{option}: Input should be" in refused(Evolution, **{option: value})
