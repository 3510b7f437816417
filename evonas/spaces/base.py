"""The contract of a search space: named domains, and ``build``.

A space is a set of named domains and one method that builds a network. Everything else is derived
from the domains and may be overridden; see ``plugins/spaces`` for two worked examples.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from evonas import errors
from evonas.architecture import Architecture, Domain, Integer, Value, check_choices
from evonas.errors import InvalidArchitecture

if TYPE_CHECKING:
    from torch import nn

    from evonas.spaces.parts.supernet import Supernet

_TRIES = 1000

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


class Cost(NamedTuple):
    """What a network costs: parameters, and FLOPs as ``training/cost.py`` counts them."""

    params: int
    flops: int


def divisible(value: float, divisor: int = 8) -> int:
    """Round to the nearest multiple, but never to less than nine tenths; at least one divisor.

    The rounding of MobileNet, MnasNet and EfficientNet for numbers of channels.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def at_least(**options: tuple[int, int]) -> None:
    """Raise RecipeError for an option of a space, ``name=(value, least)``, that is too small."""
    for name, (value, least) in options.items():
        errors.at_least("space", least, **{name: value})


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
    """

    name: ClassVar[str]
    domains: Mapping[str, Domain]
    conditions: Mapping[str, Condition] = {}
    rules: Mapping[str, Condition] = {}
    points: Mapping[str, Mapping[str, Value]] = {}

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

    def cost(self, architecture: Architecture, task: Task) -> Cost | None:
        """Count parameters and FLOPs without building, if the space can; default: it cannot.

        What it offers must equal the count of the built network, which takes a hundred times as
        long. A ``LayeredSpace`` has it for nothing: ``spaces/layers.py``.
        """
        return None

    def build_supernet(self, task: Task) -> Supernet:
        """Build the weights that all networks of the space share; a space need not offer it.

        Where tensors are named by position and kind, it is one line: ``Supernet(self, task,
        covering)`` with the largest architectures.

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
        return [name for name in self.domains if self._holds(name, choices)]

    def _holds(self, name: str, choices: Mapping[str, Value]) -> bool:
        return name not in self.conditions or bool(self.conditions[name](choices))

    def architecture(self, choices: Mapping[str, Value]) -> Architecture:
        """Make a validated architecture in canonical form.

        Raises:
            InvalidArchitecture: If a choice is missing, undeclared or outside its domain, or a
                rule of the space is broken.
        """
        check_choices(self.domains, choices)
        return self._settled(choices)

    def reference(self, choices: Mapping[str, Value]) -> Architecture:
        """Make an architecture that is to be built, not searched: its numbers may be any.

        Raises:
            InvalidArchitecture: As ``architecture``, but for numbers beyond or between the values
                of an Integer.
        """
        check_choices(self.domains, choices, searched=False)
        return self._settled(choices)

    def point(self, name: str) -> Architecture:
        """The reference architecture of that name; KeyError if there is none."""
        return self.reference(self.points[name])

    def _settled(self, choices: Mapping[str, Value]) -> Architecture:
        """In canonical form, with the rules kept."""
        settled = dict(choices)
        for name, domain in self.domains.items():
            if not self._holds(name, settled):
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
        """Draw an architecture: every choice from its own domain, again if a rule is broken."""
        return self._first_valid(
            {name: domain.sample(rng) for name, domain in self.domains.items()}
            for _ in itertools.repeat(None)
        )

    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        """The first of the parent's ``mutants`` that is valid and differs from it.

        Returns:
            The child; the parent itself where the rules leave it none, as in a space of one point.
        """
        children = itertools.islice(self.mutants(parent, rng), _TRIES)
        return self._first_valid(itertools.chain(children, [parent.choices]), other_than=parent.id)

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        """Choices of random children, valid or not: in each one choice of the parent is changed.

        Choices that gain an effect by it are drawn.
        """
        active = set(self.active(parent.choices))
        names = [name for name in self.domains if name in active and self.domains[name].size > 1]
        while names:
            name = rng.choice(names)
            value = self.domains[name].mutate(parent.choices[name], rng)
            child = {**parent.choices, name: value}
            for gained, domain in self.domains.items():
                if gained not in active and self._holds(gained, child):
                    child[gained] = domain.sample(rng)
            yield child

    def crossover(self, a: Architecture, b: Architecture, rng: Random) -> Architecture:
        """Take every choice from either parent with equal probability (uniform crossover).

        A choice that has an effect in one of the parents alone is taken from that one.
        """
        parents = [(parent.choices, set(self.active(parent.choices))) for parent in (a, b)]

        def children() -> Iterator[Mapping[str, Value]]:
            for _ in range(_TRIES):
                child = {}
                for name, domain in self.domains.items():
                    givers = [choices for choices, active in parents if name in active]
                    child[name] = rng.choice(givers)[name] if givers else domain.sample(rng)
                yield child
            yield a.choices

        return self._first_valid(children())

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Every architecture that differs in one choice: by one step if ordered, else any."""
        seen = {architecture.id}
        for name, domain in self.domains.items():
            for value in domain.neighbours(architecture.choices[name]):
                try:
                    neighbour = self.architecture({**architecture.choices, name: value})
                except InvalidArchitecture:
                    continue
                if neighbour.id not in seen:
                    seen.add(neighbour.id)
                    yield neighbour

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture once, in the order of the domains."""
        seen = set()
        for values in itertools.product(*(domain.values() for domain in self.domains.values())):
            try:
                architecture = self.architecture(dict(zip(self.domains, values, strict=True)))
            except InvalidArchitecture:
                continue
            if architecture.id not in seen:
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
        for role, factor in (("width", width), ("depth", depth)):
            domains = {
                name: domain
                for name, domain in self.domains.items()
                if isinstance(domain, Integer) and domain.role == role
            }
            if factor != 1 and not domains:
                raise InvalidArchitecture(
                    f"space {self.name!r} declares no choice with role {role!r}"
                )
            for name, domain in domains.items():
                old = int(choices[name])
                if factor == 1 or not old:
                    continue
                if role == "width":
                    wide = divisible(old * factor, domain.step)
                    choices[name] = wide if factor > 1 else min(old, wide)
                else:
                    deep = math.ceil(old * factor) if factor > 1 else round(old * factor)
                    choices[name] = max(1, deep)
        return Architecture(architecture.space, choices)

    def _first_valid(
        self, candidates: Iterator[Mapping[str, Value]], other_than: str | None = None
    ) -> Architecture:
        """The first candidate that keeps the rules; the last one if none differs as asked."""
        broken: InvalidArchitecture | None = None
        last: Architecture | None = None
        for choices in itertools.islice(candidates, _TRIES + 1):
            try:
                last = self.architecture(choices)
            except InvalidArchitecture as error:
                broken = error
                continue
            if last.id != other_than:
                return last
        if last is None:
            raise InvalidArchitecture(
                f"space {self.name!r}: {_TRIES} candidates in a row break its rules: {broken}"
            )
        return last
