"""Climbing along N = const, and what is said of the noise."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from conftest import ROOT, TINY_SPACES, bounded
from strategies_helper import VALUE, Grid, Run, refused, total

from evonas.architecture import Architecture, Categorical, Domain, Integer
from evonas.errors import OptionError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import ending
from evonas.runs.journal import read_journal
from evonas.runs.run import start
from evonas.spaces.base import SearchSpace, Task
from evonas.strategies.base import Findings
from evonas.strategies.projected_ascent import ProjectedAscent
from evonas.trial import Limit, Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

VAL = (Objective("val_accuracy"),)
CHANCE = "not distinguishable from chance"
TASK = Task(channels=3, height=16, width=16, classes=10)


def limited(most: float = 30.0, **domains: Domain) -> SearchSpace:
    """Three numbers, an order and a colour; the parameters are the sum of the numbers."""
    numbers: dict[str, Domain] = {f"x{i}": Integer(0, 20) for i in range(3)}
    space = Grid(**(domains or numbers))

    def measure(architecture: Architecture) -> Mapping[str, float]:
        return {"params": sum(float(v) for v in architecture.choices.values() if type(v) is int)}

    return bounded(space, {"params": Limit(max=most)}, measure)


def hill(architecture: Architecture) -> float:
    """Its top on the plane x0 + x1 + x2 = 30 is (14, 10, 6)."""
    x, y, z = (int(architecture.choices[f"x{i}"]) for i in range(3))
    return -float((x - 14) ** 2 + (y - 10) ** 2 + (z - 6) ** 2)


def climb(
    strategy: ProjectedAscent, trials: int, value: Callable[[Architecture], float], noise: float
) -> Run:
    run = Run(strategy)
    for number in range(trials):
        trial = run.start()
        run.end(trial, value(trial.architecture) + Random(f"noise/{number}").gauss(0, noise))
    return run


def centres(run: Run) -> list[Architecture]:
    return list(dict.fromkeys(e.architecture for e in run.events if e.proposal.repeat == 1))


def test_it_finds_the_top_of_a_hill_in_the_plane_of_equal_size() -> None:
    run = climb(ProjectedAscent(limited(), VALUE), 60, hill, 0.0)
    points = centres(run)
    assert all(27 <= total(point) <= 30 for point in points)
    assert max(map(hill, points)) >= -3
    assert hill(points[0]) < -20
    (line,) = run.strategy.findings().lines
    assert "deviation of 0 " in line
    assert CHANCE not in line


def test_small_noise_is_told_from_a_slope_and_large_noise_is_said_to_drown_it() -> None:
    (line,) = climb(ProjectedAscent(limited(), VALUE), 25, hill, 0.03).strategy.findings().lines
    assert CHANCE not in line
    (line,) = climb(ProjectedAscent(limited(), VALUE), 40, hill, 1000.0).strategy.findings().lines
    assert "; 12 of 12 differences are below twice their noise" in line
    assert f"in 4 of 4 steps the direction is {CHANCE}" in line


def test_the_stepped_point_is_a_step_away_and_the_same_size() -> None:
    run = climb(ProjectedAscent(limited(), VALUE, step=2.0), 30, hill, 0.0)
    for before, after in pairwise(centres(run)[:3]):
        moved = [abs(int(after.choices[n]) - int(before.choices[n])) for n in after.choices]
        assert 1 <= sum(m * m for m in moved) <= 4**2
        assert hill(after) > hill(before)


def test_constant_values_are_no_direction_and_no_noise() -> None:
    run = climb(ProjectedAscent(limited(), VALUE), 40, lambda architecture: 1.0, 0.0)
    (line,) = run.strategy.findings().lines
    assert "; 0 of " in line
    assert CHANCE not in line
    assert len(centres(run)) > 3, "where there is no way up it starts again"


def test_it_descends_if_told_to() -> None:
    strategy = ProjectedAscent(limited(), (Objective("value", "min"),))
    run = climb(strategy, 60, lambda architecture: -hill(architecture), 0.0)
    assert max(map(hill, centres(run))) >= -3


def test_before_a_step_has_ended_there_is_nothing_to_say() -> None:
    run = Run(ProjectedAscent(limited(), VALUE))
    for _ in range(3):
        assert run.strategy.findings() == Findings()
        run.step()


def test_centres_and_neighbours_run_side_by_side_and_the_next_centre_waits() -> None:
    run = Run(ProjectedAscent(limited(), VALUE, repeats=2))
    running = []
    while (trial := run.try_start()) is not None:
        running.append(trial)
    centre = running[0].architecture
    assert [t.proposal.repeat for t in running] == [0, 1] + [0] * (len(running) - 2)
    assert running[1].architecture == centre
    assert 3 <= len(running) - 2 <= 6
    for trial in reversed(running):
        assert run.try_start() is None
        run.end(trial, hill(trial.architecture))
    following = run.start()
    assert following.proposal.parents == (running[1].number,), "the first to complete"
    assert hill(following.architecture) > hill(centre)


def test_of_failed_neighbours_the_other_side_or_the_centre_stands_in() -> None:
    for state in (TrialState.FAILED, TrialState.PRUNED):
        run = Run(ProjectedAscent(limited(), VALUE))
        for _ in range(80):
            trial = run.start()
            if int(trial.architecture.id, 16) % 3:
                run.end(trial, hill(trial.architecture))
            elif state is TrialState.FAILED:
                run.fail(trial)
            else:
                run.end(trial, state=state)
        assert max(map(hill, centres(run))) >= -12
        assert CHANCE not in run.strategy.findings().lines[0]


def test_if_everything_fails_it_starts_again() -> None:
    run = Run(ProjectedAscent(limited(), VALUE))
    for _ in range(60):
        run.fail(run.start())
    assert len(centres(run)) > 3
    assert run.strategy.findings() == Findings()


def test_nothing_is_proposed_twice_and_in_the_end_everything_was() -> None:
    space = limited(8.0, x=Integer(0, 4), y=Integer(0, 4), z=Categorical(("a", "b")))
    run = Run(ProjectedAscent(space, VALUE, repeats=2))
    while (trial := run.try_start()) is not None:
        run.end(trial, float(trial.number % 7))
    keys = [e.proposal.key for e in run.events if e.state is TrialState.RUNNING]
    assert len(keys) == len(set(keys))
    assert {e.architecture for e in run.events} == set(space.enumerate())


def test_choices_without_an_order_stay() -> None:
    colours = Categorical(("a", "b", "c"))
    space = limited(16.0, x=Integer(0, 20), y=Integer(0, 20), colour=colours)
    run = climb(ProjectedAscent(space, VALUE), 40, lambda a: float(int(a.choices["x"])), 0.0)
    by_number = {event.number: event.architecture for event in run.events}
    moved = [e for e in run.events if e.proposal.parents]
    assert moved
    for event in moved:
        (parent,) = event.proposal.parents
        assert event.architecture.choices["colour"] == by_number[parent].choices["colour"]


def of(name: str, most: float) -> SearchSpace:
    space: SearchSpace = Registry().find("space", name)(**TINY_SPACES[name])
    return space.limited({"params": Limit(max=most)}, TASK)


@pytest.mark.parametrize(
    ("name", "most"), [("plain_cnn", 5e3), ("resnet", 3e4), ("regnet", 3e4), ("mobilenet", 4e4)]
)
def test_on_real_spaces_it_keeps_to_the_band_and_a_replayed_history_goes_on(
    name: str, most: float
) -> None:
    """Four running at once, ending in any order and way; every ask of a replay is the run's."""
    space, shuffle = of(name, most), Random(2)
    run, running = Run(ProjectedAscent(space, VALUE)), list[Trial]()
    for number in range(60):
        while len(running) < 4 and (trial := run.try_start()) is not None:
            running.append(trial)
        trial = running.pop(shuffle.randrange(len(running)))
        match number % 7:
            case 3:
                run.fail(trial)
            case 5:
                run.end(trial, state=TrialState.PRUNED)
            case _:
                run.end(trial, shuffle.gauss(0, 1))
    for event in run.events:
        assert space.costs(event.architecture, TASK)["params"] <= most
    assert all(space.costs(centre, TASK)["params"] >= 0.9 * most for centre in centres(run))
    assert len(centres(run)) > 1
    fresh = ProjectedAscent(space, VALUE)
    for event in run.events:
        if event.state is TrialState.RUNNING:
            assert fresh.ask(Random(f"0/{event.number}")) == event.proposal
        fresh.tell(event)
    assert fresh.findings() == run.strategy.findings()


@pytest.mark.parametrize(
    ("option", "value"), [("step", 0.5), ("repeats", 1), ("tolerance", 0.0), ("tolerance", 1.0)]
)
def test_senseless_settings_are_refused(option: str, value: float) -> None:
    assert f"strategy.{option}: Input should be" in refused(ProjectedAscent, **{option: value})


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (Grid(x=Integer(0, 3)), "give it in constraints.params.max"),
        (limited(math.inf), "give it in constraints.params.max"),
        (limited(x=Categorical((1, 2, 3))), "numbers or in order; space 'strategies_helper' has"),
    ],
    ids=["unlimited", "endless", "unordered"],
)
def test_spaces_that_it_cannot_climb_are_refused(space: SearchSpace, reason: str) -> None:
    with pytest.raises(OptionError, match=f"^name: .*{reason}"):
        ProjectedAscent(space, VALUE)


def test_repeats_are_proposals_of_their_own_and_survive_the_journal() -> None:
    architecture = limited().sample(Random(0))
    now = Proposal(architecture, repeat=2)
    assert Proposal.from_json(json.loads(json.dumps(now.to_json()))) == now
    assert len({Proposal(architecture, repeat=n).key for n in range(3)}) == 3


def test_a_repeated_architecture_is_ranked_once_and_not_by_its_luckiest_training() -> None:
    run = Run(ProjectedAscent(limited(), VALUE, repeats=3))
    for value in (0.5, 0.9, 0.1, 0.6):
        run.step(value)
    assert [trial.number for trial in Trials(VALUE, run.events).ranking()] == [3, 0]


def test_a_run_says_in_its_report_what_the_strategy_remarks(
    images: Callable[..., Path], tmp_path: Path
) -> None:
    sets = [f"dataset.path={images()}", "executor.name=serial", "tracking.name=console"]
    sets += ["space.max_depth=1", "space.max_width=8", "constraints.params.max=1000"]
    sets += ["evaluation.of.epochs=1", "evaluation.of.final_epochs=1", "budget.trials=15"]
    given = reading.load(ROOT / "recipes" / "cifar10_ascent.yaml", sets)
    report = start(given, Registry(), tmp_path / "run").report
    (said,) = report.remarks
    assert said.startswith("projected_ascent: a training's val_accuracy has a standard deviation")
    assert html.escape(said) in (tmp_path / "run" / "report.html").read_text()
    _, events = read_journal(tmp_path / "run")
    known = ending.known(tmp_path / "run", VAL, events)
    assert known is not None
    assert known.remarks == report.remarks
