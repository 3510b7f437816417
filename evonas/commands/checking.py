"""``evonas check``: the contract kit on a component that is named."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evonas import testing
from evonas.commands import catalogue, pictures, showing
from evonas.errors import RecipeError
from evonas.evaluators.base import Evaluator
from evonas.recipe import reading
from evonas.recipe.options import Part, bind
from evonas.recipe.registry import KINDS, Registry
from evonas.recipe.schema import Component, DatasetSection
from evonas.spaces.base import Task
from evonas.trial import Objective


def check(
    registry: Registry,
    kind: str,
    name: str,
    overrides: Sequence[str] = (),
    task: Task = testing.TASK,
) -> list[str]:
    """What the contract kit finds wrong with a component.

    Args:
        registry: Where it comes from.
        kind: Its kind, singular or plural.
        name: What recipes call it.
        overrides: Options, ``KEY=VALUE``, the key as in a recipe or without its section.
        task: What a space's networks are built for.

    Raises:
        EvonasError: If there is none, or its options are wrong or not enough.
    """
    kind = catalogue.kind_of(kind)
    key = KINDS[kind].section
    own = [o if o.startswith(f"{key}.") else f"{key}.{o}" for o in overrides]
    cls = registry.find(kind, name)
    with tempfile.TemporaryDirectory() as folder:
        content = reading.apply({key: {"name": name, **_sparing(cls, folder)}}, own)[key]
        model = DatasetSection if kind == "dataset" else Component
        try:
            make = bind(registry, kind, model.model_validate(content), key)
        except ValidationError as error:
            raise RecipeError(reading.explain(error, model, f"{key}.")) from error
        return _check(kind, make, task)


def meant(
    registry: Registry,
    kind: str,
    name: str,
    recipe: Path | None,
    shape: str | None,
    classes: int | None,
) -> tuple[Task, list[str]]:
    """For which images a space is to be checked, and with which options.

    Args:
        registry: Where it comes from.
        kind: Of the component; only a space asks for images.
        name: Of the component.
        recipe: Whose data set is read, and whose options count if it names the space.
        shape: CHANNELSxHEIGHTxWIDTH, which goes before the recipe's.
        classes: Their number, likewise.

    Returns:
        The task; the recipe's options, as overrides.

    Raises:
        EvonasError: If the recipe or its data cannot be read, or the kind is no space.
    """
    if kind != "space" and (recipe or shape or classes):
        raise RecipeError(f"check {kind}: --input, --classes and --recipe are for spaces")
    task, options = testing.TASK, []
    if recipe is not None:
        given = reading.load(recipe)
        task = pictures.read(given, registry).task
        if given.space.name == name:
            options = [f"{key}={json.dumps(value)}" for key, value in given.space.options.items()]
    if shape is not None:
        task = showing.parse_task(shape, task.classes)
    return replace(task, classes=classes or task.classes), options


def _check(kind: str, make: Part, task: Task) -> list[str]:
    match kind:
        case "space":
            return testing.check_space(make(), task)
        case "strategy":
            samplers = [testing.sampler_of] if make.asks_for("sampler") else []
            return testing.check_strategy(
                lambda space: make(space, (Objective("value"),), *(of(space) for of in samplers))
            )
        case "evaluator":
            return testing.check_evaluator(make)
        case "dataset":
            return testing.check_dataset(make, make.options.get("size"))
        case "pruning":
            return testing.check_pruning(make)
        case "executor":
            return testing.check_executor(make)
        case _:
            return testing.check_tracker(make)


_EPOCHS = 2  # fewer could not be cut in half


def _sparing(cls: type[Any], folder: str) -> dict[str, Any]:
    """Options that make trainings short and leave nothing behind, if there are such options."""
    parameters = inspect.signature(cls).parameters
    sparing: dict[str, Any] = {}
    if "epochs" in parameters and isinstance(parameters["epochs"].default, int):
        sparing["epochs"] = _EPOCHS
    if issubclass(cls, Evaluator) and "of" in parameters:
        sparing["of"] = {"name": "train", "epochs": _EPOCHS}
    if "uri" in parameters:
        sparing["uri"] = f"sqlite:///{folder}/mlflow.db"
    return sparing
