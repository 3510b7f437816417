"""A user's own images, in a folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evonas.datasets.base import Dataset, held_out
from evonas.datasets.parts import images as decoding
from evonas.errors import DataError
from evonas.recipe.options import Count, Natural, Share
from evonas.training.data import Arrays, Labels


class ImageFolder(Dataset):
    """A user's own images: ``CLASS/*``, or ``train/CLASS/*`` with ``val`` and ``test`` if there.

    Args:
        path: The folder.
        size: Pixels a side; default: as they are, if they are all of one size.
        test: Share of the training images that is the test split, if there is no such folder.
        seed: Of that choice.
    """

    def __init__(
        self,
        path: Path = Path("data"),
        size: Count | None = None,
        test: Share = 0.2,
        seed: Natural = 0,
    ) -> None:
        self._path, self._size, self._test, self._seed = path, size, test, seed

    def read(self) -> Arrays:
        """Grey if all images are, else colour; cut to their centre if they are not square."""
        root = self._path
        if not root.is_dir():
            raise DataError(f"no folder {root}; --set dataset.path=FOLDER")
        train_dir = root / "train" if (root / "train").is_dir() else root
        classes = _subfolders(train_dir)
        if len(classes) < 2:
            raise DataError(f"{train_dir} needs a folder per class, at least two")
        files = {"train": _files(train_dir, classes)}
        if train_dir != root:
            for part in ("val", "test"):
                if (root / part).is_dir():
                    files[part] = _files(root / part, classes)
        if "test" not in files:  # before decoding: the images need not be copied then
            paths, labels = files["train"]
            halves = held_out(labels, self._test, self._seed)
            for part, indices in zip(("train", "test"), halves, strict=True):
                files[part] = [paths[i] for i in indices], labels[indices]
        form = decoding.form([path for paths, _ in files.values() for path in paths], self._size)
        parts = {name: (decoding.decode(paths, *form), y) for name, (paths, y) in files.items()}
        return Arrays(parts["train"], parts["test"], parts.get("val"), classes)


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path, classes: list[str]) -> tuple[list[Path], Labels]:
    paths: list[Path] = []
    labels: list[int] = []
    suffixes = set(Image.registered_extensions())
    if strange := set(_subfolders(folder)) - set(classes):
        raise DataError(f"{folder / min(strange)}: no such class among the training images")
    for label, name in enumerate(classes):
        images = [p for p in sorted((folder / name).glob("[!.]*")) if p.suffix.lower() in suffixes]
        if not images:
            raise DataError(f"{folder / name}: the class folder holds no images")
        paths += images
        labels += [label] * len(images)
    return paths, np.asarray(labels, np.int64)
