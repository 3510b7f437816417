"""Train from scratch and score on the validation split; fewer epochs are just a number."""

from __future__ import annotations

import gc
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.recipe.options import Count, Decay, Natural, NonNegative, Positive, Share
from evonas.spaces.parts.tuned import training_choices
from evonas.training import transfer
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import BadWeights
from evonas.training.devices import out_of_memory
from evonas.training.distillation import Distill, find
from evonas.training.graphs import CaptureFailed
from evonas.training.loop import (
    Diverged,
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

_LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3, "muon": 0.1}
# Larger batches than this make fewer steps, which are to be as much longer (Goyal et al., Accurate,
# large minibatch SGD, 2017): up to four times, which is what was measured.
_BATCH, _LONGEST = 128, 4.0
_FEW = 50  # Training pictures of a class; with fewer, what was learnt elsewhere helps most.
_SLOWER = 1 / 3  # A training that diverged gets this share of the learning rate.


def _learning_rate(optimizer: OptimizerName, batch_size: int) -> float:
    """The default, by optimizer and batch size."""
    longer = 1.0 if optimizer == "adamw" else min(max(1.0, batch_size / _BATCH), _LONGEST)
    return _LEARNING_RATES[optimizer] * longer


class OutOfMemory(RuntimeError):
    """The device has not enough memory for a training, with half a batch at a time either."""


class Train(Evaluator):
    """Train every architecture from scratch, or from what the context's weights give it.

    Args:
        context: The world; its data are needed.
        epochs: Of a trial at fidelity 1.
        final_epochs: Of the final training of the winner; default: as many as in a trial.
        batch_size: Images a step.
        optimizer: ``muon``, which makes steps of kernels orthogonal and is SGD for the rest (see
            ``training/muon.py``), ``sgd`` (Nesterov, momentum 0.9) or ``adamw``; default: ``muon``,
            and ``sgd`` with ``init``, which learnt other weights.
        learning_rate: Its peak; default 0.1, from batches of 128 to those of 512 as many times
            larger as they are; for adamw 0.001.
        weight_decay: On all parameters but biases and those of normalisation layers.
        clip_norm: Longest gradient, by its norm over all parameters; 0: any. Without it deep
            networks and wide ones diverge at rates that are best for others.
        label_smoothing: 0…1.
        class_weights: What an image counts in the loss: ``none``, the same whatever its class, or
            ``balanced``, inversely to the number of training images of its class.
        augmentation: ``none``, ``crop`` (shifts), ``standard`` (shifts and left-right flips),
            ``v1`` (flips, rotations of up to 15°, 3×3 blur) or ``v2`` (the same less often, and
            changes of brightness, contrast and saturation).
        schedule: Of the learning rate: ``cosine`` or ``step`` after a warm-up, or ``one_cycle``.
        cutout: Side of a square that is blanked in every image, pixels; 0: none.
        mixup: Alpha of mixup, 0.2 say; 0: none.
        cutmix: Alpha of CutMix, 1 say; 0: none. With mixup too, every batch gets one of them.
        ema: Decay of a moving average of the weights, which is then scored and kept, 0.999 say;
            0: none.
        distill: ``{teacher: RUN, weight: 0.9, temperature: 4}``: learn from a trained network as
            well, that of a run folder or of a file ``.pt2``; see ``training/distillation.py``.
        init: Weights to begin with: ``torchvision:NAME``, ``timm:NAME`` or a file; see
            ``training/transfer.py``. The classifier begins anew.
        freeze: Stages at the network's beginning that are not trained.
        stage_decay: Learning rate of a stage relative to the next, 0…1.
        compile: Compile the winner's network (torch.compile) after the first epoch of its final
            training, if the epochs that are left save more than that takes, some 50 seconds. It
            needs a C++ compiler (CPU) or Triton (CUDA).
        cuda_graph: Record a step on a GPU, and replay it (see ``training/graphs.py``); the metric
            ``cuda_graph`` says 1 if it was done, 0 if the network waits for the device, or mixup,
            CutMix, float16 or fewer than 50 steps prevented it. False for networks whose forward
            pass Python changes from call to call, by its own random numbers say.
    """

    takes = frozenset({"data", "share", "training", "weights"})
    finals = True

    def __init__(
        self,
        context: Context,
        epochs: Count = 10,
        final_epochs: Count | None = None,
        batch_size: Count = 128,
        optimizer: OptimizerName | None = None,
        learning_rate: Positive | None = None,
        weight_decay: Decay = 5e-4,
        clip_norm: NonNegative = 5.0,
        label_smoothing: Decay = 0.1,
        class_weights: Literal["none", "balanced"] = "none",
        augmentation: Augmentation = "standard",
        schedule: ScheduleName = "cosine",
        cutout: Natural = 0,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        ema: Decay = 0.0,
        distill: Distill | None = None,
        init: str | None = None,
        freeze: Natural = 0,
        stage_decay: Share = 1.0,
        compile: bool = False,
        cuda_graph: bool = True,
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
        self._init_name, self._init = init, None if init is None else transfer.read(init)
        self._freeze = freeze
        self._final_epochs = final_epochs or epochs
        self._pixels = self._data.train.pixels
        # A wrapper may make another one of these with smaller data: the recipe's are the largest.
        context.work.full = max(context.work.full, self._final_epochs * self._pixels)
        optimizer = optimizer or _optimizer(init)
        self._settings = Settings(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate or _learning_rate(optimizer, batch_size),
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            label_smoothing=label_smoothing,
            class_weights=self._balanced() if class_weights == "balanced" else (),
            augmentation=augmentation,
            schedule=schedule,
            cutout=cutout,
            mixup=mixup,
            cutmix=cutmix,
            ema=ema,
            compile=compile,
            cuda_graph=cuda_graph,
            stage_decay=stage_decay,
            teacher=find(distill, self._data, self._on_device.normalize) if distill else None,
        )
        scores = tuple(f"val_{name}" for name in score_names(task.classes))
        self.metrics = (*scores, *context.space.counted)
        self.reports = ("train_loss", *scores)

    @classmethod
    def derived(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The optimizer, its own learning rate, and as many final epochs as a trial has."""
        optimizer = options["optimizer"] or _optimizer(options["init"])
        rate = _learning_rate(optimizer, options["batch_size"])
        return {"optimizer": optimizer, "learning_rate": rate, "final_epochs": options["epochs"]}

    def prepare(self, note: Callable[[str], None], stopping: Callable[[], bool]) -> bool:
        """Say what networks begin with, if somebody may have expected something else."""
        if self._init_name is not None:
            note(f"weights: networks begin with those of {self._init_name}, but for the classifier")
        elif self._data.test_files:
            fewest = int(torch.bincount(self._data.train.labels).min())
            if fewest < _FEW:
                note(
                    f"weights: from scratch; with {fewest} pictures of a class, those of a "
                    "published network help: recipe my_images_pretrained"
                )
        return True

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Train for ``fidelity`` times ``epochs`` epochs, at least one; finals ``final_epochs``.

        What may help is tried, once each, from the beginning; what was reported before is not
        reported again:

        * A training that diverges gets a third of the learning rate: the search is for a network,
          not for one that stands the default. ``learning_rate`` is then among the metrics.
        * Where memory does not suffice on a GPU, batches are taken in two halves whose gradients
          add up; only normalisation sees the difference. ``accumulation`` is then 2.
        * What cannot be recorded as a CUDA graph, though it seemed so, is done without.

        Raises:
            Diverged: Also at a third of the learning rate.
            OutOfMemory: Also with halves of batches.
        """
        latest = 0

        def report_new(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal latest
            if step > latest:
                latest = step
                report(step, metrics)

        own: dict[str, Any] = dict(training_choices(trial.architecture))
        settings = replace(self._settings, **own)
        if trial.proposal.stage == "search":
            settings = replace(settings, compile=False)
        changes: dict[str, float] = {}
        while True:
            try:
                return {**self._train(trial, report_new, settings), **changes}
            except Diverged as error:
                if "learning_rate" in changes:
                    raise Diverged(
                        f"{error}, at a third of the learning rate as well; try a smaller "
                        "evaluation.learning_rate"
                    ) from error
                rate = changes["learning_rate"] = settings.learning_rate * _SLOWER
                settings = replace(settings, learning_rate=rate)
                again = f"{error}; begun again at a learning rate of {rate:.3g}"
            except CaptureFailed as error:
                settings = replace(settings, cuda_graph=False)
                again = f"{error}; begun again without"
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if "accumulation" in changes:
                    raise OutOfMemory(
                        "out of memory, with half a batch at a time as well; try a smaller "
                        f"evaluation.batch_size: {error}"
                    ) from None
                changes["accumulation"] = 2
                settings = replace(settings, accumulation=2)
                again = "out of memory; begun again with half a batch at a time"
            # Only here does nothing hold the network any more, as the exception's frames did.
            gc.collect()
            torch.cuda.empty_cache()
            warnings.warn(f"trial {trial.number}: {again}", stacklevel=2)

    def _train(self, trial: Trial, report: Reporter, settings: Settings) -> dict[str, float]:
        proposal, space = trial.proposal, self.context.space
        search = proposal.stage == "search"
        # A final training's seed says nothing of the trial: one repeat compares architectures.
        purpose = trial.number if search else f"retrain/{proposal.repeat}"
        seed = zlib.crc32(f"{self.context.seed}/{purpose}".encode())
        epochs = self._epochs(proposal.fidelity) if search else self._final_epochs
        # Finals neither start from what the context's weights give nor are cut off at its share.
        reuse, share = (self.context.weights, self.context.share) if search else (None, 1.0)
        with seeded(seed, self.context.device):
            network = space.build(trial.architecture, self._data.task).to(self.context.device)
            if self._init is not None:
                transfer.begin(network, self._init)
            transfer.freeze(network, self._freeze)
            left = reuse.start(network, trial, epochs) if reuse else epochs
            stop = max(1, round(left * share))

            def report_total(step: int, metrics: Mapping[str, float]) -> None:
                self.context.work.pixels += self._pixels  # first, for the report may end the trial
                report(step + epochs - left, metrics)

            (train, val), normalize = self._on_device.splits, self._on_device.normalize
            settings = replace(settings, epochs=left)
            try:
                scores = fit(network, train, val, normalize, settings, seed, report_total, stop)
            except Diverged:
                self.context.work.pixels += self._pixels  # an epoch that is not reported
                raise
        if reuse:
            reuse.end(network, trial, epochs - left + stop)
        elif self.context.weights and proposal.stage == "final":  # the winner may be among them
            self.context.weights.checkpoints.save(trial, network, epochs)
        return {**scores, **space.costs(trial.architecture, self._data.task)}

    def effort(self, fidelity: float) -> float:
        """Epochs."""
        return max(1, round(self._epochs(fidelity) * self.context.share))

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
        test, batch_size = self._data.test.to(device), 2 * self._settings.batch_size
        scores = evaluate(network, test, self._on_device.normalize, batch_size)
        return {f"test_{name}": value for name, value in scores.items()}

    def _balanced(self) -> tuple[float, ...]:
        """Weights of the classes: all of a class together count as much as those of another."""
        counts = torch.bincount(self._data.train.labels, minlength=len(self._data.classes))
        weights = len(self._data.train) / (len(self._data.classes) * counts.clamp(min=1))
        return tuple(weights.tolist())

    def _epochs(self, fidelity: float) -> int:
        return max(1, round(self._settings.epochs * fidelity))


def _optimizer(init: str | None) -> OptimizerName:
    return "muon" if init is None else "sgd"
