"""Layer by layer: chains of convolutions and poolings of any length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Annotated

from pydantic import Field
from torch import nn

from evonas.architecture import Architecture, Categorical, Domain, Integer, Value
from evonas.spaces.base import Condition, Task
from evonas.spaces.parts.blocks import ConvNorm, basic, named_classifier, separable
from evonas.spaces.parts.layers import Layer, LayeredSpace

_OF_A_KERNEL = ("conv", "separable")
_OF_A_WIDTH = (*_OF_A_KERNEL, "residual")
_POOLS = ("max_pool", "avg_pool")


class Sequential(LayeredSpace):
    """A chain of up to ``max_layers`` layers, each with a type and the settings of that type.

    ``depth`` says how many there are; ``type1``, ``width1``, ``kernel1`` and so on describe them: a
    ``conv`` or ``separable`` convolution of a kernel and a width, a ``residual`` block of a width
    (BasicBlock), or a pooling that halves the size. A mutation adds, drops or changes a layer. A
    child that inherits weights finds those of its parent's layers wherever they have moved to, and
    an added layer, as wide as what it reads, starts as the identity (Elsken, Metzen and Hutter,
    Efficient multi-objective neural architecture search via Lamarckian evolution, ICLR 2019). The
    chain of layers as a space is that of Baker et al., Designing neural network architectures using
    reinforcement learning, ICLR 2017.

    Args:
        max_layers: Length of the longest chain.
        max_width: Of a layer; in steps of 8, sampled log-uniformly.
    """

    def __init__(
        self,
        max_layers: Annotated[int, Field(ge=2)] = 10,
        max_width: Annotated[int, Field(ge=8)] = 128,
    ) -> None:
        self._numbers = range(1, max_layers + 1)
        self._settings: dict[str, Domain] = {
            "type": Categorical((*_OF_A_WIDTH, *_POOLS)),
            "width": Integer(8, max_width, step=8, log=True, role="width"),
            "kernel": Integer(3, 7, step=2),
        }
        self.domains = {"depth": Integer(1, max_layers)}
        self.conditions: dict[str, Condition] = {}
        for i in self._numbers:
            self.domains |= {f"{name}{i}": domain for name, domain in self._settings.items()}
            self.conditions |= _conditions(i)
        small = [("conv", 32, 3), ("max_pool", 8, 3), ("conv", 64, 3), ("max_pool", 8, 3)]
        if max_layers >= 6:
            self.points = {"small": self._choices([*small, ("conv", 128, 3), ("residual", 128, 3)])}

    def size(self) -> int:
        """Exactly: the sum over the lengths of the number of layers to the power of the length."""
        width, kernel = self._settings["width"].size, self._settings["kernel"].size
        kinds = len(_OF_A_KERNEL) * width * kernel + width + len(_POOLS)
        return sum(kinds**length for length in self._numbers)

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        """A layer is added anywhere, one is dropped, or a setting of one is changed."""
        while True:
            yield self._mutant(parent, rng)

    def _mutant(self, parent: Architecture, rng: Random) -> Mapping[str, Value]:
        chain = _chain(parent)
        match rng.choice(("add", "drop", "change")):
            case "add" if len(chain) < len(self._numbers):
                place = rng.randint(0, len(chain))
                kind, width, kernel = (domain.sample(rng) for domain in self._settings.values())
                before = [w for k, w, _ in chain[:place] if k in _OF_A_WIDTH]
                chain.insert(place, (str(kind), before[-1] if before else int(width), int(kernel)))
            case "drop" if len(chain) > 1:
                del chain[rng.randrange(len(chain))]
            case _:
                names = [name for name in self.active(parent.choices) if name != "depth"]
                return self.changed(parent, rng.choice(names), rng)
        return self._choices(chain)

    def relatives(self, child: Architecture, parent: Architecture) -> Mapping[str, str | None]:
        """What both begin and end with is the same; between, layers of one type and place are."""
        ours, theirs = _chain(child), _chain(parent)
        begin = _common(ours, theirs)
        end = min(_common(ours[::-1], theirs[::-1]), len(ours) - begin, len(theirs) - begin)
        names: dict[str, str | None] = {}
        for i, layer in enumerate(ours):
            there = i if i < len(ours) - end else i + len(theirs) - len(ours)
            known = there < len(theirs) - end or i >= len(ours) - end
            same = known and layer[0] == theirs[there][0]
            names[f"layer{i + 1}"] = f"layer{there + 1}" if same else None
        return names

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        channels, named = task.channels, dict[str, Layer]()
        for number, (kind, width, kernel) in enumerate(_chain(architecture), start=1):
            match kind:
                case "conv":
                    layer: Layer = ConvNorm(channels, width, kernel)
                case "separable":
                    layer = separable(channels, width, kernel)
                case "residual":
                    layer = basic(channels, width)
                case _:
                    layer = Layer(nn.MaxPool2d if kind == "max_pool" else nn.AvgPool2d, 3, 2, 1)
            channels = width if kind in _OF_A_WIDTH else channels
            named[f"layer{number}"] = layer
        return named | named_classifier(channels, task.classes)

    def _choices(self, chain: list[tuple[str, int, int]]) -> dict[str, Value]:
        """Choices of a chain of (type, width, kernel)."""
        choices: dict[str, Value] = {"depth": len(chain)}
        unused = tuple(domain.values()[0] for domain in self._settings.values())
        for i in self._numbers:
            layer = chain[i - 1] if i <= len(chain) else unused
            choices |= {f"{name}{i}": v for name, v in zip(self._settings, layer, strict=True)}
        return choices


def _conditions(i: int) -> dict[str, Condition]:
    def there(choices: Mapping[str, Value]) -> bool:
        return int(choices["depth"]) >= i

    def wide(choices: Mapping[str, Value]) -> bool:
        return there(choices) and choices[f"type{i}"] in _OF_A_WIDTH

    def kernel(choices: Mapping[str, Value]) -> bool:
        return there(choices) and choices[f"type{i}"] in _OF_A_KERNEL

    return {f"type{i}": there, f"width{i}": wide, f"kernel{i}": kernel}


def _chain(architecture: Architecture) -> list[tuple[str, int, int]]:
    """(type, width, kernel) of the layers that are there."""
    c = architecture.choices
    numbers = range(1, int(c["depth"]) + 1)
    return [(str(c[f"type{i}"]), int(c[f"width{i}"]), int(c[f"kernel{i}"])) for i in numbers]


def _common(ours: list[tuple[str, int, int]], theirs: list[tuple[str, int, int]]) -> int:
    """How many layers both begin with."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
