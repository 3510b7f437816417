"""Image files → one array of uint8."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from evonas.datasets.base import line
from evonas.errors import DataError
from evonas.training.data import Images, room

_LARGEST = 256  # Larger images, in pixels a side, are not kept unless the user chose a size.
_BROKEN = (  # Pillow raises these, over its many formats.
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)


def form(paths: Sequence[Path], size: int | None) -> tuple[tuple[int, int], str]:
    """Size (width, height) and mode ("L" or "RGB") that fit all the images, from their headers.

    Args:
        paths: The files.
        size: Pixels a side that the user wants; None: as they are.

    Raises:
        DataError: If a file is broken, or the images have several sizes and nobody chose one.
    """
    sizes: set[tuple[int, int]] = set()
    grey = True
    for path in paths:
        with _opened(path) as image:
            sizes.add(image.size)
            grey = grey and image.mode in ("1", "L", "LA", "I", "I;16", "I;16B")
    mode = "L" if grey else "RGB"
    if size is not None:
        return (size, size), mode
    if len(sizes) > 1 or max(max(sizes)) > _LARGEST:
        variety = f"{len(sizes)} sizes" if len(sizes) > 1 else f"{max(sizes)} pixels"
        raise DataError(f"the images have {variety}; choose one with --set dataset.size=64")
    return sizes.pop(), mode


def decode(paths: Sequence[Path], size: tuple[int, int], mode: str) -> Images:
    """The images, cut and scaled to a size (width, height): NHWC, or NHW if the mode is "L"."""
    width, height = size
    images = room((len(paths), height, width, *((3,) if mode == "RGB" else ())))
    for place, path in enumerate(paths):
        with _opened(path) as image:
            fitted = ImageOps.fit(_eight_bits(image).convert(mode), size)  # about the centre
            images[place] = np.asarray(fitted, np.uint8)
    return images


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit image scaled to 8 bits; Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except _BROKEN as error:
        raise DataError(f"{path}: not a readable image ({line(error)})") from error
