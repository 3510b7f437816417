"""Small vision transformers, with a rule between two choices and a count by hand.

Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer
from evonas.spaces.base import SearchSpace, Task


class TinyViT(SearchSpace):
    """Patches, a learnt position for each, and a row of transformer blocks.

    There are ``grid`` patches along the smaller side of an image, padded with zeros. The point
    ``vit_tiny`` is ViT-Ti/16 for 224×224 pixels, with the mean of the patches for a class token.
    """

    def __init__(self) -> None:
        self.domains = {
            "grid": Integer(2, 8, step=2),
            "width": Integer(32, 192, step=16, log=True, role="width"),
            "depth": Integer(1, 6, role="depth"),
            "heads": Categorical((1, 2, 3, 4, 6, 8), ordered=True),
            "mlp_ratio": Categorical((1, 2, 4), ordered=True),
        }
        self.rules = {"heads divide the width": lambda c: c["width"] % c["heads"] == 0}
        tiny = {"grid": 14, "width": 192, "depth": 12, "heads": 3, "mlp_ratio": 4}
        self.points = {"vit_tiny": tiny}

    def costs(self, architecture: Architecture, task: Task) -> dict[str, float]:
        """Count by hand: a network on the meta device takes tens of milliseconds."""
        c = architecture.choices
        width, depth, heads = (int(c[name]) for name in ("width", "depth", "heads"))
        attended, inner = width // heads * heads, width * int(c["mlp_ratio"])
        patch, rows, columns = _patches(task, int(c["grid"]))
        pixels, tokens = task.channels * patch**2, rows * columns
        weights = 4 * width * attended + 2 * width * inner
        block = weights + 3 * attended + inner + 2 * width + 4 * width  # biases and norms
        params = (
            (pixels + 1 + tokens) * width + depth * block + 2 * width + (width + 1) * task.classes
        )
        products = tokens * pixels * width + width * task.classes
        products += depth * (tokens * weights + 2 * tokens**2 * attended)
        return {"params": float(params), "flops": 2.0 * products}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network: (N, channels, height, width) in, logits (N, classes) out."""
        choices = architecture.choices
        width, heads = int(choices["width"]), int(choices["heads"])
        parts = OrderedDict[str, nn.Module](embed=_Embed(task, int(choices["grid"]), width))
        for number in range(1, int(choices["depth"]) + 1):
            parts[f"block{number}"] = _Block(width, heads, width * int(choices["mlp_ratio"]))
        parts["norm"] = nn.LayerNorm(width)
        parts["pool"] = _Mean()
        parts["classifier"] = nn.Linear(width, task.classes)
        return nn.Sequential(parts)


def _patches(task: Task, grid: int) -> tuple[int, int, int]:
    """Pixels a side of a patch, rows and columns of patches."""
    patch = math.ceil(min(task.height, task.width) / grid)
    return patch, math.ceil(task.height / patch), math.ceil(task.width / patch)


class _Embed(nn.Module):
    """(N, channels, H, W) to (N, patches, width)."""

    def __init__(self, task: Task, grid: int, width: int) -> None:
        super().__init__()
        patch, rows, columns = _patches(task, grid)
        self.pad = nn.ZeroPad2d((0, columns * patch - task.width, 0, rows * patch - task.height))
        self.patches = nn.Conv2d(task.channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(rows * columns, width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.patches(self.pad(images)).flatten(2).mT + self.position


class _Block(nn.Module):
    """Attention, then two layers on every token; each is added to what it is given."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads))
        layers = nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), *layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class _Attention(nn.Module):
    """Softmax attention; of a scaled width that heads do not divide, they are a little narrower."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, width // heads * heads
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.output = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (layer(x) for layer in (self.query, self.key, self.value))
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)
        return self.output((weights @ value).transpose(1, 2).flatten(2))


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1)
