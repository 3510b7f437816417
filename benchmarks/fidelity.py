"""What every evaluation strategy costs, and how far its scores agree with full training.

    python -m benchmarks.fidelity --cifar10 cifar10.npz --table nasbench201_cifar100.csv \
        --curves nasbench201_cifar10_curves.npz
    python -m benchmarks.fidelity --cifar10 cifar10.npz --space mbconv --only supernet
    python -m benchmarks.fidelity --cifar10 cifar10.npz --recorded mbconv

On CIFAR-10, at a reduced resolution and on few images, random architectures of a space are really
trained: in full, and by every strategy. Costs are seconds relative to the full training of
the same architecture, the strategies taking turns. The children of ``inherit`` are the sampled
architectures themselves; the parent of each is one of its mutants, trained in full.

With ``--recorded`` only a supernet is trained, and ranks the networks of a table of ``recorded``.

On NAS-Bench-201's recorded trainings: 12 epochs against 200 epochs over all cells (CIFAR-100), and
learning curves that are cut off (CIFAR-10). Kendall's tau throughout, with its standard deviation
over bootstrap samples of the architectures.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import click
import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks import recorded
from evonas.architecture import Architecture
from evonas.datasets.base import load
from evonas.evaluators.base import Context, Evaluator
from evonas.evaluators.extrapolate import Extrapolate, extrapolate
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.supernet import SinglePathOneShot
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ZeroCost
from evonas.recipe.schema import DatasetSection
from evonas.spaces.base import SearchSpace
from evonas.spaces.mbconv import MBConv
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Proposal, Trial

RESAMPLES = 500
_SHARING = 20  # So many trials share the training of a supernet where a table holds more.
EXTRAPOLATED = "val_accuracy_extrapolated"
PROXIES = ("synflow", "snip", "grad_norm", "jacob_cov", "naswot")
Made = tuple[Evaluator, str]  # an evaluator, and the metric that it ranks by
SPACES: Mapping[str, SearchSpace] = {"plain_cnn": PlainCNN(3, 64), "mbconv": MBConv(2, 32)}


def strategies(context: Context, epochs: int, only: str) -> dict[str, Made]:
    """The strategies whose label begins like that, and first of all full training."""
    train = partial(Train, epochs=epochs, batch_size=64)
    third = partial(Train, epochs=max(1, epochs // 3), batch_size=64)
    accuracy = "val_accuracy"
    shared = SinglePathOneShot(context, train, epochs=3 * epochs)
    made: dict[str, Made] = {
        "a third of the epochs": (third(context), accuracy),
        "a third of the images": (Reduced(context, train, data=1 / 3), accuracy),
        "half the resolution": (Reduced(context, train, resolution=8), accuracy),
        "half the width": (Reduced(context, train, width=0.5), accuracy),
        "half the depth": (Reduced(context, train, depth=0.5), accuracy),
        "a little of each": (
            Reduced(context, third, data=0.5, resolution=12, width=0.75),
            accuracy,
        ),
        "extrapolate, a third": (Extrapolate(context, train, share=1 / 3), EXTRAPOLATED),
        "inherit, a third": (Inherit(context, train), accuracy),
        "supernet": (shared, "val_loss"),
        "supernet, by accuracy": (shared, accuracy),
    } | {
        proxy: (ZeroCost(context, train, (proxy,), training=False), proxy)  # type: ignore[arg-type]
        for proxy in PROXIES
    }
    chosen = {label: each for label, each in made.items() if label.startswith(only)}
    return {"full training": (train(context), accuracy)} | chosen


def trained(
    context: Context, architectures: Sequence[Architecture], epochs: int, only: str
) -> list[Row]:
    """Score every architecture by every strategy, the strategies taking turns."""
    made = strategies(context, epochs, only)
    once = 0.0
    if "supernet" in made:
        start = time.perf_counter()
        _score(*made["supernet"], Trial(0, Proposal(architectures[0])))
        once = time.perf_counter() - start
    scores: dict[str, list[float]] = {label: [] for label in (*made, *context.space.counted)}
    seconds: dict[str, list[float]] = {label: [] for label in scores}
    for n, architecture in enumerate(architectures):
        if "inherit, a third" in made:
            parent = context.space.mutate(architecture, Random(f"parent/{n}"))
            _score(*made["inherit, a third"], Trial(2 * n, Proposal(parent)))
        for label, (evaluator, metric) in made.items():
            trial = Trial(2 * n + 1, Proposal(architecture, parents=(2 * n,)))
            start = time.perf_counter()
            scores[label].append(_score(evaluator, metric, trial))
            seconds[label].append(time.perf_counter() - start)
        assert context.data is not None
        for label, cost in context.space.costs(architecture, context.data.task).items():
            scores[label].append(cost)
            seconds[label].append(0.0)
        print(f"  {n + 1} of {len(architectures)}: {scores['full training'][-1]:.3f}", flush=True)
    full, full_seconds = scores.pop("full training"), seconds.pop("full training")
    rows = []
    for label, values in scores.items():
        share = once / len(architectures) if label.startswith("supernet") else 0.0
        pairs = zip(seconds[label], full_seconds, strict=True)
        rows.append(Row(label, median((s + share) / f for s, f in pairs), values, full))
    return rows


def recorded_networks(cifar10: Path, name: str) -> list[Row]:
    """A supernet, of as many epochs for a full one's as in ``strategies``, against a table."""
    space, images, table = recorded.SPACES[name](), recorded.data(cifar10), recorded.read(name)
    train = partial(Train, epochs=recorded.FULL, batch_size=64)
    shared = SinglePathOneShot(Context(space, images, "cpu", 0), train, epochs=3 * recorded.FULL)
    columns = [(table[label], architecture) for label, architecture in recorded.rows(space)]
    found: list[Mapping[str, float]] = []
    seconds: list[float] = []
    for n, (_, architecture) in enumerate(columns):
        start = time.perf_counter()
        trial = Trial(n, Proposal(architecture))
        found.append(shared.evaluate(trial, lambda step, metrics: None))
        seconds.append(time.perf_counter() - start)
    share = seconds[0] / _SHARING
    pairs = zip(seconds[1:], columns[1:], strict=True)
    cost = median((s + share) / row["full_seconds"] for s, (row, _) in pairs)
    full = [row["full"] for row, _ in columns]
    return [
        Row("supernet", cost, [-scores["val_loss"] for scores in found], full),
        Row("supernet, by accuracy", cost, [scores["val_accuracy"] for scores in found], full),
        *(Row(c, 0.0, [row[c] for row, _ in columns], full) for c in ("params", "flops")),
        Row("a quarter of the epochs", 0.25, [row["short"] for row, _ in columns], full),
    ]


def _score(evaluator: Evaluator, metric: str, trial: Trial) -> float:
    score = float(evaluator.evaluate(trial, lambda step, metrics: None)[metric])
    return -score if metric == "val_loss" else score


class Row:
    """A strategy: its relative cost, its tau and the tau's standard deviation."""

    def __init__(
        self, label: str, cost: float, scores: Sequence[float], full: Sequence[float]
    ) -> None:
        self.label, self.cost = label, cost
        x, y = np.asarray(scores), np.asarray(full)
        self.tau = _tau(x, y)
        rng = np.random.default_rng(0)
        draws = (rng.integers(0, len(x), len(x)) for _ in range(RESAMPLES))
        self.deviation = float(np.std([_tau(x[d], y[d]) for d in draws]))

    def __str__(self) -> str:
        return f"{self.label:<28} {self.cost:8.3f}   {self.tau:6.3f} ± {self.deviation:.3f}"


def _tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau; 0 where one side has no order at all."""
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(kendalltau(x, y).statistic)


def recorded_table(path: Path) -> list[Row]:
    """12-epoch scores against 200-epoch ones: all cells, and the best tenth by 12 epochs."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    short = np.array([float(row["valid_12ep"]) for row in rows])
    full = np.array([float(row["test_200ep"]) for row in rows])
    params = np.array([float(row["params_M"]) for row in rows])
    top = np.argsort(full)[-len(full) // 10 :]
    rng = np.random.default_rng(0)
    some = rng.choice(len(full), 2000, replace=False)  # bootstrapping all of them takes minutes
    return [
        Row("12 of 200 epochs", 0.06, short[some], full[some]),
        Row("  the same, best tenth", 0.06, short[top], full[top]),
        Row("params", 0.0, params[some], full[some]),
    ]


def recorded_curves(path: Path) -> list[Row]:
    """The first epochs of 200 against the last, taken as they are and extrapolated."""
    with np.load(path, allow_pickle=False) as file:
        curves = file["valid_acc"].astype(float) / 100
    full = curves[:, -1]
    by: dict[str, Callable[[np.ndarray], float]] = {
        "last value": lambda curve: float(curve[-1]),
        "mean of the last five": lambda curve: float(curve[-5:].mean()),
        "extrapolate": lambda curve: extrapolate([float(v) for v in curve]).value,
    }
    return [
        Row(f"{epochs} epochs, {label}", epochs / 200, [score(c[:epochs]) for c in curves], full)
        for epochs in (25, 50, 100)
        for label, score in by.items()
    ]


@click.command()
@click.option("--cifar10", type=click.Path(path_type=Path), help="An .npz file.")
@click.option("--table", type=click.Path(path_type=Path), help="NAS-Bench-201, CIFAR-100, CSV.")
@click.option("--curves", type=click.Path(path_type=Path), help="NAS-Bench-201 curves, .npz.")
@click.option("--space", "name", default="plain_cnn", type=click.Choice(list(SPACES)))
@click.option("--only", default="", help="Strategies whose label begins like that.")
@click.option("--recorded", "table_name", type=click.Choice(list(recorded.SPACES)))
@click.option("--architectures", "count", default=20, type=click.IntRange(min=4))
@click.option("--epochs", default=12, type=click.IntRange(min=3))
@click.option("--images", default=3_000, type=click.IntRange(min=100))
def main(
    cifar10: Path | None,
    table: Path | None,
    curves: Path | None,
    name: str,
    only: str,
    table_name: str | None,
    count: int,
    epochs: int,
    images: int,
) -> None:
    """Measure and print; the last line is JSON."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs\n")
    found: dict[str, list[Row]] = {}
    if cifar10 is not None and table_name is not None:
        title = f"CIFAR-10, recorded networks of {table_name}"
        found[title] = recorded_networks(cifar10, table_name)
    elif cifar10 is not None:
        data = load(DatasetSection(name="npz", path=cifar10))
        data = data.subset(min(1.0, images / len(data.train)), 0).resized(16)
        space = SPACES[name]
        architectures = [space.sample(Random(n)) for n in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            context = Context(space, data, "cpu", 0, Path(folder))
            title = f"CIFAR-10, {count} of {name}, {len(data.train)} images, {epochs} epochs"
            found[title] = trained(context, architectures, epochs, only)
    if table is not None:
        found["NAS-Bench-201, CIFAR-100"] = recorded_table(table)
    if curves is not None:
        found["NAS-Bench-201, CIFAR-10, 100 curves"] = recorded_curves(curves)
    for title, rows in found.items():
        print(f"\n{title}\n{'strategy':<28} {'cost':>8}   {'tau':>6}")
        print("\n".join(map(str, rows)))
    print(
        json.dumps(
            {
                title: {
                    row.label.strip(): {"cost": round(row.cost, 3), "tau": round(row.tau, 3)}
                    for row in rows
                }
                for title, rows in found.items()
            }
        )
    )


if __name__ == "__main__":
    main()
