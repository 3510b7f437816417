"""How often each class was taken for which: the confusion matrix, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from evonas.report import table

_WIDE = 20  # A matrix of more classes is no longer read by eye.


@dataclass(frozen=True)
class Confusion:
    """Images counted by class and guess.

    Attributes:
        classes: Their names.
        counts: (class, guess).
    """

    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, classes: Sequence[str], labels: Sequence[int], guesses: Sequence[int]) -> Confusion:
        """Count the images; each has a label and a guess."""
        counts = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(counts, (np.asarray(labels, np.int64), np.asarray(guesses, np.int64)), 1)
        return cls(tuple(classes), counts)

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """Of them, those of which the class was guessed."""
        return int(self.counts.trace())

    @property
    def accuracy(self) -> float:
        """Share of the images of which the class was guessed, 0…1."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, as other images of this kind may give it.

        Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
        """
        low, high = binomtest(self.right, self.images).proportion_ci(method="wilson")
        return float(low), float(high)

    def by_class(self) -> dict[str, float | None]:
        """Accuracy on the images of each class; None without any."""
        totals = self.counts.sum(1)
        return {
            name: float(self.counts[label, label] / totals[label]) if totals[label] else None
            for label, name in enumerate(self.classes)
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "by_class": self.by_class(),
            "confusion": self.counts.tolist(),
        }

    def rows(self) -> list[list[str]]:
        """A header, and a line a class: images, accuracy, what it was most often taken for."""
        rows = [["class", "images", "accuracy", "most often taken for"]]
        for label, (name, share) in enumerate(self.by_class().items()):
            wrong = self.counts[label].copy()
            wrong[label] = 0
            other = int(wrong.argmax())
            taken = f"{self.classes[other]} ({wrong[other]:,})" if wrong[other] else ""
            shown = "" if share is None else f"{share:.3f}"
            rows.append([name, f"{self.counts[label].sum():,}", shown, taken])
        return rows

    def matrix(self) -> list[list[str]]:
        """A header of guesses, and a line of counts a class; nothing if there are too many."""
        if len(self.classes) > _WIDE:
            return []
        lines = zip(self.classes, self.counts, strict=True)
        return [["", *self.classes], *([name, *(f"{n:,}" for n in row)] for name, row in lines)]

    def lines(self) -> list[str]:
        """For the terminal."""
        low, high = self.interval
        said = [
            f"accuracy {self.accuracy:.4f} ({self.right:,} of {self.images:,}; "
            f"95 % interval {low:.3f} to {high:.3f})",
            *table.aligned(self.rows()),
        ]
        if matrix := self.matrix():
            said += ["confusion: a line a class, a column a guess", *table.aligned(matrix)]
        return said
