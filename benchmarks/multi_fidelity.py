"""What successive halving and Hyperband find for the same effort as searches at full effort.

    python -m benchmarks.multi_fidelity --curves nasbench201_cifar10_curves.npz \
        --table nasbench201_cifar100.csv --cifar10 cifar10.npz

Effort is counted in epochs trained, a promotion's being those that it adds, and given in full
trainings. What is compared is the incumbent's value after a full training, on CIFAR-10 after
its own.

``--curves``: 100 recorded learning curves of 200 epochs; fidelity f is the value at epoch 200 f.
Optuna's pruners do the same by stopping: its trials go through the cells in random order, and are
watched every epoch. ``--table``: all 15,625 cells with scores after 12 and after 200 epochs, which
are two schedules, so that a promotion trains all of the 200; the sources may be any strategy.
``--cifar10``: plain CNNs really trained on few images at half the resolution.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean

import click
import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import BasePruner
from torch import nn

from benchmarks.search_quality import KEY, Figures, Summary, machine, print_row
from evonas.architecture import Architecture, Categorical
from evonas.datasets.base import load
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.train import Train
from evonas.executors.serial import Serial
from evonas.recipe.registry import Registry
from evonas.recipe.schema import DatasetSection
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.strategies.base import Strategy
from evonas.strategies.hyperband import Hyperband
from evonas.strategies.random import RandomSearch
from evonas.strategies.successive_halving import MakeStrategy, SuccessiveHalving
from evonas.training.checkpoints import FOLDER, RUNGS_GB, Checkpoints, Continued
from evonas.trial import Objective, Trial, TrialState

EPOCHS = 200  # of the recorded trainings
SHORT = 12  # of the table's other schedule
OBJECTIVES = (Objective("val_accuracy"),)
Values = NDArray[np.float64]
Progress = Sequence[tuple[float, float]]  # full trainings spent so far, value of the incumbent
SETTINGS: Mapping[str, Mapping[str, int]] = {
    "aging_evolution": {"population_size": 20, "tournament_size": 5}
}


class Cells(SearchSpace):
    """So many cells by number; nothing is built."""

    def __init__(self, count: int) -> None:
        self.domains = {"cell": Categorical(range(count))}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


class Recorded(Evaluator):
    """Values from a function of architecture and fidelity."""

    metrics = ("val_accuracy",)

    def __init__(self, value: Callable[[Architecture, float], float]) -> None:
        self._value = value

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return {"val_accuracy": self._value(trial.architecture, trial.proposal.fidelity)}


@dataclass(frozen=True)
class Problem:
    """Where to search.

    Attributes:
        space: What to search.
        evaluator: Gives ``val_accuracy`` at a fidelity.
        full: The value of a trial's architecture after a full training.
        continues: Whether a promotion adds to the training before it.
    """

    space: SearchSpace
    evaluator: Evaluator
    full: Callable[[Trial], float]
    continues: bool = True


def follow(problem: Problem, make: MakeStrategy, limit: float, seed: int) -> Progress:
    """Search until so many full trainings are spent."""
    fidelities: dict[int, float] = {}
    best: Trial | None = None
    spent, path = 0.0, []
    with Serial(lambda device: problem.evaluator, ("cpu",)) as executor:
        strategy = make(problem.space, OBJECTIVES)
        for event in Search(strategy, executor, Budget(10**6), seed):
            proposal = event.proposal
            if event.state is TrialState.RUNNING:
                continue
            fidelities[event.number] = proposal.fidelity
            done = proposal.resume_from if problem.continues else None
            spent += proposal.fidelity - (0.0 if done is None else fidelities[done])
            if spent > limit + 1e-9:
                break
            if best is None or event.rank(OBJECTIVES) > best.rank(OBJECTIVES):
                best = event
            path.append((spent, problem.full(best)))
    return path


def stopped(curves: Values, make: Callable[[], BasePruner], limit: float, seed: int) -> Progress:
    """Optuna's pruner, the cells in random order; the best that came farthest is the incumbent."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=make(), study_name=str(seed))
    best: tuple[int, float, float] = (0, 0.0, 0.0)
    spent, path = 0, []
    for cell in Random(seed).sample(range(len(curves)), len(curves)):
        trial, curve, step = study.ask(), curves[cell], 0
        for step, value in enumerate(curve, start=1):
            trial.report(float(value), step)
            if trial.should_prune():
                break
        spent += step
        whole = step == len(curve)
        state = optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.PRUNED
        study.tell(trial, float(curve[-1]) if whole else None, state=state)
        best = max(best, (step, float(curve[step - 1]), float(curve[-1])))
        if spent > limit * len(curve):
            break
        path.append((spent / len(curve), best[2]))
    return path


def at(path: Progress, spent: float) -> float:
    """The incumbent's value when so much was spent; of one that has nothing yet, its first."""
    return next((value for when, value in reversed(path) if when <= spent + 1e-9), path[0][1])


def compare(
    title: str,
    searches: Mapping[str, Callable[[int], Progress]],
    checkpoints: Sequence[int],
    seeds: int,
) -> Figures:
    """Print a row per search: the incumbent after so many full trainings."""
    click.echo(
        f"\n{title}\nincumbent after effort worth so many full trainings, mean ± standard error "
        f"(standard deviation) over {seeds} seeds"
    )
    print_row("", [str(n) for n in checkpoints])
    figures: Figures = {}
    for label, run in searches.items():
        paths = [run(seed) for seed in range(seeds)]
        found = {n: Summary([at(path, n) for path in paths]) for n in checkpoints}
        print_row(label, [summary.text(2) for summary in found.values()])
        figures[label] = {str(n): summary.to_json() for n, summary in found.items()}
    return figures


def strategies(
    sources: Mapping[str, MakeStrategy], eta: int, lowest: float
) -> Iterator[tuple[str, MakeStrategy]]:
    """Every source at full effort, by ASHA and by Hyperband."""
    for name, source in sources.items():
        yield name, source
        for label, wrapper in (("ASHA", SuccessiveHalving), ("Hyperband", Hyperband)):
            make: MakeStrategy = partial(wrapper, of=source, eta=eta, min_fidelity=lowest)
            yield f"{label} {name}", make


def source(name: str) -> MakeStrategy:
    """Makes a strategy of that name."""
    found: Callable[..., Strategy] = Registry().find("strategy", name)
    return partial(found, **SETTINGS.get(name, {}))


def on_curves(path: Path, seeds: int) -> Figures:
    """100 cells: everything above random search is a matter of effort."""
    with np.load(path, allow_pickle=False) as file:
        curves = file["valid_acc"].astype(float)

    def value(architecture: Architecture, fidelity: float) -> float:
        return float(curves[architecture.choices["cell"], round(EPOCHS * fidelity) - 1])

    problem = Problem(
        Cells(len(curves)), Recorded(value), lambda trial: value(trial.architecture, 1.0)
    )
    checkpoints = (2, 5, 10, 20)
    searches: dict[str, Callable[[int], Progress]] = {
        name: partial(follow, problem, make, checkpoints[-1])
        for name, make in strategies({"random": RandomSearch}, 3, 1 / 27)
    }
    lowest = round(EPOCHS / 27)
    pruners: dict[str, Callable[[], BasePruner]] = {
        "Optuna ASHA": partial(optuna.pruners.SuccessiveHalvingPruner, lowest, 3),
        "Optuna Hyperband": partial(optuna.pruners.HyperbandPruner, lowest, EPOCHS, 3),
    }
    for name, pruner in pruners.items():
        searches[name] = partial(stopped, curves, pruner, checkpoints[-1])
    title = f"{path.name}: best {curves[:, -1].max():.2f}, mean {fmean(curves[:, -1]):.2f}"
    return compare(title, searches, checkpoints, seeds)


def on_table(path: Path, seeds: int, names: Sequence[str]) -> Figures:
    """All cells, two schedules: the source matters, too."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = {row["architecture"]: row for row in csv.DictReader(file)}

    def value(architecture: Architecture, fidelity: float) -> float:
        row = rows[KEY.format_map(dict(architecture.choices))]
        return float(row["test_200ep" if fidelity == 1 else "valid_12ep"])

    problem = Problem(
        NASBench201(), Recorded(value), lambda trial: value(trial.architecture, 1.0), False
    )
    checkpoints = (10, 25, 50, 100)
    sources = {name: source(name) for name in names}
    searches = {
        name: partial(follow, problem, make, checkpoints[-1])
        for name, make in strategies(sources, EPOCHS // SHORT, SHORT / EPOCHS)
    }
    return compare(f"{path.name}: test_200ep, 12 or 200 epochs", searches, checkpoints, seeds)


def on_cifar10(path: Path, seeds: int, images: int) -> Figures:
    """Really trained: nine epochs, or one, three and nine."""
    data = load(DatasetSection(name="npz", path=path))
    data = data.subset(min(1.0, images / len(data.train)), 0).resized(16)
    space = PlainCNN(3, 32)

    def run(make: MakeStrategy, seed: int) -> Progress:
        with tempfile.TemporaryDirectory() as folder:
            weights = Continued(Checkpoints(Path(folder) / FOLDER, RUNGS_GB))
            context = Context(space, data, "cpu", seed, Path(folder), weights)
            evaluator = Train(context, epochs=9, batch_size=64)
            shown = Problem(space, evaluator, lambda trial: 100 * trial.metrics["val_accuracy"])
            return follow(shown, make, checkpoints[-1], seed)

    checkpoints = (4, 8)
    halving: MakeStrategy = partial(SuccessiveHalving, min_fidelity=0.111)
    searches = {"random": partial(run, RandomSearch), "ASHA random": partial(run, halving)}
    title = f"CIFAR-10, plain CNNs, {len(data.train)} images of 16×16, 9 epochs: val_accuracy"
    return compare(title, searches, checkpoints, seeds)


@click.command(help=__doc__.partition("\n")[0])
@click.option("--curves", type=click.Path(path_type=Path, exists=True), help="Curves, .npz.")
@click.option("--table", type=click.Path(path_type=Path, exists=True), help="NAS-Bench-201's CSV.")
@click.option("--cifar10", type=click.Path(path_type=Path, exists=True), help="An .npz file.")
@click.option("--seeds", type=click.IntRange(1), default=50, show_default=True)
@click.option("--cifar-seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--sources", default="random,aging_evolution,tpe", show_default=True, help="On table."
)
@click.option("--images", type=click.IntRange(100), default=1_500, show_default=True)
def main(
    curves: Path | None,
    table: Path | None,
    cifar10: Path | None,
    seeds: int,
    cifar_seeds: int,
    sources: str,
    images: int,
) -> None:
    if curves is None and table is None and cifar10 is None:
        raise click.UsageError("nothing to measure: give --curves, --table, --cifar10 or all")
    click.echo(machine())
    found: dict[str, Figures] = {}
    if curves is not None:
        found["curves"] = on_curves(curves, seeds)
    if table is not None:
        found["table"] = on_table(table, seeds, sources.split(","))
    if cifar10 is not None:
        found["cifar10"] = on_cifar10(cifar10, cifar_seeds, images)
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
