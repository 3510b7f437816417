"""``evonas recipe``: what every key of a recipe means."""

from __future__ import annotations

from evonas.commands import wording
from evonas.errors import UnknownComponent
from evonas.recipe import reading
from evonas.recipe.registry import SECTIONS
from evonas.recipe.schema import Component, Recipe


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
    model = next(reading.models(field.annotation), None)
    if model is None:
        return [*lines, f"  {wording.kind(field.annotation, field.metadata)}"]
    lines += wording.table(model)
    if issubclass(model, Component):
        kind = SECTIONS[section]
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
