"""Image files → one array of uint8."""

from __future__ import annotations

import math
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
# A small file may say that it is an enormous picture, so none is decoded that takes more than this:
# bytes a pixel are those of the decoder, a copy in another mode, and what Pillow keeps beside.
_MOST_BYTES, _BYTES, _MORE_BYTES = 480e6, 8, 16
_HUNGRY = ("WEBP", "JPEG2000")  # These formats need the more, and so do CMYK and the deep modes.
_CHUNK = 2**20  # So many numbers are scaled at once: as float64 they take several times their room.
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
    with _reading(path), _opened(path) as image:
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
            with _reading(path), _opened(path) as image:
                image.load()
                image.getexif()  # which is kept
            upright = _eight_bits(image)
            with _reading(path):
                ImageOps.exif_transpose(upright, in_place=True)
                # As it is, if it will do: large pictures are not copied for nothing.
                plain = upright if upright.mode == mode else upright.convert(mode)
                fitted = ImageOps.fit(plain, size)
        except Unreadable as error:
            unreadable[number] = error.reason
        else:
            images[number - len(unreadable)] = np.asarray(fitted, np.uint8)
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
    flat = values.reshape(-1)
    parts = [flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK)]
    low = min(0.0, *(float(_numbers(part).min()) for part in parts))
    high = max(float(_numbers(part).max()) for part in parts)
    whole = high > 1 and all(np.array_equal(n, np.rint(n)) for n in map(_numbers, parts))
    if low == 0:
        tops = [2.0**bits - 1 for bits in _BITS] if whole else [1.0, 255.0]
        high = next((top for top in tops if high <= top), high)
    span = high - low + 1 if whole else high - low or 1.0
    eight: Images = np.empty(flat.shape, np.uint8)
    for start, part in zip(range(0, flat.size, _CHUNK), parts, strict=True):
        shares = (_numbers(part) - low) * ((256 if whole else 255) / span)
        eight[start : start + _CHUNK] = shares if whole else np.rint(shares)
    return eight.reshape(values.shape)


def _numbers(values: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Of what Pillow does: a file may be anything, and its readers, some forty, raise anything."""
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(_reason(path)) from error


def _opened(path: Path) -> Image.Image:
    image = Image.open(path)
    hungry = image.format in _HUNGRY or image.mode.startswith((*_DEEP, "CMYK"))
    most = _MOST_BYTES / (_MORE_BYTES if hungry else _BYTES)
    if math.prod(image.size) > most:
        image.close()
        raise Unreadable(f"of more than {most / 1e6:.0f} megapixels")
    return image


def _reason(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _FOREIGN:
        return f"{suffix[1:].upper()} without a reader"
    known = Image.registered_extensions().get(suffix) in Image.OPEN
    return "broken" if known else "no picture"
