"""MNIST: LeCun et al., Gradient-based learning applied to document recognition, 1998."""

from __future__ import annotations

from evonas.datasets.parts.torchvision import Torchvision


class MNIST(Torchvision):
    """60,000 and 10,000 grey images of 28×28 pixels: handwritten digits."""

    source = "MNIST"
    file = "MNIST/raw/train-images-idx3-ubyte and its three siblings"
