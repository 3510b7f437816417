"""A light evaluator that trains for good as it is told, for spawned workers to find."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from evonas.architecture import Architecture
from evonas.evaluators.base import Context, Evaluator, Reporter, Retrained
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Proposal, Trial, TrialState


def trial(number: int, do: str = "train", score: float = 0.0) -> Trial:
    """A completed trial; ``do`` says what its training for good does."""
    architecture = Architecture("test", {"do": do, "x": number})
    metrics = {"val_accuracy": score}
    return Trial(number, Proposal(architecture), TrialState.COMPLETE, metrics, seconds=1.0)


class Writes(Evaluator):
    """Writes down every training; gives a network of one number, which is the trial's."""

    metrics = ("val_accuracy",)

    def __init__(self, device: str = "cpu", folder: Path = Path()) -> None:
        super().__init__(Context(PlainCNN(1, 8), None, device, seed=0))
        self.log = folder / "log"

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return dict(trial.metrics)

    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        with self.log.open("a") as file:
            file.write(f"{trial.number}/{seed}\n")
        report(1, {"val_accuracy": 0.25})
        match trial.architecture.choices["do"]:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                raise ValueError("as told")
            case "nothing":
                return None
            case "figures":
                return Retrained({"val_accuracy": 0.5})
        metrics = {"val_accuracy": trial.number / 100 + seed / 1000, "pid": float(os.getpid())}
        return Retrained(metrics, network=self.network(trial.architecture))

    def network(self, architecture: Architecture) -> nn.Module | None:
        network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, float(architecture.choices["x"]))
        return network


def weight(path: Path) -> float:
    """The number in a file of weights."""
    from evonas.training.checkpoints import read_weights

    tensors, _ = read_weights(path)
    assert tensors["weight"].dtype == torch.float32
    return float(tensors["weight"])
