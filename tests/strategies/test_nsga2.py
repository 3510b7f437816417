"""NSGA-II: fronts, Deb's rules for the infeasible, steady state, real spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean

import pytest
from strategies_helper import VALUE, Run, cube, refused, total

from evonas.architecture import Architecture
from evonas.evaluators.base import Context, Evaluator, Reporter, hold
from evonas.executors.base import run_trial
from evonas.executors.serial import Serial
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.strategies.base import Strategy
from evonas.strategies.nsga2 import NSGA2
from evonas.strategies.random import RandomSearch
from evonas.trial import Limit, Objective, Trial, TrialState, keys
from evonas.trials import Trials, volume

TWO = (Objective("value"), Objective("cost", "min"))
THREE = (*TWO, Objective("spread", "min"))
Make = Callable[[SearchSpace, Sequence[Objective]], Strategy]


def tell(
    run: Run,
    trial: Trial,
    metrics: Mapping[str, float],
    state: TrialState = TrialState.COMPLETE,
) -> Trial:
    return run._tell(replace(trial, state=state, metrics=metrics))


def alive(run: Run) -> set[int]:
    """Numbers of the population."""
    assert isinstance(run.strategy, NSGA2)
    return {individual.trial.number for individual in run.strategy._population}


def scores(architecture: Architecture) -> dict[str, float]:
    """Up with the first half of the choices, at a cost that the second half lowers."""
    numbers = [float(value) for value in architecture.choices.values()]
    half = len(numbers) // 2
    return {
        "value": sum(number**0.5 for number in numbers[:half]),
        "cost": sum(numbers[:half]) + sum((number - 3) ** 2 for number in numbers[half:]),
        "spread": max(numbers) - min(numbers),
    }


def front_volume(make: Make, objectives: Sequence[Objective], seed: int, trials: int) -> float:
    run = Run(make(cube(8, 7), objectives), seed)
    points = []
    for _ in range(trials):
        trial = run.start()
        metrics = scores(trial.architecture)
        tell(run, trial, metrics)
        points.append(keys(objectives, metrics))
    return volume(points, (2.0, -30.0, -7.0)[: len(objectives)])


@pytest.mark.parametrize("objectives", [TWO, THREE], ids=["two", "three"])
def test_its_fronts_are_better_than_those_of_random_search(objectives: Sequence[Objective]) -> None:
    ours, chance = (
        [front_volume(make, objectives, seed, 100) for seed in range(12)]
        for make in (NSGA2, RandomSearch)
    )
    assert fmean(ours) > 1.1 * fmean(chance)
    assert sum(a > b for a, b in zip(ours, chance, strict=True)) >= 9


def test_of_one_objective_it_finds_the_best() -> None:
    best = []
    for make in (NSGA2, RandomSearch):
        runs = [Run(make(cube(8, 7), VALUE), seed) for seed in range(6)]
        best.append(fmean(max(run.step().metrics["value"] for _ in range(100)) for run in runs))
    assert best[0] > best[1] + 3


def test_the_front_survives_and_what_it_dominates_does_not() -> None:
    for seed in range(10):
        rng = Random(seed)
        run = Run(NSGA2(cube(6, 6), TWO, population_size=8), seed)
        trials = [run.step(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(30)]
        living = alive(run)
        assert len(living) == 8
        front = Trials(TWO, trials).front()
        values = {keys(TWO, trial.metrics) for trial in trials if trial.number in living}
        assert {keys(TWO, trial.metrics) for trial in front} <= values or len(front) > 8


def test_the_feasible_beat_all_others_and_of_those_the_less_violating() -> None:
    run = Run(NSGA2(cube(6, 6), TWO, population_size=4))
    far, near, nearer, nearest = (
        tell(run, run.start(), {"violation": v}, TrialState.PRUNED) for v in (5.0, 2.0, 1.0, 0.5)
    )
    assert alive(run) == {t.number for t in (far, near, nearer, nearest)}
    worst = run.step(-1e9, 1e9)
    assert alive(run) == {t.number for t in (near, nearer, nearest, worst)}
    dominated = run.step(-2e9, 2e9)
    living = {t.number for t in (nearer, nearest, worst, dominated)}
    assert alive(run) == living
    slightly = tell(run, run.start(), {"violation": 1 + 1e-9}, TrialState.PRUNED)
    assert slightly.number not in alive(run)
    complete = tell(run, run.start(), {"value": 1e9, "cost": 0, "violation": 0.1})
    assert alive(run) == {*(living - {nearer.number}), complete.number}


def test_a_feasible_region_that_is_rare_is_found_from_outside() -> None:
    """By mutation and crossover of those that violate least; at random one in 10,000 is in it."""
    space, limit = cube(6, 10), Limit(max=6)
    found = {NSGA2: 0, RandomSearch: 0}
    for make, seed in ((make, seed) for make in found for seed in range(5)):
        run = Run(make(space, TWO), seed)
        for _ in range(150):
            trial = run.start()
            violation = limit.violation(total(trial.architecture))
            if violation:
                tell(run, trial, {"violation": violation}, TrialState.PRUNED)
            else:
                run.end(trial, total(trial.architecture), 1.0)
                found[make] += 1
    assert found[NSGA2] > 20
    assert found[RandomSearch] < 5


def test_failed_and_pruned_trials_do_not_join() -> None:
    run = Run(NSGA2(cube(4, 5), VALUE, population_size=4))
    run.end(run.start(), 9.0, state=TrialState.PRUNED)
    run.fail(run.start())
    assert alive(run) == set()
    for _ in range(4):
        assert run.step().proposal.parents == ()
    assert run.start().proposal.parents != (), "the population is full"


def test_workers_never_wait_and_trials_may_end_in_any_order() -> None:
    for seed in range(5):
        rng, run = Random(seed), Run(NSGA2(cube(6, 6), TWO, population_size=6), seed)
        running = [run.start() for _ in range(10)]  # more than the population
        assert all(not trial.proposal.parents for trial in running)
        bred = 0
        for _ in range(60):
            run.end(running.pop(rng.randrange(len(running))), rng.random(), rng.random())
            ended = {e.number for e in run.events if e.state is TrialState.COMPLETE}
            running.append(run.start())
            assert set(running[-1].proposal.parents) <= ended
            bred += bool(running[-1].proposal.parents)
        assert bred > 50


@pytest.mark.parametrize(("crossover", "parents"), [(0.0, 1), (1.0, 2)])
def test_a_child_has_one_parent_or_two_different_ones(crossover: float, parents: int) -> None:
    run = Run(NSGA2(cube(9, 9), TWO, population_size=5, crossover=crossover))
    trials = [run.step(Random(number).random(), 1.0) for number in range(40)]
    assert {len(set(trial.proposal.parents)) for trial in trials[5:]} == {parents}


class Fake(Evaluator):
    """Two metrics without a training; some trials fail, some break a limit."""

    metrics = ("value", "cost")

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        dice = Random(trial.architecture.id)
        if dice.random() < 0.1:
            raise RuntimeError("on purpose")
        cost = dice.random()
        hold({"cost": Limit(max=0.8)}, {"cost": cost})
        return {"value": dice.random(), "cost": cost}


SPACES = [PlainCNN(2, 32), MBConv(2, 32), NASBench201()]
real_spaces = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)


def make(space: SearchSpace) -> Strategy:
    return NSGA2(space, TWO, population_size=6)


@real_spaces
def test_a_killed_and_resumed_search_goes_on_as_it_would_have(space: SearchSpace) -> None:
    def events(history: Sequence[Trial] = ()) -> list[Trial]:
        with Serial(
            lambda device: Fake(Context(space, None, device, 0)), ("cpu",), isolate=False
        ) as executor:
            found = Search(make(space), executor, Budget(40), 0, history)
            return [replace(e, seconds=0.0, elapsed=0.0, error=None) for e in found]

    whole = events()
    assert {e.state for e in whole} == set(TrialState)
    assert any(e.proposal.parents for e in whole)
    for cut in (1, 20, 51, len(whole) - 1):
        assert [*whole[:cut], *events(whole[:cut])] == whole


@real_spaces
def test_what_was_told_decides_whoever_ended_first(space: SearchSpace) -> None:
    evaluator, rng = Fake(Context(space, None, "cpu", 0)), Random(0)
    run, other = Run(make(space)), make(space)
    running = [run.start() for _ in range(3)]
    for _ in range(40):
        run._tell(run_trial(evaluator, running.pop(rng.randrange(3))))
        running.append(run.start())
    for number, event in enumerate(run.events):
        if event.state is TrialState.RUNNING:
            proposal = other.ask(Random(f"0/{event.number}"))
            assert proposal == event.proposal
        other.ask(Random(number))  # changes nothing
        other.tell(event)


@pytest.mark.parametrize(
    ("option", "value"),
    [("population_size", 3), ("crossover", 1.5), ("mutation", -0.1), ("mutation", float("nan"))],
)
def test_senseless_settings_are_refused(option: str, value: float) -> None:
    assert f"strategy.{option}: Input should be" in refused(NSGA2, **{option: value})
