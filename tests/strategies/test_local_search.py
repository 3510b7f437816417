"""Climbing: neighbours of the centre alone, moves upwards alone, restarts from the top."""

from __future__ import annotations

from random import Random

import pytest
from strategies_helper import VALUE, Run, cube, parents, total

from evonas.architecture import Architecture
from evonas.spaces.base import SearchSpace
from evonas.strategies.local_search import LocalSearch
from evonas.trial import Objective, TrialState


def distance(a: Architecture, b: Architecture) -> int:
    return sum(abs(int(a.choices[name]) - int(b.choices[name])) for name in a.choices)


@pytest.mark.parametrize("seed", range(5))
def test_it_climbs_a_hill_by_single_steps(seed: int) -> None:
    run = Run(LocalSearch(cube(4, 6), VALUE), seed)
    centre = run.step()
    for _ in range(120):
        trial = run.step()
        if not trial.proposal.parents:
            break
        assert trial.proposal.parents == (centre.number,)
        assert distance(trial.architecture, centre.architecture) == 1
        if trial.metrics["value"] > centre.metrics["value"]:
            centre = trial
    assert total(centre.architecture) == 4 * 5, "the top, and only then a new start"


def test_it_descends_if_told_to() -> None:
    run = Run(LocalSearch(cube(4, 6), (Objective("value", "min"),)))
    assert min(run.step().metrics["value"] for _ in range(150)) == 0


def test_a_new_start_forgets_the_old_top() -> None:
    """The second climb moves to what is worse than the first one's top."""

    def two_hills(architecture: Architecture) -> float:
        x = int(architecture.choices["x0"])
        return {0: 3.0, 1: 2.0, 2: 1.0, 3: 0.0, 4: 1.0, 5: 2.0, 6: 2.5}[x]

    tops = set()
    for seed in range(10):
        run = Run(LocalSearch(cube(1, 7), VALUE), seed)
        for _ in range(7):
            trial = run.start()
            run.end(trial, two_hills(trial.architecture))
        assert len({e.architecture for e in run.events}) == 7
        tops.add(run.events[1].architecture.choices["x0"])
    assert len(tops) > 1


def test_with_several_workers_it_waits_for_the_last_neighbours() -> None:
    run = Run(LocalSearch(cube(1, 5), VALUE))
    start = run.start()
    run.end(start, 1.0)
    neighbours = [run.start() for _ in run.strategy.space.neighbours(start.architecture)]
    assert run.strategy.ask(Random(0)) is None
    for trial in neighbours:
        run.fail(trial)
    again = run.strategy.ask(Random(0))
    assert again is not None
    assert again.parents == ()


def test_failed_and_pruned_neighbours_are_no_centres() -> None:
    run = Run(LocalSearch(cube(3, 5), VALUE))
    start = run.step(1.0)
    run.fail(run.start())
    run.end(run.start(), 9.0, state=TrialState.PRUNED)
    assert run.start().proposal.parents == (start.number,)


def test_a_straggler_of_an_earlier_climb_does_not_move_the_centre() -> None:
    space: SearchSpace = cube(1, 9)
    run = Run(LocalSearch(space, VALUE))
    late = run.start()
    early = run.start()  # a second start, beside the first
    run.end(early, 5.0)
    assert parents(run.strategy) == {early.number}
    run.end(late, 7.0)
    assert run.start().proposal.parents == (late.number,)
