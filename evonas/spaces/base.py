"""The contract of a search space: named domains, and ``build``.

A space is a set of named domains and one method that builds a network. Everything else is derived
from the domains and may be overridden; see ``plugins/spaces`` for worked examples.

What is random has a hook, which yields choices and checks nothing: ``draws`` for ``sample``,
``mutants`` for ``mutate``, ``crossovers`` for ``crossover``. The methods take the first that keeps
rules and limits. Override the hook and not the method, and whatever the space is limited to holds.
``evonas.testing.check_space`` tells whether a space keeps this contract.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Self

from evonas.architecture import Architecture, Domain, Integer, Value, check_choices
from evonas.errors import InvalidArchitecture, RecipeError, UnknownComponent, did_you_mean
from evonas.spaces.parts.limits import TRIES, Limits
from evonas.trial import Limit

if TYPE_CHECKING:
    from torch import nn

    from evonas.spaces.parts.supernet import Supernet

_TRIES = 1000  # After so many candidates a space is taken to have none that keeps its rules.

Condition = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Task:
    """Image classification of a given shape.

    Attributes:
        channels: Image channels: 1 greyscale, 3 RGB.
        height: Pixels.
        width: Pixels.
        classes: Number of classes; the network returns logits of shape (N, classes).
    """

    channels: int
    height: int
    width: int
    classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), the shape of one input without the batch dimension."""
        return self.channels, self.height, self.width


def divisible(value: float, divisor: int = 8) -> int:
    """Round to the nearest multiple, but never to less than nine tenths; at least one divisor.

    The rounding of MobileNet, MnasNet and EfficientNet for numbers of channels.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class SearchSpace(ABC):
    """A search space.

    Attributes:
        name: How recipes call it: the name of the file it is defined in.
        domains: One named domain per choice.
        conditions: When a choice has an effect, by its name, such as ``{"kernel3": lambda c:
            c["depth"] >= 3}``; a condition may look at choices that are declared earlier. A choice
            without effect is set to the first value of its domain, so that equal networks are one
            architecture; it is neither mutated nor handed on, and drawn when it gains effect.
        rules: What must hold between choices, by the sentence that an error says, such as
            ``{"the second stage is no narrower": lambda c: c["width1"] <= c["width2"]}``.
        points: Reference architectures by name, as choices; ``evonas show SPACE/NAME`` prints them.
            They are to be built, so their numbers may exceed what is searched.
        counted: Names of the costs that ``costs`` gives: those that may be limited.
        limits: What the space is limited to, made by ``limited``; None without limits.
    """

    name: ClassVar[str]
    domains: Mapping[str, Domain]
    conditions: Mapping[str, Condition] = {}
    rules: Mapping[str, Condition] = {}
    points: Mapping[str, Mapping[str, Value]] = {}
    counted: tuple[str, ...] = ("params", "flops")
    limits: Limits | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__module__.rpartition(".")[2]

    @abstractmethod
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network.

        Args:
            architecture: A point of this space.
            task: Input shape and number of classes.

        Returns:
            A freshly initialised module: float input (N, channels, height, width), logits
            (N, classes).
        """

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        """What the network costs, by the names in ``counted``, without allocating it.

        The default builds it on the meta device, which takes tens of milliseconds, and counts by
        ``spaces/parts/cost.py``. A space that counts from a description takes a hundredth, and must
        give what the built network has; a ``LayeredSpace`` does. It may count more, by names of its
        own in ``counted``.
        """
        from evonas.spaces.parts import cost  # torch, which strategies do without

        return cost.of_built(lambda: self.build(architecture, task), task, self.counted)

    def limited(self, limits: Mapping[str, Limit], task: Task) -> Self:
        """A copy of the space with one more rule: the costs are within the limits.

        What it samples, mutates, crosses over and enumerates meets them, and ``architecture``
        refuses the rest. ``size`` stays an upper bound, and references and the supernet are the
        space's own, for they are not searched. Limits that the space has already are replaced.

        Args:
            limits: By names of ``counted``.
            task: What the costs are those of.

        Raises:
            RecipeError: If the space does not count one of the costs.
        """
        for name in limits:
            if name not in self.counted:
                raise RecipeError(
                    f"constraints.{name}: space {self.name!r} counts no such cost"
                    f"{did_you_mean(name, self.counted)} Known: {', '.join(self.counted)}"
                )
        within = copy.copy(self)
        within.limits = Limits(self.unlimited, limits, task)
        return within

    @property
    def builder(self) -> type[SearchSpace]:
        """The class that builds the networks: whose file a fault is told with."""
        return type(self)

    @property
    def unlimited(self) -> SearchSpace:
        """The space without its limits."""
        return self.limits.space if self.limits else self

    def build_supernet(self, task: Task) -> Supernet:
        """Build the weights that all networks of the space share; a space need not offer it.

        Where tensors are named by position and kind, it is one line: ``Supernet(self, task,
        covering)`` with the largest architectures, made by ``reference``, for limits forbid them.

        Raises:
            InvalidArchitecture: If the space offers none.
        """
        raise InvalidArchitecture(f"space {self.name!r} offers no supernet")

    def relatives(self, child: Architecture, parent: Architecture) -> Mapping[str, str | None]:
        """Which parts of a child's network are which of its parent's, where names do not tell.

        Weights are handed on between parts of one name. A space whose parts move when others come
        and go says here where they were.

        Returns:
            Per direct part of the child's network the name of the parent's, or None if it is new;
            parts that are not named here keep their names.
        """
        return {}

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        """Bring choices that build the same network into one form.

        Choices without effect are fixed already, by ``conditions``. The default changes nothing.
        """
        return choices

    def active(self, choices: Mapping[str, Value]) -> list[str]:
        """Names of the choices that have an effect, in order of declaration."""
        conditions = self.conditions
        return [n for n in self.domains if n not in conditions or conditions[n](choices)]

    def has_effect(self, name: str, choices: Mapping[str, Value]) -> bool:
        """Whether a choice has an effect beside those that are declared before it."""
        return name not in self.conditions or bool(self.conditions[name](choices))

    def architecture(self, choices: Mapping[str, Value]) -> Architecture:
        """Make a validated architecture in canonical form.

        Raises:
            InvalidArchitecture: If a choice is missing, undeclared or outside its domain, a rule
                of the space is broken, or its limits are exceeded.
        """
        check_choices(self.domains, choices)
        architecture = self._settled(choices)
        if self.limits and self.limits.violation(architecture) > 0:
            raise InvalidArchitecture(f"{architecture.id} exceeds the limits")
        return architecture

    def valid(self, choices: Mapping[str, Value]) -> Architecture | None:
        """As ``architecture``, but None where that raises."""
        try:
            return self.architecture(choices)
        except InvalidArchitecture:
            return None

    def reference(self, choices: Mapping[str, Value]) -> Architecture:
        """Make an architecture that is to be built, not searched: its numbers may be any.

        Raises:
            InvalidArchitecture: As ``architecture``, but for numbers beyond or between the values
                of an Integer.
        """
        check_choices(self.domains, choices, searched=False)
        return self._settled(choices)

    def point(self, name: str) -> Architecture:
        """The reference architecture of that name; UnknownComponent if there is none."""
        if name not in self.points:
            raise UnknownComponent(f"network of {self.name}", name, self.points)
        return self.reference(self.points[name])

    def _settled(self, choices: Mapping[str, Value]) -> Architecture:
        """In canonical form, with the rules kept."""
        settled = dict(choices)
        for name, domain in self.domains.items():
            if name in self.conditions and not self.conditions[name](settled):
                settled[name] = domain.values()[0]
        architecture = Architecture(self.name, self.canonical(settled))
        self.validate(architecture)
        return architecture

    def validate(self, architecture: Architecture) -> None:
        """Raise InvalidArchitecture if one of the ``rules`` is broken."""
        for sentence, rule in self.rules.items():
            if not rule(architecture.choices):
                raise InvalidArchitecture(f"space {self.name!r}: it must hold that {sentence}")

    def sample(self, rng: Random) -> Architecture:
        """Draw an architecture: the first of ``draws`` that keeps the rules.

        With limits, draw again until they are met, and repair what was drawn if they seldom are.

        Raises:
            InvalidArchitecture: If a thousand draws in a row break the rules.
            InfeasibleConstraints: If nothing within the limits is found.
        """
        return self.limits.sample(rng) if self.limits else self._first(self.draws(rng))

    def draws(self, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Random choices, valid or not: every one from its own domain."""
        while True:
            yield {name: domain.sample(rng) for name, domain in self.domains.items()}

    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        """The first of the parent's ``mutants`` that is valid and differs from it.

        Returns:
            The child; the parent itself where the rules leave it none, as in a space of one point.

        Raises:
            InfeasibleConstraints: If fifty mutants, or all there are, exceed the limits. It is then
                for the caller to draw something else, which is no child of the parent.
        """
        return self._first(self.mutants(parent, rng), parent, other_than=parent.id)

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Choices of random children, valid or not: in each one choice of the parent is changed."""
        names = [name for name in self.active(parent.choices) if self.domains[name].size > 1]
        while names:
            yield self.changed(parent, rng.choice(names), rng)

    def changed(self, parent: Architecture, name: str, rng: Random) -> Mapping[str, Value]:
        """The parent's choices with another value of one; those that gain an effect are drawn."""
        child = {**parent.choices, name: self.domains[name].mutate(parent.choices[name], rng)}
        for gained, domain in self.domains.items():
            condition = self.conditions.get(gained)
            if condition and not condition(parent.choices) and condition(child):
                child[gained] = domain.sample(rng)
        return child

    def crossover(self, a: Architecture, b: Architecture, rng: Random) -> Architecture:
        """The first of the ``crossovers`` that is valid; it may equal a parent.

        Returns:
            The child; ``a`` itself if a thousand in a row break the rules.

        Raises:
            InfeasibleConstraints: As ``mutate``.
        """
        return self._first(self.crossovers(a, b, rng), a)

    def crossovers(
        self, a: Architecture, b: Architecture, rng: Random
    ) -> Iterator[Mapping[str, Value]]:
        """Choices of random children, valid or not, of two parents (uniform crossover).

        Every choice is taken from either with equal probability; one that has an effect in one of
        them alone, from that one.
        """
        parents = [(parent.choices, set(self.active(parent.choices))) for parent in (a, b)]
        while True:
            child = {}
            for name, domain in self.domains.items():
                givers = [choices for choices, active in parents if name in active]
                child[name] = rng.choice(givers)[name] if givers else domain.sample(rng)
            yield child

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Every architecture that differs in one choice: by one step if ordered, else any."""
        seen = {architecture.id}
        for name, domain in self.domains.items():
            for value in domain.neighbours(architecture.choices[name]):
                neighbour = self.valid({**architecture.choices, name: value})
                if neighbour and neighbour.id not in seen:
                    seen.add(neighbour.id)
                    yield neighbour

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture once, in the order of the domains."""
        seen = set()
        for values in itertools.product(*(domain.values() for domain in self.domains.values())):
            architecture = self.valid(dict(zip(self.domains, values, strict=True)))
            if architecture and architecture.id not in seen:
                seen.add(architecture.id)
                yield architecture

    def size(self) -> int:
        """Number of points: the product of the domains' sizes.

        With conditions, rules or a canonical form that is an upper bound; override it to be exact.
        """
        return math.prod(domain.size for domain in self.domains.values())

    def scaled(
        self, architecture: Architecture, width: float = 1.0, depth: float = 1.0
    ) -> Architecture:
        """A wider, narrower, deeper or shallower copy, by the choices that declare such a role.

        Widths are rounded to the domain's step (``divisible``), depths up (Tan and Le,
        EfficientNet, ICML 2019), or to the nearest where they shrink; what is absent stays absent.
        The result may leave the domain, so it is to be built, not searched.

        Raises:
            InvalidArchitecture: If a factor is not 1 and the space declares no such role.
        """
        choices = dict(architecture.choices)
        integers = [(name, d) for name, d in self.domains.items() if isinstance(d, Integer)]
        for role, factor in (("width", width), ("depth", depth)):
            if factor == 1:
                continue
            scalable = [(name, domain) for name, domain in integers if domain.role == role]
            if not scalable:
                raise InvalidArchitecture(
                    f"space {self.name!r} declares no choice with role {role!r}"
                )
            for name, domain in scalable:
                old = int(choices[name])
                if old and role == "width":
                    wide = divisible(old * factor, domain.step)
                    choices[name] = wide if factor > 1 else min(old, wide)
                elif old:
                    deep = math.ceil(old * factor) if factor > 1 else round(old * factor)
                    choices[name] = max(1, deep)
        return Architecture(architecture.space, choices)

    def _first(
        self,
        candidates: Iterator[Mapping[str, Value]],
        otherwise: Architecture | None = None,
        other_than: str = "",
    ) -> Architecture:
        """The first candidate within rules and limits, but not that id; else ``otherwise``."""
        exceeding: list[Architecture] = []
        broken: InvalidArchitecture | None = None
        for choices in itertools.islice(candidates, _TRIES):
            try:
                candidate = self.unlimited.architecture(choices)
            except InvalidArchitecture as error:
                broken = error
                continue
            if candidate.id == other_than:
                continue
            if not self.limits or self.limits.violation(candidate) == 0:
                return candidate
            exceeding.append(candidate)
            if len(exceeding) == TRIES:
                break
        if self.limits and exceeding:
            raise self.limits.missed(exceeding)
        if otherwise is None:
            raise InvalidArchitecture(
                f"space {self.name!r}: {_TRIES} candidates in a row break its rules: {broken}"
            )
        return otherwise
