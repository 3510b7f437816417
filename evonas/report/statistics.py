"""What may be said of runs that are compared: spreads, paired differences, ranks, distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_WILCOXON = 6  # pairs: of fewer, no result of the test can be below 5 %
_RESAMPLES = 500
_GRID = 100  # points of an empirical distribution's band


@dataclass(frozen=True)
class Difference:
    """Of two groups, run against run of the same seed.

    Attributes:
        pairs: How many.
        mean: First minus second.
        low: Of the 95 % interval of the mean, by Student's t; NaN with fewer than two pairs.
        high: Likewise.
        p: Wilcoxon's signed-rank test; NaN with fewer than six pairs, or none that differ.
    """

    pairs: int
    mean: float
    low: float
    high: float
    p: float

    @property
    def sentence(self) -> str:
        """What it allows to say, and no more."""
        if self.pairs < 2:
            return "one pair of runs says nothing of chance"
        if self.pairs >= _WILCOXON and not math.isnan(self.p):
            verdict = "a difference" if self.p < 0.05 else "no difference that can be told"
            return f"{verdict} (Wilcoxon, {self.pairs} pairs, p = {self.p:.3g})"
        if self.low == self.high:  # as happens where few test images make few possible scores
            return f"all of {self.pairs} pairs differ by as much, which says nothing of chance"
        apart = self.low > 0 or self.high < 0
        verdict = "a difference" if apart else "no difference that can be told"
        return f"{verdict} (95 % interval by Student's t, {self.pairs} pairs: few)"


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Compare two groups by the seeds that both have; None without any."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    apart = [first[seed] - second[seed] for seed in seeds]
    mean, low, high, p = fmean(apart), math.nan, math.nan, math.nan
    if len(apart) > 1:
        half = float(stats.t.ppf(0.975, len(apart) - 1)) * stdev(apart) / math.sqrt(len(apart))
        low, high = mean - half, mean + half
    if len(apart) >= _WILCOXON and any(apart):
        p = float(stats.wilcoxon(apart).pvalue)
    return Difference(len(apart), mean, low, high, p)


def mean_ranks(groups: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Mean rank of each group over the seeds that all have, 1 being the largest; ties share."""
    common = set.intersection(*(set(values) for values in groups.values()))
    if not common:
        return {}
    rows = [
        stats.rankdata([-values[seed] for values in groups.values()]) for seed in sorted(common)
    ]
    return dict(zip(groups, map(float, np.mean(rows, axis=0)), strict=True))


def steps(curve: Sequence[tuple[float, float]], grid: Sequence[float]) -> list[float | None]:
    """A step curve's values at the points of a grid; None before its first step."""
    at = [x for x, _ in curve]
    places = np.searchsorted(at, grid, side="right")
    return [curve[place - 1][1] if place else None for place in places]


def band(rows: Sequence[Sequence[float | None]]) -> list[tuple[float, float, float] | None]:
    """Mean, low and high of several curves at each point; None where one of them has no value.

    Low and high are the extremes of fewer than five curves, else the quartiles.
    """
    found: list[tuple[float, float, float] | None] = []
    for column in zip(*rows, strict=True):
        values = [value for value in column if value is not None]
        if len(values) < len(column):
            found.append(None)
            continue
        low, high = (0, 100) if len(values) < 5 else (25, 75)
        ends = np.percentile(values, [low, high])
        found.append((fmean(values), float(ends[0]), float(ends[1])))
    return found


def distribution(
    errors: Sequence[float], grid: Sequence[float]
) -> list[tuple[float, float, float]]:
    """Share of the errors up to each point of the grid, and its 95 % band by bootstrap.

    Radosavovic and others, On network design spaces for visual recognition, ICCV 2019.
    """
    values = np.sort(np.asarray(errors, float))
    drawn = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values)))
    curves = np.array([_shares(np.sort(row), grid) for row in drawn])
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return list(
        zip(map(float, _shares(values, grid)), map(float, low), map(float, high), strict=True)
    )


def _shares(ordered: NDArray[np.float64], grid: Sequence[float]) -> NDArray[np.float64]:
    return np.searchsorted(ordered, grid, side="right") / len(ordered)


def grid_of(samples: Sequence[Sequence[float]]) -> list[float]:
    """A grid over all samples: half of its points by their quantiles, half at equal distances."""
    values = np.concatenate([np.asarray(sample, float) for sample in samples])
    even = np.linspace(values.min(), values.max(), _GRID // 2)
    dense = np.quantile(values, np.linspace(0, 1, _GRID // 2))
    return [float(x) for x in np.unique(np.concatenate([even, dense]))]


def apart(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Largest distance of two distributions, and its p: Kolmogorov and Smirnov's test."""
    found = stats.ks_2samp(first, second)
    return float(found.statistic), float(found.pvalue)
