"""CIFAR-100: Krizhevsky, Learning multiple layers of features from tiny images, 2009."""

from __future__ import annotations

from evonas.datasets.parts.torchvision import Torchvision


class CIFAR100(Torchvision):
    """50,000 and 10,000 colour images of 32×32 pixels, a hundred classes."""

    source = "CIFAR100"
    file = "cifar-100-python.tar.gz, unpacked to cifar-100-python"
