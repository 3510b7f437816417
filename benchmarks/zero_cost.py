"""How well zero-cost proxies rank cells of NAS-Bench-201, beside the parameter count.

    python -m benchmarks.zero_cost --curves nasbench201_cifar10_curves.npz --cifar10 cifar10.npz

The file of curves holds, for a sample of cells, the recorded accuracies of a training of 200 epochs
on CIFAR-10 and recorded values of some proxies. Every cell is built with evonas's own space and
scored on one batch of images; the table gives the rank correlation with the last recorded
validation accuracy, a 95 % bootstrap interval of it, and the rank correlation with the recorded
values of the same proxy. ``beats`` is the share of bootstrap samples of the cells in which the
proxy's correlation is above that of the parameter count.

A proxy has no value for a cell whose output does not depend on the image. In a search that trial
fails, so over all cells it ranks last here; a second table leaves such cells out for every column.

Without ``--cifar10`` the images are noise: synflow does not look at them, the others do.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import kendalltau, rankdata

from evonas.evaluators.parts.proxies import PROXIES, Undefined
from evonas.spaces.base import Task
from evonas.spaces.nasbench201 import EDGES, NASBench201
from evonas.training.loop import Normalize, seeded

Values = npt.NDArray[np.float64]

TASK = Task(channels=3, height=32, width=32, classes=10)
SPACE = NASBench201()
BASELINE = "params"
RESAMPLES = 2000


def choices(cell: str) -> dict[str, str]:
    """Choices of the space from a cell's name, |op~0|+|op~0|op~1|+|op~0|op~1|op~2|."""
    named = {}
    for node, incoming in enumerate(cell.split("+"), start=1):
        for edge in incoming.strip("|").split("|"):
            operation, _, source = edge.partition("~")
            named[f"edge_{source}_{node}"] = operation
    assert len(named) == len(EDGES), cell
    return named


def batch(path: Path | None, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (N, 3, 32, 32) and labels: of CIFAR-10's training split, or noise."""
    rng = torch.Generator().manual_seed(seed)
    if path is None:
        click.echo("The images are NOISE, with random labels; give --cifar10 for real ones.")
        labels = torch.randint(TASK.classes, (size,), generator=rng)
        return torch.randn(size, *TASK.input_shape, generator=rng), labels
    with np.load(path) as file:
        everything, targets = file["x_train"], file["y_train"].reshape(-1)
    pixels = torch.from_numpy(everything[:10_000]).float()
    std, mean = torch.std_mean(pixels, dim=(0, 1, 2))
    drawn = torch.randperm(len(everything), generator=rng)[:size].numpy()
    images = Normalize(mean, std)(torch.from_numpy(everything[drawn]).permute(0, 3, 1, 2))
    return images.contiguous(), torch.from_numpy(targets[drawn].astype(np.int64))


def score(
    cell: str, images: torch.Tensor, labels: torch.Tensor, seed: int, seconds: dict[str, float]
) -> dict[str, float]:
    """Costs and proxies of one cell, -inf where one is undefined; adds up the proxies' time."""
    architecture = SPACE.architecture(choices(cell))
    scores = SPACE.costs(architecture, TASK)
    with seeded(seed, "cpu"):
        network = SPACE.build(architecture, TASK)
    for name, proxy in PROXIES.items():
        start = time.perf_counter()
        try:
            scores[name] = proxy(network, images, labels)
        except Undefined:
            scores[name] = -math.inf
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return scores


def spearman(a: Values, b: Values) -> float:
    """Rank correlation; ties share their mean rank."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def resampled(a: Values, b: Values, seed: int = 0) -> Values:
    """Spearman in bootstrap samples of the cells; the same samples for one seed."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(len(a), size=(RESAMPLES, len(a)))
    return np.array([spearman(a[sample], b[sample]) for sample in samples])


def table(
    scores: Mapping[str, Values], recorded: Mapping[str, Values], accuracy: Values
) -> dict[str, dict[str, float]]:
    """Correlations of every column of scores."""
    baseline = resampled(scores[BASELINE], accuracy)
    rows = {}
    for name, values in scores.items():
        bootstrap = resampled(values, accuracy)
        low, high = np.percentile(bootstrap, (2.5, 97.5))
        rows[name] = {
            "spearman": spearman(values, accuracy),
            "low": float(low),
            "high": float(high),
            "kendall": float(kendalltau(values, accuracy).statistic),
        }
        if name != BASELINE:
            rows[name]["beats"] = float(np.mean(bootstrap > baseline))
        if name in recorded:
            rows[name]["recorded_spearman"] = spearman(recorded[name], accuracy)
            rows[name]["with_recorded"] = spearman(values, recorded[name])
    return rows


def print_table(rows: Mapping[str, Mapping[str, float]]) -> None:
    heads = ("spearman", "95 %", "kendall", "beats params", "recorded's own", "with recorded")
    click.echo(f"{'':<12}" + "".join(f"{head:>16}" for head in heads))
    for name, row in rows.items():
        keys = ("kendall", "beats", "recorded_spearman", "with_recorded")
        cells = [f"{row['spearman']:.3f}", f"{row['low']:.2f}…{row['high']:.2f}"]
        cells += [f"{row[key]:.3f}" if key in row else "" for key in keys]
        click.echo(f"{name:<12}" + "".join(f"{cell:>16}" for cell in cells))


@click.command(help=__doc__.partition("\n")[0])
@click.option("--curves", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--cifar10", type=click.Path(path_type=Path, exists=True), help="x_train, y_train.")
@click.option("--cells", type=click.IntRange(10), default=100, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of weights and batch.")
def main(curves: Path, cifar10: Path | None, cells: int, batch_size: int, seed: int) -> None:
    with np.load(curves) as file:
        recorded: dict[str, Any] = {name: file[name][:cells] for name in file.files}
    images, labels = batch(cifar10, batch_size, seed)
    click.echo(
        f"{platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, "
        f"torch {version('torch')}; {len(recorded['arch_str'])} cells, batches of {batch_size}"
    )
    seconds: dict[str, float] = {}
    found = [score(str(cell), images, labels, seed, seconds) for cell in recorded["arch_str"]]
    scores = {name: np.array([each[name] for each in found]) for name in found[0]}
    accuracy = recorded["valid_acc"][:, -1].astype(np.float64)
    theirs = {name: recorded[name] for name in PROXIES if name in recorded}
    defined = np.isfinite(list(scores.values())).all(axis=0)
    figures: dict[str, Any] = {}
    for label, kept in (("all cells", np.ones_like(defined)), ("defined cells", defined)):
        click.echo(f"\n{label}: {int(kept.sum())}")
        ours, others = ({n: v[kept] for n, v in part.items()} for part in (scores, theirs))
        rows = table(ours, others, accuracy[kept])
        print_table(rows)
        figures[label] = {n: {k: round(v, 4) for k, v in r.items()} for n, r in rows.items()}
    figures["seconds per cell"] = {n: round(t / len(found), 3) for n, t in seconds.items()}
    click.echo(f"\nseconds per cell: {figures['seconds per cell']}")
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
