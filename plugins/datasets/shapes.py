"""Drawn shapes: a data set that needs no file, as easy or as hard as one wants."""

from __future__ import annotations

import numpy as np

from evonas import Arrays, Count, Dataset, Natural, NonNegative


class Shapes(Dataset):
    """Discs, squares, crosses and rings of any place, size and brightness, in noise.

    `size` and `seed` are keys of every recipe's `dataset` section; the others are its own.

    Args:
        size: Pixels a side.
        seed: Of everything that is random.
        images: Training images; there are a quarter as many to test on.
        noise: Standard deviation of the noise, of 0…255.
    """

    def __init__(
        self,
        size: Count = 16,
        seed: Natural = 0,
        images: Count = 2000,
        noise: NonNegative = 20.0,
    ) -> None:
        self.size, self.seed, self.images, self.noise = size, seed, images, noise

    def read(self) -> Arrays:
        """The classes in turn, so that each has as many images as the others."""
        rng = np.random.default_rng(self.seed)
        names = list(_INSIDE)
        parts = []
        for count in (self.images, max(self.images // 4, len(names))):
            labels = np.arange(count) % len(names)
            images = [self._draw(names[label], rng) for label in labels]
            parts.append((np.stack(images), labels))
        train, test = parts
        return Arrays(train, test, classes=names)

    def _draw(self, name: str, rng: np.random.Generator) -> np.ndarray:
        radius = rng.uniform(0.2, 0.35) * self.size
        place = rng.uniform(radius, self.size - radius, 2)
        y, x = (np.indices((self.size, self.size)) + 0.5 - place[:, None, None]) / radius
        image = 60 + rng.uniform(60, 140) * _INSIDE[name](np.abs(x), np.abs(y))
        image += rng.normal(0, self.noise, image.shape)
        return image.clip(0, 255).astype(np.uint8)


_INSIDE = {  # Whether a point is inside, by its distance from the centre along x and y, in radii.
    "disc": lambda x, y: np.hypot(x, y) < 1,
    "square": lambda x, y: np.maximum(x, y) < 0.85,
    "cross": lambda x, y: (np.minimum(x, y) < 0.35) & (np.maximum(x, y) < 1),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.8) < 0.25,
}
