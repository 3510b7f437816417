"""Weights that many networks share: trained once by whole epochs, kept in a file, calibrated."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from evonas.files import locked
from evonas.spaces.parts.supernet import BATCH_NORMS
from evonas.training.checkpoints import BadWeights, read_weights, write_weights
from evonas.training.loop import OnDevice


class OneShot:
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

    def train(self, epochs: int, train_epoch: Callable[[int], None], path: Path | None) -> None:
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
