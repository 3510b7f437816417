"""Record small tables to try searches on: every network of a subspace, really trained.

    python -m benchmarks.recorded --cifar10 cifar10.npz --space plain_cnn
    python -m benchmarks.recorded --cifar10 cifar10.npz --space mbconv

Two subspaces of 192 networks each, trained on 5,000 images of CIFAR-10 at half the resolution:
for 3 epochs and for 12, which are two schedules of the learning rate, with the defaults of
``train``. Rows are appended to a CSV of ``benchmarks/tables`` as they come; what is there already
is not trained again. ``multi_fidelity`` and ``zero_cost`` read the tables.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import torch

from evonas.architecture import Architecture, Categorical
from evonas.datasets.base import load
from evonas.evaluators.base import Context
from evonas.evaluators.train import Train
from evonas.executors.base import run_trial
from evonas.recipe.schema import DatasetSection
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.data import Data
from evonas.trial import Proposal, Trial, TrialState

TABLES = Path(__file__).parent / "tables"
SHORT, FULL = 3, 12  # epochs
IMAGES, SIZE = 5_000, 16
TASK = Task(channels=3, height=SIZE, width=SIZE, classes=10)


class Plain(PlainCNN):
    """192 plain CNNs of at most seven convolutions."""

    def __init__(self) -> None:
        super().__init__(2, 64)
        self.domains = {f"k{i}": Categorical((1, 2), ordered=True) for i in (1, 2, 3)} | {
            "k4": Categorical((1,)),
            "c1": Categorical((8, 16), ordered=True),
            "c2": Categorical((8, 24), ordered=True),
            "c3": Categorical((16, 32), ordered=True),
            "c4": Categorical((16, 32, 64), ordered=True),
        }


class Inverted(MBConv):
    """192 networks of MBConv blocks."""

    def __init__(self) -> None:
        super().__init__(2, 96)
        values: Mapping[str, tuple[int, ...]] = {  # of other choices 1 alone
            "stem": (8, 24),
            "channels1": (16,),
            "depth3": (1, 2),
            "expansion2": (1, 4),
            "expansion3": (1, 4),
            "channels2": (16, 32),
            "channels3": (16, 48),
            "channels4": (32, 64, 96),
        }
        self.domains = {
            name: Categorical(values.get(name, (1,)), ordered=True) for name in self.domains
        }


SPACES: Mapping[str, type[SearchSpace]] = {"plain_cnn": Plain, "mbconv": Inverted}


def rows(space: SearchSpace) -> Iterator[tuple[str, Architecture]]:
    """Every architecture and what its row is called."""
    for architecture in space.enumerate():
        yield key(architecture), architecture


def key(architecture: Architecture) -> str:
    """The choices in the order of their names."""
    return " ".join(f"{name}={value}" for name, value in sorted(architecture.choices.items()))


def read(name: str) -> dict[str, dict[str, float]]:
    """Columns of every row of a recorded table."""
    with (TABLES / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return {
            row.pop("architecture"): {column: float(value) for column, value in row.items()}
            for row in csv.DictReader(file)
        }


def data(cifar10: Path) -> Data:
    """The images that the networks are trained on."""
    whole = load(DatasetSection(name="npz", path=cifar10, validation=0.05))
    return whole.subset(IMAGES / len(whole.train), 0).resized(SIZE)


@click.command(help=__doc__.partition("\n")[0])
@click.option("--cifar10", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--space", "name", type=click.Choice(list(SPACES)), required=True)
def main(cifar10: Path, name: str) -> None:
    torch.set_num_threads(1)
    space, images = SPACES[name](), data(cifar10)
    evaluators = {
        label: Train(Context(space, images, "cpu", 0), epochs=epochs, batch_size=64)
        for label, epochs in (("short", SHORT), ("full", FULL))
    }
    path = TABLES / f"{name}.csv"
    known = read(name) if path.exists() else {}
    columns = ["architecture", "short", "full", "short_seconds", "full_seconds", "params", "flops"]
    with path.open("a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        if not known:
            table.writeheader()
        for number, (label, architecture) in enumerate(rows(space)):
            if label in known:
                continue
            row: dict[str, object] = {"architecture": label, **space.costs(architecture, TASK)}
            for column, evaluator in evaluators.items():
                start = time.perf_counter()
                ended = run_trial(evaluator, Trial(number, Proposal(architecture)))
                assert ended.state is TrialState.COMPLETE, ended.error
                row[column] = round(ended.metrics["val_accuracy"], 5)
                row[f"{column}_seconds"] = round(time.perf_counter() - start, 2)
            table.writerow({column: row[column] for column in columns})
            file.flush()
            click.echo(f"{number}: {label}: {row['short']} {row['full']} {row['full_seconds']} s")


if __name__ == "__main__":
    main()
