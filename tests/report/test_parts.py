"""Numbers, importance, ancestry, lanes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from report_helper import ACCURACY, history

from evonas.report import importance, lineage, numbers, series
from evonas.trial import TrialState
from evonas.trials import Trials


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("val_accuracy", 0.98056, "98.06 %"),
        ("test_accuracy", 73.09, "73.09"),
        ("params", 18582.0, "18,582"),
        ("flops", 2.83891e07, "28,389,100"),
        ("latency", 3.21456, "3.215 ms"),
        ("seconds", 92.3, "1 min 32 s"),
        ("seconds", 3.14, "3.1 s"),
        ("search_seconds", 90000.0, "1 d 1 h"),
        ("peak_memory", 4096.0, "4.1 kB"),
        ("val_loss", 0.368056, "0.3681"),
        ("fidelity", 1.0, "1"),
        ("score", 1.59099e06, "1,590,990"),
    ],
)
def test_numbers_have_units_and_no_more_digits_than_one_reads(
    name: str, value: float, shown: str
) -> None:
    assert numbers.metric(name, value).replace("\xa0", " ") == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(18582, "18.6 k"), (1.59e6, "1.59 M"), (2e9, "2 G"), (7, "7 ")]
)
def test_counts_at_a_glance(value: float, shown: str) -> None:
    assert numbers.short(value).replace("\xa0", " ") == shown


def test_what_decides_is_found_and_noise_is_not() -> None:
    complete = Trials((ACCURACY,), history(200)).complete
    found = importance.importance(ACCURACY, complete)
    assert found is not None
    assert next(iter(found.shares)) == "matters"
    assert found.shares["matters"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.explained > 0.9
    assert importance.importance(ACCURACY, complete) == found


def test_of_few_trials_or_equal_ones_nothing_is_said() -> None:
    complete = Trials((ACCURACY,), history(24)).complete
    assert importance.importance(ACCURACY, complete[: importance.LEAST - 1]) is None
    same = [replace(trial, metrics={"val_accuracy": 0.5}) for trial in history(30)]
    assert importance.importance(ACCURACY, same) is None


def test_a_choice_that_some_networks_lack() -> None:
    trials = [t for t in history(60) if t.state is TrialState.COMPLETE]
    for i, trial in enumerate(trials[::2]):
        own = {k: v for k, v in trial.architecture.choices.items() if k != "matters"}
        architecture = replace(trial.architecture, choices=own)
        trials[2 * i] = replace(trial, proposal=replace(trial.proposal, architecture=architecture))
    assert importance.importance(ACCURACY, trials) is not None
    rows = importance.by_value(ACCURACY, trials, "matters")
    assert sum(int(str(row["trials"])) for row in rows) == len(trials) // 2


def test_values_in_groups() -> None:
    trials = Trials((ACCURACY,), history(100)).complete
    rows = importance.by_value(ACCURACY, trials, "noise")
    assert len(rows) <= 8
    assert sum(int(str(row["trials"])) for row in rows) == len(trials)
    worst = importance.by_value(replace(ACCURACY, direction="min"), trials, "kind")
    best = importance.by_value(ACCURACY, trials, "kind")
    assert [row["value"] for row in best] == ["a", "b"]
    assert all(w["best"] <= b["best"] for w, b in zip(worst, best, strict=True))  # type: ignore[operator]


def test_a_family_tree_says_what_changed() -> None:
    trials = Trials((ACCURACY,), history(20))
    rows = lineage.tree(trials, trials.latest[13])
    assert [row.trial.number for row in rows] == [13, 6, 3, 1]
    assert [row.generation for row in rows] == [0, 1, 2, 3]
    old, new = (trials.latest[n].architecture.choices["noise"] for n in (6, 13))
    assert f"noise {old:.4g} → {new:.4g}" in rows[1].changes


def test_lanes_are_as_many_as_ran_side_by_side() -> None:
    trials = [replace(t, elapsed=2.0 + t.number // 3 * 2.1) for t in history(9)]
    rows = series.lanes(trials)
    assert {row["lane"] for row in rows} == {1, 2, 3}
    for lane in range(1, 4):
        spans = sorted((row["begin"], row["end"]) for row in rows if row["lane"] == lane)
        assert all(a[1] <= b[0] + 0.25 for a, b in pairwise(spans))
