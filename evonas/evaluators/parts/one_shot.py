"""Weights that many networks share: trained once by whole epochs, kept in a file, calibrated."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper, name_of
from evonas.files import locked
from evonas.spaces.parts.supernet import Supernet
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import FOLDER, BadWeights, read_weights, write_weights
from evonas.training.loop import Diverged, OnDevice, augmented, evaluate, score_names, seeded
from evonas.trial import Trial

LONGEST = 5.0  # A longer gradient is cut to this norm, as in DARTS.


class Shared(nn.Module):
    """A supernet in training; subclasses have as submodules what is trained beside it.

    Args:
        supernet: On the device.
        optimizers: Of the supernet, and of other submodules.
        settings: What the training depends on besides data, seed and the options of
            ``SharedWeights``; as JSON takes it.
    """

    def __init__(
        self, supernet: Supernet, *optimizers: torch.optim.Optimizer, settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.supernet, self.optimizers, self.settings = supernet, optimizers, settings


Training = TypeVar("Training", bound=Shared)


class SharedWeights(Wrapper, Generic[Training]):
    """Score architectures with the weights of a supernet; finals are trained as ``of`` does.

    The weights are trained once, or loaded from the run folder; a training that was cut off goes on
    after its last whole epoch. It is the effort of the trial that had it done, and what it reports:
    ``shared_loss`` after every epoch; the others have none. The fidelity of a trial has no effect.
    Subclasses say what is trained (``_begin``), how (``_step``), and to users what the arguments
    are.
    """

    def __init__(
        self,
        context: Context,
        inner: Evaluator,
        epochs: int,
        batch_size: int,
        augmentation: Augmentation,
        calibration_batches: int,
    ) -> None:
        super().__init__(context, inner)
        self.takes = frozenset({"data"})
        self._data = context.data_for(name_of(self))
        scores = (f"val_{name}" for name in score_names(self._data.task.classes))
        self.metrics, self.reports = (*scores, *context.space.counted), ()
        self._epochs, self._on_device = epochs, OnDevice(self._data, context.device)
        self._batch_size = min(batch_size, len(self._data.train))
        self._augmentation, self._batches = augmentation, calibration_batches
        self._report: Reporter = lambda epoch, metrics: None

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Scores with the shared weights, which it trains if nobody has; and the costs."""
        architecture, device = trial.architecture, self.context.device
        self._report = report
        supernet, seed = self._trained.supernet, self._seed("calibration")
        with seeded(seed, device):
            network = supernet.extract(architecture).to(device)
            network.to(memory_format=torch.channels_last)
            # Shared weights saw activations of all paths mixed, so normalisation takes its
            # statistics anew: of some training images, the same for all networks.
            update_bn(islice(self._shuffled("none", seed), self._batches), network)
        (_, val), normalize = self._on_device.splits, self._on_device.normalize
        scores = evaluate(network, val, normalize, 2 * self._batch_size)
        costs = self.context.space.costs(architecture, self._data.task)
        return {**{f"val_{name}": score for name, score in scores.items()}, **costs}

    def effort(self, fidelity: float) -> float:
        """The same whatever the fidelity."""
        return 1.0

    @abstractmethod
    def _begin(self, supernet: Supernet) -> Training:
        """What is to be trained, with weights that the seed alone decides."""

    @abstractmethod
    def _step(
        self,
        training: Training,
        images: torch.Tensor,
        labels: torch.Tensor,
        progress: float,
        place: str,
    ) -> torch.Tensor:
        """Train on a batch.

        Args:
            training: What is trained.
            images: float, (N, C, H, W), augmented and normalised.
            labels: (N,).
            progress: Share of the whole training that is over, 0…1.
            place: Epoch and step, both from 0, as "epoch/step"; for the seed of what is drawn.

        Returns:
            The loss, a scalar on the device.
        """

    @cached_property
    def _trained(self) -> Training:
        """The shared weights: of the run folder, or trained now while others wait for them."""
        with seeded(self._seed("initial"), self.context.device):
            supernet = self.context.space.build_supernet(self._data.task)
        supernet = supernet.to(self.context.device).to(memory_format=torch.channels_last)
        training, folder = self._begin(supernet), self.context.run_dir
        path = None if folder is None else folder / FOLDER / f"{name_of(self)}.safetensors"
        digest = self._digest(training)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if path is None else locked(path.with_suffix(".lock")):
            for epoch in range(_load(path, training, digest) if path else 0, self._epochs):
                loss = self._train_epoch(training, epoch)
                if path:
                    _save(path, training, digest, epoch + 1, whole=epoch + 1 == self._epochs)
                self._report(epoch + 1, {"shared_loss": loss})
        return training

    def _train_epoch(self, training: Training, epoch: int) -> float:
        """Train an epoch, from 0: a pure function of the state before it; returns the mean loss.

        Raises:
            Diverged: If the loss is not finite.
        """
        seed, steps = self._seed(f"epoch {epoch}"), len(self._data.train) // self._batch_size
        total = torch.zeros((), device=self.context.device)
        training.supernet.train()
        with seeded(seed, self.context.device):
            for step, (images, labels) in enumerate(self._shuffled(self._augmentation, seed)):
                progress = (epoch * steps + step) / (self._epochs * steps)
                total += self._step(training, images, labels, progress, f"{epoch}/{step}")
        self.context.work.pixels += self._data.train.pixels
        mean_loss = total.item() / steps
        if not math.isfinite(mean_loss):
            raise Diverged(f"the {name_of(self)}'s loss is {mean_loss} after epoch {epoch + 1}")
        return mean_loss

    def _shuffled(
        self, augmentation: Augmentation, seed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass over the training images, augmented and normalised, and their labels."""
        (train, _), normalize = self._on_device.splits, self._on_device.normalize
        rng = torch.Generator(train.labels.device).manual_seed(seed)
        for images, labels, index in train.batches(self._batch_size, rng):
            yield augmented(images, index, normalize, augmentation, rng), labels[index]

    def _digest(self, training: Training) -> str:
        """Hash of all that the training depends on: weights of another one are not taken."""
        settings = {
            **training.settings,
            "version": 1,
            "seed": self.context.seed,
            "epochs": [self._epochs, self._batch_size, self._augmentation],
            "data": [self._data.fingerprint, *self._data.train.images.shape],
            "shapes": {name: list(p.shape) for name, p in training.named_parameters()},
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def _seed(self, purpose: str) -> int:
        return zlib.crc32(f"{self.context.seed}/{name_of(self)}/{purpose}".encode())


def _save(path: Path, training: Shared, digest: str, epochs: int, whole: bool) -> None:
    """Keep the weights and, while more epochs are to come, the optimizers' state."""
    tensors: dict[str, torch.Tensor] = dict(training.named_parameters())
    for number, optimizer in enumerate(() if whole else training.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:  # as the momentum is of what had no step
                    tensors[f"{number}/{index}/{key}"] = value
    write_weights(path, tensors, {"digest": digest, "epochs": str(epochs)})


@torch.no_grad()
def _load(path: Path, training: Shared, digest: str) -> int:
    """Take over what an earlier process trained; returns its epochs, 0 if there is nothing."""
    if not path.exists():
        return 0
    try:
        tensors, about = read_weights(path)
        if about.get("digest") != digest:
            raise BadWeights(f"{path}: is a supernet of other settings")
    except BadWeights as error:
        warnings.warn(f"{error}; training the supernet anew", RuntimeWarning, stacklevel=2)
        return 0
    for name, parameter in training.named_parameters():
        parameter.copy_(tensors.pop(name))
    states = [optimizer.state_dict() for optimizer in training.optimizers]
    for name, tensor in tensors.items():
        number, index, key = name.split("/")
        states[int(number)]["state"].setdefault(int(index), {})[key] = tensor
    for optimizer, state in zip(training.optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    return int(about["epochs"])
