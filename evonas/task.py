"""Task: what a network must fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Image classification of a given shape.

    Attributes:
        channels: Image channels: 1 greyscale, 3 RGB.
        height: Pixels.
        width: Pixels.
        classes: Number of classes; the network returns logits of shape (N, classes).
    """

    channels: int
    height: int
    width: int
    classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), the shape of one input without the batch dimension."""
        return self.channels, self.height, self.width
