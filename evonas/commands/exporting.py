"""A run's network as a file for others, compared with what the run holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from evonas import files
from evonas.errors import PluginError, RecipeError, StorageError
from evonas.runs import programs
from evonas.runs.export import FOLDER
from evonas.runs.network import Network, read

_IMAGES, _BATCH = 100, 20  # Random images that both are shown, in batches of another size than 2.
_TOLERANCE = 1e-4  # Of the largest logit, or of 1 if that is more.


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: Where.
        size: In bytes.
        difference: Between logits of the file and of the network, at most, over 100 images.
    """

    path: Path
    size: int
    difference: float


def export(run_dir: Path, form: str | None, trial: int | None, output: Path | None) -> Exported:
    """Write a run's network as a file.

    Args:
        run_dir: The run folder.
        form: One of ``programs.FORMATS``; default: as the output's suffix says, else pt2.
        trial: Number of a trial of the search; default: the winner.
        output: Where to; default: in the run folder.

    Raises:
        RecipeError: If format and suffix do not agree.
        HistoryError: If the run has no such network.
        PluginError: If packages are missing, the network cannot be exported, or the file computes
            something else.
        StorageError: If it cannot be written.
    """
    form = _format(form, output)
    programs.need(form)
    network = read(run_dir, trial)
    inside = FOLDER if trial in (None, network.about["trial"]) and "seeds" in network.about else "."
    name = f"network.{form}" if inside == FOLDER else f"trial_{trial}.{form}"
    path = output or run_dir / inside / name
    try:
        whole = cast(nn.Sequential, network.module)
        content = programs.program(whole, network.task, network.about, form)
    except programs.Refused as error:
        raise PluginError(f"{run_dir}: {error}") from error
    try:
        files.write(path, content)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return Exported(path, len(content), _difference(network, path))


def _format(form: str | None, output: Path | None) -> str:
    suffix = output.suffix.removeprefix(".") if output else ""
    if suffix not in ("", *programs.FORMATS):
        raise RecipeError(f"--output {output}: must end in .pt2 or .onnx")
    if form and suffix and form != suffix:
        raise RecipeError(f"--output {output}: must end in .{form}, or --format be {suffix}")
    return form or suffix or programs.FORMATS[0]


def _difference(network: Network, path: Path) -> float:
    """The largest between logits of the network and of the file; PluginError if it is too large."""
    written, _ = programs.read(path)
    shape, largest, scale = network.task.input_shape, 0.0, 1.0
    rng = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for _ in range(_IMAGES // _BATCH):
            images = torch.randint(256, (_BATCH, *shape), dtype=torch.uint8, generator=rng)
            expected, given = network.module(images), written(images)
            largest = max(largest, float((expected - given).abs().max()))
            scale = max(scale, float(expected.abs().max()))
    if not largest <= _TOLERANCE * scale:
        raise PluginError(
            f"{path}: its logits differ from the network's by up to {largest:.2g}; do not use it"
        )
    return largest
