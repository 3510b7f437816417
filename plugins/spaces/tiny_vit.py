"""Small vision transformers, with a rule between two choices.

Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer
from evonas.spaces.base import SearchSpace
from evonas.task import Task


class TinyViT(SearchSpace):
    """Patches, a learnt position for each, and a row of transformer blocks.

    There are ``grid`` patches along the smaller side of an image, or as many as it has pixels; the
    last ones are padded with zeros. The point ``vit_tiny`` is ViT-Ti/16 for 224×224 pixels; its
    class token, learnt as it is, needs no position, so it has 192 parameters less: 5,717,224.
    """

    def __init__(self) -> None:
        self.domains = {
            "grid": Integer(2, 8, step=2),
            "width": Integer(32, 192, step=16, log=True, role="width"),
            "depth": Integer(1, 6, role="depth"),
            "heads": Categorical((1, 2, 3, 4, 6, 8), ordered=True),
            "mlp_ratio": Categorical((1, 2, 4), ordered=True),
            "pool": Categorical(("mean", "token")),
        }
        self.rules = {"heads divide the width": lambda c: c["width"] % c["heads"] == 0}
        tiny = {"grid": 14, "width": 192, "depth": 12, "heads": 3, "mlp_ratio": 4, "pool": "token"}
        self.points = {"vit_tiny": tiny}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network: (N, channels, height, width) in, logits (N, classes) out."""
        choices = architecture.choices
        width, heads = int(choices["width"]), int(choices["heads"])
        token = choices["pool"] == "token"
        parts = OrderedDict[str, nn.Module](embed=_Embed(task, int(choices["grid"]), width, token))
        for number in range(1, int(choices["depth"]) + 1):
            parts[f"block{number}"] = _Block(width, heads, width * int(choices["mlp_ratio"]))
        parts["norm"] = nn.LayerNorm(width)
        parts["pool"] = _ClassToken() if token else _Mean()
        parts["classifier"] = nn.Linear(width, task.classes)
        return nn.Sequential(parts)


class _Embed(nn.Module):
    """(N, channels, H, W) to (N, tokens, width): the class token, if there is one, and patches."""

    def __init__(self, task: Task, grid: int, width: int, token: bool) -> None:
        super().__init__()
        patch = math.ceil(min(task.height, task.width) / grid)
        rows, columns = math.ceil(task.height / patch), math.ceil(task.width / patch)
        self.pad = nn.ZeroPad2d((0, columns * patch - task.width, 0, rows * patch - task.height))
        self.patches = nn.Conv2d(task.channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(rows * columns, width))
        self.token = nn.Parameter(0.02 * torch.randn(width)) if token else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(self.pad(images)).flatten(2).mT + self.position
        token = [] if self.token is None else [self.token.expand(len(x), 1, -1)]
        return torch.cat([*token, x], dim=1)


class _Block(nn.Module):
    """Attention, then two layers on every token; each is added to what it is given."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads))
        layers = nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), *layers)

    def become_identity(self) -> None:
        """Start by passing on what comes in: a child's new blocks do its parent no harm."""
        for last in (self.attention[1].output, self.mlp[3]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class _Attention(nn.Module):
    """Softmax attention by matrix products: those of torch's fused kernels are not all counted.

    Query, key and value are layers of their own, since relatives share weights by name. A scaled
    width need not be a multiple of the heads; then they are a little narrower.
    """

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


class _ClassToken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1)
