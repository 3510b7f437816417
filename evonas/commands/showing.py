"""``evonas show``: a component with its options, a space with its choices, a network's layers."""

from __future__ import annotations

import inspect
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evonas.architecture import Architecture
from evonas.commands import catalogue, wording
from evonas.errors import EvonasError, RecipeError, UnknownComponent
from evonas.recipe import options, reading
from evonas.recipe.options import bind
from evonas.recipe.registry import KINDS, Registry
from evonas.recipe.schema import Component
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import cost

_LABELS = {"params": "parameters", "flops": "FLOPs", "peak_memory": "bytes live"}


def show(registry: Registry, reference: str, name: str | None, shape: str, classes: int) -> str:
    """What a person wants to know of something that has a name.

    Args:
        registry: Where components come from.
        reference: A kind; or alone: a component's name, or SPACE/POINT.
        name: Of a component of this kind, or of a recipe.
        shape: Of a point's images, CHANNELSxHEIGHTxWIDTH.
        classes: Of the images.

    Raises:
        EvonasError: If there is no such thing, or it does not load.
    """
    if reference in (catalogue.RECIPES, "recipe") and name is not None:
        return reading.find(Path(name)).read_text().rstrip()
    if name is not None:
        return component(registry, catalogue.kind_of(reference), name)
    if "/" in reference:
        space, architecture = find_point(registry, reference)
        return _layers(space, architecture, parse_task(shape, classes))
    kinds = [kind for kind in KINDS if reference in registry.origins(kind)]
    if not kinds:
        known = {name for kind in KINDS for name in registry.origins(kind)}
        raise UnknownComponent("component", reference, known)
    return "\n\n".join(component(registry, kind, reference) for kind in kinds)


def component(registry: Registry, kind: str, name: str) -> str:
    """What a component does, where that was published, and its options."""
    cls = registry.find(kind, name)
    module = inspect.getmodule(cls)
    texts = [wording.prose(cls.__doc__), wording.prose(module.__doc__ if module else "")]
    source = f"{kind} {name}: {inspect.getsourcefile(cls)}"
    lines = [source, "", *(text + "\n" for text in texts if text)]
    rows = wording.table(options.fields(cls), wording.arguments(cls))
    lines += ["options:" if rows else "no options", *rows]
    if kind == "space":
        # Its constructor runs anybody's code, and may want options.
        try:
            lines += ["", *_choices(make_space(registry, name))]
        except EvonasError as error:
            lines += ["", f"choices: {error}"]
    return "\n".join(lines)


def make_space(registry: Registry, name: str) -> SearchSpace:
    """A space with its default options."""
    space: SearchSpace = bind(registry, "space", Component(name=name), "space")()
    return space


def find_point(registry: Registry, reference: str) -> tuple[SearchSpace, Architecture]:
    """A named architecture and its space, from SPACE/NAME.

    Raises:
        UnknownComponent: If there is none of that name.
    """
    space_name, _, point = reference.partition("/")
    space = make_space(registry, space_name)
    return space, space.point(point)


def parse_task(shape: str, classes: int) -> Task:
    """A task from CHANNELSxHEIGHTxWIDTH.

    Raises:
        RecipeError: If it is not of that form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", shape)
    if match is None:
        raise RecipeError(f"--input {shape}: must be CHANNELSxHEIGHTxWIDTH, such as 3x32x32")
    channels, height, width = map(int, match.groups())
    return Task(channels, height, width, classes)


def _choices(space: SearchSpace) -> list[str]:
    lines = [f"choices: {space.size():.4g} points"]
    for name, domain in space.domains.items():
        lines.append(f"  {name:<14} {domain}{', conditional' if name in space.conditions else ''}")
    lines += [f"rule: {sentence}" for sentence in space.rules]
    lines.append(f"points: {', '.join(space.points) or 'none'}")
    return lines


def _layers(space: SearchSpace, architecture: Architecture, task: Task) -> str:
    with torch.device("meta"):
        network = space.build(architecture, task).eval()
    rows = [f"{'layer':<28} {'type':<20} {'output':<14} {'parameters':>10}"]

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        size = "×".join(map(str, output.shape[1:])) if torch.is_tensor(output) else ""
        params = cost.params(module, task)
        rows.append(f"{name:<28} {type(module).__name__:<20} {size:<14} {params:>10,.0f}")

    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(partial(note, name))
    field = cost.receptive_field(network, task)
    for name, value in space.costs(architecture, task).items():
        label = _LABELS.get(name, name)
        half = f" ({value / 2:,.0f} multiply-adds)" if name == "flops" else ""
        rows.append(f"{label:<10} {value:,.0f}{half}")
    choices = ", ".join(f"{name}={value}" for name, value in architecture.choices.items())
    return "\n".join([choices, *rows, f"receptive field {field} pixels"])
