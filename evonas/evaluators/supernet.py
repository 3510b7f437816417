"""Weight sharing: train a supernet once, then score an architecture with its weights in seconds.

Uniform sampling of single paths and fresh batch normalisation statistics for every architecture,
as in Single Path One-Shot NAS (SPOS; Guo et al., ECCV 2020). Scores compare architectures; they
are not the accuracies of networks trained alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from random import Random

import torch
from torch import nn
from torch.nn import functional as F

from evonas.errors import InvalidArchitecture, RecipeError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.spaces.sharing import BATCH_NORMS, Supernet
from evonas.training import cost
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import FOLDER, BadWeights, read_weights, write_weights
from evonas.training.loop import Diverged, OnDevice, augmented, evaluate, schedule, seeded
from evonas.trial import Trial

_LABEL_SMOOTHING = 0.1
_MOMENTUM = "momentum_buffer"  # its name in the optimizer's state
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
        for name, value in (
            ("epochs", epochs),
            ("batch_size", batch_size),
            ("calibration_batches", calibration_batches),
        ):
            if value < 1:
                raise RecipeError(f"evaluation.{name}: must be at least 1, not {value}")
        if learning_rate <= 0:
            raise RecipeError(f"evaluation.learning_rate: must be positive, not {learning_rate}")
        if not 0 <= weight_decay < 1:
            raise RecipeError(f"evaluation.weight_decay: must be in [0, 1), not {weight_decay}")
        self._data, self._epochs = context.data, epochs
        self._on_device = OnDevice(context.data, context.device)
        self._batch_size = min(batch_size, len(context.data.train))
        self._rate, self._decay, self._augmentation = learning_rate, weight_decay, augmentation
        self._calibration = self._batch_size * calibration_batches
        try:
            with torch.device("meta"):
                context.space.build_supernet(self._data.task)
        except InvalidArchitecture as error:
            raise RecipeError(f"evaluation.name: {error}") from error

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Score the architecture with the supernet's weights, which it trains if nobody has."""
        architecture, device = trial.architecture, self.context.device
        supernet = self._supernet
        with seeded(self._seed("calibration"), device):
            network = supernet.extract(architecture).to(device)
            self._calibrate(network)
        accuracy = evaluate(network, self._on_device.splits[1], self._on_device.normalize)
        counted = cost.count(self.context.space, architecture, self._data.task)
        return {"val_accuracy": accuracy, **counted}

    def _calibrate(self, network: nn.Module) -> None:
        """Average the normalisation statistics over some training images, the same for all."""
        network.to(memory_format=torch.channels_last).train()
        for module in network.modules():
            if isinstance(module, BATCH_NORMS):
                module.reset_running_stats()
                module.momentum = None  # the plain average
        train, normalize = self._on_device.splits[0], self._on_device.normalize
        device = train.labels.device
        rng = torch.Generator(device).manual_seed(self._seed("calibration"))
        order = torch.randperm(len(train), device=device, generator=rng)
        with torch.inference_mode():
            for images, index, _ in train.batches(order[: self._calibration], self._batch_size):
                if len(index) == self._batch_size:
                    network(normalize(images[index].permute(0, 3, 1, 2)))

    @cached_property
    def _supernet(self) -> Supernet:
        """The trained supernet: of the run folder, or trained now while others wait for it."""
        with seeded(self._seed("initial"), self.context.device):
            supernet = self.context.space.build_supernet(self._data.task)
        supernet = supernet.to(self.context.device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            supernet.parameters(), self._rate, 0.9, weight_decay=self._decay, nesterov=True
        )
        if self.context.run_dir is None:
            for epoch in range(self._epochs):
                self._train_epoch(supernet, optimizer, epoch)
            return supernet
        path = self.context.run_dir / FOLDER / "supernet.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            for epoch in range(self._load(path, supernet, optimizer), self._epochs):
                self._train_epoch(supernet, optimizer, epoch)
                self._save(path, supernet, optimizer, epoch + 1)
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

    def _save(
        self, path: Path, supernet: Supernet, optimizer: torch.optim.SGD, epochs: int
    ) -> None:
        """Keep the weights and, while more epochs are to come, their momentum."""
        tensors: dict[str, torch.Tensor] = dict(supernet.named_parameters())
        if epochs < self._epochs:
            for name, parameter in supernet.named_parameters():
                momentum = optimizer.state[parameter].get(_MOMENTUM)
                if momentum is not None:  # None: on no path so far
                    tensors[f"{_MOMENTUM}/{name}"] = momentum
        write_weights(path, tensors, {"digest": self._digest, "epochs": str(epochs)})

    @torch.no_grad()
    def _load(self, path: Path, supernet: Supernet, optimizer: torch.optim.SGD) -> int:
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
        for name, parameter in supernet.named_parameters():
            parameter.copy_(tensors[name])
            momentum = tensors.get(f"{_MOMENTUM}/{name}")
            if momentum is not None:
                optimizer.state[parameter][_MOMENTUM] = momentum.to(parameter)
        return int(about["epochs"])

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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for, and hold, the lock of a file; the system frees it should the process die."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
