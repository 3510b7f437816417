from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from statistics import fmean

import optuna
import pytest
from conftest import bounded
from strategies_helper import VALUE, Grid, Run, cube, refused, total

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.random import RandomSearch
from evonas.strategies.tpe import TPE
from evonas.trial import Direction, Limit, Objective, TrialState

MIXED = Grid(
    act=Categorical(("relu", "gelu")),
    skip=Categorical((False, True)),
    drop=Categorical((0.0, 0.5)),
    one=Categorical((3,)),
    width=Integer(8, 64, step=8, log=True),
    units=Integer(1, 512, log=True),
    odd=Integer(1, 10, step=4),
)


class Layers(Grid):
    """The kernels of layers beyond ``depth`` have no effect."""

    def __init__(self) -> None:
        kernels = {f"kernel_{i}": Categorical((3, 5, 7, 9)) for i in range(1, 5)}
        super().__init__(depth=Integer(1, 4), **kernels)

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        dead = {f"kernel_{i}": 3 for i in range(int(choices["depth"]) + 1, 5)}
        return {**choices, **dead}


def best(strategy: Strategy, trials: int, seed: int) -> float:
    run = Run(strategy, seed)
    return max(run.step().metrics["value"] for _ in range(trials))


def test_it_maximises_a_sum_better_than_random() -> None:
    space = cube(8, 5)
    tpe, chance = (
        fmean(best(make(space, VALUE), 60, seed) for seed in range(5))
        for make in (TPE, RandomSearch)
    )
    assert tpe > chance + 2


def test_it_minimises_if_told_to() -> None:
    run = Run(TPE(cube(6, 5), (Objective("value", "min"),)))
    values = [run.step().metrics["value"] for _ in range(60)]
    assert fmean(values[-20:]) < fmean(values[:20]) - 3


def test_proposals_are_in_the_space_types_included() -> None:
    run = Run(TPE(MIXED, VALUE, startup_trials=3))
    seen: dict[str, set[Value]] = {name: set() for name in MIXED.domains}
    for n in range(60):
        architecture = run.step(n % 7).architecture
        assert MIXED.architecture(architecture.choices).id == architecture.id
        for name, value in architecture.choices.items():
            seen[name].add(value)
    assert [len(seen[name]) for name in ("act", "skip", "drop", "one")] == [2, 2, 2, 1]
    assert seen["odd"] == {1, 5, 9}


@pytest.mark.parametrize(
    ("low", "high", "direction"), [(-1, 6, "max"), (17, 99, "min"), (9, 10, "max")]
)
def test_hard_limits_hold(low: float, high: float, direction: Direction) -> None:
    """The objective pulls towards what is not allowed."""
    measured = []

    def measure(architecture: Architecture) -> Mapping[str, float]:
        measured.append(total(architecture))
        return {"total": measured[-1]}

    space = bounded(cube(6, 5), {"total": Limit(low, high)}, measure)
    run = Run(TPE(space, (Objective("value", direction),), startup_trials=5))
    proposed = [run.step().architecture for _ in range(40)]
    assert all(low <= total(architecture) <= high for architecture in proposed)
    assert len(set(proposed)) == 40
    assert any(not low <= value <= high for value in measured)


def test_failed_trials_are_left_out_of_the_model() -> None:
    strategy = TPE(cube(4, 6), VALUE, startup_trials=4)
    run = Run(strategy)
    for _ in range(30):
        trial = run.start()
        if total(trial.architecture) > 12:
            run.fail(trial)
        else:
            run.end(trial, total(trial.architecture))
    study = strategy._study
    told = [study.trials[strategy._mirrored[event.number]] for event in run.events]
    for event, mirrored in zip(run.events, told, strict=True):
        if event.state is TrialState.FAILED:
            assert mirrored.state is optuna.trial.TrialState.FAIL
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert [t.value for t in complete] == [
        event.metrics["value"] for event in run.events if event.state is TrialState.COMPLETE
    ]
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_pruned_trials_are_worse_than_completed_ones_and_better_the_further_they_came() -> None:
    """Only how far they came tells good from bad: all are pruned, so all of the model is theirs."""
    run = Run(TPE(cube(4, 8), VALUE, startup_trials=10))
    steps = []
    for _ in range(60):
        trial = run.start()
        steps.append(int(total(trial.architecture)) + 1)
        stopped = replace(trial, curve=((steps[-1], {"value": 1.0}),))
        run.end(stopped, 1.0, state=TrialState.PRUNED)
    assert fmean(steps[-20:]) > fmean(steps[:10]) + 3


def test_pruned_trials_without_a_value_are_left_out_of_the_model() -> None:
    for objectives in (VALUE, (Objective("value"), Objective("cost", "min"))):
        strategy = TPE(cube(3, 4), objectives, startup_trials=2)
        run = Run(strategy)
        for _ in range(6):
            run.end(run.start(), 1.0, 2.0)
            trial = run.start()
            curve = ((1, {"value": 1.0, "cost": 1.0}),) if len(objectives) > 1 else ()
            run.end(replace(trial, curve=curve), 1.0, 1.0, state=TrialState.PRUNED)
        assert not strategy._study.get_trials(states=(optuna.trial.TrialState.PRUNED,))


@pytest.mark.parametrize("space", [cube(4, 4), MIXED, Layers()], ids=["cube", "mixed", "layers"])
def test_a_replayed_history_goes_on_like_the_run(space: SearchSpace) -> None:
    """Four running at once, ending in any order, some failing; replayed from every fourth event."""
    run, running, shuffle = Run(TPE(space, VALUE, startup_trials=5)), [], Random(3)
    for _ in range(40):
        while len(running) < 4:
            running.append(run.start())
        trial = running.pop(shuffle.randrange(4))
        value = float(int(trial.architecture.id, 16) % 100)
        run.fail(trial) if value < 10 else run.end(trial, value)
    for cut in range(1, len(run.events), 4):
        if run.events[cut].state is not TrialState.RUNNING:
            continue
        fresh = TPE(space, VALUE, startup_trials=5)
        for event in run.events[:cut]:
            fresh.tell(event)
        asked = run.events[cut]
        assert fresh.ask(Random(f"0/{asked.number}")) == asked.proposal


def test_what_was_asked_and_never_told_leaves_no_trace() -> None:
    def proposed(idle_asks: int) -> list[str]:
        run = Run(TPE(cube(4, 4), VALUE, startup_trials=5))
        trials = []
        for _ in range(20):
            for n in range(idle_asks):
                run.strategy.ask(Random(f"idle/{n}"))
            trials.append(run.step().architecture.id)
        return trials

    assert proposed(0) == proposed(2)


def test_every_point_comes_once_and_then_nothing() -> None:
    run, proposed = Run(TPE(cube(2, 4), VALUE)), []
    while (trial := run.try_start()) is not None:
        proposed.append(run.end(trial, total(trial.architecture)).architecture)
    assert len(proposed) == len(set(proposed)) == 16


def test_several_objectives() -> None:
    space = cube(6, 5)
    run = Run(TPE(space, (Objective("value"), Objective("cost", "min"))))
    ends = []
    for _ in range(80):
        trial = run.start()
        first, *rest = (int(v) for v in trial.architecture.choices.values())
        ends.append(run.end(trial, first + rest[0], sum(rest[1:])).metrics)
    score = [m["value"] - m["cost"] for m in ends]
    assert fmean(score[-20:]) > fmean(score[:20]) + 2
    assert len({e.architecture for e in run.events}) == 80


def test_senseless_settings_are_refused() -> None:
    for option in ("startup_trials", "candidates"):
        told = refused(TPE, **{option: 0})
        assert told == f"strategy.{option}: Input should be greater than or equal to 1, not 0"


def test_ordered_options_are_numbers_to_the_model() -> None:
    """It finds the best of two hundred sooner than without an order."""

    def total_of_best(ordered: bool) -> float:
        domain = Categorical(tuple(range(200)), ordered=ordered)
        space = Grid(x=domain, y=Integer(0, 1))
        return sum(best(TPE(space, VALUE), 40, seed) for seed in range(6))

    assert total_of_best(ordered=True) > total_of_best(ordered=False)


@pytest.mark.faults("14: True, 1 and 1.0 are three choices, before and after a resume")
def test_ordered_options_keep_their_types() -> None:
    space = Grid(x=Categorical((0.5, 1, "two", True), ordered=True), y=Integer(0, 3))
    run = Run(TPE(space, VALUE, startup_trials=2))
    for number in range(16):
        architecture = run.step(float(number)).architecture
        assert space.architecture(architecture.choices) == architecture


def test_options_that_equal_one_another_are_told_apart() -> None:
    space = Grid(a=Categorical((True, 1, 1.0, "1")), b=Categorical((0, False)))
    run = Run(TPE(space, VALUE, startup_trials=2), 0)
    assert len({run.step().architecture.id for _ in range(8)}) == 8
