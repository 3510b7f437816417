"""What may be said of runs that are compared: against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evonas.report import statistics


def test_pairs_are_those_of_equal_seeds() -> None:
    found = statistics.paired({0: 3.0, 1: 5.0, 7: 9.0}, {0: 1.0, 1: 4.0, 2: 0.0})
    assert found is not None
    assert (found.pairs, found.mean) == (2, 1.5)
    # s = 0.7071, t(0.975, 1) = 12.706, half = 12.706 · 0.7071 / 1.4142
    assert (found.low, found.high) == pytest.approx((1.5 - 6.353, 1.5 + 6.353), abs=0.01)
    assert "no difference that can be told" in found.sentence
    assert math.isnan(found.p)
    assert statistics.paired({0: 1.0}, {1: 1.0}) is None


def test_one_pair_says_nothing() -> None:
    found = statistics.paired({0: 3.0}, {0: 1.0})
    assert found is not None
    assert found.sentence == "one pair of runs says nothing of chance"


def test_six_pairs_in_one_direction_are_wilcoxons_least_p() -> None:
    first = {seed: 1.0 + 0.1 * seed for seed in range(6)}
    found = statistics.paired(first, dict.fromkeys(range(6), 0.0))
    assert found is not None
    assert found.p == pytest.approx(2 / 2**6)
    assert found.sentence.startswith("a difference (Wilcoxon, 6 pairs")


def test_equal_differences_are_no_evidence() -> None:
    found = statistics.paired({0: 2.0, 1: 3.0, 2: 4.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert found is not None
    assert "says nothing of chance" in found.sentence


def test_ranks_share_ties_and_take_common_seeds_alone() -> None:
    groups = {"a": {0: 0.9, 1: 0.8}, "b": {0: 0.9, 1: 0.7}, "c": {0: 0.1, 1: 0.9, 2: 0.0}}
    assert statistics.mean_ranks(groups) == {"a": 1.75, "b": 2.25, "c": 2.0}
    assert statistics.mean_ranks({"a": {0: 1.0}, "b": {1: 1.0}}) == {}


def test_a_step_curve_holds_until_its_next_step() -> None:
    assert statistics.steps([(2, 0.5), (4, 0.7)], [1, 2, 3, 4, 5]) == [None, 0.5, 0.5, 0.7, 0.7]


def test_bands_are_extremes_of_few_and_quartiles_of_many() -> None:
    assert statistics.band([[1.0, None], [3.0, 4.0]]) == [(2.0, 1.0, 3.0), None]
    assert statistics.band([[float(i)] for i in range(5)]) == [(2.0, 1.0, 3.0)]


def test_a_distribution_and_its_band() -> None:
    rng = np.random.default_rng(1)
    errors = rng.uniform(size=200).tolist()
    rows = statistics.distribution(errors, [0.25, 0.5, 1.0])
    for (share, low, high), true in zip(rows, (0.25, 0.5, 1.0), strict=True):
        assert low <= share <= high
        assert low - 0.02 <= true <= high + 0.02
    assert rows[-1] == (1.0, 1.0, 1.0)
    assert statistics.distribution(errors, [0.25]) == rows[:1]


def test_distributions_apart() -> None:
    low, high = [float(i) for i in range(20)], [float(i) + 100 for i in range(20)]
    distance, p = statistics.apart(low, high)
    assert distance == 1
    assert p < 1e-6
    assert statistics.apart(low, low) == (0, 1)
