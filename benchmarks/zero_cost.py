"""How well zero-cost proxies rank trained networks, beside the parameter count.

    python -m benchmarks.zero_cost --cifar10 cifar10.npz --curves nasbench201_cifar10_curves.npz
    python -m benchmarks.zero_cost --cifar10 cifar10.npz --recorded plain_cnn

The networks are a sample of cells of NAS-Bench-201, with the recorded accuracies of a training of
200 epochs on CIFAR-10 and recorded values of some proxies; or those of a table of
``benchmarks.recorded``, with the accuracies after 12 epochs, and after 3 (``short``). Every network
is built with evonas's own space and scored on one batch of images; the table gives the rank
correlation with the last recorded validation accuracy, a 95 % bootstrap interval of it, and the
rank correlation with the recorded values of the same proxy. ``beats`` is the share of bootstrap
samples of the networks in which the proxy's correlation is above that of the parameter count.

``rank_sum`` is that of several proxies, in a reference of networks that are drawn from the space as
the evaluator ``zero_cost`` draws them; the sets of proxies are fixed beforehand.

A proxy has no value for a cell whose output does not depend on the image. In a search that trial
fails, so over all networks it ranks last here; a second table leaves such networks out for every
column.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random

import click
import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import kendalltau, rankdata

from benchmarks import recorded
from evonas.architecture import Architecture
from evonas.datasets.base import load
from evonas.evaluators.parts.proxies import PROXIES, Undefined
from evonas.evaluators.parts.ranks import rank_sum
from evonas.recipe.schema import DatasetSection
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.nasbench201 import EDGES, NASBench201
from evonas.training.data import Data
from evonas.training.loop import Normalize, seeded

Values = npt.NDArray[np.float64]

BASELINE = "params"
RESAMPLES = 2000
TOGETHER = {
    "rank_sum of all": tuple(PROXIES),
    "of the last 3": ("zico", "swap", "norms"),
    "of the last 5": ("jacob_cov", "naswot", "zico", "swap", "norms"),
}


@dataclass(frozen=True)
class Trained:
    """Networks that were trained.

    Attributes:
        space: Builds them.
        data: To score them on.
        architectures: Theirs.
        accuracy: After the training, one each.
        columns: What else was recorded and may rank them.
        proxies: Values of some proxies that were recorded with them.
    """

    space: SearchSpace
    data: Data
    architectures: Sequence[Architecture]
    accuracy: Values
    columns: Mapping[str, Values]
    proxies: Mapping[str, Values]


def cells(path: Path, cifar10: Path, count: int) -> Trained:
    """Cells of NAS-Bench-201, from a file of learning curves."""
    space = NASBench201()
    with np.load(path) as file:
        names, accuracy = file["arch_str"][:count], file["valid_acc"][:count, -1]
        proxies = {name: file[name][:count] for name in PROXIES if name in file.files}
    architectures = [space.architecture(choices(str(name))) for name in names]
    data = load(DatasetSection(name="npz", path=cifar10, validation=0.05))
    return Trained(space, data, architectures, accuracy.astype(np.float64), {}, proxies)


def choices(cell: str) -> dict[str, str]:
    """Choices of the space from a cell's name, |op~0|+|op~0|op~1|+|op~0|op~1|op~2|."""
    named = {}
    for node, incoming in enumerate(cell.split("+"), start=1):
        for edge in incoming.strip("|").split("|"):
            operation, _, source = edge.partition("~")
            named[f"edge_{source}_{node}"] = operation
    assert len(named) == len(EDGES), cell
    return named


def table_of(name: str, cifar10: Path, count: int) -> Trained:
    """Networks of a table of ``benchmarks.recorded``, as far as it was written."""
    space, known = recorded.SPACES[name](), recorded.read(name)
    found = {key: each for key, each in recorded.rows(space) if key in known}
    keys = list(found)[:count]
    full, short = (np.array([known[key][c] for key in keys]) for c in ("full", "short"))
    architectures = [found[key] for key in keys]
    return Trained(space, recorded.data(cifar10), architectures, full, {"short": short}, {})


def batch(data: Data, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised training images (N, C, H, W) and labels."""
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(data.train), generator=rng)[:size]
    images = Normalize(*data.channel_statistics())(data.train.images[drawn].permute(0, 3, 1, 2))
    return images.contiguous(), data.train.labels[drawn]


@dataclass
class Scoring:
    """Scores networks on one batch, and adds up the proxies' time.

    Attributes:
        space: Builds them.
        task: Of the images.
        images: Normalised, (N, C, H, W).
        labels: Theirs.
        seed: Of every network's weights.
        seconds: That each proxy took so far.
    """

    space: SearchSpace
    task: Task
    images: torch.Tensor
    labels: torch.Tensor
    seed: int
    seconds: dict[str, float]

    def columns(self, architectures: Sequence[Architecture]) -> dict[str, Values]:
        """Costs and proxies of networks, -inf where one is undefined."""
        found = [self._scores(architecture) for architecture in architectures]
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    def _scores(self, architecture: Architecture) -> dict[str, float]:
        scores = dict(self.space.costs(architecture, self.task))
        with seeded(self.seed, "cpu"):
            network = self.space.build(architecture, self.task)
        for name, proxy in PROXIES.items():
            start = time.perf_counter()
            try:
                scores[name] = proxy(network, self.images, self.labels)
            except Undefined:
                scores[name] = -math.inf
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return scores


def ranked(scores: Mapping[str, Values], reference: Mapping[str, Values]) -> dict[str, Values]:
    """``rank_sum`` of the sets of proxies."""
    population = {name: sorted(reference[name].tolist()) for name in PROXIES}
    return {
        label: np.array(
            [
                rank_sum(dict(zip(names, values, strict=True)), population)
                for values in zip(*(scores[name] for name in names), strict=True)
            ]
        )
        for label, names in TOGETHER.items()
    }


def spearman(a: Values, b: Values) -> float:
    """Rank correlation; ties share their mean rank."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def resampled(a: Values, b: Values, seed: int = 0) -> Values:
    """Spearman in bootstrap samples of the networks; the same samples for one seed."""
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
        if len(np.unique(values)) == 1:
            continue  # it ranks nothing
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
    click.echo(f"{'':<16}" + "".join(f"{head:>16}" for head in heads))
    for name, row in rows.items():
        keys = ("kendall", "beats", "recorded_spearman", "with_recorded")
        cells = [f"{row['spearman']:.3f}", f"{row['low']:.2f}…{row['high']:.2f}"]
        cells += [f"{row[key]:.3f}" if key in row else "" for key in keys]
        click.echo(f"{name:<16}" + "".join(f"{cell:>16}" for cell in cells))


@click.command(help=__doc__.partition("\n")[0])
@click.option("--cifar10", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--curves", type=click.Path(path_type=Path, exists=True), help="Of NAS-Bench-201.")
@click.option("--recorded", "name", type=click.Choice(list(recorded.SPACES)), help="A table.")
@click.option("--networks", type=click.IntRange(10), default=1000, help="At most so many.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True)
@click.option("--reference", type=click.IntRange(1), default=64, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of weights, batch and reference.")
def main(
    cifar10: Path,
    curves: Path | None,
    name: str | None,
    networks: int,
    batch_size: int,
    reference: int,
    seed: int,
) -> None:
    if curves is not None:
        trained = cells(curves, cifar10, networks)
    elif name is not None:
        trained = table_of(name, cifar10, networks)
    else:
        raise click.UsageError("give --curves or --recorded")
    number = len(trained.architectures)
    click.echo(
        f"{platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, "
        f"torch {version('torch')}; {number} networks, batches of {batch_size}"
    )
    space, data = trained.space, trained.data
    scoring = Scoring(space, data.task, *batch(data, batch_size, seed), seed, {})
    scores = scoring.columns(trained.architectures)
    seconds = {n: round(t / number, 3) for n, t in scoring.seconds.items()}
    rng = Random(f"{seed}/reference")
    population = scoring.columns([space.sample(rng) for _ in range(reference)])
    defined = np.isfinite(list(scores.values())).all(axis=0)
    scores |= ranked(scores, population) | dict(trained.columns)
    figures: dict[str, object] = {"seconds per network": seconds}
    parts = {"all": np.ones_like(defined)} | ({} if defined.all() else {"defined": defined})
    for label, kept in parts.items():
        click.echo(f"\n{label}: {int(kept.sum())}")
        ours, others = ({n: v[kept] for n, v in part.items()} for part in (scores, trained.proxies))
        rows = table(ours, others, trained.accuracy[kept])
        print_table(rows)
        figures[label] = {n: {k: round(v, 4) for k, v in r.items()} for n, r in rows.items()}
    best = {label: float(np.mean(scores[label] == 0)) for label in TOGETHER}
    click.echo(f"\nabove the whole reference: {best}\nseconds per network: {seconds}")
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
