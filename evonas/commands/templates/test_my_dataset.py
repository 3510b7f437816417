"""The data set through the public contract kit, and whatever is special about it."""

from __future__ import annotations

from pathlib import Path

from evonas import Registry
from evonas.testing import check_dataset

PLUGINS = Path(__file__).parents[1]
MyDataset = Registry((PLUGINS,)).find("dataset", "my_dataset")


def test_it_keeps_the_contract() -> None:
    assert check_dataset(MyDataset) == []
    assert check_dataset(lambda: MyDataset(size=12), size=12) == []


def test_lines_are_brighter_than_the_noise() -> None:
    images, labels = MyDataset(images=30).read().train
    rows, columns = images.mean(axis=(2, 3)).max(axis=1), images.mean(axis=(1, 3)).max(axis=1)
    for row, column, label in zip(rows, columns, labels, strict=True):
        assert (row > 110, column > 110) == (label != 1, label != 0)
