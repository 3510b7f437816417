"""Image files → one array of uint8."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

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
# Cameras and scanners write these; without a plugin for Pillow nothing here reads them.
_FOREIGN = {".heic", ".heif", ".avif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".nef", ".arw"}
_SIDEWAYS = range(5, 9)  # These EXIF orientations swap width and height.
_DEEP = ("I", "F")  # Modes of more than eight bits begin so.
_BITS = (8, 12, 16)  # Integers are taken to be of the least of these depths that holds them.


class Unreadable(Exception):
    """A file is no picture that can be read.

    Attributes:
        reason: Why, in a few words that follow a number of files.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Header(NamedTuple):
    """What an image's first bytes say.

    Attributes:
        size: Width and height, as the image is to be seen.
        grey: Whether it has one channel.
    """

    size: tuple[int, int]
    grey: bool


def header(path: Path) -> Header:
    """Read an image's header.

    Raises:
        Unreadable: If it is no image, or none that can be read.
    """
    with _opened(path) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
            width, height = height, width
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        return Header((width, height), grey)


def form(headers: Iterable[Header], size: int | None) -> tuple[tuple[int, int], str]:
    """Size (width, height) and mode ("L" or "RGB") that fit all the images.

    Args:
        headers: Of all images.
        size: Pixels a side that the user wants; None: as they are.

    Raises:
        DataError: If the images have several sizes and nobody chose one.
    """
    sizes, modes = (set(column) for column in zip(*headers, strict=True))
    mode = "L" if modes == {True} else "RGB"
    if size is not None:
        return (size, size), mode
    if len(sizes) > 1 or max(max(sizes)) > _LARGEST:
        variety = f"{len(sizes)} sizes" if len(sizes) > 1 else f"{max(sizes)} pixels"
        raise DataError(f"the images have {variety}; choose one with --set dataset.size=64")
    return sizes.pop(), mode


def decode(
    paths: Sequence[Path], size: tuple[int, int], mode: str
) -> tuple[Images, dict[int, str]]:
    """The images, turned upright, cut and scaled about their centre.

    Args:
        paths: The files.
        size: Width and height.
        mode: "L" or "RGB".

    Returns:
        Those that can be read, NHWC, or NHW if the mode is "L"; and why the others cannot, by their
        places in ``paths``.
    """
    width, height = size
    images = room((len(paths), height, width, *((3,) if mode == "RGB" else ())))
    unreadable: dict[int, str] = {}
    for number, path in enumerate(paths):
        try:
            with _opened(path) as image:
                upright = ImageOps.exif_transpose(_eight_bits(image))
                fitted = ImageOps.fit(upright.convert(mode), size)
                images[number - len(unreadable)] = np.asarray(fitted, np.uint8)
        except Unreadable as error:
            unreadable[number] = error.reason
    return images[: len(paths) - len(unreadable)], unreadable


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of more bits scaled to eight, by its range; Pillow's own conversion clips it."""
    if not image.mode.startswith(_DEEP):
        return image
    eight = Image.fromarray(scaled(np.asarray(image)))
    eight.getexif().update(image.getexif())
    return eight


def scaled(values: npt.NDArray[np.number]) -> Images:
    """Numbers of any range as 0…255.

    Whole numbers are taken as of 8, 12 or 16 bits, whichever holds them; larger or negative ones by
    their own range. Others are taken as of 0…1 or 0…255 if these hold them, else by their own
    range. What is not finite is black.
    """
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = min(0.0, float(values.min())), float(values.max())
    if high > 1 and (values == np.rint(values)).all():
        high = next((2.0**bits - 1 for bits in _BITS if low == 0 and high < 2**bits), high)
        return ((values - low) * (256 / (high - low + 1))).astype(np.uint8)
    high = next((top for top in (1.0, 255.0) if low == 0 and high <= top), high)
    eight: Images = np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
    return eight


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except _BROKEN as error:
        raise Unreadable(_reason(path)) from error


def _reason(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _FOREIGN:
        return f"{suffix[1:].upper()} without a reader"
    known = Image.registered_extensions().get(suffix) in Image.OPEN
    return "broken" if known else "no picture"
