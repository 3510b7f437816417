"""The hypervolume of a run: right, never falling, in units of its own first trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from evonas.architecture import Architecture
from evonas.errors import HistoryError
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Hypervolume, Trials, volume

TWO = (Objective("accuracy"), Objective("params", "min"))


def ended(number: int, state: TrialState = TrialState.COMPLETE, **metrics: float) -> Trial:
    return Trial(number, Proposal(Architecture("s", {"x": number})), state, metrics)


def some(count: int, seed: int = 0, scale: float = 1.0) -> list[Trial]:
    rng = Random(seed)
    return [
        ended(n, accuracy=rng.random(), params=scale * rng.uniform(1e4, 1e6)) for n in range(count)
    ]


def test_effort_is_that_of_the_runs_own_trials() -> None:
    half = replace(ended(0, accuracy=0.5), effort=0.5)
    taken = replace(half, number=1, origin="other#3")
    failed = replace(half, number=2).failed("out of memory")
    trials = Trials(TWO[:1], [taken, half, failed])
    assert trials.effort == 1.5
    trials.add(replace(half, state=TrialState.RUNNING, effort=0.0))  # it is run again
    assert trials.effort == 1
    trials.add(half)
    assert trials.effort == 1.5


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ([(1.0, 1.0)], 1.0),
        ([(2.0, 1.0), (1.0, 2.0)], 3.0),
        ([(2.0, 1.0), (1.0, 2.0), (1.0, 1.0)], 3.0),
        ([(5.0, -1.0), (1.0, 1.0)], 1.0),
        ([(5.0, 0.0)], 0.0),
        ([], 0.0),
        ([(1.0, 2.0, 3.0)], 6.0),
    ],
)
def test_the_volume_is_that_of_what_is_dominated(
    front: Sequence[tuple[float, ...]], expected: float
) -> None:
    dimensions = len(front[0]) if front else 2
    assert volume(front, [0.0] * dimensions) == pytest.approx(expected)


def test_the_volume_of_random_fronts_is_the_share_of_darts_that_hit() -> None:
    for seed in range(6):
        rng = Random(seed)
        front = [tuple(rng.random() for _ in range(2 + seed % 3)) for _ in range(8)]
        darts = [[rng.random() for _ in front[0]] for _ in range(4000)]
        hits = sum(
            any(all(d <= v for d, v in zip(dart, p, strict=True)) for p in front) for dart in darts
        )
        assert volume(front, [0.0] * len(front[0])) == pytest.approx(hits / 4000, abs=0.04)


def test_it_never_falls_and_begins_with_the_tenth_completed_trial() -> None:
    for seed in range(5):
        events = [*some(4, seed), ended(4, TrialState.PRUNED, violation=1.0)]
        events += [replace(trial, number=trial.number + 5) for trial in some(300, seed + 100)]
        points = Trials(TWO, events).volumes()
        assert points[0][0] == 10
        assert all(a[1] < b[1] for a, b in pairwise(points))
        again = Hypervolume(TWO)
        for trial in Trials(TWO, events).complete:
            again.tell(trial)
        assert again.curve == points


def test_units_do_not_matter() -> None:
    small, large = (Trials(TWO, some(100, scale=scale)).volumes() for scale in (1.0, 1e3))
    assert [number for number, _ in small] == [number for number, _ in large]
    assert [v for _, v in small] == pytest.approx([v for _, v in large])


def test_the_best_of_the_ten_in_everything_makes_one() -> None:
    events = [ended(n, accuracy=0.1 * n, params=100.0 * n) for n in range(10)]
    (*_, last) = Trials(TWO, [*events, ended(10, accuracy=0.9, params=0.0)]).volumes()
    assert last == pytest.approx((10, 1.0))


def test_equal_values_are_no_units_and_break_nothing() -> None:
    events = [ended(n, accuracy=0.5, params=7.0) for n in range(10)]
    assert Trials(TWO, events).volumes() == [(9, 0.0)]
    assert Trials(TWO, [*events, ended(10, accuracy=0.75, params=5.0)]).volumes()[-1] == (10, 0.5)


def test_only_full_trials_of_several_objectives_count() -> None:
    events = some(30)
    partial = [replace(t, proposal=replace(t.proposal, fidelity=0.5)) for t in events]
    assert Trials(TWO, partial).volumes() == []
    assert Trials(TWO[:1], events).volumes() == []
    assert Trials(TWO, events[:9]).volumes() == []
    assert (
        Trials(TWO, [replace(t, state=TrialState.RUNNING, metrics={}) for t in events]).volumes()
        == []
    )


def test_it_is_measured_only_where_the_front_moves() -> None:
    fold, measured = Hypervolume(TWO), 0
    for trial in some(2000):
        before = fold.front
        fold.tell(trial)
        measured += fold.front is not before
    assert measured < 60


def test_a_trial_that_is_run_again_counts_with_its_last_end_alone() -> None:
    events = [ended(number, accuracy=number / 10, params=5.0) for number in range(12)]
    again = replace(events[11], state=TrialState.RUNNING, metrics={})
    trials = Trials(TWO, [*events, again])
    assert trials.best == events[10]
    assert (list(trials.running), len(trials.complete), len(trials.ended)) == ([11], 11, 11)
    assert trials.volumes() == Trials(TWO, events[:11]).volumes()
    trials.add(ended(11, accuracy=2.0, params=5.0))
    assert trials.best == trials.latest[11]
    assert len(trials.complete) == 12


def test_what_is_optimised_is_known_of_every_completed_trial() -> None:
    ended = Trial(0, Proposal(Architecture("toy", {"x": 1})), TrialState.COMPLETE, {"b": 1.0})
    with pytest.raises(HistoryError, match="trial 0 completed without 'a'"):
        Trials((Objective("a"),), [ended])
