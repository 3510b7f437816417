"""A recipe: YAML in, a validated and frozen ``Recipe`` out; every mistake is one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from evonas.errors import RecipeError, did_you_mean
from evonas.recipe.schema import Recipe

FILE = "recipe.yaml"  # its name in a run folder
_MAX_BYTES = 50_000  # No recipe is larger; PyYAML reads some 30 kB a second of the densest text.
_MAX_ALIASES = 16  # A few thousand aliases of aliases would fill the memory.
_MAX_DEPTH = 16  # Every component that another wraps may double the work.


def shipped() -> dict[str, Path]:
    """The recipes that evonas comes with, by name."""
    package = Path(__file__).parents[1]
    folders = (package / "recipes", package.parent / "recipes")  # of a wheel, and of a checkout
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def find(path: Path) -> Path:
    """The recipe that a person means: a file, or else the name of one that evonas comes with.

    Raises:
        RecipeError: If it is a name, and there is none of that name.
    """
    if os.path.isfile(path) or len(path.parts) != 1 or path.suffix:
        return path
    if path.name not in (known := shipped()):
        hint = did_you_mean(path.name, known)
        raise RecipeError(
            f"recipe {path}: neither a file nor a recipe of evonas{hint} See: evonas list recipes"
        )
    return known[path.name]


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``KEY=VALUE`` overrides, in order.

    Args:
        path: A file, or the name of a recipe that evonas comes with.
        overrides: As of ``--set``.

    Raises:
        RecipeError: If the file is absent, not UTF-8, not YAML, too large, or says something that
            no recipe can say.
    """
    path = find(path)
    try:
        with path.open("rb") as file:  # what is beyond the limit is not even read
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror}") from error
    _check_size(data, f"recipe {path}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path}: not UTF-8 ({error.reason})") from error
    content = parse_yaml(text, f"recipe {path}")
    if not isinstance(content, dict):
        kind = "empty" if content is None else type(content).__name__
        raise RecipeError(f"recipe {path}: must be a mapping of sections, not {kind}")
    return validate(apply(content, overrides), str(path))


def validate(content: Mapping[str, Any], source: str) -> Recipe:
    """Make a Recipe of plain data; every mistake in one line."""
    _check_depth(content, source)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{source}: {explain(error, Recipe)}") from error


def _check_depth(value: Any, source: str, left: int = _MAX_DEPTH) -> None:
    if not left:
        raise RecipeError(f"{source}: nested too deeply: {_MAX_DEPTH} levels are the most")
    inner = value.values() if isinstance(value, Mapping) else value
    for each in inner if isinstance(value, Mapping | list | tuple) else ():
        _check_depth(each, source, left - 1)


def text(recipe: Recipe) -> str:
    """As a run folder keeps it; RecipeError if it could not be read again."""
    written = yaml.safe_dump(recipe.dump(), sort_keys=False)
    _check_size(written, "the recipe, with what it leaves to defaults")
    return written


def apply(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the content with ``KEY=VALUE`` overrides; the value is read as YAML.

    Naming another component (``strategy.name=random``) drops the options of the one it replaces,
    but not what belongs to the section (``executor.device``).
    """
    try:
        plain = json.dumps(content, default=str, ensure_ascii=False)
        content = json.loads(plain.encode(), parse_int=_small)  # half a surrogate is no text
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"the recipe is not plain data: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        path, source = key.strip().split("."), f"--set {_shown(override)}"
        if not equals or not all(path):
            raise RecipeError(f"{source}: must be KEY=VALUE, such as seed=1")
        value = parse_yaml(text, source)
        section = content
        for depth, part in enumerate(path[:-1]):
            inner = section.get(part)
            if isinstance(inner, str) and path[depth + 1] != "name":
                inner = {"name": inner}  # the short form of a component
            if inner is None or isinstance(inner, str):
                inner = {}
            if not isinstance(inner, dict):
                raise RecipeError(f"{source}: {'.'.join(path[: depth + 1])} has no keys")
            section[part] = inner
            section = inner
        renamed = path[-1] == "name" and len(path) > 1
        if renamed and section.get("name") != value:
            for name in section.keys() - set(_fields(Recipe, path[:1])):
                del section[name]
        section[path[-1]] = value
    return content


def explain(
    error: ValidationError, model: type[BaseModel], prefix: str = "", also: Iterable[str] = ()
) -> str:
    """All mistakes of a pydantic error in one line: key path, what is wrong, nearest name.

    Args:
        error: What pydantic says.
        model: What refused.
        prefix: Put before every key path.
        also: Keys that are right at the top, and none of the model's.
    """
    return "; ".join(_explain_one(item, model, prefix, also) for item in error.errors())


def _explain_one(item: Any, model: type[BaseModel], prefix: str, also: Iterable[str]) -> str:
    location = [str(part) for part in item["loc"] if part != "[key]"]
    path = prefix + ".".join(key if key.isprintable() else repr(key) for key in location)
    match item["type"]:
        case "extra_forbidden":
            names = _fields(model, location[:-1])
            names += sorted(set(also) - set(names)) if len(location) == 1 else []
            hint = did_you_mean(location[-1], names)
            return f"{path}: unknown key{hint} Known: {', '.join(names) or 'none'}"
        case "missing":
            return f"{path}: is missing"
        case "value_error":
            return f"{path or 'recipe'}: {item['ctx']['error']}"
        case _:
            return f"{path or 'recipe'}: {item['msg']}, not {_shown(item['input'])}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _fields(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Names that the model has at a location, following its nested models."""
    for part in location:
        if field := model.model_fields.get(part):
            model = next(models(field.annotation), model)
    return list(model.model_fields)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a key's annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths of a nested mapping, ``strategy.name``, and their values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


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
        earlier: set[str] = set()
        for key in keys:
            if not isinstance(key, str):
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: key {key!r} must be text; put it in quotes")
            if key in earlier:
                raise yaml.YAMLError(f"key {key!r} is there twice")
            earlier.add(key)
        return super().construct_mapping(node, deep)


def _small(number: str | int) -> int:
    """A whole number of 64 bits at most: nothing computes with more."""
    if not -(2**63) <= (whole := int(number)) < 2**63:
        raise ValueError("a whole number has more than 64 bits")
    return whole


def _whole_of_yaml(loader: _Loader, node: Any) -> int:
    return _small(loader.construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_of_yaml)
_Loader.add_implicit_resolver(  # YAML 1.1 reads 1e-3 as text
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _check_size(text: str | bytes, source: str) -> None:
    if len(text) > _MAX_BYTES:
        raise RecipeError(f"{source}: more than {_MAX_BYTES:,} bytes are too many for a recipe")


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML with the safe loader; anything wrong is one line."""
    _check_size(text, source)
    try:
        return yaml.load(text, Loader=_Loader)
    # The last two: PyYAML's own, from ``!!bool maybe`` and ``!!timestamp soon``.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RecipeError(f"{source}: not YAML: {' '.join(reason.split())}") from error
