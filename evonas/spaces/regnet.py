"""RegNets: the widths of all blocks follow from a quantised line."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.errors import InvalidArchitecture
from evonas.recipe.options import Count
from evonas.spaces.anynet import Stage, fitted, least_group_width, named_layers
from evonas.spaces.base import Task
from evonas.spaces.parts.layers import Layer, LayeredSpace

_QUANTUM = 8  # channels
_STAGES = 4
_STEP = 100  # of the slope: a channel
_SE = 25  # per cent


class RegNet(LayeredSpace):
    """RegNetX and RegNetY (Radosavovic et al., Designing network design spaces, CVPR 2020).

    Block j of ``depth`` would have w0 + wa · j channels, w0 being the ``initial_width`` and wa the
    ``slope`` in hundredths of a channel. It gets the nearest of the widths w0 · wm^i, in multiples
    of 8, wm being the ``multiplier`` in hundredths. The blocks of one width are stage i, and as in
    the paper there are four. All have one ``ratio`` (channels per inner channel of a bottleneck)
    and one ``group_width``, which the widths are fitted to as in ``anynet``. Squeeze-and-excitation
    to ``se`` per cent of a block's input makes an X a Y. Initial width and slope are drawn
    log-uniformly, the slope among those that lead to a fourth stage; in mutants it follows what
    else changes, if it must.

    ``size()`` is 64^4 · 6 · 3 = 3.0e8 by default, the paper's number: 64 each of depths, initial
    widths, slopes and multipliers. Most have another number of stages, or give the network of
    another setting: those are one architecture, which is named by the smallest initial width,
    multiplier and slope. The points are the published networks: of torchvision, and under names
    such as ``regnetx_002`` those that only timm has, exact to their parameters. They lie between
    and beyond what is searched.

    Args:
        squeeze: Whether there is squeeze-and-excitation, of 25 per cent: no, yes or either.
        max_depth: Most blocks.
        max_width: Most channels of a stage that is searched.
        stem_width: Channels of the stem.
        stem_stride: 2, or 1 for images of some 32 pixels.
    """

    def __init__(
        self,
        squeeze: Literal["no", "yes", "either"] = "no",
        max_depth: Annotated[int, Field(ge=4)] = 64,
        max_width: Annotated[int, Field(ge=64)] = 1024,
        stem_width: Count = 32,
        stem_stride: Literal[1, 2] = 2,
    ) -> None:
        self._max_width, self._stem = max_width, (stem_width, stem_stride)
        self._initial = Integer(8, min(512, max_width), step=_QUANTUM, log=True, role="width")
        steepest = _STEP * min(64, max_width)
        self._slope = Integer(_STEP, steepest, step=_STEP, log=True, role="width")
        self._multiplier = Integer(150, 276, step=2)
        self.domains = {
            "depth": Integer(1, max_depth, role="depth"),
            "initial_width": self._initial,
            "slope": self._slope,
            "multiplier": self._multiplier,
            "ratio": Categorical((1, 2, 4), ordered=True),
            "group_width": Integer(8, 48, step=8),
            "se": Integer(_SE * (squeeze == "yes"), _SE * (squeeze != "no"), step=_SE),
        }
        self.rules = {"there are four stages, each wider than the one before": _is_regular}
        self.points = POINTS

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        """The smallest setting that gives the network, for what is searched."""
        searched = all(domain.contains(choices[name]) for name, domain in self.domains.items())
        if not searched or not _is_regular(choices):
            return choices
        group_widths, stages = self.domains["group_width"].values(), _stages(choices)
        settled = {**choices, "group_width": least_group_width(group_widths, stages)}
        return settled | next(self._lines(settled, stages), {})

    def architecture(self, choices: Mapping[str, Value]) -> Architecture:
        """Make a validated architecture in canonical form, no wider than is searched."""
        architecture = super().architecture(choices)
        if max(stage.width for stage in _stages(architecture.choices)) > self._max_width:
            raise InvalidArchitecture(
                f"space {self.name!r}: no stage may be wider than {self._max_width}"
            )
        return architecture

    def draws(self, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Random choices, with a slope that leads to the fourth stage."""
        for choices in super().draws(rng):
            yield {**choices, "slope": self._leading(choices).sample(rng)}

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        """One choice changed, and the slope if there were not four stages otherwise."""
        for child in super().mutants(parent, rng):
            steep = {} if _is_regular(child) else {"slope": self._leading(child).sample(rng)}
            yield {**child, **steep}

    def _leading(self, choices: Mapping[str, Any]) -> Integer:
        """The slopes at which the last block has the third power; all, if none has."""
        last = max(1, choices["depth"] - 1)
        below, above = (
            100 * _rise(choices["initial_width"], choices["multiplier"], power) / last
            for power in (_STAGES - 1.5, _STAGES - 0.5)
        )
        low = max(self._slope.low, _STEP * math.ceil(below / _STEP))
        high = min(self._slope.high, math.floor(above))
        return Integer(low, high, step=_STEP, log=True) if low <= high else self._slope

    def scaled(
        self, architecture: Architecture, width: float = 1.0, depth: float = 1.0
    ) -> Architecture:
        """As the base class; a deeper copy has a flatter slope, which ends at the same width."""
        copy = super().scaled(architecture, width, depth)
        before, after = (int(each.choices["depth"]) for each in (architecture, copy))
        slope = round(int(copy.choices["slope"]) * (before - 1) / max(1, after - 1))
        return Architecture(self.name, {**copy.choices, "slope": slope})

    def layers(self, architecture: Architecture, task: Task) -> Mapping[str, Layer]:
        """The network's layers."""
        choices = architecture.choices
        return named_layers(_stages(choices), task, *self._stem, se=bool(choices["se"]))

    def _lines(
        self, choices: Mapping[str, Value], stages: tuple[Stage, ...]
    ) -> Iterator[dict[str, int]]:
        """Settings of the line that give the stages, the smallest of them first."""
        widths, multipliers = [stage.width for stage in stages], self._multiplier.values()
        ratio, group_width = int(choices["ratio"]), int(choices["group_width"])

        def width(initial: int, power: int, multiplier: int) -> int:
            quantised = _quantised(initial, multiplier / 100, power)
            return fitted(Stage(0, quantised, ratio, group_width)).width

        for initial in self._initial.values():
            if width(initial, 0, 100) != widths[0]:
                continue
            third = functools.partial(width, initial, 3)  # grows with the multiplier
            start = bisect.bisect_left(multipliers, widths[3], key=third)
            stop = bisect.bisect_right(multipliers, widths[3], key=third)
            for multiplier in multipliers[start:stop]:
                if [width(initial, power, multiplier) for power in (1, 2)] != widths[1:3]:
                    continue
                for slope in self._slopes(stages, initial, multiplier):
                    line = {"initial_width": initial, "slope": slope, "multiplier": multiplier}
                    if _stages({**choices, **line}) == stages:
                        yield line

    def _slopes(self, stages: tuple[Stage, ...], initial: int, multiplier: int) -> range:
        """About the smallest slope at which every stage has its blocks."""
        least, most, first = 0.0, math.inf, 0
        for power, stage in enumerate(stages):
            last = first + stage.depth - 1
            below, above = (_rise(initial, multiplier, power + side) for side in (-0.5, 0.5))
            least = max(least, below / first) if first else least
            most = min(most, above / last) if last else most
            first = last + 1
        if least > most + 0.01:
            return range(0)
        # A block half-way between two widths may count as either.
        nearest = max(_STEP * math.floor(100 * least / _STEP), self._slope.low)
        return range(nearest, min(nearest + 2 * _STEP, self._slope.high) + 1, _STEP)


def _rise(initial: int, multiplier: int, power: float) -> float:
    """From the initial width to a power of the multiplier, in channels."""
    return initial * (math.pow(multiplier / 100, power) - 1)


def _generate_regnet(choices: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Of every block the power of the multiplier, and the width."""
    w0, wa, wm = choices["initial_width"], choices["slope"] / 100, choices["multiplier"] / 100
    # Block j is to be u_j = w0 + wa · j wide, the paper's equation 2; it gets the power
    # s_j = log(u_j / w0) / log(wm) of the multiplier, its equation 3, rounded; and the width
    # w0 · wm^s_j, its equation 4.
    slope, scale = wa / w0, math.log(wm)
    powers = [round(math.log(1 + slope * j) / scale) for j in range(choices["depth"])]
    widths = {power: _quantised(w0, wm, power) for power in set(powers)}
    return [(power, widths[power]) for power in powers]


def _quantised(w0: int, wm: float, power: int) -> int:
    """The width w0 · wm^s in multiples of 8."""
    return _QUANTUM * round(w0 * wm**power / _QUANTUM)


def _stages(choices: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The blocks of one width are a stage; as it is built."""
    ratio, group_width = choices["ratio"], choices["group_width"]
    stages = itertools.groupby(width for _, width in _generate_regnet(choices))
    return tuple(
        fitted(Stage(len(list(blocks)), width, ratio, group_width)) for width, blocks in stages
    )


def _is_regular(choices: Mapping[str, Any]) -> bool:
    """Whether there are the powers from 0 to 3, and stages of four widths."""
    if {power for power, _ in _generate_regnet(choices)} != set(range(_STAGES)):
        return False
    widths = [stage.width for stage in _stages(choices)]
    return len(widths) == _STAGES and all(a < b for a, b in itertools.pairwise(widths))


def settings(
    d: int, w0: int, wa: float, wm: float, group_width: int, se: int = 0, ratio: int = 1
) -> Mapping[str, Value]:
    """Choices from a network's published parameters, for ``RegNet.reference``.

    Args:
        d: Blocks.
        w0: Initial width.
        wa: Slope, channels.
        wm: Width multiplier.
        group_width: Channels of a group.
        se: Per cent of squeeze-and-excitation: 25 in RegNetY.
        ratio: Channels per inner channel of a bottleneck.
    """
    line = {"depth": d, "initial_width": w0, "slope": round(100 * wa)}
    rest = {"multiplier": round(100 * wm), "ratio": ratio, "group_width": group_width, "se": se}
    return {**line, **rest}


# timm has others, whose groups it rounds to differently: regnetx_004, regnety_040 and so on.
POINTS: Mapping[str, Mapping[str, Value]] = {
    "regnet_x_400mf": settings(22, 24, 24.48, 2.54, 16),
    "regnet_x_800mf": settings(16, 56, 35.73, 2.28, 16),
    "regnet_x_1_6gf": settings(18, 80, 34.01, 2.25, 24),
    "regnet_x_3_2gf": settings(25, 88, 26.31, 2.25, 48),
    "regnet_x_8gf": settings(23, 80, 49.56, 2.88, 120),
    "regnet_x_16gf": settings(22, 216, 55.59, 2.1, 128),
    "regnet_x_32gf": settings(23, 320, 69.86, 2.0, 168),
    "regnet_y_400mf": settings(16, 48, 27.89, 2.09, 8, _SE),
    "regnet_y_800mf": settings(14, 56, 38.84, 2.4, 16, _SE),
    "regnet_y_1_6gf": settings(27, 48, 20.71, 2.65, 24, _SE),
    "regnet_y_3_2gf": settings(21, 80, 42.63, 2.66, 24, _SE),
    "regnet_y_8gf": settings(17, 192, 76.82, 2.19, 56, _SE),
    "regnet_y_16gf": settings(18, 200, 106.23, 2.48, 112, _SE),
    "regnet_y_32gf": settings(20, 232, 115.89, 2.53, 232, _SE),
    "regnet_y_128gf": settings(27, 456, 160.83, 2.52, 264, _SE),
    "regnetx_002": settings(13, 24, 36.44, 2.49, 8),
    "regnetx_006": settings(16, 48, 36.97, 2.24, 24),
    "regnetx_064": settings(17, 184, 60.83, 2.07, 56),
    "regnetx_120": settings(19, 168, 73.36, 2.37, 112),
    "regnety_002": settings(13, 24, 36.44, 2.49, 8, _SE),
    "regnety_006": settings(15, 48, 32.54, 2.32, 16, _SE),
    "regnety_064": settings(25, 112, 33.22, 2.27, 72, _SE),
    "regnety_120": settings(19, 168, 73.36, 2.37, 112, _SE),
    "regnety_640": settings(20, 352, 147.48, 2.4, 328, _SE),
}
