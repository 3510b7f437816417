"""CIFAR-10: Krizhevsky, Learning multiple layers of features from tiny images, 2009."""

from __future__ import annotations

from evonas.datasets.parts.torchvision import Torchvision


class CIFAR10(Torchvision):
    """50,000 and 10,000 colour images of 32×32 pixels, ten classes."""

    source = "CIFAR10"
    file = "cifar-10-python.tar.gz, unpacked to cifar-10-batches-py"
