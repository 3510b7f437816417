"""Fashion-MNIST: Xiao, Rasul and Vollgraf, arXiv:1708.07747, 2017."""

from __future__ import annotations

from evonas.datasets.parts.torchvision import Torchvision


class FashionMNIST(Torchvision):
    """60,000 and 10,000 grey images of 28×28 pixels: ten kinds of clothes."""

    source = "FashionMNIST"
    file = "FashionMNIST/raw/train-images-idx3-ubyte and its three siblings"
