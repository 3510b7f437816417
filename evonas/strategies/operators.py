"""What strategies need around DEAP: individuals, and a fence round its randomness."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from deap import base

from evonas.trial import Trial


class _Fitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
    weights = (1.0,)


class Individual:
    """What DEAP selects among: a completed trial with a fitness."""

    def __init__(self, trial: Trial, value: float) -> None:
        self.trial = trial
        self.fitness = _Fitness((value,))


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
