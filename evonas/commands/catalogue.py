"""What there is, shown to a person: lists of components, one architecture."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import RecipeError, UnknownComponent
from evonas.recipe.options import bind
from evonas.recipe.registry import KINDS, Registry
from evonas.recipe.schema import Component
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import cost

_LABELS = {"params": "parameters", "flops": "FLOPs", "peak_memory": "bytes live"}


@dataclass(frozen=True)
class Row:
    """One component in a list.

    Attributes:
        name: What recipes call it.
        origin: Built-in, entry point or file.
        summary: First line of its docstring, or why it does not load.
        size: Number of points, of a space that can be made without options.
    """

    name: str
    origin: str
    summary: str
    size: int | None = None


def kind_of(text: str) -> str:
    """A kind by its name, singular or plural."""
    singular = {kind.folder: name for name, kind in KINDS.items()}
    if text not in KINDS and text not in singular:
        raise UnknownComponent("kind", text, KINDS)
    return singular.get(text, text)


def components(registry: Registry, kind: str | None) -> dict[str, list[Row]]:
    """All components of a kind, or of every kind."""
    kinds = [kind_of(kind)] if kind else list(KINDS)
    return {
        KINDS[each].folder: [
            _row(registry, each, name, origin)
            for name, origins in sorted(registry.origins(each).items())
            for origin in origins
        ]
        for each in kinds
    }


def _row(registry: Registry, kind: str, name: str, origin: str) -> Row:
    try:
        cls = registry.find(kind, name)
        size = make_space(registry, name).size() if kind == "space" else None
    # Making a space runs anybody's code: whatever it raises, the other components are listed.
    except Exception as error:
        return Row(name, origin, f"does not load: {error}")
    return Row(name, origin, (inspect.getdoc(cls) or "").partition("\n")[0], size)


def make_space(registry: Registry, name: str) -> SearchSpace:
    """A space with its default options."""
    space: SearchSpace = bind(registry, "space", Component(name=name), "space")()
    return space


def show(registry: Registry, reference: str, shape: str, classes: int) -> str:
    """Layers, parameters and FLOPs of SPACE/NAME; the choices and points of SPACE."""
    if "/" not in reference:
        return _describe(make_space(registry, reference))
    space, architecture = find_point(registry, reference)
    return _layers(space, architecture, parse_task(shape, classes))


def find_point(registry: Registry, reference: str) -> tuple[SearchSpace, Architecture]:
    """A named architecture and its space, from SPACE/NAME.

    Raises:
        UnknownComponent: If there is none of that name.
    """
    space_name, _, point = reference.partition("/")
    space = make_space(registry, space_name)
    if point not in space.points:
        raise UnknownComponent(f"point of {space_name}", point, space.points)
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


def _describe(space: SearchSpace) -> str:
    lines = [inspect.getdoc(type(space)) or "", "", f"size {space.size():.4g}"]
    for name, domain in space.domains.items():
        lines.append(f"  {name:<14} {domain}{', conditional' if name in space.conditions else ''}")
    lines += [f"rule: {sentence}" for sentence in space.rules]
    lines.append(f"points: {', '.join(space.points) or 'none'}")
    return "\n".join(lines)


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
