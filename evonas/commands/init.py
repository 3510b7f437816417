"""``evonas init``: look at a folder of pictures, and write a commented recipe for them."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import torch
from torch.nn import functional as F

from evonas import files
from evonas.datasets.parts.listing import Listing, listed
from evonas.errors import DataError, StorageError
from evonas.recipe import reading
from evonas.spaces.base import Task
from evonas.spaces.mbconv import MBConv
from evonas.training import devices
from evonas.trial import Limit

_SIDES = (32, 48, 64, 96, 128)  # Pixels a side that are worth while for small networks.
_MOST_ON_CPU = 64  # Larger images take a CPU too long.
_BATCH = 64
_PARAMS = 200_000
_FLOPS = 50_000  # Of a picture, for each of its pixels: 200 million at 64 pixels a side.
_TRIALS = 40  # A search should have so many at least, or evolution finds nothing.
_EPOCHS = (3, 10, 20)  # Of a trial: fewer say nothing; enough; more say little more.
_RUNGS = (0.333, 0.111)  # The shortest trials' share of the epochs; the smaller one
_RUNGS_FROM = 9  # from so many epochs on, or there would be less than one.
_FINAL = 10  # The winner is trained so many times longer than a trial, at most.
_SEARCH = 2 / 3  # Of the time; the rest is for the final training.
_UNEQUAL = 3  # Where one class has so many times the pictures of another, each counts alike.
_FEW = 50  # With fewer pictures a class, weights that were trained on others help most.


@dataclass(frozen=True)
class Found:
    """What a folder of pictures is like.

    Attributes:
        pictures: Per class, those to train on and to hold out of.
        splits: Pictures per split that the folder has itself.
        side: Pixels of the shorter side of a median picture.
        skipped: What was passed over, in a sentence; empty if nothing was.
    """

    pictures: Counter[str]
    splits: Counter[str]
    side: int
    skipped: str

    @property
    def training(self) -> int:
        """Pictures that a trial is trained on."""
        held_out = 0.2 * ("test" not in self.splits) + 0.15 * ("val" not in self.splits)
        return math.ceil(self.splits["train"] * (1 - held_out))


def look(folder: Path) -> Found:
    """Read the first bytes of every picture.

    Raises:
        DataError: If there are no classes of pictures.
    """
    listing: Listing = listed(folder.expanduser())
    training = Counter(picture.label for picture in listing.part("train"))
    if len(training) < 2:
        raise DataError(f"{folder} needs a folder per class, at least two; {listing.sentence()}")
    sides = [min(picture.header.size) for picture in listing.pictures]
    splits = Counter(picture.split for picture in listing.pictures)
    return Found(training, splits, round(median(sides)), listing.sentence())


def step_seconds(classes: int, device: str) -> float:
    """Seconds per pixel that a training step takes, measured here on networks of the recipe.

    Their FLOPs are limited by the number of pixels, so it is the same for pictures of any size.
    """
    task = Task(3, _SIDES[0], _SIDES[0], classes)
    space = MBConv().limited(_limits(task.height), task)
    labels = torch.zeros(_BATCH, dtype=torch.long, device=device)
    times = []
    for seed in range(3):
        network = space.build(space.sample(Random(seed)), task).to(device)
        images = torch.rand(_BATCH, *task.input_shape, device=device)
        for _ in range(2):
            start = time.perf_counter()
            loss: Any = F.cross_entropy(network(images), labels)
            loss.backward()
            if device != "cpu":
                torch.cuda.synchronize()
        times.append(time.perf_counter() - start)  # the second: the first also allocates
    return fmean(times) / task.height**2


def _limits(side: int) -> dict[str, Limit]:
    return {"params": Limit(max=_PARAMS), "flops": Limit(max=_FLOPS * side**2)}


@dataclass(frozen=True)
class Plan:
    """Numbers that fit pictures, machine and time."""

    size: int
    epochs: int
    final_epochs: int
    trials: int


def plan(found: Found, minutes: float, workers: int, on_cpu: bool, step: float) -> Plan:
    """Choose size and epochs: the largest pictures of which enough good trials fit into the time.

    Args:
        found: The pictures.
        minutes: For search and final training.
        workers: Trials at once.
        on_cpu: Whether there is no GPU.
        step: Seconds of a training step per pixel, see ``step_seconds``.
    """
    most = min(found.side, _MOST_ON_CPU if on_cpu else _SIDES[-1])
    sizes = [side for side in _SIDES if side <= most] or [max(8, most // 4 * 4)]
    searching = 60 * minutes * _SEARCH * workers
    steps = math.ceil(found.training / _BATCH)
    fewest, enough, most_epochs = _EPOCHS
    fitting = [n for n in sizes if step * n**2 * steps * enough * _TRIALS <= searching]
    size = max(fitting, default=sizes[0])
    epoch = step * size**2 * steps
    epochs = min(max(fewest, int(searching / (_TRIALS * epoch))), most_epochs)
    left = int(60 * minutes * (1 - _SEARCH) / epoch)
    final_epochs = min(max(epochs, left), _FINAL * epochs)
    return Plan(size, epochs, final_epochs, int(searching / (epoch * epochs)))


def write(folder: Path, minutes: float, output: Path | None) -> tuple[Path, str]:
    """Write the recipe.

    Args:
        folder: Of pictures.
        minutes: That a run may take.
        output: Where to; default: NAME.yaml, of the folder's name.

    Returns:
        The file, and its text.

    Raises:
        DataError: If there are no classes of pictures.
        StorageError: If the file is there, or cannot be written.
    """
    found = look(folder)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", folder.expanduser().resolve().name)
    name = plain.strip("_-") or "images"
    path = output or Path(f"{name}.yaml")
    if path.exists():
        raise StorageError(f"{path}: is there already; --output FILE")
    (device, *others) = devices.available()
    on_cpu = device == "cpu"
    workers = min(devices.cores(), devices.MOST_CPU_WORKERS) if on_cpu else 1 + len(others)
    step = step_seconds(len(found.pictures), device)
    chosen = plan(found, minutes, workers, on_cpu, step)
    text = _text(name, folder.expanduser(), found, chosen, minutes)
    reading.validate(reading.parse_yaml(text, str(path)), str(path))
    files.store(path, text)
    return path, text


def _text(name: str, folder: Path, found: Found, chosen: Plan, minutes: float) -> str:
    (common, most), least = found.pictures.most_common(1)[0], min(found.pictures.values())
    total = sum(found.pictures.values())
    splits = ", ".join(f"{count:,} {split}" for split, count in found.splits.items())
    hints = [
        f"# {splits}; {len(found.pictures)} classes of {least:,} to {most:,} training pictures.",
        f"# Always saying {json.dumps(common)} would be right in {most / total:.0%}.",
    ]
    if found.skipped:
        hints.append(f"# {found.skipped}")
    if least < _FEW:
        hints += [
            "# With fewer than 50 pictures of a class, weights that were trained on ImageNet help",
            "# most: see `evonas show recipe my_images_pretrained`.",
        ]
    objective = "val_accuracy"
    if most >= _UNEQUAL * least:
        objective = "val_balanced_accuracy"
        hints.append("# The classes are unequal: the objective counts each of them alike.")
    return TEMPLATE.format(
        hints="\n".join(hints),
        objective=objective,
        name=name,
        path=json.dumps(str(folder)),
        minutes=f"{minutes:g}",
        params=_PARAMS,
        flops=_FLOPS * chosen.size**2,
        batch=_BATCH,
        shortest=_RUNGS[chosen.epochs >= _RUNGS_FROM],
        **vars(chosen),
    )


TEMPLATE = """\
# Written by `evonas init`; every key is explained by `evonas recipe SECTION`.
{hints}
name: {name}
seed: 0

dataset:
  name: image_folder
  path: {path}
  size: {size}                # pixels a side; the largest centred square is taken and scaled
  validation: 0.15        # of the training pictures, if there is no split of that name
  test: 0.2               # of all pictures, if there is no split of that name

space: mbconv             # what can be built; others: evonas list spaces

strategy:                 # what to try next; others: evonas list strategies
  name: successive_halving
  eta: 3                  # one trial in three is promoted, to three times the epochs
  min_fidelity: {shortest}     # of the epochs, in the first trial of a network
  of: guided_evolution    # where new networks come from, and who says which are promoted

evaluation:
  name: train
  epochs: {epochs}               # of the longest trials; {trials} such fit into the time here
  final_epochs: {final_epochs}        # of the winner's final training
  batch_size: {batch}
  augmentation: standard  # shifts and left-right flips; crop: shifts alone, as letters need it

objectives:
  {objective}: max

constraints:
  params:
    max: {params}
  flops:
    max: {flops}        # of one picture, twice the multiply-adds

budget:
  minutes: {minutes}             # search and final training

executor:
  name: processes         # one worker per GPU, or one per CPU core
"""
