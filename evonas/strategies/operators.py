"""What strategies need around DEAP: individuals, and a fence round its randomness."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from deap import base

from evonas.trial import Trial


class _Fitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
    def __init__(self, values: tuple[float, ...]) -> None:
        self.weights = (1.0,) * len(values)
        super().__init__(values)


class Individual:
    """What DEAP selects among: a trial with a fitness of one or more values."""

    def __init__(self, trial: Trial, *values: float) -> None:
        self.trial = trial
        self.fitness = _Fitness(values)


@contextmanager
def global_random(rng: Random) -> Iterator[None]:
    """Let DEAP, which draws from the module ``random``, draw from ``rng``."""
    outside = random.getstate()
    random.setstate(rng.getstate())
    try:
        yield
    finally:
        rng.setstate(random.getstate())
        random.setstate(outside)
