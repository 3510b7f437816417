"""Handwritten digits that scikit-learn bundles (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from evonas.datasets.base import Dataset, held_out
from evonas.recipe.options import Natural, Share
from evonas.training.data import Arrays


class Digits(Dataset):
    """1,797 real 8×8 digits; nothing is downloaded.

    Args:
        test: Share of the images that is the test split, stratified.
        seed: Of that choice.
    """

    def __init__(self, test: Share = 0.2, seed: Natural = 0) -> None:
        self._test, self._seed = test, seed

    def read(self) -> Arrays:
        """Grey images, scaled from 0…16 to 0…255."""
        bundle = load_digits()
        images = (bundle.images * 255 / 16).round().astype(np.uint8)
        train, test = (
            (images[part], bundle.target[part])
            for part in held_out(bundle.target, self._test, self._seed)
        )
        return Arrays(train, test, classes=[str(n) for n in bundle.target_names])
