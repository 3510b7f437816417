"""Every key of a recipe, explained."""

from __future__ import annotations

import pytest

from evonas.commands import explaining
from evonas.errors import UnknownComponent
from evonas.recipe.schema import Recipe


def test_every_section_and_every_key_has_a_sentence() -> None:
    for section in (None, *Recipe.model_fields):
        lines = explaining.recipe(section)
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("  ") and line[2] != " " and ": " in line:
                assert following.startswith("      "), f"{section}: {line}"


def test_types_ranges_and_defaults_are_said() -> None:
    budget = explaining.recipe("budget")
    assert "  max_failures: whole number, at least 1; default 10" in budget
    dataset = explaining.recipe("dataset")
    assert "  test: number, more than 0, less than 1; default 0.2" in dataset
    assert "      evonas list dataset; evonas show dataset NAME" in dataset
    assert "  max: number, more than 0" in explaining.recipe("constraints")


def test_an_unknown_section() -> None:
    with pytest.raises(UnknownComponent, match=r"unknown section 'buget'\. Did you mean 'budget'"):
        explaining.recipe("buget")
