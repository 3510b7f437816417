"""A recipe: YAML in, a validated and frozen ``Recipe`` out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from evonas.errors import RecipeError, did_you_mean

FILE = "recipe.yaml"  # its name in a run folder
_MAX_BYTES = 1_000_000
_MAX_ALIASES = 16
_OWN = {"executor": {"device"}}  # keys that are the section's, whatever component it names

Cost = Literal["params", "flops", "latency"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, value: Any) -> Any:
        """No key of a recipe's own is true or false, and pydantic would read true as 1."""
        return refuse_bool(value)


class Component(_Model):
    """A component by name, with its options; ``space: mbconv`` is short for its name alone."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class ExecutorSection(Component):
    """Where trials run."""

    name: str = "serial"
    device: str = "auto"


class TrackingSection(Component):
    """Who is told."""

    name: str = "mlflow"


class DatasetSection(_Model):
    """The images: see ``evonas.training.datasets``."""

    name: str
    path: Path = Path("data")
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class LimitSection(_Model):
    """Bounds of a cost, both included."""

    min: Annotated[float, Field(ge=0)] | None = None
    max: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> LimitSection:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is greater than max {self.max:g}")
        return self


class BudgetSection(_Model):
    """The limit of the run; whichever is reached first ends it."""

    trials: Annotated[int, Field(ge=1)] | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    max_failures: Annotated[int, Field(ge=1)] = 10

    @model_validator(mode="after")
    def _some(self) -> BudgetSection:
        if self.trials is None and self.minutes is None:
            raise ValueError("give trials, minutes or both")
        return self


class FinalSection(_Model):
    """How the winner is found when the search is over: see ``incumbents.Terms``."""

    top: Annotated[int, Field(ge=1)] = 1
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    flip: StrictBool = False

    @field_validator("top", "seeds", mode="before")
    @classmethod
    def _no_bool(cls, value: Any) -> Any:
        return refuse_bool(value)


class AuditSection(_Model):
    """How many trials are trained for good, to see how far the search's scores can be trusted."""

    trials: Annotated[int, Field(ge=4)]


class Recipe(_Model):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$", max_length=100)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    dataset: DatasetSection | None = None
    space: Component
    strategy: Component
    evaluation: Component
    objectives: Annotated[dict[str, Literal["max", "min"]], Field(min_length=1)] = {
        "val_accuracy": "max"
    }
    constraints: dict[Cost, LimitSection] = {}
    pruning: Component | None = None
    budget: BudgetSection
    start_from: list[str] = []
    final: FinalSection = FinalSection()
    audit: AuditSection | None = None
    executor: ExecutorSection = ExecutorSection()
    tracking: TrackingSection = TrackingSection()

    @field_validator("name", mode="before")
    @classmethod
    def _stripped(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @field_validator("start_from", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def dump(self) -> dict[str, Any]:
        """Plain data, as YAML and JSON can hold it."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def digest(self) -> str:
        """Hash of what decides the search's results, and so of no name, budget or executor."""
        data = self.dump()
        for section in ("name", "budget", "final", "audit", "executor", "tracking"):
            data.pop(section, None)
        if not self.start_from:
            del data["start_from"]  # journals of earlier versions know nothing of it
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def refuse_bool(value: Any) -> Any:
    """Raise ValueError for true and false, which pydantic takes for the numbers 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"must not be {str(value).lower()}")
    return value


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``KEY=VALUE`` overrides, in order.

    Raises:
        RecipeError: If the file is absent, not UTF-8, not YAML, too large, or says something that
            no recipe can say.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise RecipeError(f"recipe {path}: {len(data):,} bytes are too many for a recipe")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path}: not UTF-8 ({error.reason})") from error
    content = parse_yaml(text, f"recipe {path}")
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path}: must be a mapping of sections, not {_kind(content)}")
    return validate(apply(content, overrides), str(path))


def validate(content: Mapping[str, Any], source: str) -> Recipe:
    """Make a Recipe of plain data; every mistake in one line."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{source}: {explain(error, Recipe)}") from error


def apply(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the content with ``KEY=VALUE`` overrides; the value is read as YAML.

    Naming another component (``strategy.name=random``) drops the options of the one it replaces,
    but not what belongs to the section (``executor.device``).
    """
    try:
        content = json.loads(json.dumps(content, default=str))
    except ValueError as error:
        raise RecipeError(f"the recipe is not plain data: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise RecipeError(f"--set {override!r}: must be KEY=VALUE, such as seed=1")
        value = parse_yaml(text, f"--set {override!r}")
        section = content
        for depth, part in enumerate(path[:-1]):
            inner = section.get(part)
            if isinstance(inner, str) and path[depth + 1] != "name":
                inner = {"name": inner}  # the short form of a component
            if inner is None or isinstance(inner, str):
                inner = {}
            if not isinstance(inner, dict):
                raise RecipeError(f"--set {override!r}: {'.'.join(path[: depth + 1])} has no keys")
            section[part] = inner
            section = inner
        renamed = path[-1] == "name" and len(path) > 1 and path[0] != "dataset"
        if renamed and section.get("name") != value:
            for name in section.keys() - _OWN.get(path[0], set()):
                del section[name]
        section[path[-1]] = value
    return content


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """All mistakes of a pydantic error in one line: key path, what is wrong, nearest name."""
    return "; ".join(_explain_one(item, model, prefix) for item in error.errors())


def _explain_one(item: Any, model: type[BaseModel], prefix: str) -> str:
    location = [part for part in item["loc"] if part != "[key]"]
    path = prefix + ".".join(_shown(str(part)) for part in location)
    match item["type"]:
        case "extra_forbidden":
            known = _fields(model, location[:-1])
            hint = did_you_mean(str(location[-1]), known)
            return f"{path}: unknown key{hint} Known: {', '.join(known) or 'none'}"
        case "missing":
            return f"{path}: is missing"
        case "literal_error":
            options = [str(o) for o in get_args(Cost)] if "[key]" in item["loc"] else []
            hint = did_you_mean(str(item["input"]), options).removesuffix(".")
            return f"{path}: {item['msg']}, not {item['input']!r}{hint}"
        case "value_error":
            return f"{path or 'recipe'}: {item['ctx']['error']}"
        case _:
            shown = repr(item["input"])
            shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
            return f"{path or 'recipe'}: {item['msg']}, not {shown}"


def _shown(key: str) -> str:
    return key if key.isprintable() else repr(key)


def _fields(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names that the model has at a location, following its nested models."""
    for part in location:
        field = model.model_fields.get(str(part))
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        nested = [*candidates, *(a for c in candidates for a in get_args(c))]
        inner = [a for a in nested if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner:
            model = inner[0]
    return list(model.model_fields)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses what YAML allows and nobody means."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > _MAX_ALIASES:
                raise yaml.YAMLError(f"more than {_MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen: set[str] = set()
        for key in keys:
            if not isinstance(key, str):
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {key!r} must be text; put it in quotes")
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} is there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(  # YAML 1.1 reads 1e-3 as text
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML with the safe loader; anything wrong is one line."""
    try:
        return yaml.load(text, Loader=_Loader)
    # The last two: PyYAML's own, from ``!!bool maybe`` and ``!!timestamp soon``.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RecipeError(f"{source}: not YAML: {' '.join(reason.split())}") from error


def _kind(value: Any) -> str:
    return "empty" if value is None else type(value).__name__
