"""A space with a mutation of its own: a list of blocks that grows, shrinks and changes.

The list has a variable length, the domains do not: ``depth`` says how many of the blocks are there,
and ``conditions`` say that the others have no effect, so that equal networks are one architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Annotated

from pydantic import Field

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.spaces.base import Task
from evonas.spaces.parts.blocks import ConvNorm, named_classifier, named_stages
from evonas.spaces.parts.layers import Layer, LayeredSpace, Sum


class ResidualChain(LayeredSpace):
    """A stem and a chain of residual blocks, max-pooling between them.

    Args:
        max_blocks: Length of the longest chain.
    """

    def __init__(self, max_blocks: Annotated[int, Field(ge=2)] = 6) -> None:
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
        stages: list[list[Layer]] = [[ConvNorm(task.channels, channels)]]
        for kernel in self._chain(architecture):  # the input plus a convolution of it
            stages.append([Sum(ConvNorm(channels, channels, int(kernel)))])
        named = named_stages(stages, min(task.height, task.width))
        return named | named_classifier(channels, task.classes)

    def _chain(self, architecture: Architecture) -> list[Value]:
        """Kernel sizes of the blocks that are there."""
        depth = int(architecture.choices["depth"])
        return [architecture.choices[name] for name in self._blocks[:depth]]
