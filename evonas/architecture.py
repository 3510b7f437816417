"""Architecture, a point of a search space, and the domains that span the space."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from evonas.errors import InvalidArchitecture
from evonas.files import mistake

Value = int | float | str | bool
Role = Literal["width", "depth"]


def same(a: Value, b: Value) -> bool:
    """Equal in value and in type: ``True``, ``1`` and ``1.0`` are three different choices."""
    return type(a) is type(b) and a == b


@dataclass(frozen=True)
class Categorical:
    """A choice among ``options``.

    Args:
        options: Numbers, texts, True and False, of Python's own types: at least one, none twice.
        ordered: They are in order, at whatever distances, such as 1, 2, 4, 8: neighbours are the
            options beside a value, and models may count on it.
    """

    options: tuple[Value, ...]
    ordered: bool = False

    def __init__(self, options: Sequence[Value], ordered: bool = False) -> None:
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "ordered", ordered)
        if not self.options:
            raise ValueError("a Categorical needs at least one option")
        for option in self.options:  # they are to be found again in what JSON gives back
            if type(option) not in (int, float, str, bool):
                raise ValueError(
                    f"a Categorical's options are numbers, texts, True and False, not {option!r} "
                    f"of type {type(option).__name__}: name it, and look it up in build"
                )
            if isinstance(option, float) and not math.isfinite(option):
                raise ValueError(f"a Categorical's options are finite numbers, not {option}")
        if len({(type(o), o) for o in self.options}) < len(self.options):
            raise ValueError(f"a Categorical has an option twice: {self.options}")

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.options)

    def values(self) -> tuple[Value, ...]:
        """All values, in order of declaration."""
        return self.options

    def contains(self, value: object) -> bool:
        """Whether ``value`` is one of the options, type included."""
        return any(type(o) is type(value) and o == value for o in self.options)

    def index(self, value: Value) -> int:
        """Place of the value among the options, type included."""
        return next(i for i, o in enumerate(self.options) if same(o, value))

    def sample(self, rng: Random) -> Value:
        """Draw a value uniformly."""
        return rng.choice(self.options)

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """The options beside it if they are ordered; else every other: there is no distance."""
        if self.ordered:
            index = self.index(value)
            return self.options[max(index - 1, 0) : index] + self.options[index + 1 : index + 2]
        return self._others(value)

    def mutate(self, value: Value, rng: Random) -> Value:
        """Draw another value uniformly; the same value if there is no other."""
        return rng.choice(self._others(value) or (value,))

    def _others(self, value: Value) -> tuple[Value, ...]:
        return tuple(o for o in self.options if not same(o, value))


@dataclass(frozen=True)
class Integer:
    """An ordered choice: ``low, low + step, …, high``.

    Args:
        low: Smallest value.
        high: Largest value, included when ``high - low`` is a multiple of ``step``.
        step: Distance of neighbouring values.
        log: Sample uniformly in the logarithm, so that small values are as frequent as large ones.
        role: ``"width"`` or ``"depth"`` if the choice scales the network in that direction.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False
    role: Role | None = None
    ordered: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            try:  # NumPy's integers, which no JSON holds, become Python's
                object.__setattr__(self, name, operator.index(value))
            except TypeError as error:
                raise ValueError(
                    f"Integer: {name} must be a whole number, not {value!r}"
                ) from error
        if self.low > self.high:
            raise ValueError(f"Integer: low {self.low} is greater than high {self.high}")
        if self.step < 1:
            raise ValueError(f"Integer: step must be at least 1, not {self.step}")
        if self.log and self.low < 1:
            raise ValueError(f"Integer: log needs low of at least 1, not {self.low}")

    @property
    def size(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def values(self) -> range:
        """All values, ascending."""
        return range(self.low, self.high + 1, self.step)

    def contains(self, value: object) -> bool:
        """Whether ``value`` is an int on the lattice."""
        return type(value) is int and value in self.values()

    def index(self, value: Value) -> int:
        """Place of the value among all values."""
        return self.values().index(int(value))

    def nearest(self, value: float) -> int:
        """The lattice point nearest to ``value``."""
        index = round((value - self.low) / self.step)
        return self.low + self.step * min(max(index, 0), self.size - 1)

    def sample(self, rng: Random) -> int:
        """Draw a value, uniformly or log-uniformly."""
        if not self.log:
            return rng.choice(self.values())
        half = self.step / 2  # so that both ends keep their full share
        low, high = math.log(max(self.low - half, 0.5)), math.log(self.high + half)
        return self.nearest(math.exp(rng.uniform(low, high)))

    def neighbours(self, value: Value) -> tuple[int, ...]:
        """The values one step below and above."""
        return tuple(
            v for v in (int(value) - self.step, int(value) + self.step) if self.contains(v)
        )

    def mutate(self, value: Value, rng: Random) -> int:
        """Draw another value from the domain's distribution; the same if there is no other."""
        if self.size == 1:
            return int(value)
        while (other := self.sample(rng)) == value:
            pass
        return other


Domain = Categorical | Integer


@dataclass(frozen=True)
class Architecture:
    """A point of a search space: pure data, JSON in and JSON out.

    Make one with ``SearchSpace.architecture(choices)``, which brings the choices into canonical
    form, so that equal networks share an ``id``.

    Attributes:
        space: Name of the search space.
        choices: One value per declared domain.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)  # see from_json

    space: str
    choices: Mapping[str, Value]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", MappingProxyType(dict(self.choices)))

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits of the content's SHA-256."""
        text = json.dumps([self.space, dict(self.choices)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return Architecture, (self.space, dict(self.choices))

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return {"space": self.space, "choices": dict(self.choices)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Architecture:
        """Read what ``to_json`` wrote, and perhaps more beside it.

        Raises:
            InvalidArchitecture: If it is something else.
        """
        try:
            return _READER.validate_python(data)
        except ValidationError as error:
            raise InvalidArchitecture(f"no architecture: {mistake(error)}") from error


_READER = TypeAdapter(Architecture)


_BEYOND = 100  # So many times as deep or wide as any searched network, what is built may be.


def check_choices(
    domains: Mapping[str, Domain], choices: Mapping[str, Value], searched: bool = True
) -> None:
    """Raise ``InvalidArchitecture`` unless every domain has exactly one value inside it.

    Args:
        domains: By name.
        choices: By name.
        searched: Whether it is to be searched: numbers within their bounds. What is only to be
            built may have any number that is not negative, up to a hundred times the highest.
    """
    for name in (n for n in domains if n not in choices):
        raise InvalidArchitecture(f"choice {name!r} is missing")
    for name in (n for n in choices if n not in domains):
        raise InvalidArchitecture(f"choice {name!r} is not declared by the space")
    for name, domain in domains.items():
        value = choices[name]
        if not (domain.contains(value) or (not searched and _buildable(domain, value))):
            raise InvalidArchitecture(f"choice {name!r}: {value!r} is outside {domain}")


def _buildable(domain: Domain, value: Value) -> bool:
    """Whether a number beyond its bounds may be built: larger ones, and widths of one or more."""
    if not isinstance(domain, Integer) or type(value) is not int:
        return False
    least = min(1, domain.low) if domain.role == "width" else domain.low
    return least <= value <= _BEYOND * max(1, domain.high)
