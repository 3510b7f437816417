"""Networks of linear layers alone, across the patches of an image and across their channels.

Tolstikhin et al., MLP-Mixer: an all-MLP architecture for vision, NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer
from evonas.spaces.base import SearchSpace, Task


class MLPMixer(SearchSpace):
    """Patches, and blocks that mix the patches and then the channels.

    There are ``grid`` patches along the smaller side of an image, or as many as it has pixels; the
    last ones are padded with zeros. ``token_hidden`` is the size of the hidden layers across
    patches, ``channel_ratio`` times the width that of those across channels. The point ``s16`` is
    Mixer-S/16 for 224×224 pixels.
    """

    def __init__(self) -> None:
        self.domains = {
            "grid": Integer(2, 8, step=2),
            "width": Integer(16, 192, step=16, log=True, role="width"),
            "depth": Integer(1, 8, role="depth"),
            "token_hidden": Integer(16, 128, step=16, log=True),
            "channel_ratio": Categorical((1, 2, 4), ordered=True),
        }
        s16 = {"grid": 14, "width": 512, "depth": 8, "token_hidden": 256, "channel_ratio": 4}
        self.points = {"s16": s16}

    def costs(self, architecture: Architecture, task: Task) -> dict[str, float]:
        """Count by hand: a network on the meta device takes tens of milliseconds."""
        c = {name: int(value) for name, value in architecture.choices.items()}
        width, patch = c["width"], math.ceil(min(task.height, task.width) / c["grid"])
        tokens = math.ceil(task.height / patch) * math.ceil(task.width / patch)
        pixels, across, inner = (
            task.channels * patch**2,
            c["token_hidden"],
            width * c["channel_ratio"],
        )
        biases_and_norms = across + tokens + inner + width + 4 * width
        weights = 2 * tokens * across + 2 * width * inner
        params = (pixels + 1) * width + c["depth"] * (weights + biases_and_norms) + 2 * width
        products = tokens * pixels * width + width * task.classes
        products += c["depth"] * 2 * tokens * width * (across + inner)
        params += (width + 1) * task.classes
        return {"params": float(params), "flops": 2.0 * products}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network: (N, channels, height, width) in, logits (N, classes) out."""
        choices = {name: int(value) for name, value in architecture.choices.items()}
        width, patch = choices["width"], math.ceil(min(task.height, task.width) / choices["grid"])
        rows, columns = math.ceil(task.height / patch), math.ceil(task.width / patch)
        right, below = columns * patch - task.width, rows * patch - task.height
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            pad=nn.ZeroPad2d((0, right, 0, below)),
            patches=nn.Conv2d(task.channels, width, patch, stride=patch),
            tokens=_Tokens(),
        )
        for number in range(1, choices["depth"] + 1):
            layers[f"block{number}"] = _Block(
                rows * columns, choices["token_hidden"], width, width * choices["channel_ratio"]
            )
        layers["norm"] = nn.LayerNorm(width)
        layers["mean"] = _Mean()
        layers["classifier"] = nn.Linear(width, task.classes)
        return nn.Sequential(layers)


class _Block(nn.Module):
    """Two layers over the patches of a channel, two over the channels of a patch, both added."""

    def __init__(self, tokens: int, token_hidden: int, width: int, channel_hidden: int) -> None:
        super().__init__()
        self.token_norm, self.token_mlp = nn.LayerNorm(width), _mlp(tokens, token_hidden)
        self.channel_norm, self.channel_mlp = nn.LayerNorm(width), _mlp(width, channel_hidden)

    def become_identity(self) -> None:
        """Start by passing on what comes in: a child's new blocks do its parent no harm."""
        for mlp in (self.token_mlp, self.channel_mlp):
            nn.init.zeros_(mlp[2].weight)
            nn.init.zeros_(mlp[2].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, tokens, width) to the same."""
        x = x + self.token_mlp(self.token_norm(x).mT).mT
        return x + self.channel_mlp(self.channel_norm(x))


def _mlp(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))


class _Tokens(nn.Module):
    """(N, width, rows, columns) to (N, tokens, width)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).mT


class _Mean(nn.Module):
    """(N, tokens, width) to (N, width)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1)
