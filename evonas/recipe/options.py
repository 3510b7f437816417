"""A component's options, checked against the signature of its constructor.

A component declares its options as annotated arguments with defaults, and nothing else; what
evonas hands over itself (the space, the context, …) is left out of them. Ranges stand in the
annotations, ``epochs: Count = 10``; what depends on something else than the option alone is the
constructor's to check, which raises ``OptionError``.
"""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PydanticUserError,
    ValidationError,
    create_model,
)

from evonas.errors import PluginError, RecipeError
from evonas.recipe.reading import explain
from evonas.recipe.schema import Component, refuse_bool

Count = Annotated[int, Field(ge=1)]  # 1, 2, 3, …
Natural = Annotated[int, Field(ge=0)]  # 0, 1, 2, …
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]  # of something: more than nothing, at most all
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # less than 1, or nothing would ever decay

_HANDED_OVER = {"self", "space", "objectives", "sampler", "context", "make_evaluator", "devices"}


def check(
    cls: type[Any],
    options: Mapping[str, Any],
    section: str,
    shared: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Validate options and fill in the defaults.

    Args:
        cls: The component's class.
        options: What the recipe says.
        section: Its key path, for error messages.
        shared: Keys of the section itself: the constructor gets what it asks for and is not None.

    Returns:
        Keyword arguments for the constructor. A wrapped component (``of``) stays a ``Component``.

    Raises:
        RecipeError: Unknown option, missing one, or wrong type.
        PluginError: The constructor's annotations cannot be read, or are no types of options.
    """
    model, shared = _model(cls), shared or {}
    asked = {n: v for n, v in shared.items() if n in model.model_fields and v is not None}
    try:
        checked = model.model_validate({**asked, **options})
    except ValidationError as error:
        raise RecipeError(explain(error, model, f"{section}.", shared)) from error
    values = {name: getattr(checked, name) for name in model.model_fields}
    return {n: v.absolute() if isinstance(v, Path) else v for n, v in values.items()}


def _takes_bool(annotation: Any) -> bool:
    inner = typing.get_args(annotation)
    return annotation in (bool, Any) or any(_takes_bool(a) for a in inner)


def _model(cls: type[Any]) -> type[BaseModel]:
    constructor = cls.__init__
    if constructor is object.__init__:
        return create_model(cls.__name__, __config__=_CONFIG)
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    # Annotations are text until now, and anybody's.
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise PluginError(f"{cls.__module__}: annotations of {cls.__name__}: {error}") from error
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in _HANDED_OVER or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        default = parameter.default
        required = default is inspect.Parameter.empty
        annotation = hints.get(name, Any)
        if name == "of":  # by default a class, which recipes call by the name of its file
            annotation = Component
            default = default if required else Component(name=default.__module__.split(".")[-1])
        if not _takes_bool(annotation):
            annotation = Annotated[annotation, BeforeValidator(refuse_bool)]
        fields[name] = (annotation, ... if required else default)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an option may be called "copy", as pydantic's method
            return create_model(cls.__name__, __config__=_CONFIG, **fields)
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise PluginError(f"{cls.__module__}: options of {cls.__name__}: {reason}") from error


_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
