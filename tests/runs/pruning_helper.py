"""An evaluator of made-up curves, in a light module of its own so that spawned workers find it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from evonas.architecture import Architecture
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Trial

STEPS = 8  # a power of two: what is equal stays equal after rounding


def quality(architecture: Architecture) -> float:
    return float(sum(int(value) for value in architecture.choices.values()))


class Climb(Evaluator):
    """Climbs in a straight line to the sum of the choices; every seventh architecture fails."""

    metrics = ("value", "pid")

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(Context(PlainCNN(1, 8), None, device, seed=0))

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        value = quality(trial.architecture)
        for step in range(1, STEPS + 1):
            report(step, {"value": value * step / STEPS, "loss": float("nan")})
            if int(trial.architecture.id, 16) % 7 == 0 and step == 4:
                raise RuntimeError("on purpose")
        return {"value": value, "pid": os.getpid()}
