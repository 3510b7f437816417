"""How many trainings of random networks diverge, of every space, at the defaults of ``train``.

    python -m benchmarks.divergence --path cifar10.npz --networks 14

    python -m benchmarks.divergence --path cifar10.npz --other optimizer=sgd

Each network is trained at the defaults, and with another option, by default gradients of any
length; the order changes from network to network. ``again`` counts the trainings that were begun
again at a third of the rate. Accuracies are of the validation split; the differences are of the
networks that train either way: paired, so that they tell more than the means. FLOPs are limited,
so that a core trains a network in seconds.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import warnings
from pathlib import Path
from random import Random
from typing import Any

import click
import torch
import yaml

from evonas.commands import showing
from evonas.datasets.base import load
from evonas.evaluators.base import Context
from evonas.evaluators.train import Train
from evonas.executors.base import run_trial
from evonas.recipe.registry import Registry
from evonas.recipe.schema import DatasetSection
from evonas.training.data import Data
from evonas.trial import Limit, Proposal, Trial, TrialState


def first_images(path: Path, size: int, images: int) -> Data:
    """A part of the training images of an .npz file, and a thousand to validate."""
    data = load(DatasetSection(name="npz", path=path, size=size, validation=0.02))
    share = images / len(data.train)
    return data.subset(min(1.0, share), 0)


@click.command()
@click.option("--path", type=click.Path(path_type=Path), required=True, help="An .npz file.")
@click.option("--networks", default=14, help="Of every space.")
@click.option("--epochs", default=2)
@click.option("--images", default=2000, help="To train on.")
@click.option("--size", default=16, help="Pixels a side.")
@click.option("--flops", default=2e7, help="Of the largest network.")
@click.option("--other", default="clip_norm=0", help="Option of train that is not the default.")
@click.option("--space", "only", multiple=True, help="Default: all, those of ./plugins too.")
def main(
    path: Path,
    networks: int,
    epochs: int,
    images: int,
    size: int,
    flops: float,
    other: str,
    only: tuple[str, ...],
) -> None:
    """Measure, print a table, and JSON as the last line."""
    warnings.simplefilter("ignore", UserWarning)  # that a training is begun again: it is counted
    data = first_images(path, size, images)
    registry = Registry((Path("plugins"),))
    key, _, value = other.partition("=")
    ways: dict[str, dict[str, Any]] = {"default": {}, other: {key: yaml.safe_load(value)}}
    print(f"{platform.platform()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{'space':<16} {'way':<14} networks  again  diverged  accuracy")
    rows: list[dict[str, object]] = []
    for name in only or sorted(registry.origins("space")):
        space = showing.make_space(registry, name)
        if "flops" not in space.counted:
            continue
        limited = space.limited({"flops": Limit(max=flops)}, data.task)
        context = Context(space, data, "cpu", 0)
        evaluators = {
            way: Train(context, epochs=epochs, batch_size=64, **options)
            for way, options in ways.items()
        }
        ended: dict[str, list[Trial]] = {way: [] for way in ways}
        for number in range(networks):
            trial = Trial(number, Proposal(limited.sample(Random(f"{name}/{number}"))))
            for way in sorted(ways, reverse=number % 2 == 1):
                ended[way].append(run_trial(evaluators[way], trial))
        for way, trials in ended.items():
            complete = [t for t in trials if t.state is TrialState.COMPLETE]
            again = sum("learning_rate" in t.metrics for t in complete)
            failed = len(trials) - len(complete)
            scores = [t.metrics["val_accuracy"] for t in complete]
            mean = statistics.fmean(scores) if scores else math.nan
            print(f"{name:<16} {way:<14} {len(trials):>8} {again:>6} {failed:>9} {mean:>9.3f}")
            rows.append({"space": name, "way": way, "again": again, "failed": failed})
        both = [
            (a.metrics["val_accuracy"], b.metrics["val_accuracy"])
            for a, b in zip(*ended.values(), strict=True)
            if a.state is b.state is TrialState.COMPLETE
            and not {"learning_rate"} & (a.metrics.keys() | b.metrics.keys())
        ]
        rows[-1]["pairs"] = both
    pairs = [pair for row in rows for pair in row.get("pairs", ())]
    differences = [a - b for a, b in pairs]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    for way in ways:
        of_way = [row for row in rows if row["way"] == way]
        again, failed = (sum(row[key] for row in of_way) for key in ("again", "failed"))
        print(f"{way}: {again} begun again, {failed} of {len(of_way) * networks} diverged")
    print(
        f"default minus {other}, {len(pairs)} networks that train either way: "
        f"{statistics.fmean(differences):+.4f} ± {error:.4f}"
    )
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
