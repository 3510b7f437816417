"""Train from scratch and score on the validation split; fewer epochs are just a number."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.recipe.options import Count, Decay, Natural, NonNegative, Positive, Share
from evonas.training import transfer
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import BadWeights
from evonas.training.loop import (
    Mirrored,
    OnDevice,
    OptimizerName,
    ScheduleName,
    Settings,
    evaluate,
    fit,
    score_names,
    seeded,
)
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

    takes = frozenset({"data", "share", "weights"})
    finals = True

    def __init__(
        self,
        context: Context,
        epochs: Count = 10,
        final_epochs: Count | None = None,
        batch_size: Count = 128,
        optimizer: OptimizerName = "sgd",
        learning_rate: Positive | None = None,
        weight_decay: Decay = 5e-4,
        label_smoothing: Decay = 0.1,
        augmentation: Augmentation = "standard",
        schedule: ScheduleName = "cosine",
        cutout: Natural = 0,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        ema: Decay = 0.0,
        init: str | None = None,
        freeze: Natural = 0,
        stage_decay: Share = 1.0,
        compile: bool = False,
    ) -> None:
        super().__init__(context)
        self._data = context.data_for("train")
        task = self._data.task
        if cutout > (side := min(task.height, task.width)):
            reason = f"must be from 0 to the images' {side} pixels, not {cutout}"
            raise OptionError("cutout", reason)
        if freeze and init is None:
            raise OptionError("freeze", f"must be 0, or with init more, not {freeze}")
        self._on_device = OnDevice(self._data, context.device)
        self._init = None if init is None else transfer.read(init)
        self._freeze = freeze
        self._final_epochs = final_epochs or epochs
        self._settings = Settings(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate or _LEARNING_RATES[optimizer],
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
        scores = tuple(f"val_{name}" for name in score_names(task.classes))
        self.metrics = (*scores, *context.space.counted)
        self.reports = ("train_loss", *scores)

    @classmethod
    def derived(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The optimizer's own learning rate, and as many final epochs as a trial has."""
        rate = _LEARNING_RATES[options["optimizer"]]
        return {"learning_rate": rate, "final_epochs": options["epochs"]}

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Train for ``fidelity`` times ``epochs`` epochs, at least one; finals ``final_epochs``."""
        proposal, reuse, space = trial.proposal, self.context.weights, self.context.space
        search = proposal.stage == "search"
        # A final training's seed says nothing of the trial: one repeat compares architectures.
        purpose = trial.number if search else f"retrain/{proposal.repeat}"
        seed = zlib.crc32(f"{self.context.seed}/{purpose}".encode())
        epochs = self._epochs(proposal.fidelity) if search else self._final_epochs
        left = stop = epochs
        with seeded(seed, self.context.device):
            network = space.build(trial.architecture, self._data.task).to(self.context.device)
            if self._init is not None:
                transfer.begin(network, self._init)
            transfer.freeze(network, self._freeze)
            if search:  # from what the context's weights give, and cut off at its share
                left = epochs if reuse is None else reuse.start(network, trial, epochs)
                stop = max(1, round(left * self.context.share))

            def report_total(step: int, metrics: Mapping[str, float]) -> None:
                report(step + epochs - left, metrics)

            (train, val), normalize = self._on_device.splits, self._on_device.normalize
            settings = replace(self._settings, epochs=left)
            scores = fit(network, train, val, normalize, settings, seed, report_total, stop)
        if reuse is not None and search:
            reuse.end(network, trial, epochs - left + stop)
        elif reuse is not None and proposal.stage == "final":  # the winner may be among them
            reuse.checkpoints.save(trial, network, epochs)
        return {**scores, **space.costs(trial.architecture, self._data.task)}

    def effort(self, fidelity: float) -> float:
        """Epochs."""
        return max(1, round(self._epochs(fidelity) * self.context.share))

    def final_effort(self) -> float:
        """Epochs."""
        return self._final_epochs

    def test(self, trial: Trial) -> Mapping[str, float]:
        """Accuracy on the test split, if there is one."""
        if self._data.test is None:
            return {}
        if self.context.weights is None:
            raise BadWeights("no final training left its weights")
        device, checkpoints = self.context.device, self.context.weights.checkpoints
        network = self.context.space.build(trial.architecture, self._data.task)
        final = checkpoints.read(trial.number, trial.architecture.id, trial.proposal.stage)
        network.load_state_dict(dict(final.weights))
        network = Mirrored(network) if self.context.flip else network
        network.to(device)
        scores = evaluate(network, self._data.test.to(device), self._on_device.normalize)
        return {f"test_{name}": value for name, value in scores.items()}

    def _epochs(self, fidelity: float) -> int:
        return max(1, round(self._settings.epochs * fidelity))
