"""Accuracy, its interval, by class, and the confusion matrix, against numbers from elsewhere."""

from __future__ import annotations

import json

import pytest

from evonas.runs.scores import Confusion

CLASSES = ("cat", "dog", "emu")
COUNTS = Confusion.of(CLASSES, [0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 2])


def test_a_matrix_has_a_line_a_class() -> None:
    assert COUNTS.counts.tolist() == [[1, 2, 1], [0, 2, 0], [0, 0, 0]]
    assert (COUNTS.images, COUNTS.right, COUNTS.accuracy) == (6, 3, 0.5)
    assert COUNTS.by_class() == {"cat": 0.25, "dog": 1.0, "emu": None}


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_the_interval_is_wilsons(right: int, images: int, low: float, high: float) -> None:
    """Figures of Newcombe, Two-sided confidence intervals for the single proportion, 1998."""
    counts = Confusion.of(("a", "b"), [0] * images, [0] * right + [1] * (images - right))
    assert counts.interval == pytest.approx((low, high), abs=1e-4)


def test_it_is_json_and_text() -> None:
    content = json.loads(json.dumps(COUNTS.to_json()))
    assert content["confusion"] == [[1, 2, 1], [0, 2, 0], [0, 0, 0]]
    assert content["by_class"]["emu"] is None
    text = "\n".join(COUNTS.lines())
    assert "accuracy 0.5000 (3 of 6; 95 % interval 0.188 to 0.812)" in text
    assert "dog (2)" in text


def test_a_matrix_of_many_classes_is_not_shown() -> None:
    names = [str(number) for number in range(21)]
    assert Confusion.of(names, range(21), range(21)).matrix() == []
    assert len(Confusion.of(names[:20], range(20), range(20)).matrix()) == 21
