"""Weights that many networks share: trained once by whole epochs, kept in a file, calibrated."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.files import locked
from evonas.spaces.parts.supernet import BATCH_NORMS, Supernet
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import FOLDER, BadWeights, read_weights, write_weights
from evonas.training.loop import Diverged, OnDevice, augmented, evaluate, seeded
from evonas.trial import Trial

Step = Callable[[float, int, torch.Tensor, torch.Tensor], torch.Tensor]


class SharedWeights(Wrapper):
    """Score architectures with the weights of a supernet; finals are trained as ``of`` does.

    The weights are trained once, or loaded from the run folder; a training that was cut off goes on
    after its last whole epoch. The fidelity of a trial has no effect.

    Args:
        context: The world; its data are needed.
        inner: What trains finals.
        epochs: Of the shared weights.
        batch_size: Images a step, which trains one path.
        augmentation: See ``Train``.
        calibration_batches: Batches that an architecture's normalisation statistics come from.
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
        self._kind = type(self).__module__.rpartition(".")[2]
        if context.data is None:
            raise OptionError("name", f"{self._kind} needs a dataset section")
        self.metrics, self.reports = ("val_accuracy", *context.space.counted), ()
        self._data, self._epochs = context.data, epochs
        self._on_device = OnDevice(context.data, context.device)
        self._batch_size = min(batch_size, len(context.data.train))
        self._augmentation, self._batches = augmentation, calibration_batches

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Accuracy with the shared weights, which it trains if nobody has; and the costs."""
        architecture, device = trial.architecture, self.context.device
        supernet, seed = self._trained_supernet(), self._seed("calibration")
        with seeded(seed, device):
            network = supernet.extract(architecture).to(device)
            calibrate(network, self._on_device, seed, self._batch_size, self._batches)
        scores = evaluate(network, self._on_device.splits[1], self._on_device.normalize)
        costs = self.context.space.costs(architecture, self._data.task)
        return {"val_accuracy": scores["accuracy"], **costs}

    def effort(self, fidelity: float) -> float:
        """The same whatever the fidelity."""
        return 1.0

    @abstractmethod
    def _trained_supernet(self) -> Supernet:
        """The supernet, trained now if nobody has."""

    def _initial_supernet(self) -> Supernet:
        """The supernet with random weights, on the device."""
        with seeded(self._seed("initial"), self.context.device):
            supernet = self.context.space.build_supernet(self._data.task)
        return supernet.to(self.context.device).to(memory_format=torch.channels_last)

    def _epoch(self, supernet: Supernet, epoch: int, step: Step) -> float:
        """One epoch, a pure function of the state before it.

        Args:
            supernet: To be trained.
            epoch: From 0.
            step: Trains on a batch; it is handed the share of the training that is over, the
                number of the step, images (N, C, H, W) and labels, and returns the loss.

        Returns:
            The mean loss.

        Raises:
            Diverged: If it is not finite.
        """
        train, normalize = self._on_device.splits[0], self._on_device.normalize
        device, seed = train.labels.device, self._seed(f"epoch {epoch}")
        rng = torch.Generator(device).manual_seed(seed)
        steps = len(train) // self._batch_size
        order = torch.randperm(len(train), device=device, generator=rng)[: steps * self._batch_size]
        total = torch.zeros((), device=device)
        supernet.train()
        with seeded(seed, self.context.device):
            for number, batch in enumerate(train.batches(order, self._batch_size)):
                progress = (epoch * steps + number) / (self._epochs * steps)
                images = augmented(batch, normalize, self._augmentation, rng)
                total += step(progress, number, images, batch[2])
        mean_loss = total.item() / steps
        if not math.isfinite(mean_loss):
            raise Diverged(f"the {self._kind}'s loss is {mean_loss} after epoch {epoch + 1}")
        return mean_loss

    def _train(
        self,
        network: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        digest: str,
        train_epoch: Callable[[int], object],
    ) -> None:
        """Train all epochs, or load what was trained, from a file in the run folder."""
        folder = self.context.run_dir
        path = None if folder is None else folder / FOLDER / f"{self._kind}.safetensors"
        EpochwiseTraining(network, optimizers, digest).train(self._epochs, train_epoch, path)

    def _digest(self, **settings: Any) -> str:
        """Hash of all that the training depends on: these settings, data, seed, and shapes."""
        with torch.device("meta"):
            empty = self.context.space.build_supernet(self._data.task)
        settings |= {
            "version": 1,
            "seed": self.context.seed,
            "epochs": [self._epochs, self._batch_size, self._augmentation],
            "data": [self._data.fingerprint, *self._data.train.images.shape],
            "shapes": {name: list(p.shape) for name, p in empty.named_parameters()},
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def _seed(self, purpose: str) -> int:
        return zlib.crc32(f"{self.context.seed}/{self._kind}/{purpose}".encode())


class EpochwiseTraining:
    """A training that is saved after every epoch, and goes on after the last whole one.

    Args:
        network: What is trained; its buffers are not kept.
        optimizers: Of parts of it.
        digest: Hash of all that the training depends on: a file of another one is not taken.
    """

    def __init__(
        self, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], digest: str
    ) -> None:
        self._network, self._optimizers, self._digest = network, optimizers, digest

    def train(self, epochs: int, train_epoch: Callable[[int], object], path: Path | None) -> None:
        """Train, or load what another process trained while this one waited for it.

        Args:
            epochs: In all.
            train_epoch: Trains the epoch of that number, from 0; a pure function of the state.
            path: Of the file; None: nothing is kept.
        """
        if path is None:
            for epoch in range(epochs):
                train_epoch(epoch)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            for epoch in range(self._load(path), epochs):
                train_epoch(epoch)
                self._save(path, epoch + 1, whole=epoch + 1 == epochs)

    def _save(self, path: Path, epochs: int, whole: bool) -> None:
        """Keep the weights and, while more epochs are to come, the optimizers' state."""
        tensors: dict[str, torch.Tensor] = dict(self._network.named_parameters())
        names = {parameter: name for name, parameter in tensors.items()}
        for optimizer in () if whole else self._optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    if isinstance(value, torch.Tensor):  # not None: momentum of what had no step
                        tensors[f"{key}/{names[parameter]}"] = value
        write_weights(path, tensors, {"digest": self._digest, "epochs": str(epochs)})

    @torch.no_grad()
    def _load(self, path: Path) -> int:
        """Take over what an earlier process trained; returns its epochs, 0 if there is nothing."""
        if not path.exists():
            return 0
        try:
            tensors, about = read_weights(path)
            if about.get("digest") != self._digest:
                raise BadWeights(f"{path}: is a supernet of other settings")
        except BadWeights as error:
            warnings.warn(f"{error}; training the supernet anew", RuntimeWarning, stacklevel=2)
            return 0
        parameters = dict(self._network.named_parameters())
        for name, parameter in parameters.items():
            parameter.copy_(tensors.pop(name))
        owners = {p: o for o in self._optimizers for g in o.param_groups for p in g["params"]}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            parameter = parameters[name]
            # As torch's own load_state_dict: counters of steps stay on the CPU.
            moved = value.to(parameter) if value.shape == parameter.shape else value
            owners[parameter].state[parameter][kind] = moved
        return int(about["epochs"])


def calibrate(network: nn.Module, data: OnDevice, seed: int, batch_size: int, batches: int) -> None:
    """Average the normalisation statistics over some training images.

    Args:
        network: On the data's device.
        data: Where the images are.
        seed: Which images: those of one seed are the same for all networks.
        batch_size: Images a batch; an incomplete one is left out.
        batches: At most so many.
    """
    network.to(memory_format=torch.channels_last).train()
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.reset_running_stats()
            module.momentum = None  # the plain average
    train, normalize = data.splits[0], data.normalize
    device = train.labels.device
    rng = torch.Generator(device).manual_seed(seed)
    order = torch.randperm(len(train), device=device, generator=rng)
    with torch.inference_mode():
        for images, index, _ in train.batches(order[: batch_size * batches], batch_size):
            if len(index) == batch_size:
                network(normalize(images[index].permute(0, 3, 1, 2)))
