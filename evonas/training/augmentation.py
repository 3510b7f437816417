"""Augmentation of whole batches, on the device, as index arithmetic.

Cutting a batch out of the data set, shifting and flipping it is one gather with indices
(image, row, column), so augmentation costs no more than fetching the batch.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

Augmentation = Literal["none", "crop", "standard"]
AUGMENTATIONS: tuple[str, ...] = get_args(Augmentation)


def gather(
    images: torch.Tensor, index: torch.Tensor, augmentation: Augmentation, rng: torch.Generator
) -> torch.Tensor:
    """Take images by index, augmented.

    Args:
        images: uint8, (N, height, width, channels), on the device.
        index: int64, (B,), on the device.
        augmentation: ``none``; ``crop``: shift by up to an eighth of the size, reflected at the
            border; ``standard``: crop, and flip half of the images left to right.
        rng: A generator on the device.

    Returns:
        uint8, (B, height, width, channels).
    """
    if augmentation == "none":
        return images[index]
    _, height, width, _ = images.shape
    rows = _shifted(len(index), height, rng)
    columns = _shifted(len(index), width, rng)
    if augmentation == "standard":
        flip = torch.rand(len(index), 1, device=images.device, generator=rng) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted(count: int, size: int, rng: torch.Generator) -> torch.Tensor:
    """Pixel positions 0…size-1, shifted at random per image and reflected: (count, size)."""
    reach = max(1, size // 8) if size > 1 else 0
    shift = torch.randint(-reach, reach + 1, (count, 1), device=rng.device, generator=rng)
    position = (torch.arange(size, device=rng.device) + shift).abs()
    return (size - 1) - ((size - 1) - position).abs()
