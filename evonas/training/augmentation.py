"""Augmentation of whole batches, on the device; nothing waits for the device.

Cutting a batch out of the data set, shifting and flipping it are two gathers of bytes (rows of
images, then pixels of rows), so this costs little more than fetching the batch. Rotation, blur and
colours need arithmetic on every pixel and cost more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

import torch
from torch.nn import functional as F

Augmentation = Literal["none", "crop", "standard", "v1", "v2"]
_ANGLE = math.radians(15)  # Rotations are by up to this, either way.
_COLOUR = 0.3  # Brightness, contrast and saturation are multiplied by 1 ± this, at most.


@dataclass(frozen=True)
class _Set:
    """What happens to images.

    Attributes:
        shift: Whether they are shifted.
        flip: One in so many, by chance, is flipped left to right; 0: none.
        rotation: Share of every batch that is rotated, by up to 15°, reflected at the border; 0…1.
        blur: Share that is blurred: the mean of 3×3 pixels.
        colour: Share that gets another brightness, contrast and saturation.
    """

    shift: bool = False
    flip: int = 0
    rotation: float = 0.0
    blur: float = 0.0
    colour: float = 0.0


_SETS: Mapping[Augmentation, _Set] = {
    "none": _Set(),
    "crop": _Set(shift=True),
    "standard": _Set(shift=True, flip=2),
    "v1": _Set(flip=2, rotation=0.5, blur=0.5),
    "v2": _Set(flip=4, rotation=0.25, blur=0.25, colour=0.5),
}


def gather(
    images: torch.Tensor, index: torch.Tensor, augmentation: Augmentation, rng: torch.Generator
) -> torch.Tensor:
    """Take images by index, shifted and flipped.

    Args:
        images: uint8, (N, height, width, channels), contiguous, on the device.
        index: int64, (B,), on the device.
        augmentation: Name of a row of ``_SETS``. Shifts are by up to an eighth of the size,
            reflected at the border.
        rng: A generator on the device.

    Returns:
        uint8, (B, height, width, channels).
    """
    changes = _SETS[augmentation]
    if not (changes.shift or changes.flip):
        return images.index_select(0, index)
    total, height, width, channels = images.shape
    count, device = len(index), images.device
    rows = _draw(_orders(height, 1, changes.shift, 0, device), count, rng)
    lines = images.view(total * height, width * channels)
    lines = lines.index_select(0, (index[:, None] * height + rows).flatten())
    columns = _draw(_orders(width, channels, changes.shift, changes.flip, device), count, rng)
    lines = lines.view(count, height, width * channels)
    return lines.gather(2, columns[:, None].expand_as(lines)).view(count, height, width, channels)


def distort(images: torch.Tensor, augmentation: Augmentation, rng: torch.Generator) -> torch.Tensor:
    """Rotate, blur and recolour some of the images of a batch.

    Which ones is drawn for each of the three; how many is not, for a number that the host does not
    know would make it wait, and working on all images would take longer.

    Args:
        images: (B, height, width, channels) in 0…255, of any dtype.
        augmentation: Name of a row of ``_SETS``.
        rng: A generator on the device.

    Returns:
        The same shape, float32 in 0…255; the very ``images`` if there is nothing to do.
    """
    changes = _SETS[augmentation]
    if not (changes.rotation or changes.blur or changes.colour):
        return images
    images = images.to(torch.float32, copy=True)
    _change(images, changes.rotation, _rotated, rng)
    _change(images, changes.blur, _blurred, rng)
    _change(images, changes.colour, _recoloured, rng)
    return images


def cutout(images: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Set a square of every image to zero, the mean of normalised images (DeVries & Taylor 2017).

    Args:
        images: (B, C, H, W); changed in place.
        size: Pixels a side. The centre lies anywhere in the image, so part of the square may not.
        rng: A generator on the device.
    """
    count, _, height, width = images.shape
    image = torch.arange(count, device=images.device)[:, None, None]
    rows, columns = _stretch(count, height, size, rng), _stretch(count, width, size, rng)
    images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]] = 0.0
    return images


def mix(
    images: torch.Tensor, labels: torch.Tensor, mixup: float, cutmix: float, rng: Random
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mix every image with its neighbour in the (shuffled) batch.

    One share is drawn for the batch from Beta(alpha, alpha). Mixup (Zhang et al., ICLR 2018) adds
    the images in this proportion; CutMix (Yun et al., ICCV 2019) replaces a rectangle of this
    area. With both given, a fair coin picks one for the batch.

    Args:
        images: float, (B, C, H, W); they may be changed in place.
        labels: (B,).
        mixup: Alpha of mixup; 0: none.
        cutmix: Alpha of CutMix; 0: none.
        rng: Lives on the host, whose numbers reach the device without waiting for it.

    Returns:
        The images, the labels of what was mixed in, and the share 0…1 of the images' own labels.
    """
    if not (mixup or cutmix):
        return images, labels, 1.0
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = rng.betavariate(alpha, alpha)
    others, other_labels = images.roll(1, 0), labels.roll(1, 0)
    if not cut:
        return images.lerp_(others, 1 - share), other_labels, share
    height, width = images.shape[2:]
    rows, columns = (_side(size, math.sqrt(1 - share), rng) for size in (height, width))
    images[:, :, rows, columns] = others[:, :, rows, columns]
    replaced = (rows.stop - rows.start) * (columns.stop - columns.start)
    return images, other_labels, 1 - replaced / (height * width)


@lru_cache(maxsize=16)  # the many small steps of making it took as long as gathering a batch
def _orders(size: int, channels: int, shift: bool, flip: int, device: torch.device) -> torch.Tensor:
    """The orders of the bytes along a side that one is drawn from: (orders, size * channels)."""
    reach = max(1, size // 8) if shift and size > 1 else 0
    shifts = torch.arange(-reach, reach + 1, device=device)[:, None]
    places = (torch.arange(size, device=device) + shifts).abs()
    places = (size - 1) - ((size - 1) - places).abs()  # reflected
    if flip:
        places = torch.cat([places] * (flip - 1) + [places.flip(1)])
    return (places[:, :, None] * channels + torch.arange(channels, device=device)).flatten(1)


def _draw(orders: torch.Tensor, count: int, rng: torch.Generator) -> torch.Tensor:
    numbers = torch.randint(len(orders), (count,), device=orders.device, generator=rng)
    return orders.index_select(0, numbers)


def _change(
    images: torch.Tensor,
    share: float,
    change: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
    rng: torch.Generator,
) -> None:
    """Change a share of the images, in place."""
    if share:
        count = math.ceil(share * len(images))
        index = torch.randperm(len(images), device=images.device, generator=rng)[:count]
        images.index_copy_(0, index, change(images.index_select(0, index), rng))


def _between(count: int, reach: float, rng: torch.Generator) -> torch.Tensor:
    """Uniform in ±reach: (count,)."""
    return torch.rand(count, device=rng.device, generator=rng) * (2 * reach) - reach


def _rotated(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    _, height, width, _ = images.shape
    angle = _between(len(images), _ANGLE, rng)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    down, across = (torch.arange(n, device=rng.device) - (n - 1) / 2 for n in (height, width))
    down = down[:, None]
    grid = torch.stack(
        [(cos * across - sin * down) * (2 / width), (sin * across + cos * down) * (2 / height)], 3
    )
    images = images.permute(0, 3, 1, 2)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return images.permute(0, 2, 3, 1)


def _blurred(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    for side in (1, 2):  # sums of slices: pooling takes ten times as long on a CPU
        last = images.shape[side] - 1
        total = images.clone()
        total.narrow(side, 1, last).add_(images.narrow(side, 0, last))
        total.narrow(side, 0, last).add_(images.narrow(side, 1, last))
        for border in (0, last):
            total.select(side, border).add_(images.select(side, border))
        images = total.div_(3)
    return images


def _recoloured(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    brightness, contrast, saturation = (
        1 + _between(len(images), _COLOUR, rng)[:, None, None, None] for _ in range(3)
    )
    images = images * brightness
    images = torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast)
    images = torch.lerp(images.mean(3, keepdim=True), images, saturation)  # a grey one stays
    return images.clamp_(0, 255)


def _stretch(count: int, length: int, size: int, rng: torch.Generator) -> torch.Tensor:
    """Positions 0…length-1, ``size`` in a row, past an end the end: (count, size)."""
    centre = torch.randint(length, (count, 1), device=rng.device, generator=rng)
    stretch = centre - size // 2 + torch.arange(size, device=rng.device)
    return stretch.clamp_(0, length - 1)


def _side(length: int, share: float, rng: Random) -> slice:
    """A share of a side round a centre anywhere on it, as far as it lies within."""
    half, centre = round(length * share) / 2, rng.randrange(length)
    return slice(max(0, math.ceil(centre - half)), min(length, math.ceil(centre + half)))
