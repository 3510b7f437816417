"""Types, ranges and docstrings, in the words of a person who writes a recipe."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evonas.recipe.schema import Component

_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_INDENT = 4  # The docstrings' own.


def table(model: type[BaseModel], texts: Mapping[str, str] | None = None) -> list[str]:
    """A line or two for every key: type, range and default, then what it means.

    Args:
        model: Of the keys.
        texts: What they mean, where the model does not say.
    """
    lines = []
    for name, field in model.model_fields.items():
        text = (texts or {}).get(name) or field.description or ""
        lines.append(f"  {name}: {kind(field.annotation, field.metadata)}{_default(field)}")
        if text:
            lines.append(f"      {plain(text)}")
    return lines


def kind(annotation: Any, metadata: typing.Sequence[Any] = ()) -> str:
    """A type with its range: ``whole number, at least 1``."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind(inner[0], [*inner[1:], *metadata])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(kind(a, metadata) for a in inner if a is not type(None))
    if origin is dict or origin is Mapping:
        return f"mapping of {kind(inner[0])} to {kind(inner[1])}" if inner else "mapping"
    if origin in (list, tuple):
        return f"list of {kind(inner[0])}" if inner else "list"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return "a component's name, or name with options"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(f"{name}: …" for name in annotation.model_fields) + "}"
    return ", ".join(
        [_NAMES.get(annotation, getattr(annotation, "__name__", "any")), *_bounds(metadata)]
    )


def _bounds(metadata: typing.Sequence[Any]) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(item.metadata)
        for name, words in _BOUNDS.items():
            if (bound := getattr(item, name, None)) is not None:
                yield f"{words} {bound}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "; must be given"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, Component):
        value = value.name
    if isinstance(value, BaseModel):
        return ""
    return f"; default {str(value).lower() if isinstance(value, bool) else value}"


def plain(text: str) -> str:
    """Text of a docstring in one paragraph, without its markup."""
    return " ".join(text.replace("``", "`").split())


def prose(text: str | None) -> str:
    """A docstring up to its first section (Args:, Attributes:, Raises:), without its markup."""
    body = re.split(r"^[A-Z][a-z]+:$", inspect.cleandoc(text or ""), maxsplit=1, flags=re.MULTILINE)
    return body[0].strip().replace("``", "`")


def arguments(cls: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and of those it extends say of each argument."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        text = inspect.cleandoc(vars(each).get("__doc__") or "")
        section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", text, re.MULTILINE)
        name = ""
        for line in section[1].splitlines() if section else ():
            if start := re.match(rf" {{{_INDENT}}}(\w+): *(.*)", line):
                name, found[start[1]] = start[1], start[2]
            elif line.strip() and name:
                found[name] += " " + line.strip()
    return found
