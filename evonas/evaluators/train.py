"""Train from scratch and score on the validation split; fewer epochs are just a number."""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import RecipeError, at_least
from evonas.evaluators.base import Context, Evaluator, Reporter, Retrained
from evonas.training import transfer
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import Weights
from evonas.training.loop import OnDevice, ScheduleName, Settings, evaluate, fit, seeded
from evonas.trial import Trial

_LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}


class Train(Evaluator):
    """Train every architecture from scratch, or from what the context's weights give it.

    Args:
        context: The world; its data are needed.
        epochs: Of a trial at fidelity 1.
        final_epochs: Of the final training of the winner; default: as many as in a trial.
        batch_size: Images a step.
        optimizer: ``sgd`` (Nesterov, momentum 0.9) or ``adamw``.
        learning_rate: Its peak; default 0.1 for sgd, 0.001 for adamw.
        weight_decay: On all parameters but biases and those of normalisation layers.
        label_smoothing: 0…1.
        augmentation: ``none``, ``crop`` (shifts), ``standard`` (shifts and left-right flips),
            ``v1`` (flips, rotations of up to 15°, 3×3 blur) or ``v2`` (the same less often, and
            changes of brightness, contrast and saturation).
        schedule: Of the learning rate: ``cosine`` or ``step`` after a warm-up, or ``one_cycle``.
        cutout: Side of a square that is blanked in every image, pixels; 0: none.
        mixup: Alpha of mixup, 0.2 say; 0: none.
        cutmix: Alpha of CutMix, 1 say; 0: none. With mixup too, every batch gets one of them.
        ema: Decay of a moving average of the weights, which is then scored and kept, 0.999 say;
            0: none.
        init: Weights to begin with: ``torchvision:NAME``, ``timm:NAME`` or a file; see
            ``training/transfer.py``. The classifier begins anew.
        freeze: Stages at the network's beginning that are not trained.
        stage_decay: Learning rate of a stage relative to the next, 0…1.
        compile: Train with torch.compile; half a minute and more a network, so for long trainings
            alone. It needs a C++ compiler (CPU) or Triton (CUDA).
    """

    metrics = ("val_accuracy", "params", "flops")
    reports = ("train_loss", "val_accuracy")

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
        schedule: ScheduleName = "cosine",
        cutout: int = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        ema: float = 0.0,
        init: str | None = None,
        freeze: int = 0,
        stage_decay: float = 1.0,
        compile: bool = False,
    ) -> None:
        super().__init__(context)
        if context.data is None:
            raise RecipeError("evaluation.name: train needs a dataset section")
        at_least("evaluation", 1, epochs=epochs, final_epochs=final_epochs, batch_size=batch_size)
        rate = _LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
        if rate <= 0:
            raise RecipeError(f"evaluation.learning_rate: must be positive, not {rate}")
        for name, share in (
            ("weight_decay", weight_decay),
            ("label_smoothing", label_smoothing),
            ("ema", ema),
        ):
            if not 0 <= share < 1:
                raise RecipeError(f"evaluation.{name}: must be in [0, 1), not {share}")
        at_least("evaluation", 0, mixup=mixup, cutmix=cutmix)
        side = min(context.data.task.height, context.data.task.width)
        if not 0 <= cutout <= side:
            raise RecipeError(
                f"evaluation.cutout: must be from 0 to the images' {side} pixels, not {cutout}"
            )
        if not 0 < stage_decay <= 1:
            raise RecipeError(f"evaluation.stage_decay: must be in (0, 1], not {stage_decay}")
        if freeze < 0 or (freeze and init is None):
            raise RecipeError(f"evaluation.freeze: must be 0, or with init more, not {freeze}")
        self._init = None if init is None else transfer.read(init)
        self._freeze = freeze
        self._data = context.data
        self._on_device = OnDevice(context.data, context.device)
        self._final_epochs = final_epochs or epochs
        self._settings = Settings(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=rate,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            augmentation=augmentation,
            schedule=schedule,
            cutout=cutout,
            mixup=mixup,
            cutmix=cutmix,
            ema=ema,
            compile=compile,
            stage_decay=stage_decay,
        )

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Train for ``fidelity`` times ``epochs`` epochs, at least one, or the context's share."""
        epochs = self._epochs(trial.proposal.fidelity)
        seed, weights = f"{self.context.seed}/{trial.number}", self.context.weights
        _, accuracy = self._train(trial, epochs, seed, report, weights, self.context.share)
        counted = self.context.space.costs(trial.architecture, self._data.task)
        return {"val_accuracy": accuracy, **counted}

    def effort(self, fidelity: float) -> float:
        """Epochs."""
        return max(1, round(self._epochs(fidelity) * self.context.share))

    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        """Train for ``final_epochs``."""
        start = time.perf_counter()
        curve: list[tuple[int, Mapping[str, float]]] = []

        def both(step: int, metrics: Mapping[str, float]) -> None:
            curve.append((step, metrics))
            report(step, metrics)

        network, accuracy = self._train(
            trial, self._final_epochs, f"{self.context.seed}/retrain/{seed}", both, None
        )
        counted = self.context.space.costs(trial.architecture, self._data.task)
        metrics = {"val_accuracy": accuracy, **counted, "seconds": time.perf_counter() - start}
        whole = nn.Sequential(copy.deepcopy(self._on_device.normalize), network).cpu()
        return Retrained(metrics, tuple(curve), whole)

    def network(self, architecture: Architecture) -> nn.Module | None:
        """Normalisation and network in a row."""
        network = self.context.space.build(architecture, self._data.task)
        return nn.Sequential(copy.deepcopy(self._on_device.normalize), network).cpu()

    def test(self, architecture: Architecture, network: nn.Module | None) -> Mapping[str, float]:
        """Accuracy on the test split, if there is one."""
        if self._data.test is None or network is None:
            return {}
        device = self.context.device
        network.to(memory_format=torch.channels_last).to(device)
        test = self._data.test.to(device)
        return {"test_accuracy": evaluate(network, test, nn.Identity())}

    def retain(self, trials: Sequence[int]) -> None:
        """Weights that no later trial will start from are deleted."""
        if self.context.weights is not None:
            self.context.weights.retain(trials)

    def _epochs(self, fidelity: float) -> int:
        return max(1, round(self._settings.epochs * fidelity))

    def _train(
        self,
        trial: Trial,
        epochs: int,
        seed: str,
        report: Reporter,
        weights: Weights | None,
        share: float = 1.0,
    ) -> tuple[nn.Module, float]:
        architecture, device = trial.architecture, self.context.device
        number = zlib.crc32(seed.encode())
        train, val = self._on_device.splits
        normalize = self._on_device.normalize
        with seeded(number, device):
            network = self.context.space.build(architecture, self._data.task).to(device)
            if self._init is not None:
                transfer.begin(network, self._init)
            transfer.freeze(network, self._freeze)
            left = epochs if weights is None else weights.start(network, trial, epochs)

            def counted(step: int, metrics: Mapping[str, float]) -> None:
                report(step + epochs - left, metrics)

            settings = replace(self._settings, epochs=left)
            stop = max(1, round(left * share))
            accuracy = fit(network, train, val, normalize, settings, number, counted, stop)
        if weights is not None:
            weights.end(network, trial, epochs - left + stop)
        return network, accuracy
