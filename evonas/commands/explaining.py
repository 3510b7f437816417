"""``evonas recipe``: what every key of a recipe means."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel

from evonas.commands import catalogue, wording
from evonas.errors import UnknownComponent
from evonas.recipe.registry import KINDS
from evonas.recipe.schema import Component, LimitSection, Recipe


def recipe(section: str | None) -> list[str]:
    """Lines on the sections of a recipe, or on the keys of one.

    Raises:
        UnknownComponent: If there is no such section.
    """
    if section is None:
        return [*wording.table(Recipe), "", "every key of one: evonas recipe SECTION"]
    if section not in Recipe.model_fields:
        raise UnknownComponent("section", section, Recipe.model_fields)
    field = Recipe.model_fields[section]
    lines = [f"{section}: {wording.plain(field.description or '')}"]
    types = (field.annotation, *get_args(field.annotation))
    model = next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
    if section == "constraints":
        model = LimitSection
    if model is None:
        return [*lines, f"  {wording.kind(field.annotation, field.metadata)}"]
    lines += wording.table(model)
    if issubclass(model, Component):
        kind = next(kind for kind in KINDS if catalogue.section_of(kind) == section)
        lines += [
            "  and the options of what is named:",
            f"      evonas list {kind}; evonas show {kind} NAME",
        ]
    return lines


def reference() -> str:
    """All of it as the page ``docs/recipe.md``, which this module prints if it is run."""
    parts = ["# Every key of a recipe", "Made by `python -m evonas.commands.explaining`."]
    for section in Recipe.model_fields:
        head, *lines = recipe(section)
        told = "\n".join(line.removeprefix("  ") for line in lines)
        parts += [f"## `{section}`", head.partition(": ")[2] or "…", f"```text\n{told}\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
