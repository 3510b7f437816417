"""Train from scratch and score on the validation split; fewer epochs are just a number."""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from evonas.errors import RecipeError
from evonas.evaluators.base import Context, Evaluator, Final, Reporter
from evonas.training import cost
from evonas.training.augmentation import Augmentation
from evonas.training.data import Split
from evonas.training.loop import Normalize, Settings, evaluate, fit, seeded
from evonas.trial import Curve, Trial

_LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}


class Train(Evaluator):
    """Train every architecture from scratch.

    Args:
        context: The world; its data are needed.
        epochs: Of a trial at fidelity 1.
        final_epochs: Of the final training of the winner; default: as many as in a trial.
        batch_size: Images a step.
        optimizer: ``sgd`` (Nesterov, momentum 0.9) or ``adamw``.
        learning_rate: The peak of warm-up and cosine; default 0.1 for sgd, 0.001 for adamw.
        weight_decay: On all parameters.
        label_smoothing: 0…1.
        augmentation: ``none``, ``crop`` (shifts) or ``standard`` (shifts and left-right flips).
    """

    metrics = ("val_accuracy", "params", "flops")

    def __init__(
        self,
        context: Context,
        epochs: int = 10,
        final_epochs: int | None = None,
        batch_size: int = 128,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        learning_rate: float | None = None,
        weight_decay: float = 5e-4,
        label_smoothing: float = 0.1,
        augmentation: Augmentation = "standard",
    ) -> None:
        super().__init__(context)
        if context.data is None:
            raise RecipeError("evaluation.name: train needs a dataset section")
        for name, value in (
            ("epochs", epochs),
            ("final_epochs", final_epochs),
            ("batch_size", batch_size),
        ):
            if value is not None and value < 1:
                raise RecipeError(f"evaluation.{name}: must be at least 1, not {value}")
        rate = _LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
        if rate <= 0:
            raise RecipeError(f"evaluation.learning_rate: must be positive, not {rate}")
        for name, share in (("weight_decay", weight_decay), ("label_smoothing", label_smoothing)):
            if not 0 <= share < 1:
                raise RecipeError(f"evaluation.{name}: must be in [0, 1), not {share}")
        self._data = context.data
        self._final_epochs = final_epochs or epochs
        self._settings = Settings(
            epochs, batch_size, optimizer, rate, weight_decay, label_smoothing, augmentation
        )

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Train for ``fidelity`` times ``epochs`` epochs, at least one."""
        epochs = max(1, round(self._settings.epochs * trial.proposal.fidelity))
        _, metrics = self._train(trial, epochs, report)
        return metrics

    def finish(self, trial: Trial, report: Reporter) -> Final | None:
        """Train once more, for ``final_epochs``, and score on the test split."""
        if self._data.test is None:
            return None
        start = time.perf_counter()
        curve: list[tuple[int, Mapping[str, float]]] = []

        def both(step: int, metrics: Mapping[str, float]) -> None:
            curve.append((step, metrics))
            report(step, metrics)

        network, metrics = self._train(trial, self._final_epochs, both)
        test = self._data.test.to(self.context.device)
        accuracy = evaluate(network, test, self._normalize)
        seconds = time.perf_counter() - start
        done: Curve = tuple(curve)
        network = nn.Sequential(copy.deepcopy(self._normalize), network).cpu()
        return Final({**metrics, "test_accuracy": accuracy, "seconds": seconds}, done, network)

    def _train(
        self, trial: Trial, epochs: int, report: Reporter
    ) -> tuple[nn.Module, dict[str, float]]:
        architecture, device = trial.architecture, self.context.device
        counted = cost.count(self.context.space, architecture, self._data.task)
        seed = zlib.crc32(f"{self.context.seed}/{trial.number}".encode())
        train, val = self._splits
        settings = Settings(**{**vars(self._settings), "epochs": epochs})
        with seeded(seed, device):
            network = self.context.space.build(architecture, self._data.task).to(device)
            accuracy = fit(network, train, val, self._normalize, settings, seed, report)
        return network, {"val_accuracy": accuracy, **counted}

    @cached_property
    def _splits(self) -> tuple[Split, Split]:
        """Training and validation images on the device; they stay there."""
        return self._data.train.to(self.context.device), self._data.val.to(self.context.device)

    @cached_property
    def _normalize(self) -> Normalize:
        return Normalize(*self._data.channel_statistics()).to(torch.device(self.context.device))
