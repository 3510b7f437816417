"""Pieces that several spaces are made of."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_SMALL = 0.01  # of a normalised channel


class ConvBNReLU(nn.Sequential):
    """A convolution that keeps the size, batch normalisation and ReLU.

    Parameters: inputs · outputs · kernel² / groups, plus 2 · outputs, plus outputs for the bias.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The normalisation."""
        return cast(nn.BatchNorm2d, self[1])

    def become_identity(self) -> None:
        """Start by passing on what comes in, as in Net2DeeperNet; no-op if channels change.

        The scale that the normalisation must undo is that of the first batch.
        """
        convolution = cast(nn.Conv2d, self[0])
        if convolution.in_channels != convolution.out_channels:
            return
        nn.init.dirac_(convolution.weight, convolution.groups)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        undo = _Undo()
        undo.handle = self.norm.register_forward_pre_hook(undo)


class _Undo:
    """Has a normalisation undo itself at its first training batch.

    An object and no closure: a copy of the network, such as a moving average, has its own.
    """

    handle: RemovableHandle

    @torch.no_grad()
    def __call__(self, norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        if not norm.training:
            return
        std, mean = torch.std_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
        norm.weight.copy_(std)
        norm.bias.copy_(mean)
        self.handle.remove()


class _Projection(nn.Conv2d):
    def become_identity(self) -> None:
        """Start by passing on the channels that both sides have, as an identity did."""
        nn.init.dirac_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class MBConv(nn.Module):
    """Simplified inverted residual block: no squeeze-and-excitation, ReLU after every convolution.

    1×1 expansion to ``inner`` channels, 3×3 depthwise, 1×1 projection, each with bias, batch
    normalisation and ReLU. The shortcut is the identity, or a 1×1 convolution with bias where the
    number of channels changes. After Sandler et al., MobileNetV2, CVPR 2018.
    """

    def __init__(self, inputs: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBNReLU(inputs, inner),
            ConvBNReLU(inner, inner, kernel=3, groups=inner),
            ConvBNReLU(inner, outputs),
        )
        self.shortcut = nn.Identity() if inputs == outputs else _Projection(inputs, outputs, 1)

    def become_identity(self) -> None:
        """Start with next to nothing beside the shortcut; no-op if channels change."""
        if isinstance(self.shortcut, nn.Identity):
            # Not zero: behind the last ReLU nothing would ever flow back.
            nn.init.constant_(cast(ConvBNReLU, self.body[2]).norm.weight, _SMALL)

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
    return list(named_stages(stages, size).values())


def named_stages(stages: list[list[nn.Module]], size: int) -> OrderedDict[str, nn.Module]:
    """``stages_with_pooling``, named by position: ``stage1_block1``, ``pool1``, ….

    Where a module comes in the network depends on the depth of the stages before it, its name does
    not: a mutant shares the names, and so the weights, of all that the mutation left alone.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, stage in enumerate(stages):
        if index and size >= 2:
            layers[f"pool{index}"] = nn.MaxPool2d(2)
            size //= 2
        for number, block in enumerate(stage, start=1):
            layers[f"stage{index + 1}_block{number}"] = block
    return layers


def named_classifier(channels: int, classes: int) -> OrderedDict[str, nn.Module]:
    """``classifier`` with names: ``pool``, ``flatten``, ``classifier``."""
    names = ("pool", "flatten", "classifier")
    return OrderedDict(zip(names, classifier(channels, classes), strict=True))
