"""AnyNetX, the design spaces that RegNet was found in, from the widest to the narrowest.

Radosavovic, Kosaraju, Girshick, He and Dollár, Designing network design spaces, CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from evonas.architecture import Architecture, Categorical, Domain, Integer, Value
from evonas.recipe.options import Count
from evonas.spaces.base import Condition, Task, divisible
from evonas.spaces.parts.blocks import ConvNorm, bottleneck, named_classifier
from evonas.spaces.parts.layers import Layer, LayeredSpace

_STAGES = range(1, 5)


class Stage(NamedTuple):
    """Blocks of one width: their number, channels, channels per inner channel and per group."""

    depth: int
    width: int
    ratio: int
    group_width: int


def fitted(stage: Stage) -> Stage:
    """The stage with whole groups, as it is built.

    A group is no wider than the inner width, which is rounded to a multiple of it: pycls's and
    torchvision's rule, with torchvision's rounding.
    """
    inner = max(1, stage.width // stage.ratio)
    group_width = min(stage.group_width, inner)
    width = divisible(inner, group_width) * stage.ratio
    return stage._replace(width=width, group_width=group_width)


def least_group_width(options: Iterable[Value], stages: Sequence[Stage]) -> int:
    """The smallest of ascending ``options`` that gives the stages the groups that they have."""
    used = max(fitted(stage).group_width for stage in stages)
    return next(int(option) for option in options if int(option) >= used)


def named_layers(
    stages: Sequence[Stage], task: Task, stem_width: int, stem_stride: int, se: bool = False
) -> dict[str, Layer]:
    """A 3×3 stem, the stages, each of which halves the size, and a classifier.

    Args:
        stages: They are fitted here.
        task: What the network is for.
        stem_width: Channels of the stem.
        stem_stride: Of the stem.
        se: Whether the blocks have squeeze-and-excitation, to a quarter of their input.
    """
    channels = stem_width
    named: dict[str, Layer] = {"stem": ConvNorm(task.channels, channels, 3, stem_stride)}
    for i, stage in enumerate(map(fitted, stages), start=1):
        inner = max(1, stage.width // stage.ratio)
        groups = inner // stage.group_width
        for number in range(1, stage.depth + 1):
            stride, squeezed = 2 if number == 1 else 1, max(1, round(channels / 4)) if se else 0
            named[f"stage{i}_block{number}"] = bottleneck(
                channels, stage.width, inner, stride, groups, squeezed_inner=squeezed
            )
            channels = stage.width
    return named | named_classifier(channels, task.classes)


class AnyNet(LayeredSpace):
    """A stem and four stages of bottlenecks, each of which halves the size of the map.

    Per stage the choices are ``depth``, ``width``, the bottleneck's ``ratio`` (channels per inner
    channel) and the ``group_width`` of its 3×3 convolution. In design A they are free. In B all
    stages have one ratio, in C one group width as well; in D no stage is narrower than the one
    before, in E none is shallower either. Depths and widths are drawn log-uniformly, as in the
    paper. With four stages of 16 · 128 · 3 · 6 choices ``size()`` is 1.8e18 for A, 6.8e16 for B and
    3.2e14 for C, as in the paper, 1.38e13 for D and 8.2e11 for E, where the paper has 1.3e13 and
    5.5e11: it divides by 4! for each order, as if no two stages were equal. These are counts of
    choices; those that give one network, since groups must divide the inner width (``fitted``), are
    one architecture. The points are the smallest of the paper's RegNetX, where the design has them.

    Args:
        design: A, B, C, D or E.
        max_depth: Most blocks of a stage.
        max_width: Most channels of a stage; in steps of 8.
        stem_width: Channels of the stem.
        stem_stride: 2, or 1 for images of some 32 pixels.
    """

    def __init__(
        self,
        design: Literal["A", "B", "C", "D", "E"] = "A",
        max_depth: Count = 16,
        max_width: Annotated[int, Field(ge=8)] = 1024,
        stem_width: Count = 32,
        stem_stride: Literal[1, 2] = 2,
    ) -> None:
        self._stem = stem_width, stem_stride
        self._ascending = {"D": ("width",), "E": ("width", "depth")}.get(design, ())
        self._shared = {"A": (), "B": ("ratio",)}.get(design, ("ratio", "group_width"))
        of_a_stage: dict[str, Domain] = {
            "depth": Integer(1, max_depth, log=True, role="depth"),
            "width": Integer(8, max_width, step=8, log=True, role="width"),
            "ratio": Categorical((1, 2, 4), ordered=True),
            "group_width": Categorical((1, 2, 4, 8, 16, 32), ordered=True),
        }
        self.domains = {
            self._choice(kind, i): domain for kind, domain in of_a_stage.items() for i in _STAGES
        }
        self.rules = {_SENTENCES[kind]: _ascends(kind) for kind in self._ascending}
        points = {name: self._point(*stages) for name, stages in _POINTS.items()}
        self.points = {
            name: point
            for name, point in points.items()
            if all(rule(point) for rule in self.rules.values())
        }

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        """Widths and group widths as built, or the nearest that can be chosen."""
        stages, settled = self._stages(choices), dict(choices)
        for i, stage in zip(_STAGES, stages, strict=True):
            highest = int(self.domains[f"width{i}"].values()[-1])
            # Rounded up past the highest width, every width below it is built as the highest is.
            settled[f"width{i}"] = min(fitted(stage).width, max(stage.width, highest))
            name = self._choice("group_width", i)
            sharing = stages if "group_width" in self._shared else [stage]
            settled[name] = least_group_width(self.domains[name].values(), sharing)
        return settled

    def draws(self, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Random choices; what must ascend is drawn by itself until it does."""
        for choices in map(dict, super().draws(rng)):
            for kind in self._ascending:
                names = [f"{kind}{i}" for i in _STAGES]
                while not _ascends(kind)(choices):
                    choices |= {name: self.domains[name].sample(rng) for name in names}
            yield choices

    def size(self) -> int:
        """Exactly, of the choices: those of a kind that ascend are multisets of four."""
        total = 1
        for kind in ("depth", "width", "ratio", "group_width"):
            count = self.domains[self._choice(kind, 1)].size
            if kind in self._ascending:
                total *= math.comb(count + 3, 4)
            else:
                total *= count if kind in self._shared else count**4
        return total

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        return named_layers(self._stages(architecture.choices), task, *self._stem)

    def _choice(self, kind: str, i: int) -> str:
        return kind if kind in self._shared else f"{kind}{i}"

    def _stages(self, choices: Mapping[str, Value]) -> list[Stage]:
        return [
            Stage(*(int(choices[self._choice(kind, i)]) for kind in Stage._fields)) for i in _STAGES
        ]

    def _point(
        self, depths: Sequence[int], widths: Sequence[int], group_width: int
    ) -> dict[str, Value]:
        """Choices of a network without bottlenecks."""
        stages = zip(_STAGES, depths, widths, strict=True)
        return {
            self._choice(kind, i): value
            for i, depth, width in stages
            for kind, value in Stage(depth, width, 1, group_width)._asdict().items()
        }


_SENTENCES = {
    "width": "no stage is narrower than the one before",
    "depth": "no stage is shallower than the one before",
}


def _ascends(kind: str) -> Condition:
    def rule(choices: Mapping[str, Value]) -> bool:
        values = [int(choices[f"{kind}{i}"]) for i in _STAGES]
        return values == sorted(values)

    return rule


_POINTS = {
    "regnetx_002": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "regnet_x_400mf": ((1, 2, 7, 12), (32, 64, 160, 400), 16),
    "regnet_x_800mf": ((1, 3, 7, 5), (64, 128, 288, 672), 16),
}
