"""A component's options, checked against the signature of its constructor.

A component declares its options as annotated arguments with defaults, and nothing else; what
evonas hands over itself (the space, the context, …) is left out of them. Ranges stand in the
annotations, ``epochs: Count = 10``; what depends on something else than the option alone is the
constructor's to check, which raises ``OptionError``.
"""

from __future__ import annotations

import inspect
import os
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PydanticUserError,
    ValidationError,
    create_model,
)

from evonas.errors import OptionError, PluginError, RecipeError
from evonas.recipe.reading import explain
from evonas.recipe.registry import Registry, blamed
from evonas.recipe.schema import Component, refuse_bool

Count = Annotated[int, Field(ge=1)]  # 1, 2, 3, …
Natural = Annotated[int, Field(ge=0)]  # 0, 1, 2, …
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]  # of something: more than nothing, at most all
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # less than 1, or nothing would ever decay

_HANDED_OVER = {"self", "space", "objectives", "sampler", "context", "make_evaluator", "devices"}


@runtime_checkable
class Derives(Protocol):
    """A component with options whose defaults follow from its other options."""

    @classmethod
    def derived(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values of those options that are None, from the others."""


@dataclass(frozen=True)
class Part:
    """A component that a recipe names, with its options checked: calling it makes one.

    Attributes:
        name: What the recipe calls it.
        cls: Its class.
        options: Of the constructor; a component that it wraps (``of``) is a ``Part`` itself.
        path: Of its section in the recipe, such as ``evaluation.of``.
    """

    name: str
    cls: type[Any]
    options: Mapping[str, Any]
    path: str

    def __call__(self, *handed_over: Any) -> Any:
        """Make one of what evonas hands over.

        Raises:
            RecipeError: If the constructor refuses an option.
            PluginError: Whatever else a plugin's constructor raises.
        """
        with blamed(self.cls, "cannot be made", timed=True):
            try:
                return self.cls(*handed_over, **self.options)
            except OptionError as error:  # it does not know where in the recipe it stands
                raise RecipeError(f"{self.path}.{error}") from error

    def asks_for(self, argument: str) -> bool:
        """Whether the constructor has an argument of that name."""
        return argument in inspect.signature(self.cls).parameters

    def dump(self) -> dict[str, Any]:
        """The section with every default filled in."""
        inner = {k: v.dump() if isinstance(v, Part) else v for k, v in self.options.items()}
        return {"name": self.name, **inner}


def bind(registry: Registry, kind: str, section: Component, path: str) -> Part:
    """Find a component and check its options, and those of what it wraps (``of``).

    Args:
        registry: Where it is looked for.
        kind: Of the component.
        section: The recipe's; its own keys, such as ``executor.device``, are passed over.
        path: Of the section, for error messages.

    Raises:
        EvonasError: If there is no such component, or its options are wrong.
    """
    cls = registry.find(kind, section.name)
    options = check(cls, section.options, path, section.shared)
    if isinstance(cls, Derives):  # so that the stored recipe has what is used
        options |= {k: v for k, v in cls.derived(options).items() if options[k] is None}
    if isinstance(inner := options.get("of"), Component):
        options["of"] = bind(registry, kind, inner, f"{path}.of")
    return Part(section.name, cls, options, path)


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
    model, shared = fields(cls), shared or {}
    from_section = {n: v for n, v in shared.items() if n in model.model_fields and v is not None}
    try:
        instance = model.model_validate({**from_section, **options})
    except ValidationError as error:
        raise RecipeError(explain(error, model, f"{section}.", shared)) from error
    values = {name: getattr(instance, name) for name in model.model_fields}
    return {n: absolute(v) if isinstance(v, Path) else v for n, v in values.items()}


def absolute(path: Path) -> Path:
    """The same from any working directory; ``~`` is the home, for no shell has seen it."""
    return Path(os.path.expanduser(path)).absolute()


def _takes_bool(annotation: Any) -> bool:
    inner = typing.get_args(annotation)
    return annotation in (bool, Any) or any(_takes_bool(a) for a in inner)


def fields(cls: type[Any]) -> type[BaseModel]:
    """A model of a component's options: what its constructor takes beside what it is handed.

    Raises:
        PluginError: The constructor's annotations cannot be read, or are no types of options.
    """
    try:
        hints = typing.get_type_hints(cls.__init__, include_extras=True)
    # Annotations are text until now, and anybody's.
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise PluginError(f"{cls.__module__}: annotations of {cls.__name__}: {error}") from error
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if variadic or name in _HANDED_OVER:
            continue
        default = parameter.default
        required = default is parameter.empty
        if name not in hints:
            raise PluginError(
                f"{cls.__module__}: option {name!r} of {cls.__name__} has no annotation, so that "
                f"anything would do; say what it is, such as {name}: int"
            )
        if name == "name":
            raise PluginError(
                f"{cls.__module__}: option 'name' of {cls.__name__} needs another one: in recipes "
                "that is what the component is called by"
            )
        annotation = hints[name]
        if name == "of":  # by default a class, which recipes call by the name of its file
            annotation = Component
            default = default if required else Component(name=default.__module__.split(".")[-1])
        if not _takes_bool(annotation):
            annotation = Annotated[annotation, BeforeValidator(refuse_bool)]
        found[name] = (annotation, ... if required else default)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an option may be called "copy", as pydantic's method
            return create_model(cls.__name__, __config__=_CONFIG, **found)
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise PluginError(f"{cls.__module__}: options of {cls.__name__}: {reason}") from error


_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
