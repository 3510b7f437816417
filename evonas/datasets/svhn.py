"""SVHN: Netzer et al., Reading digits in natural images, NIPS workshop 2011."""

from __future__ import annotations

from evonas.datasets.parts.torchvision import Torchvision


class SVHN(Torchvision):
    """73,257 and 26,032 colour images of 32×32 pixels: digits of house numbers."""

    source = "SVHN"
    file = "train_32x32.mat and test_32x32.mat"
    splits = ({"split": "train"}, {"split": "test"})
