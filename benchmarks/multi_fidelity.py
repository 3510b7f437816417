"""What successive halving and Hyperband find for the same effort as searches at full effort.

    python -m benchmarks.multi_fidelity --curves nasbench201_cifar10_curves.npz \
        --table nasbench201_cifar100.csv --cifar10 cifar10.npz --recorded --made-up

Effort is counted in epochs trained, a promotion's being those that it adds, and given in full
trainings. What is compared is the incumbent's value after a full training, on CIFAR-10 after
its own.

``--curves``: 100 recorded learning curves of 200 epochs; fidelity f is the value at epoch 200 f.
Optuna's pruners do the same by stopping: its trials go through the cells in random order, and are
watched every epoch. ``--table``: all 15,625 cells with scores after 12 and after 200 epochs, which
are two schedules, so that a promotion trains all of the 200; the sources may be any strategy.
``--recorded``: the same with the tables of ``benchmarks.recorded``, 3 and 12 epochs. ``--made-up``:
the same with formulas, in which costs have nothing to do with values. ``--costs shuffled`` gives
every architecture the costs of another one, so that they say nothing; ``none`` all the same.
``--cifar10``: plain CNNs really trained on few images at half the resolution.
"""

from __future__ import annotations

import copy
import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import fsum
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Literal

import click
import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import BasePruner
from torch import nn

from benchmarks import recorded
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
CHECKPOINTS = (3, 6, 12, 25)  # full trainings
Values = NDArray[np.float64]
Costs = Literal["real", "shuffled", "none"]
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

    def __init__(self, space: SearchSpace, value: Callable[[Architecture, float], float]) -> None:
        super().__init__(Context(space, None, "cpu", 0))
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
    with Serial(lambda device: problem.evaluator, ("cpu",), isolate=False) as executor:
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

    cells = Cells(len(curves))
    problem = Problem(cells, Recorded(cells, value), lambda trial: value(trial.architecture, 1.0))
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


@dataclass(frozen=True)
class Table:
    """Every architecture of a space, with a short and with a full training of its own schedule.

    Attributes:
        title: What it is.
        space: What to search.
        values: Short and full value of an architecture.
        share: What a short training costs, in full ones.
    """

    title: str
    space: SearchSpace
    values: Callable[[Architecture], tuple[float, float]]
    share: float

    def searched(
        self, sources: Mapping[str, MakeStrategy], costs: Costs, seeds: int
    ) -> tuple[str, Figures]:
        """Every source at full effort, by ASHA and by Hyperband."""
        space = with_costs(self.space, costs)

        def value(architecture: Architecture, fidelity: float) -> float:
            return self.values(architecture)[fidelity == 1]

        problem = Problem(
            space, Recorded(space, value), lambda trial: value(trial.architecture, 1.0), False
        )
        searches = {
            name: partial(follow, problem, make, CHECKPOINTS[-1])
            for name, make in strategies(sources, int(1 / self.share), self.share)
        }
        title = f"{self.title}; costs: {costs}"
        return title, compare(title, searches, CHECKPOINTS, seeds)


def with_costs(space: SearchSpace, costs: Costs) -> SearchSpace:
    """A copy that says something else of what its networks cost."""
    if costs == "real":
        return space
    every = list(space.enumerate()) if costs == "shuffled" else []
    others = Random(0).sample(every, len(every))
    donors = {a.id: b for a, b in zip(every, others, strict=True)}

    def told(self: SearchSpace, architecture: Architecture, task: Task) -> Mapping[str, float]:
        if costs == "none":
            return dict.fromkeys(self.counted, 1.0)
        return type(space).costs(self, donors[architecture.id], task)

    other = copy.copy(space)
    other.__class__ = type("Other", (type(space),), {"costs": told, "__module__": space.name})
    return other


def nasbench(path: Path) -> Table:
    """All cells, 12 epochs and 200."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = {row["architecture"]: row for row in csv.DictReader(file)}

    def values(architecture: Architecture) -> tuple[float, float]:
        row = rows[KEY.format_map(dict(architecture.choices))]
        return float(row["valid_12ep"]), float(row["test_200ep"])

    title = f"{path.name}: test_200ep, {SHORT} or {EPOCHS} epochs"
    return Table(title, NASBench201(), values, SHORT / EPOCHS)


def own(name: str) -> Table:
    """One of the project's own tables."""
    rows = recorded.read(name)

    def values(architecture: Architecture) -> tuple[float, float]:
        row = rows[recorded.key(architecture)]
        return 100 * row["short"], 100 * row["full"]

    best = 100 * max(row["full"] for row in rows.values())
    title = f"{name}.csv: {len(rows)} networks, the best {best:.2f}"
    return Table(title, recorded.SPACES[name](), values, recorded.SHORT / recorded.FULL)


class MadeUp(SearchSpace):
    """4,096 points; what one choice is worth depends on the next one.

    The value is a sum of effects of every choice and of every two neighbours; a short training sees
    it through noise, drawn once per architecture. The cost follows from another sum over the same
    choices, which has nothing to do with the value.
    """

    def __init__(self, seed: int) -> None:
        rng = Random(f"made up/{seed}")
        self._seed, letters = seed, "abcd"
        self.domains = {f"x{i}": Categorical(letters) for i in range(6)}
        names = list(self.domains)
        self._single = {f"{n}{v}": rng.gauss(0, 0.35) for n in names for v in letters}
        self._double = {
            f"{a}{v}{b}{w}": rng.gauss(0, 0.25)
            for a, b in pairwise(names)
            for v in letters
            for w in letters
        }
        self._sizes = {f"{n}{v}": rng.random() for n in names for v in letters}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        size = 1e4 * 2.0 ** sum(self._sizes[f"{n}{v}"] for n, v in architecture.choices.items())
        return {"params": size, "flops": 100 * size}

    def values(self, architecture: Architecture) -> tuple[float, float]:
        """What a short and a full training give."""
        chosen = [f"{n}{v}" for n, v in architecture.choices.items()]
        full = fsum(self._single[choice] for choice in chosen)
        full += fsum(self._double[f"{a}{b}"] for a, b in pairwise(chosen))
        return full + Random(f"{self._seed}/{architecture.id}").gauss(0, 0.7), full


def made_up(seed: int) -> Table:
    """A table that is a formula."""
    space = MadeUp(seed)
    best = max(space.values(architecture)[1] for architecture in space.enumerate())
    return Table(f"made up, number {seed}: the best {best:.2f}", space, space.values, 1 / 8)


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
    "--sources",
    default="random,aging_evolution,tpe,guided_evolution",
    show_default=True,
    help="On tables.",
)
@click.option("--recorded", "own_tables", is_flag=True, help="The project's own tables.")
@click.option("--made-up", "formulas", is_flag=True, help="Two formulas.")
@click.option(
    "--costs",
    type=click.Choice(["real", "shuffled", "none"]),
    default="real",
    show_default=True,
    help="What strategies see of the networks of tables.",
)
@click.option("--images", type=click.IntRange(100), default=1_500, show_default=True)
def main(
    curves: Path | None,
    table: Path | None,
    cifar10: Path | None,
    seeds: int,
    cifar_seeds: int,
    sources: str,
    own_tables: bool,
    formulas: bool,
    costs: Costs,
    images: int,
) -> None:
    tables = [nasbench(table)] if table else []
    tables += [own(name) for name in recorded.SPACES] if own_tables else []
    tables += [made_up(seed) for seed in range(2)] if formulas else []
    if curves is None and not tables and cifar10 is None:
        raise click.UsageError("nothing to measure: see --help")
    click.echo(machine())
    found: dict[str, Figures] = {}
    if curves is not None:
        found["curves"] = on_curves(curves, seeds)
    made = {name: source(name) for name in sources.split(",")}
    found |= dict(each.searched(made, costs, seeds) for each in tables)
    if cifar10 is not None:
        found["cifar10"] = on_cifar10(cifar10, cifar_seeds, images)
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
