from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import pytest

from evonas.errors import PluginError, RecipeError
from evonas.recipe import options
from evonas.recipe.schema import Component


class Thing:
    """Declares its options as any component does."""

    def __init__(
        self,
        space: object,
        size: int,
        rate: float = 0.5,
        mode: Literal["fast", "good"] = "good",
        limit: int | None = None,
        table: Path | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        pass


class Wrapper:
    def __init__(self, context: object, of: object, share: float = 1.0) -> None:
        pass


class Bare:
    pass


class Forgetful:
    def __init__(self, size: Nowhere = 1) -> None:  # noqa: F821
        pass


class Misspelt:
    def __init__(self, path: Path.nothing = 1) -> None:
        pass


class Strange:
    def __init__(self, thing: Bare | None = None) -> None:
        pass


class Copier:
    def __init__(self, copy: int = 1, model_size: int = 2) -> None:
        pass


class InFolder:
    def __init__(self, path: Path) -> None:
        pass


def test_defaults_are_filled_in_and_what_is_handed_over_is_not_an_option() -> None:
    assert options.check(Thing, {"size": 3}, "s") == {
        "size": 3,
        "rate": 0.5,
        "mode": "good",
        "limit": None,
        "table": None,
        "names": (),
    }


def test_values_take_their_declared_types() -> None:
    given = {"size": 3, "rate": 1, "table": "x.csv", "names": ["a"], "limit": 4, "mode": "fast"}
    checked = options.check(Thing, given, "s")
    assert checked["rate"] == 1.0
    assert checked["table"] == Path("x.csv").absolute()
    assert checked["names"] == ("a",)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"size": "big"}, "s.size: Input should be a valid integer"),
        ({"size": 1.5}, "s.size"),
        ({"size": None}, "s.size"),
        ({}, "s.size: is missing"),
        ({"size": 1, "sise": 2}, "s.sise: unknown key. Did you mean 'size'? Known: size, rate"),
        ({"size": 1, "space": 2}, "s.space: unknown key"),
        ({"size": 1, "rate": float("nan")}, "s.rate"),
        ({"size": 1, "rate": float("inf")}, "s.rate"),
        ({"size": 1, "rate": "1/2"}, "s.rate"),
        ({"size": 1, "mode": "quick"}, "s.mode: Input should be 'fast' or 'good', not 'quick'"),
        ({"size": 1, "names": "ab"}, "s.names"),
        ({"size": [1] * 100}, "…"),
    ],
)
def test_mistakes_are_one_line(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        options.check(Thing, given, "s")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_in_one_line() -> None:
    with pytest.raises(RecipeError, match=r"s\.size: .*; s\.rate: .*; s\.x: unknown"):
        options.check(Thing, {"size": "a", "rate": "b", "x": 1}, "s")


def test_a_wrapped_component_stays_one() -> None:
    checked = options.check(Wrapper, {"of": "train"}, "s")
    assert checked == {"of": Component(name="train"), "share": 1.0}
    checked = options.check(Wrapper, {"of": {"name": "train", "epochs": 3}}, "s")
    assert checked["of"].options == {"epochs": 3}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "evaluation.of: is missing"),
        ({"of": 3}, "evaluation.of"),
        ({"of": {"epochs": 3}}, "evaluation.of.name: is missing"),
    ],
)
def test_a_wrapper_needs_a_component(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        options.check(Wrapper, given, "evaluation")


def test_without_a_constructor_there_are_no_options() -> None:
    assert options.check(Bare, {}, "s") == {}
    with pytest.raises(RecipeError, match=r"s\.x: unknown key\. Known: none"):
        options.check(Bare, {"x": 1}, "s")


@pytest.mark.parametrize("broken", [Forgetful, Misspelt, Strange])
def test_annotations_that_say_nothing_are_the_plugins_fault(broken: type) -> None:
    with pytest.raises(PluginError, match=broken.__name__) as caught:
        options.check(broken, {}, "s")
    assert "\n" not in str(caught.value)


def test_an_option_may_be_called_as_a_method_of_pydantic_silently() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert options.check(Copier, {"copy": 7}, "s") == {"copy": 7, "model_size": 2}


def test_a_path_becomes_absolute(tmp_path: Path) -> None:
    assert options.check(InFolder, {"path": "x"}, "s") == {"path": tmp_path / "x"}
