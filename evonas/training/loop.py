"""The training loop: plain PyTorch, readable alone.

The data rest on the device as uint8, batches are cut and augmented there, and nothing waits for
the device before the end of an epoch. On a CPU the arithmetic is float32: bfloat16 autocast was
measured ten times slower where the processor lacks AVX512-BF16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from evonas.training.augmentation import Augmentation, gather
from evonas.training.data import Split

OptimizerName = Literal["sgd", "adamw"]
Report = Callable[[int, Mapping[str, float]], None]
_WARM_UP = 0.1  # share of all steps
_EVALUATION_BATCH = 512


class Diverged(RuntimeError):
    """The training loss is not finite."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; an incomplete last batch is left out.
        optimizer: ``sgd`` with Nesterov momentum 0.9, or ``adamw``.
        learning_rate: Its peak: ten per cent of the steps warm up to it, a cosine falls to zero.
        weight_decay: On all parameters.
        label_smoothing: Share of the target spread over all classes.
        augmentation: See ``augmentation.gather``.
    """

    epochs: int
    batch_size: int
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    augmentation: Augmentation


class Normalize(nn.Module):
    """Images in 0…255 to zero mean and unit variance per channel; float, (N, C, H, W)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1).clone())
        self.register_buffer("std", std.view(1, -1, 1, 1).clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise a batch (N, C, H, W) of any dtype."""
        return (images.float() - self.mean) / self.std


def fit(
    network: nn.Module,
    train: Split,
    val: Split,
    normalize: Normalize,
    settings: Settings,
    seed: int,
    report: Report,
) -> float:
    """Train a network in place.

    Args:
        network: On the device of the splits.
        train: Training images, on the device.
        val: Validation images, on the device; scored after every epoch.
        normalize: Applied to every batch.
        settings: How to train.
        seed: Seed of order and augmentation.
        report: Told (epoch, train_loss and val_accuracy) after every epoch, from 1.

    Returns:
        Validation accuracy after the last epoch, 0…1.

    Raises:
        Diverged: When the loss of an epoch is not finite.
    """
    device = train.images.device
    rng = torch.Generator(device).manual_seed(seed)
    network.to(memory_format=torch.channels_last)
    optimizer = _optimizer(network, settings)
    precision, scaler = _autocast(device)
    batch_size = min(settings.batch_size, len(train))
    steps = len(train) // batch_size
    accuracy = 0.0
    for epoch in range(settings.epochs):
        network.train()
        total = torch.zeros((), device=device)
        order = torch.randperm(len(train), device=device, generator=rng)
        for step, index in enumerate(order[: steps * batch_size].split(batch_size)):
            for group in optimizer.param_groups:
                progress = (epoch * steps + step) / (settings.epochs * steps)
                group["lr"] = settings.learning_rate * schedule(progress)
            images = gather(train.images, index, settings.augmentation, rng)
            with precision():
                logits = network(normalize(images.permute(0, 3, 1, 2)))
                loss = F.cross_entropy(
                    logits, train.labels[index], label_smoothing=settings.label_smoothing
                )
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach()
        mean_loss = total.item() / steps
        if not math.isfinite(mean_loss):
            raise Diverged(f"the training loss is {mean_loss} after epoch {epoch + 1}")
        accuracy = evaluate(network, val, normalize)
        report(epoch + 1, {"train_loss": mean_loss, "val_accuracy": accuracy})
    return accuracy


def evaluate(network: nn.Module, part: Split, normalize: Normalize) -> float:
    """Top-1 accuracy of a network, 0…1; the split must be on its device."""
    network.eval()
    precision, _ = _autocast(part.images.device)
    correct = torch.zeros((), device=part.images.device)
    with torch.inference_mode(), precision():
        for images, labels in zip(
            part.images.split(_EVALUATION_BATCH), part.labels.split(_EVALUATION_BATCH), strict=True
        ):
            logits = network(normalize(images.permute(0, 3, 1, 2)))
            correct += (logits.argmax(1) == labels).sum()
    return correct.item() / len(part)


def schedule(progress: float) -> float:
    """Share of the peak learning rate at ``progress`` 0…1: linear warm-up, then a cosine."""
    if progress < _WARM_UP:
        return (progress + 0.01) / (_WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed torch's global generators, which initialisation draws from; restore them afterwards."""
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay
    )


def _autocast(device: torch.device) -> tuple[Callable[[], torch.autocast], torch.amp.GradScaler]:
    """Mixed precision on CUDA alone: bfloat16 where the GPU has it, else float16, scaled."""
    cuda = device.type == "cuda"
    brain = cuda and torch.cuda.is_bf16_supported()
    dtype = torch.bfloat16 if brain or not cuda else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=cuda and not brain)
    return lambda: torch.autocast(device.type, dtype=dtype, enabled=cuda), scaler
