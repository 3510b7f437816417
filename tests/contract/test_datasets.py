"""Every data set that needs no download through the public contract kit, and broken ones."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evonas.datasets.base import Dataset
from evonas.datasets.digits import Digits
from evonas.datasets.image_folder import ImageFolder
from evonas.datasets.npz import Npz
from evonas.errors import DataError
from evonas.testing import check_dataset
from evonas.training.data import Arrays


@pytest.fixture
def folder() -> Path:
    noise = np.random.default_rng(0)
    for name in "ab":
        for number in range(20):
            path = Path("images", name, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    return Path("images")


def test_digits_keep_the_contract() -> None:
    assert check_dataset(Digits) == []
    assert check_dataset(partial(Digits, test=0.5, seed=3)) == []


def test_files_keep_the_contract(images: Callable[..., Path], folder: Path) -> None:
    assert check_dataset(partial(Npz, images())) == []
    assert check_dataset(partial(ImageFolder, folder)) == []
    assert check_dataset(partial(ImageFolder, folder, size=6), size=6) == []


def test_where_there_is_nothing_the_kit_says_what_the_data_set_says() -> None:
    with pytest.raises(DataError, match="no file absent"):
        check_dataset(partial(Npz, Path("absent.npz")))


class Good(Dataset):
    """Noise; the data sets below each break one promise."""

    calls = itertools.count()

    def __init__(self, size: int = 8) -> None:
        self.size = size

    def read(self) -> Arrays:
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (90, self.size, self.size, 3), np.uint8)
        y = np.arange(90) % 3
        return self.change(x[:60], y[:60], x[60:], y[60:])

    def change(self, x: Any, y: Any, x_test: Any, y_test: Any) -> Arrays:
        return Arrays((x, y), (x_test, y_test), classes=("a", "b", "c"))


Change = Callable[..., Any]
BROKEN: Mapping[str, tuple[Change, str]] = {
    "raises": (lambda *_: 1 / 0, "read: raises ZeroDivisionError"),
    "returns something else": (
        lambda self, x, y, *test: (x, y),
        r"read: returns tuple, not evonas\.Arrays",
    ),
    "channels first": (
        lambda self, x, y, *test: Arrays((x.transpose(0, 3, 1, 2), y), test),
        "read: x_train must be .N, height, width",
    ),
    "floats": (lambda self, x, y, *test: Arrays((x / 255, y), test), "read: x_train must be uint8"),
    "labels out of range": (
        lambda self, x, y, x_test, y_test: Arrays((x, y), (x_test, y_test + 1)),
        "read: y_test has labels 1…3, out of range for 3 classes",
    ),
    "never the same": (
        lambda self, x, y, *test: Arrays((x + np.uint8(next(self.calls)), y), test),
        "read: gives other images each time; seed whatever is random",
    ),
    "a class without images": (
        lambda self, x, y, *test: Arrays((x, y), test, classes=("a", "b", "c", "d")),
        "read: no train image is of class 'd'",
    ),
    "a class without test images": (
        lambda self, x, y, x_test, y_test: Arrays((x, y), (x_test, y_test % 2)),
        "read: no test image is of class '2'",
    ),
    "tests on what it trains": (
        lambda self, x, y, *test: Arrays((x, y), (x[:30], y[:30])),
        "read: 100% of the test images are training images",
    ),
}


def test_the_kit_accepts_a_good_data_set() -> None:
    assert check_dataset(Good) == []
    assert check_dataset(partial(Good, 16), size=16) == []


@pytest.mark.parametrize("what", BROKEN)
def test_the_kit_names_what_is_broken(what: str) -> None:
    change, finding = BROKEN[what]
    problem = check_dataset(type("Broken", (Good,), {"change": change}))[0]
    assert re.match(finding, problem), problem


def test_a_size_that_is_not_given() -> None:
    assert check_dataset(Good, size=16) == ["read: was asked for 16×16 pixels and gives 8×8"]
