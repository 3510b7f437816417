"""A recipe's data set, looked at before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from evonas.datasets.base import load
from evonas.errors import RecipeError, StorageError
from evonas.recipe.options import bind
from evonas.recipe.registry import Registry
from evonas.recipe.schema import Recipe
from evonas.report import table
from evonas.training.data import Data

_ROWS, _COLUMNS = 24, 10  # A sheet shows so many classes, and images of each.
_INCH = 0.9  # An image is that wide on the sheet.


def read(recipe: Recipe, registry: Registry) -> Data:
    """The recipe's data set, in its three splits.

    Raises:
        EvonasError: If there is none, or it cannot be read.
    """
    if recipe.dataset is None:
        raise RecipeError("dataset: the recipe has none")
    return load(recipe.dataset, bind(registry, "dataset", recipe.dataset, "dataset"))


def counts(data: Data) -> list[str]:
    """A line a class: its number of images in each split."""
    splits = {"training": data.train, "validation": data.val, "test": data.test}
    rows = [["class", *splits]]
    numbers = [
        torch.bincount(part.labels, minlength=len(data.classes)).tolist() if part else []
        for part in splits.values()
    ]
    for name, *row in zip(data.classes, *numbers, strict=True):
        rows.append([name, *(f"{number:,}" for number in row)])
    return table.aligned(rows)


def sheet(data: Data, path: Path) -> None:
    """Write a picture of training images as networks will see them: a row a class.

    Raises:
        StorageError: If it cannot be written.
    """
    shown = data.classes[:_ROWS]
    figure = Figure(figsize=(_INCH * (_COLUMNS + 1), _INCH * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), _COLUMNS, squeeze=False)
    for label, name in enumerate(shown):
        (numbers,) = torch.nonzero(data.train.labels == label, as_tuple=True)
        # Evenly over the class, for neighbours are often pictures of one thing.
        some = numbers[torch.linspace(0, len(numbers) - 1, min(_COLUMNS, len(numbers))).long()]
        for axis in axes[label]:
            axis.set_axis_off()
        for axis, image in zip(axes[label], data.train.images[some].numpy(), strict=False):
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, "gray", vmax=255)
        axes[label][0].set_title(name, fontsize=8, loc="left")
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: a suffix of no picture
        raise StorageError(f"{path}: {error}") from error
