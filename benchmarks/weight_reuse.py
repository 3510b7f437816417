"""What a child gains from its parent's weights, and how far cheap scores can be trusted.

    python -m benchmarks.weight_reuse --cifar10 cifar10.npz

Parents are chosen as aging evolution chooses them: winners of tournaments in a random population
that was trained from scratch. Every child is a mutant of its parent; it is trained from scratch,
and then from its parent's weights with a longer and longer schedule, up to a third of the epochs.
The same children are scored by inherited weights, by as many epochs from scratch, and by a
supernet, and the scores are compared by rank with those of the full training. Accuracies are of the
validation split, at a reduced resolution, on few images.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean, median, stdev

import click
import torch
from scipy.stats import kendalltau, spearmanr

from evonas.architecture import Architecture
from evonas.datasets.base import load
from evonas.evaluators.base import Context, Evaluator
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.supernet import SinglePathOneShot
from evonas.evaluators.train import Train
from evonas.recipe.schema import DatasetSection
from evonas.spaces.base import SearchSpace
from evonas.spaces.mbconv import MBConv
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.data import Data
from evonas.trial import Proposal, Trial

SPACES = {"plain_cnn": PlainCNN(3, 64), "mbconv": MBConv(2, 64)}
POPULATION, TOURNAMENT = 10, 3
SHARES = (1 / 12, 1 / 6, 1 / 3)  # of the full number of epochs


@dataclass(frozen=True)
class Cost:
    """What a training took and gave."""

    accuracy: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Pair:
    """A child, trained in several ways."""

    change: str
    scratch: Cost
    short: Cost
    inherited: tuple[Cost, ...]  # with longer and longer schedules

    @property
    def reached(self) -> Cost | None:
        """The shortest inherited training that is as good as the one from scratch."""
        enough = (c for c in self.inherited if c.accuracy >= self.scratch.accuracy)
        return next(enough, None)

    @property
    def score(self) -> float:
        """Accuracy of the inherited training at the share that scores are compared at."""
        return self.inherited[-1].accuracy


class Bench:
    """The world of the benchmark: one folder of weights, trials counted on."""

    def __init__(
        self, space: SearchSpace, data: Data, folder: Path, epochs: int, seed: int
    ) -> None:
        self.space, self.epochs, self.seed = space, epochs, seed
        self.context = Context(space, data, "cpu", seed, folder)
        self._count = 0
        self._inherit = Inherit(self.context, self.train, epochs=1.0)
        self._population: list[tuple[float, int, Architecture]] = []

    def train(self, context: Context) -> Evaluator:
        return Train(context, epochs=self.epochs, batch_size=64)

    def run(
        self, evaluator: Evaluator, architecture: Architecture, share: float, *parents: int
    ) -> tuple[int, Cost]:
        """Evaluate as the next trial, at a share of the epochs; returns its number and cost."""
        trial = Trial(self._count, Proposal(architecture, share, parents))
        self._count += 1
        start = time.perf_counter()
        metrics = evaluator.evaluate(trial, lambda step, metrics: None)
        epochs = max(1, round(self.epochs * share))
        return trial.number, Cost(metrics["val_accuracy"], epochs, time.perf_counter() - start)

    def populate(self) -> None:
        """Train a random population from scratch."""
        for n in range(self.seed * POPULATION, (self.seed + 1) * POPULATION):
            architecture = self.space.sample(Random(f"parent/{n}"))
            number, cost = self.run(self._inherit, architecture, 1.0)
            self._population.append((cost.accuracy, number, architecture))

    def pair(self, number: int) -> tuple[Architecture, Pair]:
        """The winner of a tournament and its mutant."""
        rng = Random(f"pair/{number}")
        _, trial, parent = max(rng.choices(self._population, k=TOURNAMENT), key=lambda one: one[:2])
        child = self.space.mutate(parent, rng)
        costs = [self.run(self._inherit, child, share)[1] for share in (1.0, SHARES[-1])]
        scratch, short = costs
        inherited = [self.run(self._inherit, child, share, trial)[1] for share in SHARES]
        changed = (n for n, v in parent.choices.items() if child.choices[n] != v)
        change = ", ".join(f"{n} {parent.choices[n]}→{child.choices[n]}" for n in changed)
        return child, Pair(change, scratch, short, tuple(inherited))


@click.command()
@click.option("--cifar10", type=click.Path(path_type=Path), required=True, help="An .npz file.")
@click.option("--space", "name", type=click.Choice(list(SPACES)), default="plain_cnn")
@click.option("--pairs", "count", default=24, type=click.IntRange(min=2))
@click.option("--epochs", default=24, type=click.IntRange(min=12))
@click.option("--images", default=5_000, type=click.IntRange(min=100))
@click.option("--resolution", default=16, type=click.IntRange(min=4))
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(min=0),
    help="Another one has other parents and pairs: choose by these, report 0.",
)
@click.option("--supernet-epochs", default=36, type=click.IntRange(min=1))
def main(
    cifar10: Path,
    name: str,
    count: int,
    epochs: int,
    images: int,
    resolution: int,
    seed: int,
    supernet_epochs: int,
) -> None:
    """Measure and print; the last line is JSON."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    data = load(DatasetSection(name="npz", path=cifar10))
    data = data.subset(min(1.0, images / len(data.train)), 0).resized(resolution)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs,")
    print(f"{name}, {len(data.train)} images of {resolution}×{resolution}, {epochs} epochs\n")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(SPACES[name], data, Path(folder), epochs, seed)
        children, pairs = measure(bench, count)
        shared = SinglePathOneShot(bench.context, bench.train, epochs=supernet_epochs)
        start = time.perf_counter()
        bench.run(shared, children[0], 1.0)
        training = time.perf_counter() - start
        supernet = [bench.run(shared, child, 1.0)[1] for child in children]
    print(json.dumps(summary(pairs, supernet, training, epochs)))


def measure(bench: Bench, count: int) -> tuple[list[Architecture], list[Pair]]:
    """Train all pairs and print a line for each."""
    children: list[Architecture] = []
    pairs: list[Pair] = []
    bench.populate()
    print("child                      scratch  a third  inherited, by share of the epochs")
    for number in range(bench.seed * count, (bench.seed + 1) * count):
        child, pair = bench.pair(number)
        children.append(child)
        pairs.append(pair)
        shares = "  ".join(f"{c.epochs}: {c.accuracy:.3f}" for c in pair.inherited)
        print(
            f"{pair.change:<26} {pair.scratch.accuracy:.3f}    {pair.short.accuracy:.3f}    "
            f"{shares}",
            flush=True,
        )
    return children, pairs


def summary(
    pairs: list[Pair], supernet: list[Cost], training: float, epochs: int
) -> dict[str, object]:
    """Print what came out; returns it for the last line."""
    never = Cost(0.0, 2 * epochs, float("inf"))  # counts as worse than from scratch
    reached = [pair.reached or never for pair in pairs]
    shares = [c.epochs / epochs for c in reached]
    seconds = [c.seconds / pair.scratch.seconds for c, pair in zip(reached, pairs, strict=True)]
    third = sum(share <= 1 / 3 for share in shares)
    print(
        f"\nto be as accurate as from scratch a child needs, in the median of {len(pairs)} pairs,"
    )
    print(f"{median(shares):.2f} of the epochs and {median(seconds):.2f} of the seconds;")
    print(f"{third} of {len(pairs)} need a third or less")
    full = [pair.scratch.accuracy for pair in pairs]
    short = [pair.short.accuracy for pair in pairs]
    gains = {}
    for label, others in (("the full training", full), ("as many epochs from scratch", short)):
        gain, error = ahead([pair.score for pair in pairs], others)
        gains[label] = round(gain, 4)
        print(f"with a third it is {gain:+.4f} ± {error:.4f} ahead of {label}")
    print()
    scores = {
        "inherited": ([pair.score for pair in pairs], "a third of the epochs"),
        "from_scratch": (short, "a third of the epochs"),
        "supernet": ([c.accuracy for c in supernet], f"once {training:.0f} s, then seconds"),
    }
    print("score          Kendall  Spearman  cost")
    ranks = {}
    for label, (values, cost) in scores.items():
        tau, rho = kendalltau(values, full).statistic, spearmanr(values, full).statistic
        ranks[label] = {"tau": round(float(tau), 3), "rho": round(float(rho), 3)}
        print(f"{label:<14} {tau:7.3f}  {rho:8.3f}  {cost}")
    score = median(c.seconds for c in supernet)
    print(f"a supernet's score takes {score:.1f} s in the median")
    return {
        "pairs": len(pairs),
        "epochs_ratio": round(median(shares), 3),
        "seconds_ratio": round(median(seconds), 3),
        "share_within_a_third": round(third / len(pairs), 3),
        "ahead_of": gains,
        "rank": ranks,
    }


def ahead(ones: list[float], others: list[float]) -> tuple[float, float]:
    """How far the ones are above the others, pair by pair: the mean and its standard error.

    It tells two ways to inherit apart where the number of pairs that get there does not yet.
    """
    gains = [one - other for one, other in zip(ones, others, strict=True)]
    return mean(gains), stdev(gains) / len(gains) ** 0.5


if __name__ == "__main__":
    main()
