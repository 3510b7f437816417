"""How well the strategies search: on NAS-Bench-201, and on Real et al.'s toy problem.

    python -m benchmarks.search_quality --table nasbench201_cifar100.csv
    python -m benchmarks.search_quality --toy

Every strategy goes through the real ``search()`` loop with the serial executor; seeds are 0, 1, 2,
…. Searches of other projects run their own loops in the same process: see benchmarks/peers.py. Not
here are the strategies that a table cannot serve: ``successive_halving`` and ``hyperband`` have
benchmarks/multi_fidelity.py, ``hypernet`` trains, and ``projected_ascent`` needs ordered choices,
as Optuna's CMA-ES does.
The table is an oracle: a trial costs a look-up. The toy problem (Real, Aggarwal, Huang and Le, AAAI
2019) is a string of 100 bits whose accuracy is the share of ones plus N(0, .01), drawn once per
model: population 100, tournament 10, 1,000 models.

No strategy proposes an architecture twice, and most published figures are of implementations
that do. ``--repeats`` lifts that, to compare like with like.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import fmean, median, stdev

import click
from matplotlib.figure import Figure
from torch import nn

from benchmarks.peers import PEERS, Oracle, Peer, Spent, installed
from evonas.architecture import Architecture, Categorical
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.tabular import Tabular
from evonas.executors.serial import Serial
from evonas.recipe.registry import Registry
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.nasbench201 import NASBench201
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal, Trial, TrialState

STRATEGIES = (
    "random",
    "grid",
    "aging_evolution",
    "evolution",
    "nsga2",
    "local_search",
    "reinforce",
    "tpe",
    "guided_evolution",
)
CHECKPOINTS = (25, 50, 100, 200, 300)
# NAS-Bench-201's own notation of a cell.
KEY = "|{edge_0_1}~0|+|{edge_0_2}~0|{edge_1_2}~1|+|{edge_0_3}~0|{edge_1_3}~1|{edge_2_3}~2|"
TOY = {"population_size": 100, "tournament_size": 10}
TOY_TRIALS = 1000


@dataclass(frozen=True)
class Variant:
    """A strategy with settings, and the label of its row."""

    label: str
    strategy: str
    settings: Mapping[str, int]

    def make(self, space: SearchSpace, objective: Objective, repeats: bool) -> Strategy:
        """A fresh strategy."""
        found = Registry().find("strategy", self.strategy)
        strategy: Strategy = found(space, (objective,), **self.settings)
        if repeats:
            strategy._is_new = lambda architecture: True  # type: ignore[method-assign]
        return strategy


def variants(names: Sequence[str]) -> Iterator[Variant]:
    """The rows of the table; aging evolution has one per published pair of settings."""
    for name in names:
        if name != "aging_evolution":
            yield Variant(name, name, {})
            continue
        for population, tournament in ((50, 10), (20, 5)):
            settings = {"population_size": population, "tournament_size": tournament}
            yield Variant(f"{name} {population}/{tournament}", name, settings)


class Timed(Strategy):
    """Another strategy, and the seconds that its ask and tell took."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy, self.seconds, self.asked = strategy, 0.0, 0

    def ask(self, rng: Random) -> Proposal | None:
        start = time.perf_counter()
        proposal = self._strategy.ask(rng)
        self.seconds += time.perf_counter() - start
        self.asked += 1
        return proposal

    def tell(self, trial: Trial) -> None:
        start = time.perf_counter()
        self._strategy.tell(trial)
        self.seconds += time.perf_counter() - start


class Bits(SearchSpace):
    """Strings of bits; nothing is built."""

    def __init__(self, count: int = 100) -> None:
        self.domains = {f"bit_{i}": Categorical((0, 1)) for i in range(count)}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


class ShareOfOnes(Evaluator):
    """The share of ones plus noise, drawn once per model, within 0 and 1."""

    metrics = ("accuracy",)

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        noise = Random(f"noise/{self.context.seed}/{trial.number}").gauss(0, 0.01)
        share = fmean(int(bit) for bit in trial.architecture.choices.values())
        return {"accuracy": min(max(share + noise, 0.0), 1.0)}


def completed(strategy: Strategy, evaluator: Evaluator, trials: int, seed: int) -> list[Trial]:
    """The completed trials of a search, in order."""
    with Serial(lambda device: evaluator, ("cpu",)) as executor:
        events = Search(strategy, executor, Budget(trials), seed)
        return [event for event in events if event.state is TrialState.COMPLETE]


def incumbents(trials: Sequence[Mapping[str, float]], objective: str, report: str) -> list[float]:
    """After each trial's metrics, the ``report`` of the best one by ``objective`` so far."""
    best, curve = trials[0], []
    for metrics in trials:
        if metrics[objective] > best[objective]:
            best = metrics
        curve.append(best[report])
    return curve


@dataclass(frozen=True)
class Summary:
    """Figures over seeds."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds; 0 for one seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / len(self.values) ** 0.5

    def text(self, digits: int) -> str:
        """Mean ± standard error (standard deviation)."""
        return f"{self.mean:.{digits}f} ± {self.error:.{digits}f} ({self.deviation:.{digits}f})"

    def to_json(self) -> dict[str, float]:
        """Plain data for ``json.dumps``."""
        exact = {"mean": self.mean, "error": self.error, "deviation": self.deviation}
        return {name: round(value, 5) for name, value in exact.items()}


Figures = dict[str, dict[str, dict[str, float]]]  # row → column → mean, error, deviation


def print_row(label: str, cells: Sequence[str]) -> None:
    click.echo(f"{label:<22}" + "".join(f"{cell:>24}" for cell in cells))


Curves = list[list[float]]  # seed → incumbent's figure after each trial


def of_strategy(
    variant: Variant,
    evaluator: Tabular,
    names: tuple[str, str],
    seeds: int,
    trials: int,
    **how: bool,
) -> tuple[Curves, float]:
    """Curves of a strategy, and milliseconds per ask and tell."""
    objective, report = names
    curves, milliseconds = [], []
    for seed in range(seeds):
        strategy = Timed(variant.make(evaluator.context.space, Objective(objective), **how))
        done = completed(strategy, evaluator, trials, seed)
        curves.append(incumbents([trial.metrics for trial in done], objective, report))
        milliseconds.append(1000 * strategy.seconds / strategy.asked)
    return curves, fmean(milliseconds)


def of_peer(
    peer: Peer, evaluator: Tabular, names: tuple[str, str], seeds: int, trials: int
) -> tuple[Curves, float]:
    """Curves of another project's search, and its milliseconds per proposal."""
    objective, report = names
    space = evaluator.context.space
    known: dict[str, Mapping[str, float]] = {}

    def value(architecture: Architecture) -> float:
        trial = Trial(0, Proposal(architecture))
        known[architecture.id] = evaluator.evaluate(trial, lambda step, metrics: None)
        return known[architecture.id][objective]

    curves, milliseconds = [], []
    for seed in range(seeds):
        oracle = Oracle(space, value, trials)
        start = time.perf_counter()
        with suppress(Spent):
            peer(space, oracle, seed)
        milliseconds.append(1000 * (time.perf_counter() - start) / oracle.asked)
        found = [known[architecture.id] for architecture in oracle.order]
        found += [found[-1]] * (trials - len(found))  # it converged
        curves.append(incumbents(found, objective, report))
    return curves, fmean(milliseconds)


def on_table(
    path: Path,
    rows: Sequence[str],
    peers: Sequence[str],
    names: tuple[str, str],
    seeds: int,
    trials: int,
    figure: Path,
    **how: bool,
) -> Figures:
    """Search the table with every strategy and peer; print one row each, and draw the curves."""
    objective, report = names
    columns = {name: name for name in names}
    evaluator = Tabular(Context(NASBench201(), None, "cpu", 0), path, KEY, columns)
    checkpoints = sorted({n for n in CHECKPOINTS if n < trials} | {trials})
    click.echo(
        f"{path.name}: {report} of the incumbent by {objective} after so many trials,\n"
        f"mean ± standard error (standard deviation) over {seeds} seeds"
    )
    print_row("", [*map(str, checkpoints), "ms per ask and tell"])
    figures: Figures = {}
    drawn: dict[str, Curves] = {}
    searches: list[tuple[str, Callable[[], tuple[Curves, float]]]] = [
        (v.label, partial(of_strategy, v, evaluator, names, seeds, trials, **how))
        for v in variants(rows)
    ]
    searches += [
        (name, partial(of_peer, PEERS[name].run, evaluator, names, seeds, trials)) for name in peers
    ]
    for label, find in searches:
        curves, milliseconds = find()
        drawn[label] = curves
        summaries = {n: Summary([curve[n - 1] for curve in curves]) for n in checkpoints}
        cells = [summary.text(2) for summary in summaries.values()]
        print_row(label, [*cells, f"{milliseconds:.2f}"])
        figures[label] = {str(n): s.to_json() for n, s in summaries.items()}
    draw(figure, drawn, names)
    return figures


def draw(path: Path, curves: Mapping[str, Curves], names: tuple[str, str]) -> None:
    """Draw the mean curves into a PNG file."""
    picture = Figure(figsize=(9, 6), layout="constrained")
    axes = picture.subplots()
    means = {n: [fmean(v) for v in zip(*lines, strict=True)] for n, lines in curves.items()}
    for label, mean in means.items():
        axes.plot(range(1, len(mean) + 1), mean, label=label)
    objective, report = names
    axes.set_xlabel("trials")
    axes.set_ylabel(f"{report} of the incumbent by {objective}, mean of the seeds")
    early = [mean[len(mean) // 10] for mean in means.values()]
    axes.set_ylim(bottom=median(early))  # what comes before squeezes the rest
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)
    click.echo(f"figure: {path}")


def on_toy(seeds: int, **how: bool) -> Figures:
    """Search the toy problem with aging evolution and at random; print one row each."""
    space = Bits()
    click.echo(
        f"Toy problem, {TOY_TRIALS} models: accuracy, mean ± standard error (standard deviation) "
        f"over {seeds} seeds\nreference (deviation): aging evolution, last 100 .867 (.020), "
        "best .909 (.021); random, best .665 (.019)"
    )
    measures: dict[str, Callable[[Sequence[float]], float]] = {
        "last 100": lambda accuracies: fmean(accuracies[-100:]),
        "best": max,
    }
    print_row("", [*measures, "ms per ask and tell"])
    figures: Figures = {}
    for variant in (
        Variant("toy aging_evolution", "aging_evolution", TOY),
        Variant("toy random", "random", {}),
    ):
        runs, milliseconds = [], []
        for seed in range(seeds):
            strategy = Timed(variant.make(space, Objective("accuracy"), **how))
            evaluator = ShareOfOnes(Context(space, None, "cpu", seed))
            done = completed(strategy, evaluator, TOY_TRIALS, seed)
            runs.append([trial.metrics["accuracy"] for trial in done])
            milliseconds.append(1000 * strategy.seconds / strategy.asked)
        summaries = {name: Summary([of(run) for run in runs]) for name, of in measures.items()}
        cells = [summary.text(3) for summary in summaries.values()]
        print_row(variant.label, [*cells, f"{fmean(milliseconds):.2f}"])
        figures[variant.label] = {name: s.to_json() for name, s in summaries.items()}
    return figures


def machine() -> str:
    """One line: where and with what it was measured."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("evonas", "deap", "optuna"))
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {libraries}"
    )


@click.command(help=__doc__.partition("\n")[0])
@click.option("--table", type=click.Path(path_type=Path, exists=True), help="NAS-Bench-201's CSV.")
@click.option("--toy", is_flag=True, help="Search the toy problem.")
@click.option("--seeds", type=click.IntRange(1), default=50, show_default=True)
@click.option("--trials", type=click.IntRange(1), default=300, show_default=True)
@click.option("--objective", default="test_200ep", show_default=True, help="Column to maximise.")
@click.option("--report", default="test_200ep", show_default=True, help="Column to print.")
@click.option("--strategies", default=",".join(STRATEGIES), show_default=True)
@click.option("--peers", default=",".join(PEERS), show_default=True, help='Others; "" for none.')
@click.option(
    "--figure",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("mlruns/search_quality.png"),
    show_default=True,
)
@click.option("--repeats", is_flag=True, help="Let strategies propose an architecture again.")
def main(
    table: Path | None,
    toy: bool,
    seeds: int,
    trials: int,
    objective: str,
    report: str,
    strategies: str,
    peers: str,
    figure: Path,
    repeats: bool,
) -> None:
    if table is None and not toy:
        raise click.UsageError("nothing to measure: give --table PATH, --toy or both")
    click.echo(machine())
    figures: Figures = {}
    if toy:
        figures |= on_toy(seeds, repeats=repeats)
    if table is not None:
        rows, others = ([n for n in given.split(",") if n] for given in (strategies, peers))
        if unknown := set(others) - set(PEERS):
            raise click.UsageError(f"--peers: unknown {', '.join(unknown)}; {', '.join(PEERS)}")
        for name in others:
            if not installed(name):
                click.echo(f"{name}: not run, since {PEERS[name].module} is not installed")
        others = [name for name in others if installed(name)]
        names = objective, report
        figures |= on_table(table, rows, others, names, seeds, trials, figure, repeats=repeats)
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
