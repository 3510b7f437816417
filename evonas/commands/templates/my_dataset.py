"""MY DATASET: say where the images come from, and what must be on the disk before."""

from __future__ import annotations

import numpy as np

from evonas import Arrays, Count, Dataset, Natural


class MyDataset(Dataset):
    """Lines in noise: the class says whether they lie, stand or cross.

    Args:
        size: Pixels a side: `dataset.size`. Also `path`, `test` and `seed` are keys that every
            recipe's dataset section has; a constructor that asks for one is given it.
        seed: Of the noise: `dataset.seed`.
        images: How many. What no section has is an option of this data set alone:
            `dataset: {name: my_dataset, images: 1000}`.
    """

    def __init__(self, size: Count = 16, seed: Natural = 0, images: Count = 600) -> None:
        self.size, self.seed, self.images = size, seed, images

    def read(self) -> Arrays:
        """Return training and test images; validation images are split off the training images."""
        rng = np.random.default_rng(self.seed)  # equal options must give equal images
        labels = np.arange(self.images) % 3
        images = rng.integers(0, 160, (self.images, self.size, self.size, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = rng.integers(self.size, size=2)
            if label != 1:
                image[row] += 80
            if label != 0:
                image[:, column] += 80
        cut = self.images * 4 // 5
        train, test = (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
        return Arrays(train, test, classes=["lying", "standing", "crossing"])
