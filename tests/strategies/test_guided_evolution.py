"""Guided evolution: what it learns, and that it is a fold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from statistics import fmean

import numpy as np
import pytest
from conftest import bounded
from strategies_helper import VALUE, Grid, Run, cube, haphazard, refused, total

from evonas.architecture import Architecture, Categorical, Integer
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.guided_evolution import GuidedEvolution
from evonas.strategies.random import RandomSearch
from evonas.trial import Limit, Objective, TrialState

LETTERS = Grid(**{f"x{i}": Categorical("abcdef") for i in range(6)})


def letters(architecture: Architecture) -> float:
    """The letters' places, and a reward for two neighbours that are alike."""
    places = ["abcdef".index(str(value)) for value in architecture.choices.values()]
    return sum(places) + 3.0 * sum(a == b for a, b in itertools.pairwise(places))


def best(
    make: Callable[..., GuidedEvolution | AgingEvolution | RandomSearch],
    space: Grid,
    value: Callable[[Architecture], float],
    seed: int,
    trials: int = 50,
) -> float:
    run = Run(make(space, VALUE), seed)
    return max(
        trial.metrics["value"]
        for trial in (run.end(t, value(t.architecture)) for t in iter_started(run, trials))
    )


def iter_started(run: Run, trials: int):  # type: ignore[no-untyped-def]
    for _ in range(trials):
        yield run.start()


@pytest.mark.parametrize(
    ("space", "value"), [(LETTERS, letters), (cube(8, 8), total)], ids=["letters", "numbers"]
)
def test_it_beats_evolution_without_a_guide(
    space: Grid, value: Callable[[Architecture], float]
) -> None:
    guided, aging, chance = (
        fmean(best(make, space, value, seed) for seed in range(2))
        for make in (GuidedEvolution, AgingEvolution, RandomSearch)
    )
    assert guided > aging + 2
    assert guided > chance + 2


def test_scale_offset_and_direction_of_the_objective_do_not_matter() -> None:
    plain, other = (
        Run(GuidedEvolution(cube(5, 5), (Objective("value", way),))) for way in ("max", "min")
    )
    for _ in range(30):
        a, b = plain.start(), other.start()
        assert a.proposal == b.proposal
        plain.end(a, total(a.architecture))
        other.end(b, 7e6 - 1024 * total(b.architecture))


def test_equal_values_teach_nothing_and_do_no_harm() -> None:
    run = Run(GuidedEvolution(cube(4, 4), VALUE))
    keys = {run.end(run.start(), 0.5).proposal.key for _ in range(40)}
    assert len(keys) == 40


def test_most_children_descend_from_the_living_who_are_the_youngest() -> None:
    strategy = GuidedEvolution(cube(6, 6), VALUE, population_size=12)
    run = Run(strategy)
    bred = 0
    for number in range(60):
        trial = run.start()
        bred += bool(trial.proposal.parents)
        assert set(trial.proposal.parents) <= set(range(number - 12, number))
        run.end(trial, total(trial.architecture))
    assert bred > 30


def test_where_trials_are_pruned_it_goes_less() -> None:
    """Half of the space is pruned, its values being the largest: told so, it keeps away."""

    def share(state: TrialState) -> float:
        run = Run(GuidedEvolution(cube(5, 6), VALUE))
        hits = 0
        for _ in range(60):
            trial = run.start()
            forbidden = int(trial.architecture.choices["x0"]) >= 3
            hits += forbidden
            run.end(
                trial,
                total(trial.architecture),
                state=state if forbidden else TrialState.COMPLETE,
            )
        return hits / 60

    assert share(TrialState.PRUNED) < 0.5 < share(TrialState.COMPLETE)


@pytest.mark.parametrize("seed", range(3))
def test_told_any_beginning_it_asks_for_what_it_asked_for(seed: int) -> None:
    events = haphazard(Run(GuidedEvolution(cube(5, 5), VALUE), seed), 40)
    started = [e for e in events if e.state is TrialState.RUNNING]
    for trial in started[10::7]:
        again = GuidedEvolution(cube(5, 5), VALUE)
        for event in events[: events.index(trial)]:
            again.tell(event)
        assert again.ask(Random(f"{seed}/{trial.number}")) == trial.proposal
        assert again.ask(Random(f"{seed}/{trial.number}")) == trial.proposal


def test_limits_hold_even_where_little_is_allowed() -> None:
    """Of 7,776 points 21 are within the limit."""
    space = bounded(cube(5, 6), {"params": Limit(max=2)}, lambda a: {"params": total(a)})
    run = Run(GuidedEvolution(space, VALUE))
    while (trial := run.try_start()) is not None:
        assert total(trial.architecture) <= 2
        run.end(trial, total(trial.architecture))
    assert run.count == 21


def test_the_surrogate_learns_from_a_bounded_number_of_trials() -> None:
    strategy = GuidedEvolution(cube(6, 10), VALUE)
    run = Run(strategy)
    sizes = []
    for _ in range(6):
        for _ in range(60):
            run.end(trial := _sampled(run), total(trial.architecture))
        sizes.append(len(strategy._learnt().values))
    assert 75 < max(sizes) <= 150 < run.count


def _sampled(run: Run):  # type: ignore[no-untyped-def]
    """A trial that some other strategy proposed: sparing the asks."""
    from evonas.trial import Proposal, Trial

    rng = Random(run.count)
    trial = Trial(run.count, Proposal(run.strategy.space.sample(rng)))
    run.count += 1
    run.strategy.tell(trial)
    return trial


def test_a_choice_counts_the_same_whatever_its_kind() -> None:
    """Squared distances are 2 / choices where one choice differs wholly, in part where in part."""
    space = Grid(
        letter=Categorical("abc"),
        size=Categorical((1, 2, 4, 8), ordered=True),
        width=Integer(8, 512, 8),
        fixed=Integer(3, 3),
    )
    strategy = GuidedEvolution(space, VALUE)
    base = {"letter": "a", "size": 1, "width": 8, "fixed": 3}

    def apart(**changes: str | int) -> float:
        points = strategy._encoding(
            [space.architecture(base), space.architecture({**base, **changes})]
        )
        return float(np.sum((points[0] - points[1]) ** 2))

    assert apart(letter="c") == pytest.approx(2 / 3)
    assert apart(size=8) == pytest.approx(2 / 3)
    assert apart(size=2) == pytest.approx(2 / 9)
    assert apart(width=512) == pytest.approx(2 / 3)
    assert 0 < apart(width=16) < apart(width=64) < apart(width=256)
    assert apart(letter="b", size=8, width=512) == pytest.approx(2)


@pytest.mark.parametrize(
    "option", ["startup_trials", "population_size", "tournament_size", "children"]
)
def test_senseless_settings_are_refused(option: str) -> None:
    told = refused(GuidedEvolution, **{option: 0})
    assert told == f"strategy.{option}: Input should be greater than or equal to 1, not 0"
