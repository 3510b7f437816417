"""A space with a mutation of its own: a list of blocks that grows, shrinks and changes.

The list has a variable length, the domains do not: ``depth`` says how many of the blocks are there,
and ``conditions`` say that the others have no effect, so that equal networks are one architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

import torch
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.errors import RecipeError
from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import ConvNorm, named_classifier, named_stages
from evonas.spaces.parts.layers import Layer, LayeredSpace, Meter


class ResidualChain(LayeredSpace):
    """A stem and a chain of residual blocks, max-pooling between them.

    Args:
        max_blocks: Length of the longest chain.
    """

    def __init__(self, max_blocks: int = 6) -> None:
        if max_blocks < 2:
            raise RecipeError(f"space.max_blocks: must be at least 2, not {max_blocks}")
        self._kernel = Categorical((3, 5, 7))
        self._blocks = [f"block{i}" for i in range(1, max_blocks + 1)]
        self.domains = {
            "channels": Integer(8, 64, step=8, log=True, role="width"),
            "depth": Integer(1, max_blocks, role="depth"),
            **dict.fromkeys(self._blocks, self._kernel),
        }
        self.conditions = {
            name: lambda choices, i=i: choices["depth"] >= i
            for i, name in enumerate(self._blocks, start=1)
        }

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Insert or remove a block anywhere, or do as every space does and change one choice."""
        changed = super().mutants(parent, rng)
        while True:
            chain = self._chain(parent)
            match rng.choice(("insert", "remove", "change")):
                case "insert" if len(chain) < len(self._blocks):
                    chain.insert(rng.randint(0, len(chain)), self._kernel.sample(rng))
                case "remove" if len(chain) > 1:
                    del chain[rng.randrange(len(chain))]
                case _:
                    yield next(changed)
                    continue
            blocks = dict(zip(self._blocks, chain, strict=False))
            yield {**parent.choices, "depth": len(chain), **blocks}

    def layers(self, architecture: Architecture, task: Task) -> dict[str, Layer]:
        """The network's layers, from which it is built and counted."""
        channels = int(architecture.choices["channels"])
        stages = [[Layer(ConvNorm, task.channels, channels)]]
        stages += [
            [Layer(_Residual, channels, int(kernel))] for kernel in self._chain(architecture)
        ]
        named = named_stages(stages, min(task.height, task.width))
        return named | named_classifier(channels, task.classes)

    def _chain(self, architecture: Architecture) -> list[Value]:
        """Kernel sizes of the blocks that are there."""
        depth = int(architecture.choices["depth"])
        return [architecture.choices[name] for name in self._blocks[:depth]]


class _Residual(nn.Module):
    """The input plus a convolution of it."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.body = ConvNorm(channels, channels, kernel)

    @staticmethod
    def cost(meter: Meter, channels: int, kernel: int) -> None:
        """Of the convolution: adding is free."""
        ConvNorm.cost(meter, channels, channels, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.body(x))
