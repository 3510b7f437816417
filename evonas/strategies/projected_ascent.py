"""Projected ascent: climb along finite differences while the number of parameters stays.

The greedy method of the CIFAR-100 study that evonas comes from. The study found that it wanders at
random among plain CNNs, so here the noise of a training is measured, and the findings say when the
differences drown in it. Measured figures: docs/results.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from random import Random
from statistics import fmean, variance
from typing import Annotated, NamedTuple

from pydantic import Field

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, OptionError
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Findings, Strategy
from evonas.trial import Limit, Objective, Proposal, Trial, TrialState

# Steps of so many times the usual length are tried until one leads to a new centre.
_LENGTHS = (1.0, 0.5, 2.0, 4.0)
_STARTS = 10  # So many random architectures are tried until one can be brought into the band.
_FLAT = 1e-9  # What is no larger a share of a gradient's length is rounding.

_Sides = tuple[Architecture | None, Architecture | None]  # The neighbours below and above.


class _Measured(NamedTuple):
    """Something made of the values of trials, with its noise.

    Attributes:
        value: What was measured.
        error: Its standard error, as a multiple of a single training's standard deviation.
    """

    value: float
    error: float


class _Step(NamedTuple):
    """A centre, and what is trained to find the way on from it.

    Attributes:
        centre: Where the step begins.
        sides: Of every choice, where they may be tried.
        plan: Trainings of the centre, then of the neighbours. All have the same parent, the centre
            before, so that they compare where weights are inherited.
    """

    centre: Architecture
    sides: Mapping[str, _Sides]
    plan: tuple[Proposal, ...]


class ProjectedAscent(Strategy):
    """Climb along the gradient's component that leaves the number of parameters alone.

    Every centre is trained several times, and its neighbours along each ordinal choice once, all of
    them side by side. The gradient is made of central differences where both neighbours completed,
    else of one-sided ones; a choice without any stays. Its component along the gradient of the
    parameter count is taken out. The next centre lies a step ahead, rounded to the lattice and
    brought into the band of parameters by single steps. It moves whether or not the differences are
    more than chance, as the study did. Where no step leads to a new centre, it starts again at
    random. Choices without an order stay as they are until then.

    The band's upper end is the recipe's ``constraints.params.max``. That is a hard limit, for
    neighbours too: most differences are those to the smaller neighbour.

    Args:
        step: Length of a step; neighbouring values of a choice are 1 apart.
        repeats: Trainings of a centre, at least 2: they tell the noise.
        tolerance: Width of the band, relative to its upper end.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        step: Annotated[float, Field(ge=1)] = 3.0,
        repeats: Annotated[int, Field(ge=2)] = 3,
        tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    ) -> None:
        super().__init__(space, objectives)
        self._length, self._repeats = step, repeats
        self._lattice = _Lattice(space, tolerance)
        self._step: _Step | None = None
        self._centres: set[str] = set()
        self._differences: list[_Measured] = []
        self._lengths: list[_Measured] = []  # of the projected gradients, one a step

    def ask(self, rng: Random) -> Proposal | None:
        """What the step still lacks; without a step, a random architecture of the right size."""
        self._advance()  # others may try what the step still lacked, and then it does without
        if self._step is not None:
            return next((p for p in self._step.plan if p.key not in self.told.proposed), None)
        return self.new(rng, lambda: Proposal(self._start(rng)))

    def tell(self, trial: Trial) -> None:
        """Without a step, what runs is the first centre; the last of a step to end ends it."""
        super().tell(trial)
        if trial.state is TrialState.RUNNING:
            if self._step is None:
                self._begin(trial.architecture)
        else:
            self._advance()

    def findings(self) -> Findings:
        """How the differences compare with the noise of a training."""
        values: dict[str, list[float]] = {}  # by architecture
        for trial in self.told.complete:
            values.setdefault(trial.architecture.id, []).append(self._value(trial))
        repeated = [group for group in values.values() if len(group) > 1]
        if not repeated or not self._differences:
            return Findings()
        # The variance of single values about the means of their groups.
        squares = sum((len(group) - 1) * variance(group) for group in repeated)
        noise = math.sqrt(squares / sum(len(group) - 1 for group in repeated))
        small = sum(abs(d.value) < 2 * noise * d.error for d in self._differences)
        # Of noise alone the expected squared length is the squared error.
        blind = sum(d.value**2 < 2 * (noise * d.error) ** 2 for d in self._lengths)
        line = (
            f"projected_ascent: a training's {self.objectives[0].metric} has a standard deviation "
            f"of {noise:.3g} ({sum(map(len, repeated))} trainings of {len(repeated)} "
            f"architectures); {small} of {len(self._differences)} differences are below twice "
            "their noise"
        )
        if blind:
            line += (
                f", and in {blind} of {len(self._lengths)} steps the direction is not "
                "distinguishable from chance"
            )
        return Findings((line,))

    def _start(self, rng: Random) -> Architecture:
        """A random architecture in the band; of any size, if that is not to be found."""
        for _ in range(_STARTS):
            point = self.space.sample(rng)
            if (sized := self._lattice.beyond(point, {})) is not None:
                return sized
        return point

    def _begin(self, centre: Architecture, parents: tuple[int, ...] = ()) -> None:
        """Plan the step from a centre."""
        sides = {name: self._lattice.sides(centre, name) for name in self._lattice.moving(centre)}
        neighbours = dict.fromkeys(side for pair in sides.values() for side in pair if side)
        plan = (
            *(Proposal(centre, parents=parents, repeat=n) for n in range(self._repeats)),
            *(Proposal(neighbour, parents=parents) for neighbour in neighbours),
        )
        self._step = _Step(centre, sides, plan)
        self._centres.add(centre.id)

    def _advance(self) -> None:
        """Go on from a step that has ended."""
        while (step := self._step) is not None:
            keys = [proposal.key for proposal in step.plan]
            training = {trial.proposal.key for trial in self.told.running.values()}
            if not self.told.proposed.issuperset(keys) or training.intersection(keys):
                return
            self._step = None
            following = self._following(step.centre, self._ahead(step))
            if following is not None:
                self._begin(following, tuple(t.number for t in self._trainings(step.centre)[:1]))

    def _ahead(self, step: _Step) -> dict[str, float]:
        """The gradient without its component along that of the parameter count."""
        gradient = dict(self._gradient(step))
        normal = [self._lattice.slope(step.centre, name) for name in gradient]
        normal = [n / (math.hypot(*normal) or 1.0) for n in normal]
        pairs = list(zip(gradient.values(), normal, strict=True))
        share = sum(g.value * n for g, n in pairs)
        ahead = [g.value - share * n for g, n in pairs]
        if math.hypot(*ahead) < _FLAT * abs(share):
            ahead = [0.0] * len(ahead)
        error = math.sqrt(sum(g.error**2 * (1 - n**2) for g, n in pairs))
        self._differences += gradient.values()
        self._lengths.append(_Measured(math.hypot(*ahead), error))
        return dict(zip(gradient, ahead, strict=True))

    def _gradient(self, step: _Step) -> Iterator[tuple[str, _Measured]]:
        """The difference along every choice for which enough trials completed."""
        for name, (below, above) in step.sides.items():
            centre, low, high = (
                [self._value(trial) for trial in self._trainings(architecture)]
                for architecture in (step.centre, below, above)
            )
            span = 2 if low and high else 1
            low, high = low or centre, high or centre
            if low and high and low is not high:
                error = math.sqrt(1 / len(low) + 1 / len(high)) / span
                yield name, _Measured((fmean(high) - fmean(low)) / span, error)

    def _following(self, centre: Architecture, ahead: Mapping[str, float]) -> Architecture | None:
        """The next centre; None if there is no way up, or it leads to no new one."""
        length = math.hypot(*ahead.values())
        if length == 0:
            return None
        for factor in _LENGTHS:
            way = {name: factor * self._length / length * a for name, a in ahead.items()}
            reached = self._lattice.beyond(centre, way)
            if reached is not None and reached.id not in self._centres:
                return reached
        return None

    def _trainings(self, architecture: Architecture | None) -> list[Trial]:
        """Those that completed."""
        return [trial for trial in self.told.complete if trial.architecture == architecture]

    def _value(self, trial: Trial) -> float:
        return self.objectives[0].key(trial.metrics)


class _Lattice:
    """The ordinal choices of a space as whole numbers, and the parameters at each point.

    Points may exceed the limits, or lie outside the band, where it is not said that they do not.
    """

    def __init__(self, space: SearchSpace, tolerance: float) -> None:
        limit = space.limits.bounds.get("params") if space.limits else None
        if not space.limits or limit is None or math.isinf(limit.max):
            raise OptionError(
                "name",
                "projected_ascent keeps to a number of parameters; "
                "give it in constraints.params.max",
            )
        self._space, self._limits = space, space.limits
        self._band = Limit((1 - tolerance) * limit.max, limit.max)
        self._ordinal = [n for n, d in space.domains.items() if d.size > 1 and d.ordered]
        if not self._ordinal:
            raise OptionError(
                "name",
                "projected_ascent needs choices that are numbers or in order; "
                f"space {space.name!r} has none",
            )

    def moving(self, point: Architecture) -> list[str]:
        """Names of the ordinal choices that have an effect."""
        return [name for name in self._ordinal if self._space.has_effect(name, point.choices)]

    def sides(self, point: Architecture, name: str) -> _Sides:
        """The neighbours below and above along a choice, if they are within the limits."""
        below, above = self._neighbours(point, name)
        return self._allowed(below), self._allowed(above)

    def slope(self, point: Architecture, name: str) -> float:
        """Parameters per step along a choice."""
        below, above = self._neighbours(point, name)
        span = 2 if below and above else 1
        return (self._params(above or point) - self._params(below or point)) / span

    def beyond(self, point: Architecture, way: Mapping[str, float]) -> Architecture | None:
        """The allowed point in the band that lies nearest to the end of a way, or nearly so."""
        end = {name: at + way.get(name, 0.0) for name, at in self._place(point).items()}
        rounded = self._at(point, {name: round(at) for name, at in end.items()})
        return self._allowed(self._repaired(rounded, end)) if rounded else None

    def _repaired(self, point: Architecture, end: Mapping[str, float]) -> Architecture | None:
        """Walk into the band by steps that go nearer to it and stay near the end of the way."""
        while (outside := self._outside(point)) > 0:
            sides = chain(*(self._neighbours(point, name) for name in self.moving(point)))
            nearer = [side for side in sides if side and self._outside(side) < outside]
            if not nearer:
                return None
            point = min(
                nearer, key=lambda n: math.dist([*self._place(n).values()], [*end.values()])
            )
        return point

    def _place(self, point: Architecture) -> dict[str, int]:
        """Coordinates of a point."""
        domains = self._space.domains
        return {name: domains[name].index(point.choices[name]) for name in self._ordinal}

    def _at(self, point: Architecture, place: Mapping[str, int]) -> Architecture | None:
        """The point at other coordinates, at the border if they lie beyond; None if not valid."""
        choices = dict(point.choices)
        for name, index in place.items():
            values = self._space.domains[name].values()
            choices[name] = values[min(max(index, 0), len(values) - 1)]
        return self._space.unlimited.valid(choices)

    def _neighbours(self, point: Architecture, name: str) -> _Sides:
        """Below and above along a choice; whether within the limits or not."""
        place = self._place(point)[name]
        below, above = (self._at(point, {name: place + by}) for by in (-1, +1))
        return None if below == point else below, None if above == point else above

    def _allowed(self, point: Architecture | None) -> Architecture | None:
        """The point, if it is within the limits."""
        return self._space.valid(point.choices) if point else None

    def _params(self, point: Architecture) -> float:
        try:
            return self._limits.costs(point)["params"]
        except InvalidArchitecture:  # it takes no image of the task
            return math.inf

    def _outside(self, point: Architecture) -> float:
        """How far outside the band."""
        return self._band.violation(self._params(point))
