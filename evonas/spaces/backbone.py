"""Transfer learning as a search space: how much of a published network to keep, and how.

With ``init`` of the same name in the evaluation the kept part begins with published weights:
modules keep the names that torchvision and timm gave them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.errors import InvalidArchitecture, OptionError, did_you_mean
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts.layers import Layer, Meter, Row

_TOLD_APART = 224  # pixels, at which stages are
_STEP = 32
_COLOURS = 3


class Backbone(SearchSpace):
    """A network of torchvision or timm, cut off after a stage, with a new head.

    A stage is what works at one size of the map. The choices are ``cut``, the stages that are kept;
    ``freeze``, how many of them are not trained; ``resolution``, to which images are resized first,
    in pixels; and the ``head`` on the globally averaged features: a ``linear`` layer, or an ``mlp``
    with ``hidden`` units; ``dropout`` comes before it. Which layers transfer, and that the last are
    often better replaced, is shown by Yosinski et al., How transferable are features in deep neural
    networks?, NeurIPS 2014. Greyscale images are repeated in the three colours.

    Args:
        network: ``torchvision:NAME`` or ``timm:NAME``; of its parts those that run in a row are
            kept, as all but the classifier do in ResNets, RegNets, MobileNets, EfficientNets, VGGs,
            DenseNets and ConvNeXts.
        max_resolution: In steps of 32.
    """

    def __init__(
        self,
        network: str = "torchvision:mobilenet_v3_small",
        max_resolution: Annotated[int, Field(ge=_STEP)] = 128,
    ) -> None:
        self._network = network
        self._whole = _published(network).to("meta")
        self._parts = _row(self._whole)
        self._stages = _stages(self._whole, self._parts, _TOLD_APART)
        count = len(self._stages)
        if count < 2:
            raise OptionError("network", f"the parts of {network} do not run in a row")
        self._at: dict[int, list[_Stage]] = {}  # by resolution
        self.domains = {
            "cut": Integer(1, count),
            "freeze": Integer(0, count),
            "resolution": Integer(self._least(max_resolution), max_resolution, step=_STEP),
            "head": Categorical(("linear", "mlp")),
            "hidden": Integer(32, 512, step=32, log=True),
            "dropout": Categorical((0.0, 0.2, 0.5), ordered=True),
        }
        self.conditions = {"hidden": lambda choices: choices["head"] == "mlp"}
        self.rules = {"no more stages are frozen than kept": lambda c: c["freeze"] <= c["cut"]}
        all_of_it: dict[str, Value] = {"cut": count, "head": "linear", "hidden": 32, "dropout": 0.2}
        self.points = {
            "features": all_of_it | {"freeze": count, "resolution": max_resolution},
            "fine_tuned": all_of_it | {"freeze": 0, "resolution": max_resolution},
        }

    def _least(self, most: int) -> int:
        """The smallest resolution at which there is something left at the end."""
        for resolution in range(_STEP, most + 1, _STEP):
            with suppress(RuntimeError):  # torch's, of a map smaller than what slides over it
                self._stages_at(resolution)
                return resolution
        raise OptionError("max_resolution", f"{most} is too small for {self._network}")

    def _stages_at(self, resolution: int) -> list[_Stage]:
        """The stages with what they cost at a resolution, counted once."""
        if resolution not in self._at:
            self._at[resolution] = _stages(self._whole, self._parts, resolution, self._stages)
        return self._at[resolution]

    def size(self) -> int:
        """Exactly: a cut after stage c freezes 0…c stages, a linear head has no hidden units."""
        count = len(self._stages)
        cuts_and_freezes = count * (count + 3) // 2
        heads = 1 + self.domains["hidden"].size
        rest = self.domains["resolution"].size * self.domains["dropout"].size
        return cuts_and_freezes * heads * rest

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network.

        Raises:
            InvalidArchitecture: If images are neither grey nor coloured.
        """
        if task.channels not in (1, _COLOURS):
            raise InvalidArchitecture(f"backbones take 1 or 3 channels, not {task.channels}")
        choices = architecture.choices
        stage = self._stages[int(choices["cut"]) - 1]
        network = _published(self._network)
        if choices["freeze"]:
            frozen = self._stages[int(choices["freeze"]) - 1].end
            for name in self._parts[:frozen]:
                network.get_submodule(name).requires_grad_(False)
        names = self._parts[: stage.end]
        _prune(network, set(names))
        head = _head(stage.channels, choices, task.classes).build()
        return _Cut(network, names, int(choices["resolution"]), head)

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        """Count it: the kept parts once per resolution."""
        choices = architecture.choices
        stage = self._stages_at(int(choices["resolution"]))[int(choices["cut"]) - 1]
        meter = Meter(Task(stage.channels, 1, 1, task.classes))
        _head(stage.channels, choices, task.classes).cost(meter)
        params, flops = stage.params + meter.params, stage.flops + meter.flops
        return {"params": float(params), "flops": float(flops)}


@dataclass(frozen=True)
class _Stage:
    """Where a stage ends, and what the network costs up to there."""

    end: int  # number of parts
    channels: int
    params: int
    flops: int


def _published(network: str) -> nn.Module:
    """A freshly initialised network by name, on the default device.

    Raises:
        OptionError: If there is none of that name, or timm is not installed.
    """
    source, _, name = network.partition(":")
    if source == "torchvision":
        from torchvision import models

        known, make = models.list_models(), models.get_model
    elif source == "timm":
        try:
            import timm
        except ImportError as error:
            raise OptionError(
                "network", "timm is not installed: pip install 'evonas[timm]'"
            ) from error
        known, make = timm.list_models(), timm.create_model
    else:
        raise OptionError("network", f"must be torchvision:NAME or timm:NAME, not {network!r}")
    if name not in known:
        raise OptionError("network", f"{source} has no {name!r}{did_you_mean(name, known)}")
    device = torch.get_default_device()
    if device.type != "meta":
        return cast(nn.Module, make(name))
    with torch.device("cpu"):  # RegNets compute their widths with tensors
        return cast(nn.Module, make(name)).to(device)


def _named_parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Direct parts, and those of rows of parts, by name."""
    for name, part in module.named_children():
        if type(part).forward is nn.Sequential.forward:
            yield from _named_parts(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


@torch.no_grad()
def _row(network: nn.Module) -> list[str]:
    """Names of the leading parts that run one after another, up to the global pooling.

    Found out by running: each part's output is as large as in the network itself, and has as many
    channels at another resolution, which sets it apart from what has them last.
    """
    parts, shapes = dict(_named_parts(network)), dict[str, torch.Size]()

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            shapes[name] = output.shape

    handles = [part.register_forward_hook(partial(note, name)) for name, part in parts.items()]
    pixels = (_TOLD_APART, _TOLD_APART // 7 * 5)
    large, small = (torch.empty(1, _COLOURS, side, side, device="meta") for side in pixels)
    network.eval()(large)
    for handle in handles:
        handle.remove()
    row: list[str] = []
    for name, part in parts.items():
        shape = shapes.get(name)
        if shape is None or len(shape) != large.ndim or shape[2:] == (1, 1):
            break
        if isinstance(part, nn.AdaptiveAvgPool2d):
            break
        large, small = part(large), part(small)
        if large.shape != shape or small.shape[1] != shape[1]:
            break
        row.append(name)
    return row


@torch.no_grad()
def _stages(
    network: nn.Module, parts: Sequence[str], resolution: int, known: Sequence[_Stage] = ()
) -> list[_Stage]:
    """What the network costs up to the end of every stage, on the meta device.

    Args:
        network: The whole of it.
        parts: Names of those that run in a row.
        resolution: Pixels a side.
        known: Stages of another resolution, to end at the same parts; default: where the size of
            the map changes.
    """
    x = torch.empty(1, _COLOURS, resolution, resolution, device="meta")
    ends, passed, params, sizes = {stage.end for stage in known}, list[_Stage](), 0, [resolution]
    network.eval()
    with FlopCounterMode(display=False) as counter:
        for number, name in enumerate(parts, start=1):
            part = network.get_submodule(name)
            x = part(x)
            params += sum(p.numel() for p in part.parameters())
            passed.append(_Stage(number, x.shape[1], params, counter.get_total_flops()))
            sizes.append(x.shape[2])
    if not ends:
        changed = (n for n in range(1, len(parts)) if sizes[n + 1] != sizes[n] < resolution)
        ends = {*changed, len(parts)}
    return [stage for stage in passed if stage.end in ends]


def _prune(module: nn.Module, kept: set[str], prefix: str = "") -> None:
    """Delete the parts that are not kept."""
    for name, part in list(module.named_children()):
        path = f"{prefix}{name}"
        if any(each.startswith(f"{path}.") for each in kept):
            _prune(part, kept, f"{path}.")
        elif path not in kept:
            delattr(module, name)


def _head(inputs: int, choices: Mapping[str, Value], classes: int) -> Row:
    """What the averaged features go through, its layers named by their numbers."""
    layers = [Layer(nn.Dropout, float(choices["dropout"]))]
    if choices["head"] == "mlp":
        hidden = int(choices["hidden"])
        layers += [Layer(nn.Linear, inputs, hidden), Layer(nn.ReLU)]
        inputs = hidden
    layers.append(Layer(nn.Linear, inputs, classes))
    return Row(**{str(number): layer for number, layer in enumerate(layers)})


class _Cut(nn.Module):
    """The parts of a network in a row, under their own names, and a head."""

    def __init__(
        self, network: nn.Module, names: Sequence[str], resolution: int, head: nn.Module
    ) -> None:
        super().__init__()
        for name, part in network.named_children():
            self.add_module(name, part)
        self._names, self._resolution = tuple(names), resolution
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1 or 3, H, W) to (N, classes)."""
        size = (self._resolution, self._resolution)
        x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        x = x.expand(-1, _COLOURS, -1, -1)
        for name in self._names:
            x = self.get_submodule(name)(x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits
