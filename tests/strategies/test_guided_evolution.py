"""Guided evolution: what it learns, and that it is a fold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from statistics import fmean

import numpy as np
import pytest
from conftest import bounded
from strategies_helper import VALUE, Grid, Run, cube, haphazard, refused, total

from evonas.architecture import Architecture, Categorical, Integer
from evonas.spaces.base import Task
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.guided_evolution import GuidedEvolution
from evonas.strategies.random import RandomSearch
from evonas.trial import Limit, Objective, Proposal, Trial, TrialState

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


class Sized(Grid):
    """Costs are counted from a description: the total, or of a shuffled other point."""

    def __init__(self, shuffled: bool = False) -> None:
        super().__init__(**{f"x{i}": Categorical("abcdef") for i in range(6)})
        self._shuffled = shuffled

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        choices = list(architecture.choices.values())
        Random(str(choices)).shuffle(letters := list("abcdef"))
        order = "".join(letters) if self._shuffled else "abcdef"
        return {"params": 2.0 ** sum(order.index(str(v)) for v in choices), "flops": 1.0}


def power(architecture: Architecture) -> float:
    return float(sum("abcdef".index(str(v)) for v in architecture.choices.values()) ** 2)


def test_what_costs_tell_is_learnt_and_what_they_do_not_tell_is_not_believed() -> None:
    """Letters have no order for the surrogate, but the costs have."""

    def found(space: Grid) -> float:
        return fmean(best(GuidedEvolution, space, power, seed, 25) for seed in range(5))

    with_costs, without = found(Sized()), found(Grid(**Sized().domains))
    assert with_costs > without + 50
    assert found(Sized(shuffled=True)) > without - 50


def test_where_the_best_is_at_a_limit_most_proposals_are() -> None:
    """Of random points within it one in eight is."""
    within = Sized().limited({"params": Limit(max=2.0**16)}, Task(3, 8, 8, 10))
    run = Run(GuidedEvolution(within, VALUE))
    ends = [run.end(t, power(t.architecture)) for t in iter_started(run, 40)]
    near = [power(trial.architecture) == 16**2 for trial in ends[10:]]
    assert fmean(near) > 0.5


def ended(number: int, architecture: Architecture, value: float, fidelity: float) -> Trial:
    proposal = Proposal(architecture, fidelity)
    return Trial(number, proposal, TrialState.COMPLETE, {"value": value})


def both_rungs(space: Grid, short: Callable[[Architecture], float], pairs: int) -> GuidedEvolution:
    """Told of thirty short trainings, and of long ones of some of them, which give the power."""
    strategy = GuidedEvolution(space, VALUE)
    points = [space.sample(Random(n)) for n in range(40)]
    points = list({point.id: point for point in points}.values())[:30]
    for number, point in enumerate(points):
        trial = ended(number, point, short(point), 0.1)
        strategy.learn(trial)
        strategy.tell(replace(trial, proposal=Proposal(point)))
    for number, point in enumerate(points[:pairs], start=30):
        strategy.learn(ended(number, point, 100 + power(point), 1.0))
    return strategy


def test_of_equally_good_short_trainings_that_of_the_larger_network_is_more_promising() -> None:
    """And at full effort alone a larger network has no advantage."""

    def rather_flat(point: Architecture) -> float:
        return 0.2 * power(point) + Random(str(point.choices)).gauss(0, 8)

    strategy = both_rungs(Sized(), rather_flat, 0)
    trials = strategy.told.complete
    order = strategy.promising(trials, 3)
    sizes = [power(trial.architecture) for trial in order]
    assert fmean(sizes[:5]) > fmean(sorted(sizes)[-10:])
    values = sorted(trials, key=lambda trial: -trial.metrics["value"])
    assert fmean(sizes[:5]) >= fmean(power(trial.architecture) for trial in values[:5])


def test_long_trainings_correct_what_short_ones_say() -> None:
    """Short trainings say nothing: what is good is learnt from the long ones alone."""

    def noise(point: Architecture) -> float:
        return Random(str(point.choices)).random()

    def chosen(pairs: int) -> float:
        strategy = both_rungs(Sized(), noise, pairs)
        left = strategy.told.complete[15:]
        return fmean(power(trial.architecture) for trial in strategy.promising(left, 3)[:4])

    assert chosen(15) > chosen(0) + 50


def test_values_of_all_rungs_are_brought_on_one_scale() -> None:
    strategy = both_rungs(Sized(), power, 6)
    learnt = strategy._learnt()
    low, high = np.array(learnt.pairs).T
    assert len(low) == 6
    assert learnt.values[high] == pytest.approx(learnt.values[low])
    assert set(learnt.fidelities) == {0.1, 1.0}


def test_nobody_is_promising_before_some_were_bred() -> None:
    strategy = GuidedEvolution(Sized(), VALUE, startup_trials=4)
    run = Run(strategy)
    for count in range(1, 10):
        trial = run.start()
        run.end(trial, power(trial.architecture))
        assert bool(strategy.promising(strategy.told.complete, 3)) == (count >= 7)
