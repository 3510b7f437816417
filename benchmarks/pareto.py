"""How well the strategies find a Pareto front: NAS-Bench-201, accuracy up and cost down.

    python -m benchmarks.pareto --table nasbench201_cifar100.csv

The measure is the hypervolume that a search's trials dominate, in per cent of that of the table's
own front. Its corner is the table's worst accuracy and highest cost, its units the table's ranges.
Ours go through the real ``search()`` loop with the serial executor; Optuna's NSGA-II is asked and
told, with its default population of 50 and with ours of 20. It may propose an architecture again,
which counts as an evaluation; ours never do. Seeds are 0, 1, 2, ….
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import click
import optuna

from benchmarks.search_quality import KEY, Summary, Timed, completed, machine, print_row
from evonas.evaluators.base import Context, Evaluator
from evonas.evaluators.tabular import Tabular
from evonas.recipe.registry import Registry
from evonas.spaces.nasbench201 import NASBench201
from evonas.trial import Objective, Proposal, Trial, keys
from evonas.trials import volume

OURS = ("random", "nsga2", "tpe")
OPTUNA = {"Optuna NSGA-II 50": 50, "Optuna NSGA-II 20": 20}
SPACE = NASBench201()
Metrics = Mapping[str, float]
Search = Callable[[int, int], tuple[list[Metrics], float]]  # trials, seed → metrics, ms per trial


class Measure:
    """Share of the table's volume, in per cent, that trials dominate."""

    def __init__(self, table: Path, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives
        with table.open(newline="") as file:
            table_rows = csv.DictReader(file)
            rows = [{o.metric: float(row[o.metric]) for o in objectives} for row in table_rows]
        columns = list(zip(*(keys(objectives, row) for row in rows), strict=True))
        self._low = [min(column) for column in columns]
        self._range = [max(column) - min(column) for column in columns]
        self._whole = self._volume(rows)

    def __call__(self, trials: Sequence[Metrics]) -> float:
        return 100 * self._volume(trials) / self._whole

    def _volume(self, trials: Sequence[Metrics]) -> float:
        points = {keys(self.objectives, metrics) for metrics in trials}
        scaled = [
            tuple((v - low) / span for v, low, span in zip(p, self._low, self._range, strict=True))
            for p in points
        ]
        return volume(scaled, [0.0] * len(self._low))


def ours(
    name: str, evaluator: Evaluator, objectives: Sequence[Objective], trials: int, seed: int
) -> tuple[list[Metrics], float]:
    """A search of ours, by the strategy's defaults."""
    strategy = Timed(Registry().find("strategy", name)(SPACE, objectives))
    done = completed(strategy, evaluator, trials, seed)
    return [trial.metrics for trial in done], 1000 * strategy.seconds / strategy.asked


def optunas(
    population: int, evaluator: Evaluator, objectives: Sequence[Objective], trials: int, seed: int
) -> tuple[list[Metrics], float]:
    """A search by Optuna's NSGA-II."""
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.CategoricalDistribution(domain.values())
        for name, domain in SPACE.domains.items()
    }
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    study = optuna.create_study(sampler=sampler, directions=["maximize"] * len(objectives))
    found: list[Metrics] = []
    start = time.perf_counter()
    looking_up = 0.0
    for _ in range(trials):
        trial = study.ask(distributions)
        begun = time.perf_counter()
        proposal = Proposal(SPACE.architecture(trial.params))
        found.append(evaluator.evaluate(Trial(trial.number, proposal), lambda *_: None))
        looking_up += time.perf_counter() - begun
        study.tell(trial, keys(objectives, found[-1]))
    return found, 1000 * (time.perf_counter() - start - looking_up) / trials


def searches(
    names: Sequence[str], table: Path, objectives: Sequence[Objective]
) -> Iterator[tuple[str, Search]]:
    """The rows of the table."""
    columns = {objective.metric: objective.metric for objective in objectives}
    evaluator = Tabular(Context(SPACE, None, "cpu", 0), table, KEY, columns)
    for name in names:
        yield name, partial(ours, name, evaluator, objectives)
    for label, population in OPTUNA.items():
        yield label, partial(optunas, population, evaluator, objectives)


@click.command(help=__doc__.partition("\n")[0])
@click.option("--table", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--accuracy", default="test_200ep", show_default=True, help="Column to maximise.")
@click.option("--cost", default="params_M", show_default=True, help="Column to minimise.")
@click.option("--seeds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--checkpoints", default="50,100,300", show_default=True)
@click.option("--strategies", default=",".join(OURS), show_default=True)
def main(
    table: Path, accuracy: str, cost: str, seeds: int, checkpoints: str, strategies: str
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = (Objective(accuracy), Objective(cost, "min"))
    measure, counts = Measure(table, objectives), sorted(map(int, checkpoints.split(",")))
    click.echo(machine())
    click.echo(
        f"{table.name}: hypervolume of {accuracy} and {cost} after so many trials, per cent of the "
        f"table's,\nmean ± standard error (standard deviation) over {seeds} seeds"
    )
    print_row("", [*map(str, counts), "ms per ask and tell"])
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for label, search in searches(strategies.split(","), table, objectives):
        runs, milliseconds = zip(*(search(counts[-1], seed) for seed in range(seeds)), strict=True)
        summaries = {n: Summary([measure(trials[:n]) for trials in runs]) for n in counts}
        cells = [summary.text(2) for summary in summaries.values()]
        print_row(label, [*cells, f"{fmean(milliseconds):.2f}"])
        figures[label] = {str(n): summary.to_json() for n, summary in summaries.items()}
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
