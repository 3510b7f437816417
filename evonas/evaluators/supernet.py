"""Weight sharing: train a supernet once, then score an architecture with its weights in seconds.

Uniform sampling of single paths and fresh batch normalisation statistics for every architecture,
as in Single Path One-Shot NAS (SPOS; Guo et al., ECCV 2020). Scores compare architectures; they
are not the accuracies of networks trained alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from random import Random

import torch
from torch.nn import functional as F

from evonas.errors import InvalidArchitecture, RecipeError, at_least
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.evaluators.parts.one_shot import OneShot, calibrate
from evonas.spaces.parts.supernet import Supernet
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import FOLDER
from evonas.training.loop import Diverged, OnDevice, augmented, evaluate, schedule, seeded
from evonas.trial import Trial

_LABEL_SMOOTHING = 0.1
_PATHS_IN_DIGEST = 16


class SharedWeights(Wrapper):
    """Score architectures with the shared weights of a supernet; retrain the best as ``of`` does.

    The first trial trains the supernet, or loads it from the run folder; a training that was cut
    off goes on after its last whole epoch. The fidelity of a trial has no effect.

    Args:
        context: The world; its data are needed, and a space that offers a supernet.
        of: What trains an architecture for good.
        epochs: Of the supernet.
        batch_size: Images a step, which trains one path.
        learning_rate: The peak of warm-up and cosine; SGD with Nesterov momentum 0.9.
        weight_decay: On the parameters of the step's path.
        augmentation: ``none``, ``crop``, ``standard``, ``v1`` or ``v2``; see ``Train``.
        calibration_batches: Batches that an architecture's normalisation statistics come from.
    """

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        epochs: int = 20,
        batch_size: int = 128,
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
        augmentation: Augmentation = "standard",
        calibration_batches: int = 8,
    ) -> None:
        super().__init__(context, of(context))
        self.metrics, self.reports = ("val_accuracy", "params", "flops"), ()
        if context.data is None:
            raise RecipeError("evaluation.name: supernet needs a dataset section")
        at_least("evaluation", 1, epochs=epochs, batch_size=batch_size)
        at_least("evaluation", 1, calibration_batches=calibration_batches)
        if learning_rate <= 0:
            raise RecipeError(f"evaluation.learning_rate: must be positive, not {learning_rate}")
        if not 0 <= weight_decay < 1:
            raise RecipeError(f"evaluation.weight_decay: must be in [0, 1), not {weight_decay}")
        self._data, self._epochs = context.data, epochs
        self._on_device = OnDevice(context.data, context.device)
        self._batch_size = min(batch_size, len(context.data.train))
        self._rate, self._decay, self._augmentation = learning_rate, weight_decay, augmentation
        self._batches = calibration_batches
        try:
            with torch.device("meta"):
                context.space.build_supernet(self._data.task)
        except InvalidArchitecture as error:
            raise RecipeError(f"evaluation.name: {error}") from error

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Score the architecture with the supernet's weights, which it trains if nobody has."""
        architecture, device = trial.architecture, self.context.device
        supernet, seed = self._supernet, self._seed("calibration")
        with seeded(seed, device):
            network = supernet.extract(architecture).to(device)
            calibrate(network, self._on_device, seed, self._batch_size, self._batches)
        accuracy = evaluate(network, self._on_device.splits[1], self._on_device.normalize)
        counted = self.context.space.costs(architecture, self._data.task)
        return {"val_accuracy": accuracy, **counted}

    def effort(self, fidelity: float) -> float:
        """The same whatever the fidelity."""
        return 1.0

    @cached_property
    def _supernet(self) -> Supernet:
        """The trained supernet: of the run folder, or trained now while others wait for it."""
        with seeded(self._seed("initial"), self.context.device):
            supernet = self.context.space.build_supernet(self._data.task)
        supernet = supernet.to(self.context.device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            supernet.parameters(), self._rate, 0.9, weight_decay=self._decay, nesterov=True
        )
        folder = self.context.run_dir
        path = None if folder is None else folder / FOLDER / "supernet.safetensors"
        OneShot(supernet, [optimizer], self._digest).train(
            self._epochs, lambda epoch: self._train_epoch(supernet, optimizer, epoch), path
        )
        return supernet

    def _train_epoch(self, supernet: Supernet, optimizer: torch.optim.SGD, epoch: int) -> None:
        """One epoch, a pure function of the state before it: every step draws a path uniformly.

        Parameters that a path does not name stay as they are; of those that it uses in part, the
        rest follows momentum and weight decay.
        """
        train, normalize = self._on_device.splits[0], self._on_device.normalize
        device, seed = train.labels.device, self._seed(f"epoch {epoch}")
        rng = torch.Generator(device).manual_seed(seed)
        steps = len(train) // self._batch_size
        order = torch.randperm(len(train), device=device, generator=rng)[: steps * self._batch_size]
        brain = device.type == "cuda" and torch.cuda.is_bf16_supported()
        total = torch.zeros((), device=device)
        supernet.train()
        with seeded(seed, self.context.device):
            batches = train.batches(order, self._batch_size)
            for step, batch in enumerate(batches):
                progress = (epoch * steps + step) / (self._epochs * steps)
                optimizer.param_groups[0]["lr"] = self._rate * schedule(progress)
                path = self.context.space.sample(self._path_rng(epoch, step))
                images = augmented(batch, normalize, self._augmentation, rng)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=brain):
                    logits = supernet(images, path)
                    loss = F.cross_entropy(logits, batch[2], label_smoothing=_LABEL_SMOOTHING)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                total += loss.detach()
        mean_loss = total.item() / steps
        if not math.isfinite(mean_loss):
            raise Diverged(f"the supernet's loss is {mean_loss} after epoch {epoch + 1}")

    @cached_property
    def _digest(self) -> str:
        """Hash of all that the training depends on: settings, data, shapes, and the paths drawn.

        The first paths stand for the domains, and for whatever else the space draws by.
        """
        with torch.device("meta"):
            empty = self.context.space.build_supernet(self._data.task)
        settings = {
            "version": 1,
            "seed": self.context.seed,
            "options": [self._epochs, self._batch_size, self._rate, self._decay],
            "augmentation": self._augmentation,
            "data": [self._data.fingerprint, *self._data.train.images.shape],
            "shapes": {name: list(p.shape) for name, p in empty.named_parameters()},
            "paths": [
                self.context.space.sample(self._path_rng(0, step)).id
                for step in range(_PATHS_IN_DIGEST)
            ],
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def _path_rng(self, epoch: int, step: int) -> Random:
        return Random(f"{self.context.seed}/{epoch}/{step}")

    def _seed(self, purpose: str) -> int:
        return zlib.crc32(f"{self.context.seed}/supernet/{purpose}".encode())
