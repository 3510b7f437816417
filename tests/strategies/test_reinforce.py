"""The controller: what it learns, what it leaves alone, and that it is a fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import Literal

import pytest
import torch
from conftest import TINY_SPACES, bounded
from strategies_helper import VALUE, Grid, Run, cube, refused, total

from evonas.architecture import Architecture, Categorical, Integer
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace
from evonas.strategies.random import RandomSearch
from evonas.strategies.reinforce import Reinforce
from evonas.trial import Direction, Limit, Objective, Trial, TrialState

Algorithm = Literal["ppo", "reinforce"]


class Layers(Grid):
    """The kernels of layers beyond ``depth`` have no effect."""

    def __init__(self) -> None:
        kernels = {f"kernel_{i}": Categorical((3, 5, 7)) for i in range(1, 4)}
        super().__init__(depth=Integer(0, 3), **kernels)
        self.conditions = {
            "kernel_1": lambda c: c["depth"] >= 1,
            "kernel_2": lambda c: c["depth"] >= 2,
            "kernel_3": lambda c: c["depth"] >= 3,
        }


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
@pytest.mark.parametrize("direction", ["max", "min"])
def test_it_finds_better_sums_than_random(algorithm: Algorithm, direction: Direction) -> None:
    objective = Objective("value", direction)
    learned = Run(Reinforce(cube(8, 5), (objective,), algorithm))
    chance = Run(RandomSearch(cube(8, 5), (objective,)))
    ends = [[objective.key(run.step().metrics) for _ in range(60)] for run in (learned, chance)]
    assert fmean(ends[0][-15:]) > fmean(ends[1]) + 4
    assert max(ends[0]) > max(ends[1])


def test_scale_and_offset_of_the_objective_do_not_matter() -> None:
    def proposed(scale: float, offset: float) -> list[str]:
        run = Run(Reinforce(cube(4, 4), VALUE))
        trials = [run.start()]
        for _ in range(15):
            run.end(trials[-1], scale * total(trials[-1].architecture) + offset)
            trials.append(run.start())
        return [trial.architecture.id for trial in trials]

    assert proposed(1.0, 0.0) == proposed(1e-6, -3.0) == proposed(1e6, 5e8)


def test_what_fails_is_avoided_whether_or_not_it_has_metrics() -> None:
    run, failed = Run(Reinforce(cube(5, 4), VALUE)), []
    for _ in range(100):
        trial = run.start()
        failed.append(int(trial.architecture.choices["x0"]) > 1)
        if not failed[-1]:
            run.end(trial, 1.0)
        elif trial.number % 2:
            run.fail(trial)
        else:
            run.end(trial, state=TrialState.PRUNED)
    assert fmean(failed[-25:]) < 0.2


def test_hard_limits_hold_and_nothing_is_proposed_twice() -> None:
    def measure(architecture: Architecture) -> Mapping[str, float]:
        return {"total": total(architecture)}

    space = bounded(cube(3, 5), {"total": Limit(-1, 5)}, measure)
    run, proposed = Run(Reinforce(space, VALUE, batch_size=3)), []
    while (trial := run.try_start()) is not None:
        proposed.append(run.end(trial, total(trial.architecture)).architecture)
    assert all(total(architecture) <= 5 for architecture in proposed)
    assert len(proposed) == len(set(proposed)) == len(list(space.enumerate()))


def test_choices_without_effect_are_never_drawn() -> None:
    """Of 40 networks each comes once, although 108 sets of choices build them."""
    run = Run(Reinforce(Layers(), VALUE))
    architectures = [run.step(float(n)).architecture for n in range(40)]
    assert len(set(architectures)) == 40 == len(list(Layers().enumerate()))
    assert run.try_start() is None


def test_before_it_has_learned_it_draws_as_the_space_does() -> None:
    """A logarithmic domain of more values than the controller has outputs."""
    space = Grid(wide=Integer(1, 2000, log=True), odd=Integer(1, 99, step=7))
    strategy, low = Reinforce(space, VALUE), []
    for seed in range(300):
        proposal = strategy.ask(Random(seed))
        assert proposal is not None
        low.append(int(proposal.architecture.choices["wide"]) <= 45)
        assert space.architecture(proposal.architecture.choices) == proposal.architecture
    assert fmean(low) == pytest.approx(0.5, abs=0.1)


SPACES: list[tuple[str, dict[str, int]]] = [
    (name, TINY_SPACES[name]) for name in ("plain_cnn", "darts", "regnet")
]


@pytest.mark.parametrize(("name", "options"), SPACES, ids=str)
def test_a_replayed_history_goes_on_like_the_run(name: str, options: dict[str, int]) -> None:
    """Three running at once, ending in any order, in every way; replayed from several events."""
    space: SearchSpace = Registry().find("space", name)(**options)
    run, shuffle = Run(Reinforce(space, VALUE, batch_size=3)), Random(3)
    running: list[Trial] = []
    for number in range(12):
        while len(running) < 3:
            running.append(run.start())
        trial = running.pop(shuffle.randrange(3))
        match number % 5:
            case 3:
                run.fail(trial)
            case 4:
                run.end(replace(trial, curve=((1, {}),)), state=TrialState.PRUNED)
            case _:
                run.end(trial, float(int(trial.architecture.id, 16) % 100))
    fresh = Reinforce(space, VALUE, batch_size=3)
    for event in run.events:
        if event.state is TrialState.RUNNING:
            assert fresh.ask(Random(f"0/{event.number}")) == event.proposal
            if event.number % 4 == 0:  # what is asked and not told leaves no trace
                fresh.ask(Random(1))
        fresh.tell(event)


def test_torchs_own_randomness_is_left_alone_and_does_not_matter() -> None:
    def proposed(seed: int) -> list[str]:
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        run = Run(Reinforce(cube(4, 4), VALUE))
        ids = [run.step().architecture.id for _ in range(12)]
        assert torch.equal(torch.get_rng_state(), before)
        return ids

    assert proposed(1) == proposed(2)


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_size", 0), ("hidden", 0), ("learning_rate", 0.0), ("entropy", -1.0)],
)
def test_senseless_settings_are_refused(option: str, value: float) -> None:
    assert f"strategy.{option}: Input should be" in refused(Reinforce, **{option: value})
