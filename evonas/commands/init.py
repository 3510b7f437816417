"""``evonas init``: look at a folder of pictures, and write a commented recipe for them."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import jinja2
import torch
from torch.nn import functional as F

from evonas import files
from evonas.datasets.parts.listing import Listing, listed
from evonas.errors import DataError, StorageError
from evonas.recipe import reading
from evonas.spaces.backbone import Backbone
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.cnn import CNN
from evonas.training import devices, transfer
from evonas.trial import Limit

_SIDES = (32, 48, 64, 96, 128)  # Pixels a side that are worth while for small networks.
_MOST_ON_CPU = 64  # Larger images take a CPU too long.
# What published weights know they know of larger pictures: small ones are enlarged for them.
_ENLARGED = (64, 96, 128, 160, 192, 224)
_MOST_ENLARGED_ON_CPU = 128
# Small networks with weights of ImageNet; the first one whose weights are here is begun with.
_PUBLISHED = (
    "torchvision:mobilenet_v3_small",
    "timm:mobilenetv3_small_100",
    "torchvision:mobilenet_v3_large",
    "torchvision:efficientnet_b0",
    "timm:efficientnet_b0",
    "torchvision:resnet18",
    "timm:resnet18",
)
_BATCH = 64
_PARAMS = 200_000
# Of a picture, for each of its pixels: 200 million at 64 pixels a side, a quarter of that where
# time is short.
_FLOPS = (12_500, 25_000, 50_000)
_TRIALS = 40  # A search should have so many at least, or evolution finds nothing.
_EPOCHS = (3, 10, 20)  # Of a trial: fewer say nothing; enough; more say little more.
_RUNGS = (0.333, 0.111)  # The shortest trials' share of the epochs; the smaller one
_RUNGS_FROM = 9  # from so many epochs on, or there would be less than one.
_FINAL = 10  # The winner is trained so many times longer than a trial, at most.
_SEARCH = 2 / 3  # Of the time; the rest is for the final training.
_UNEQUAL = 3  # Where one class has so many times the pictures of another, each counts alike.
_FEW = 50  # With fewer pictures a class, weights that were trained on others help most.
_RECIPE = jinja2.Environment(
    loader=jinja2.PackageLoader("evonas", "commands/templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
).get_template("recipe.yaml.jinja")


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


def step_seconds(space: SearchSpace, task: Task, device: str) -> float:
    """Seconds per pixel that a training step takes, measured here on networks of the recipe.

    It is taken for the same for pictures of any size: FLOPs are limited by the number of pixels, or
    go with it.
    """
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


def _limits(side: int, flops: int) -> dict[str, Limit]:
    return {"params": Limit(max=_PARAMS), "flops": Limit(max=flops * side**2)}


@dataclass(frozen=True)
class Plan:
    """Numbers that fit pictures, machine and time."""

    size: int
    flops: int  # per pixel
    epochs: int
    final_epochs: int
    trials: int


def sizes(side: int, on_cpu: bool) -> list[int]:
    """Pixels a side that are worth trying for pictures of a shorter side: not more than that."""
    most = min(side, _MOST_ON_CPU if on_cpu else _SIDES[-1])
    return [size for size in _SIDES if size <= most] or [max(8, most // 4 * 4)]


@dataclass(frozen=True)
class Start:
    """What networks begin with.

    Attributes:
        network: Whose published weights; empty: from scratch.
        here: Whether these are on this machine.
        sides: Pixels a side to choose from, the smallest first.
        flops: Limits of a picture's FLOPs per pixel to choose from, the lowest first; of a
            published network one, for it has those it has.
    """

    network: str
    here: bool
    sides: Sequence[int]
    flops: Sequence[int] = _FLOPS


def plan(found: Found, minutes: float, workers: int, start: Start, step: float) -> Plan:
    """Choose the largest pictures of which enough good trials fit into the time, then more FLOPs.

    Args:
        found: The pictures.
        minutes: For search and final training.
        workers: Trials at once.
        start: What there is to choose from.
        step: Seconds of a training step per pixel with the lowest limit, see ``step_seconds``.
    """
    searching = 60 * minutes * _SEARCH * workers
    steps = math.ceil(found.training / _BATCH)
    fewest, enough, most_epochs = _EPOCHS
    affordable = searching / (steps * enough * _TRIALS)  # seconds of a step
    size = max((n for n in start.sides if step * n**2 <= affordable), default=start.sides[0])
    # What a network costs goes about with its limit.
    costs = {flops: step * size**2 * flops / start.flops[0] for flops in start.flops}
    flops = max((n for n, cost in costs.items() if cost <= affordable), default=start.flops[0])
    epoch = costs[flops] * steps
    epochs = min(max(fewest, int(searching / (_TRIALS * epoch))), most_epochs)
    left = int(60 * minutes * (1 - _SEARCH) / epoch)
    final_epochs = min(max(epochs, left), _FINAL * epochs)
    return Plan(size, flops, epochs, final_epochs, int(searching / (epoch * epochs)))


def write(
    folder: Path, minutes: float, output: Path | None, pretrained: bool | None = None
) -> tuple[Path, str]:
    """Write the recipe.

    Args:
        folder: Of pictures.
        minutes: That a run may take.
        output: Where to; default: NAME.yaml, of the folder's name.
        pretrained: Whether networks begin with published weights, which the run fetches if they
            are not on this machine; default: if they are.

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
    start = _start(found, on_cpu, pretrained)
    task = Task(3, start.sides[0], start.sides[0], len(found.pictures))
    step = step_seconds(_space(start.network, task), task, device)
    chosen = plan(found, minutes, workers, start, step)
    text = _text(name, folder.expanduser(), found, start, chosen, minutes)
    reading.validate(reading.parse_yaml(text, str(path)), str(path))
    files.store(path, text)
    return path, text


def _start(found: Found, on_cpu: bool, pretrained: bool | None) -> Start:
    here = next((network for network in _PUBLISHED if transfer.here(network)), "")
    if pretrained is False or not (here or pretrained):
        return Start("", bool(here), sizes(found.side, on_cpu))
    most = _MOST_ENLARGED_ON_CPU if on_cpu else _ENLARGED[-1]
    sides = [side for side in _ENLARGED if side <= most]
    return Start(here or _PUBLISHED[0], bool(here), sides, _FLOPS[:1])


def _space(network: str, task: Task) -> SearchSpace:
    """That of the recipe, for measuring."""
    if network:
        return Backbone(network, task.height)
    return CNN().limited(_limits(task.height, _FLOPS[0]), task)


def _text(name: str, folder: Path, found: Found, start: Start, chosen: Plan, minutes: float) -> str:
    (common, most), least = found.pictures.most_common(1)[0], min(found.pictures.values())
    return _RECIPE.render(
        name=name,
        path=json.dumps(str(folder)),
        found=found,
        splits=", ".join(f"{count:,} {split}" for split, count in found.splits.items()),
        common=json.dumps(common),
        most=most,
        least=least,
        share=most / found.pictures.total(),
        few=least < _FEW,
        unequal=most >= _UNEQUAL * least,
        start=start,
        plan=chosen,
        size=min(chosen.size, max(8, found.side)),  # enlarging is left to the network
        shortest=_RUNGS[chosen.epochs >= _RUNGS_FROM],
        batch=_BATCH,
        limits=_limits(chosen.size, chosen.flops),
        minutes=f"{minutes:g}",
    )
