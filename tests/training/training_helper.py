"""Tiny networks on images that are told apart by their colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import nn

from evonas.spaces.base import Task
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.data import Split
from evonas.training.loop import Normalize, Settings, fit, seeded

TASK = Task(channels=3, height=8, width=8, classes=3)
NORMALIZE = Normalize(torch.full((3,), 100.0), torch.full((3,), 60.0))
SETTINGS = Settings(
    epochs=2,
    batch_size=16,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    label_smoothing=0.1,
    augmentation="standard",
)


def separable(count: int, seed: int = 0) -> Split:
    """Noise, brighter in the channel that is the class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % TASK.classes
    images = torch.randint(0, 120, (count, 8, 8, 3), generator=rng)
    images += 80 * nn.functional.one_hot(labels, 3)[:, None, None, :]
    return Split(images.to(torch.uint8), labels)


def network(seed: int = 0) -> nn.Module:
    space = PlainCNN(1, 8)
    with seeded(seed, "cpu"):
        return space.build(space.sample(Random(0)), TASK)


def train(
    built: nn.Module | None = None,
    seed: int = 0,
    images: int = 50,
    streamed: bool = False,
    **changes: Any,
) -> tuple[float, nn.Module, list[tuple[int, Mapping[str, float]]]]:
    """Accuracy, network and curve; ``changes`` of the settings."""
    built = built or network(seed)
    curve: list[tuple[int, Mapping[str, float]]] = []
    scores = fit(
        built,
        replace(separable(images), streamed=streamed),
        replace(separable(30, seed=1), streamed=streamed),
        NORMALIZE,
        replace(SETTINGS, **changes),
        seed,
        lambda step, metrics: curve.append((step, metrics)),
    )
    return scores["val_accuracy"], built, curve
