from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping
from random import Random

import pytest
from strategies_helper import VALUE, Run, cube, parents, refused, total

from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator
from evonas.executors.serial import Serial
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.trial import Direction, Objective, Trial, TrialState

LARGE = cube(30, 100_000)  # no child is ever seen twice


def evolution(
    population: int, tournament: int, space: SearchSpace = LARGE, objective: Objective = VALUE[0]
) -> AgingEvolution:
    return AgingEvolution(space, (objective,), population, tournament)


def test_the_population_starts_with_random_architectures() -> None:
    run = Run(evolution(10, 3))
    random_ones = [run.step() for _ in range(10)]
    assert all(trial.proposal.parents == () for trial in random_ones)
    assert all(len(run.step().proposal.parents) == 1 for _ in range(10))


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_parent_is_the_best_of_a_tournament_among_the_living(direction: Direction) -> None:
    run = Run(evolution(8, 3, objective=Objective("value", direction)), seed=1)
    living: deque[Trial] = deque((run.step() for _ in range(8)), maxlen=8)
    best = max if direction == "max" else min
    for number in range(8, 150):
        rng = Random(f"1/{number}")  # the one that search hands out
        entrants = [rng.choice(living) for _ in range(3)]
        child = run.step()
        winner = best(entrants, key=lambda trial: trial.metrics["value"])
        assert child.proposal.parents == (winner.number,)
        living.append(child)


def test_the_oldest_dies_however_good_it_is() -> None:
    run = Run(evolution(4, 1))
    for value in (100, 1, 2, 3):
        run.step(value)
    assert parents(run.strategy) == {0, 1, 2, 3}
    run.step(0)
    assert parents(run.strategy) == {1, 2, 3, 4}


def test_age_counts_from_completion() -> None:
    run = Run(evolution(2, 1))
    first, second = run.start(), run.start()
    run.end(second, 1)
    run.end(first, 1)
    assert parents(run.strategy) == {0, 1}
    run.step(1)
    assert parents(run.strategy) == {0, 2}


def test_a_child_differs_from_its_recorded_parent_in_one_choice() -> None:
    run = Run(evolution(5, 2))
    trials = [run.step() for _ in range(60)]
    for child in trials[5:]:
        (number,) = child.proposal.parents
        assert number < child.number
        before, after = trials[number].architecture.choices, child.architecture.choices
        assert sum(before[name] != after[name] for name in before) == 1


def test_failed_and_pruned_trials_are_no_parents_and_random_ones_take_their_place() -> None:
    run, complete = Run(evolution(6, 2)), set()
    while len(complete) < 6:
        trial = run.start()
        assert trial.proposal.parents == ()
        match trial.number % 3:
            case 0:
                run.fail(trial)
            case 1:
                run.end(trial, 1e9, state=TrialState.PRUNED)
            case _:
                complete.add(run.end(trial, trial.number).number)
    assert parents(run.strategy) == complete
    for _ in range(20):
        failing = run.start()
        assert failing.proposal.parents[0] in complete
        run.fail(failing)
    assert parents(run.strategy) == complete


def test_if_everything_fails_it_goes_on_at_random() -> None:
    run = Run(evolution(3, 2))
    for _ in range(20):
        assert run.fail(run.start()).proposal.parents == ()


def test_with_several_running_it_breeds_from_those_that_are_told() -> None:
    run = Run(evolution(4, 2))
    running = [run.start() for _ in range(7)]  # none is complete: more random ones
    assert all(trial.proposal.parents == () for trial in running)
    run.end(running[5], 1)
    assert run.start().proposal.parents == (5,)
    run.end(running[2], 2)
    assert parents(run.strategy) == {2, 5}


def test_what_runs_counts_towards_the_population() -> None:
    run = Run(evolution(4, 2))
    running = [run.start() for _ in range(4)]
    for trial in running[:2]:
        run.end(trial, 1)
    assert run.start().proposal.parents  # 2 + 2 running: enough
    for trial in running[2:]:
        run.fail(trial)
    assert run.start().proposal.parents == ()  # 2 + 1 running: one is missing


def test_the_module_random_is_left_alone() -> None:
    run = Run(evolution(5, 3))
    random.seed(7)
    before = random.getstate()
    for _ in range(30):
        run.step()
    assert random.getstate() == before


def test_the_module_random_does_not_matter() -> None:
    def children(seed: int) -> list[str]:
        random.seed(seed)
        run = Run(evolution(5, 3))
        return [run.step().architecture.id for _ in range(30)]

    assert children(1) == children(2)


class SometimesNaN(Evaluator):
    metrics = ("value",)

    def __init__(self) -> None:
        super().__init__(Context(LARGE, None, "cpu", seed=0))

    def evaluate(self, trial: Trial, report: object) -> Mapping[str, float]:
        return {"value": math.nan if trial.number % 2 else total(trial.architecture)}


def test_nan_never_becomes_a_parent() -> None:
    with Serial(lambda device: SometimesNaN(), ("cpu",), isolate=False) as executor:
        events = list(Search(evolution(5, 2), executor, Budget(60), seed=0))
    failed = {e.number for e in events if e.state is TrialState.FAILED}
    bred = {number for event in events for number in event.proposal.parents}
    assert failed == set(range(1, 60, 2))
    assert bred
    assert not bred & failed


@pytest.mark.parametrize("option", ["population_size", "tournament_size"])
def test_senseless_settings_are_refused(option: str) -> None:
    told = refused(AgingEvolution, **{option: 0})
    assert told == f"strategy.{option}: Input should be greater than or equal to 1, not 0"


def test_a_tournament_of_more_than_live_is_refused() -> None:
    with pytest.raises(OptionError, match="population_size: 4 is smaller than tournament_size 5"):
        evolution(4, 5)


def test_a_population_of_one_is_a_walk() -> None:
    run = Run(evolution(1, 1))
    assert [run.step().proposal.parents for _ in range(4)] == [(), (0,), (1,), (2,)]
