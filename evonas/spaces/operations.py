"""Pieces that several spaces are made of."""

from __future__ import annotations

import torch
from torch import nn


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = True
) -> nn.Sequential:
    """A convolution that keeps the size, batch normalisation and ReLU.

    Parameters: inputs · outputs · kernel² / groups, plus 2 · outputs, plus outputs for the bias.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class MBConv(nn.Module):
    """Simplified inverted residual block: no squeeze-and-excitation, ReLU after every convolution.

    1×1 expansion to ``inner`` channels, 3×3 depthwise, 1×1 projection, each with bias, batch
    normalisation and ReLU. The shortcut is the identity, or a 1×1 convolution with bias where the
    number of channels changes. After Sandler et al., MobileNetV2, CVPR 2018.
    """

    def __init__(self, inputs: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_relu(inputs, inner),
            conv_bn_relu(inner, inner, kernel=3, groups=inner),
            conv_bn_relu(inner, outputs),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        out: torch.Tensor = self.body(x) + self.shortcut(x)
        return out


def classifier(channels: int, classes: int) -> list[nn.Module]:
    """Global average pooling and a linear layer: (channels + 1) · classes parameters."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def stages_with_pooling(stages: list[list[nn.Module]], size: int) -> list[nn.Module]:
    """The stages in a row, a 2×2 max-pooling between them for as long as there is room.

    Args:
        stages: Modules that keep the size.
        size: The smaller side of the input, pixels.
    """
    layers: list[nn.Module] = []
    for index, stage in enumerate(stages):
        if index and size >= 2:
            layers.append(nn.MaxPool2d(2))
            size //= 2
        layers += stage
    return layers
