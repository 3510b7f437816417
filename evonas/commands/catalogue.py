"""What there is, in lists; nothing is imported for them, but read."""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from evonas.errors import UnknownComponent
from evonas.recipe import reading
from evonas.recipe.registry import KINDS, Registry

_WIDTH = 90  # Of a recipe's summary: it is the beginning of the file's comment.
RECIPES = "recipes"  # No kind of component, but listed and shown like one.


@dataclass(frozen=True)
class Row:
    """One component in a list.

    Attributes:
        name: What recipes call it.
        origin: Built-in, entry point or file.
        summary: First line of its docstring, or why it cannot be used.
    """

    name: str
    origin: str
    summary: str


def kind_of(text: str) -> str:
    """A kind by its name, singular or plural."""
    singular = {kind.folder: name for name, kind in KINDS.items()}
    if text not in KINDS and text not in singular:
        raise UnknownComponent("kind", text, (*KINDS, "recipe"))
    return singular.get(text, text)


def lists(registry: Registry, kind: str | None) -> dict[str, list[Row]]:
    """All components of a kind, or of every kind, and the recipes."""
    if kind in (RECIPES, "recipe"):
        return {RECIPES: _recipes()}
    kinds = [kind_of(kind)] if kind else list(KINDS)
    found = {KINDS[each].folder: components(registry, each) for each in kinds}
    return found if kind else {**found, RECIPES: _recipes()}


def lines(registry: Registry, kind: str | None) -> Iterator[str]:
    """The lists, for the terminal."""
    for folder, rows in lists(registry, kind).items():
        yield f"{folder}:"
        for row in rows:
            origin = "" if row.origin == "built-in" else f"  [{row.origin}]"
            yield f"  {row.name:<20} {row.summary}{origin}"
    yield "more of one: evonas show KIND NAME"


def components(registry: Registry, kind: str) -> list[Row]:
    """All components of a kind."""
    rows = []
    for name, origins in sorted(registry.origins(kind).items()):
        for origin in origins:
            twice = f"is there twice: {' and '.join(origins)}" if len(origins) > 1 else ""
            summary = twice or _summary(kind, name, origin).replace("``", "`")
            rows.append(Row(name, origin, summary))
    return rows


def _recipes() -> list[Row]:
    """The recipes that evonas comes with, by the sentence that each begins with."""
    rows = []
    for name, path in reading.shipped().items():
        head = re.match(r"(#[^\n]*\n)*", path.read_text())
        text = " ".join(line.strip("# ") for line in head[0].splitlines()) if head else ""
        rows.append(Row(name, "built-in", textwrap.shorten(text, _WIDTH, placeholder=" …")))
    return rows


def _summary(kind: str, name: str, origin: str) -> str:
    """First line of the docstring of the file's component, which is read and not imported."""
    path, cls = _file(kind, name, origin)
    if path is None:
        return ""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        return f"does not load: {error}"
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and cls in ("", n.name)]
    for node in sorted(classes, key=lambda node: _unlike(node, name)):
        if text := ast.get_docstring(node):
            return text.partition("\n")[0]
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _unlike(node: ast.ClassDef, name: str) -> tuple[bool, bool]:
    """Sorts first the class that is called like its file, then what extends something of ours."""
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    helper = node.name.startswith("_") or not bases or "Protocol" in bases
    return node.name.lower() != name.replace("_", ""), helper


def _file(kind: str, name: str, origin: str) -> tuple[Path | None, str]:
    """Where a component is written down, and the class's name if it is known."""
    if origin == "built-in":
        module, _, cls = f"{KINDS[kind].package}.{name}", "", ""
    elif origin.startswith("entry point "):
        module, _, cls = origin.removeprefix("entry point ").partition(":")
    else:
        return Path(origin), ""
    return _source(module), cls


def _source(module: str) -> Path | None:
    """The file of a module; ``find_spec`` of a whole name would import its packages."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for part in rest:
        spec = spec and PathFinder.find_spec(part, spec.submodule_search_locations or ())
    origin = (spec and spec.origin) or ""
    return Path(origin) if origin.endswith(".py") else None
