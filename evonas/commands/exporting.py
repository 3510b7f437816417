"""A run's network as a file for others, compared with what the run holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from evonas import files
from evonas.errors import PluginError, RecipeError
from evonas.runs.export import FOLDER
from evonas.runs.network import Network, find, read
from evonas.runs.network import data as run_data
from evonas.training import programs
from evonas.training.data import Split

_IMAGES, _BATCH = 100, 20  # Random images that both are shown, in batches of another size than 2.
_CALIBRATION = 256  # Training images that show the range of an int8 file's activations.
_TOLERANCE = 1e-4  # Of the largest logit, or of 1 if that is more.


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: Where.
        size: In bytes.
        difference: Between logits of the file and of the network, at most, over 100 images.
        accuracies: Of an int8 file: on the validation split, the network's and the file's.
    """

    path: Path
    size: int
    difference: float
    accuracies: tuple[float, float] | None = None


def export(
    run_dir: Path, form: str | None, trial: int | None, output: Path | None, int8: bool = False
) -> Exported:
    """Write a run's network as a file.

    Args:
        run_dir: The run folder.
        form: One of ``programs.FORMATS``; default: as the output's suffix says, else pt2.
        trial: Number of a trial of the search; default: the winner.
        output: Where to; default: in the run folder.
        int8: Whether to write integers of eight bits, calibrated on training images.

    Raises:
        RecipeError: If format and suffix do not agree, or int8 is not ONNX.
        HistoryError: If the run has no such network.
        PluginError: If packages are missing, the network cannot be exported, or the file computes
            something else.
        StorageError: If it cannot be written.
    """
    form = _format(form or ("onnx" if int8 else None), output)
    if int8 and form != "onnx":
        raise RecipeError("--int8 needs --format onnx")
    programs.need(form)
    network = read(run_dir, trial)
    name = f"trial_{trial}" if "stage" in network.about else f"{FOLDER}/network"
    path = output or run_dir / f"{name}{'.int8' if int8 else ''}.{form}"
    try:
        whole = cast(nn.Sequential, network.module)
        about = {**network.about, "precision": "int8"} if int8 else network.about
        content = programs.program(whole, network.task, about, form)
        if int8:
            data = run_data(run_dir)
            some = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
            images = data.train.images[some[:_CALIBRATION]].permute(0, 3, 1, 2).contiguous()
            content = programs.quantized(content, images)
    except programs.Refused as error:
        raise PluginError(f"{run_dir}: {error}") from error
    with files.blamed(path):
        files.write(path, content)
    file = find(path)
    difference, scale = _difference(network, file)
    if int8:
        accuracies = _accuracy(network, data.val), _accuracy(file, data.val)
        return Exported(path, len(content), difference, accuracies)
    if not difference <= _TOLERANCE * scale:
        raise PluginError(
            f"{path}: its logits differ from the network's by up to {difference:.2g}; do not use it"
        )
    return Exported(path, len(content), difference)


def _format(form: str | None, output: Path | None) -> str:
    suffix = output.suffix.removeprefix(".") if output else ""
    if suffix not in ("", *programs.FORMATS):
        raise RecipeError(f"--output {output}: must end in .pt2 or .onnx")
    if form and suffix and form != suffix:
        raise RecipeError(f"--output {output}: must end in .{form}, or --format be {suffix}")
    return form or suffix or programs.FORMATS[0]


def _difference(network: Network, file: Network) -> tuple[float, float]:
    """The largest between logits of the network and of the file, and the largest logit."""
    shape, largest, scale = network.task.input_shape, 0.0, 1.0
    rng = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for _ in range(_IMAGES // _BATCH):
            images = torch.randint(256, (_BATCH, *shape), dtype=torch.uint8, generator=rng)
            expected, given = network.module(images), file.module(images)
            largest = max(largest, float((expected - given).abs().max()))
            scale = max(scale, float(expected.abs().max()))
    return largest, scale


def _accuracy(network: Network, part: Split) -> float:
    guesses = network.predict(part.images).argmax(1)
    return float((guesses == part.labels.numpy()).mean())
