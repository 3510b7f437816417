"""Several scores in one number: values worked out by hand, and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import rankdata

from evonas.evaluators.parts.ranks import rank_sum

REFERENCE = {"a": [1.0, 2.0, 3.0], "b": [-math.inf, 10.0, 10.0]}


@pytest.mark.parametrize(
    ("a", "b", "ranks"),
    [
        (9.0, 99.0, (4, 4)),
        (0.0, 5.0, (1, 2)),
        (2.5, 10.0, (3, 3)),  # the third of four; the second, third and fourth are equal
        (2.0, -math.inf, (2.5, 1.5)),
    ],
)
def test_by_hand(a: float, b: float, ranks: tuple[float, float]) -> None:
    expected = math.log(ranks[0] / 4) + math.log(ranks[1] / 4)
    assert rank_sum({"a": a, "b": b}, REFERENCE) == pytest.approx(expected)


def test_the_best_of_all_has_nothing_and_a_bad_rank_weighs_more_than_a_good_one() -> None:
    assert rank_sum({"a": 4.0, "b": 11.0}, REFERENCE) == 0
    even = rank_sum({"a": 2.5, "b": 9.0}, {"a": [1, 2, 3, 4], "b": [7, 8, 10, 11]})
    uneven = rank_sum({"a": 5.0, "b": 6.0}, {"a": [1, 2, 3, 4], "b": [7, 8, 10, 11]})
    assert uneven < even


def test_it_orders_networks_as_scipy_ranks_them() -> None:
    rng = np.random.default_rng(0)
    scores = {name: rng.integers(0, 12, 40).astype(float) for name in "abc"}  # with ties
    scores["a"][:5] = -math.inf
    expected = sum(np.log(rankdata(values) / 40) for values in scores.values())
    found = [
        rank_sum(
            {name: values[n] for name, values in scores.items()},
            {name: sorted(np.delete(values, n)) for name, values in scores.items()},
        )
        for n in range(40)
    ]
    assert found == pytest.approx(expected.tolist())
