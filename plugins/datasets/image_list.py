"""Images that a CSV file lists, as labelling tools and data frames give them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from evonas import Arrays, Count, DataError, Dataset, Natural, Share
from evonas.datasets.base import held_out
from evonas.datasets.parts import images


class ImageList(Dataset):
    """Images by path and label, one a row; a third column may say in which split.

    The first four options are keys of every recipe's `dataset` section.

    Args:
        path: The CSV file, with a header; paths in it are relative to its folder.
        size: Pixels a side; default: as they are, if they are all of one size.
        test: Share of the images that are tested on, if no row says `test`.
        seed: Of that choice.
        image: Name of the column of paths.
        label: Name of the column of labels, which may be any text.
        split: Name of the column that says `train`, `val` or `test`.
    """

    def __init__(
        self,
        path: Path,
        size: Count | None = None,
        test: Share = 0.2,
        seed: Natural = 0,
        image: str = "image",
        label: str = "label",
        split: str = "split",
    ) -> None:
        self.path, self.size, self.test, self.seed = path, size, test, seed
        self.image, self.label, self.split = image, label, split

    def read(self) -> Arrays:
        """Decode them; classes are the labels in the order of the alphabet."""
        rows = self._rows()
        names = sorted({row[self.label] for row in rows})
        paths = np.array([str(self.path.parent / row[self.image]) for row in rows])
        labels = np.array([names.index(row[self.label]) for row in rows])
        parts = np.array([row.get(self.split) or "train" for row in rows])
        if unknown := set(parts.tolist()) - {"train", "val", "test"}:
            raise DataError(f"{self.path}: split {min(unknown)!r} is none of train, val, test")
        if "train" not in parts:
            raise DataError(f"{self.path}: no row is of the split 'train'")
        if "test" not in parts:
            (train,) = np.nonzero(parts == "train")
            _, test = held_out(labels[train], self.test, self.seed)
            parts[train[test]] = "test"
        # Headers first: what does not fit is refused before thousands of images were decoded.
        form = images.form([Path(path) for path in paths], self.size)
        arrays = {
            part: (
                images.decode([Path(p) for p in paths[parts == part]], *form),
                labels[parts == part],
            )
            for part in set(parts.tolist())
        }
        return Arrays(arrays["train"], arrays["test"], arrays.get("val"), names)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            raise DataError(f"no file {self.path}; --set dataset.path=FILE.csv")
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for column in (self.image, self.label):
            if not rows or not rows[0].get(column):
                raise DataError(f"{self.path}: has no column {column!r}, or no rows")
        return rows
