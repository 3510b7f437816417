"""Objectives, and dominance among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Objective:
    """A metric and the direction in which it is better."""

    metric: str
    direction: Direction = "max"

    def key(self, metrics: Mapping[str, float]) -> float:
        """The metric with its sign such that larger is better."""
        return metrics[self.metric] if self.direction == "max" else -metrics[self.metric]


def keys(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> tuple[float, ...]:
    """One larger-is-better number per objective; tuples compare lexicographically."""
    return tuple(objective.key(metrics) for objective in objectives)


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better (larger is better)."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)
