"""A user's own images, in folders or in a list."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evonas.datasets.base import Dataset, held_out
from evonas.datasets.parts import images
from evonas.datasets.parts.cache import decoded
from evonas.datasets.parts.listing import SPLITS, Listing, Picture, listed
from evonas.errors import DataError
from evonas.recipe.options import Count, Natural, Share
from evonas.training.data import Arrays, Images, Labels


class ImageFolder(Dataset):
    """A user's own images: ``CLASS/…``, or ``train/CLASS/…`` with ``val`` and ``test`` if there.

    A class's pictures may lie in subfolders. The splits' folders may be called ``training``;
    ``valid``, ``validation`` or ``dev``; ``testing``; in any case of letters. Instead of folders a
    CSV file may say it, which is the path or is called ``metadata.csv``: a header, a column
    ``path`` (or ``file_name``, …), a column ``label``, and perhaps a column ``split``.

    Pictures are turned as their EXIF orientation says, of animations the first frame is taken, and
    more than eight bits are scaled (``parts.images.scaled``).

    Args:
        path: The folder or the list.
        size: Pixels a side; default: as they are, if they are all of one size.
        test: Share of the training images that is the test split, if there is none.
        seed: Of that choice.
        strict: Refuse files that are no pictures or broken, instead of passing over them.
    """

    def __init__(
        self,
        path: Path = Path("data"),
        size: Count | None = None,
        test: Share = 0.2,
        seed: Natural = 0,
        strict: bool = False,
    ) -> None:
        self._path, self._size, self._test, self._seed = path, size, test, seed
        self._strict = strict

    def read(self) -> Arrays:
        """Grey if all images are, else colour; cut to their centre if they are not square."""
        listing = listed(self._path)
        classes = self._classes(listing)
        if not listing.part("test"):  # before decoding: the images need not be copied then
            training = listing.part("train")
            labels = _labels(training, classes)
            for number in held_out(labels, self._test, self._seed, classes)[1]:
                training[number].split = "test"
        form = images.form([picture.header for picture in listing.pictures], self._size)
        arrays: dict[str, tuple[Images, Labels]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for split in SPLITS:
            if pictures := listing.part(split):
                paths = [picture.path for picture in pictures]
                pixels, unreadable = decoded(paths, *form)
                listing.skipped.update((paths[n], why) for n, why in unreadable.items())
                good = [p for n, p in enumerate(pictures) if n not in unreadable]
                if not good:
                    raise DataError(f"no {split} image can be read; {listing.sentence()}")
                arrays[split] = pixels, _labels(good, classes)
                names[split] = tuple(listing.name(picture.path) for picture in good)
        if self._strict and listing.skipped:
            raise DataError(f"strict, but {listing.sentence(shown=None)}")
        return Arrays(
            arrays["train"],
            arrays["test"],
            arrays.get("val"),
            classes,
            notes=tuple(filter(None, (_variety(listing), listing.sentence()))),
            test_files=names["test"],
        )

    def _classes(self, listing: Listing) -> list[str]:
        """Those of the training images, which each split has."""
        classes = sorted({picture.label for picture in listing.part("train")})
        if len(classes) < 2:
            raise DataError(f"{self._path} needs a folder per class, at least two")
        for split in ("val", "test"):
            places = {picture.label: picture.path.parent for picture in listing.part(split)}
            if strange := places.keys() - set(classes):
                place = places[min(strange)]
                raise DataError(f"{place}: no such class among the training images")
            if places and (absent := set(classes) - places.keys()):
                raise DataError(f"{split}: no image is of class {min(absent)!r}")
        return classes


def _labels(pictures: list[Picture], classes: list[str]) -> Labels:
    numbers = {name: number for number, name in enumerate(classes)}
    return np.asarray([numbers[picture.label] for picture in pictures], np.int64)


def _variety(listing: Listing) -> str:
    """The sizes that the pictures have."""
    sizes = sorted({picture.header.size for picture in listing.pictures}, key=lambda s: s[0] * s[1])
    shown = [f"{width}×{height}" for width, height in (sizes[0], sizes[-1])]
    return "pictures of " + (shown[0] if len(sizes) == 1 else f"{shown[0]} to {shown[1]} pixels")
