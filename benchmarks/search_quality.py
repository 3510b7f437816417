"""How well the strategies search: on NAS-Bench-201, and on Real et al.'s toy problem.

    python -m benchmarks.search_quality --table nasbench201_cifar100.csv
    python -m benchmarks.search_quality --by effort --table nasbench201_cifar100.csv
    python -m benchmarks.search_quality --toy

``--by`` says what the incumbent is shown against: trials; the recorded seconds of their trainings,
in units of the table's mean; or effort, the epochs trained in units of a full training, where
trials of 12 epochs may come before those of 200 (benchmarks/multi_fidelity.py).

Every strategy goes through the real ``search()`` loop with the serial executor; seeds are 0, 1, 2,
…. Searches of other projects run their own loops in the same process: see benchmarks/peers.py. Not
here are the strategies that a table cannot serve: ``hypernet`` trains, and ``projected_ascent``
needs ordered choices, as Optuna's CMA-ES does.
The table is an oracle: a trial costs a look-up. The toy problem (Real, Aggarwal, Huang and Le, AAAI
2019) is a string of 100 bits whose accuracy is the share of ones plus N(0, .01), drawn once per
model: population 100, tournament 10, 1,000 models.

No strategy proposes an architecture twice, and most published figures are of implementations
that do. ``--repeats`` lifts that, to compare like with like.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import accumulate
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
SECONDS = "train_seconds_200ep"


class Forgotten(set[tuple[str, float, int]]):
    """What was proposed, if that is to be no reason not to propose it again."""

    def add(self, key: tuple[str, float, int]) -> None:
        pass


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
            strategy.told.proposed = Forgotten()
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
        super().__init__(strategy.space, strategy.objectives)
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
    with Serial(lambda device: evaluator, ("cpu",), isolate=False) as executor:
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
        return float(stdev(self.values)) if len(self.values) > 1 else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / float(len(self.values) ** 0.5)

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


@dataclass(frozen=True)
class Axes:
    """What a table is searched by, and what is drawn.

    Attributes:
        objective: Column to maximise.
        report: Column of the incumbent that is shown.
        seconds: Column of what a trial took, if that is what it is shown against.
        unit: Seconds of one step then: the mean of the column.
    """

    objective: str
    report: str
    seconds: str | None = None
    unit: float = 0.0

    @property
    def columns(self) -> dict[str, str]:
        """Those that a trial's metrics are made of."""
        return {n: n for n in (self.objective, self.report, self.seconds) if n is not None}

    def curve(self, trials: Sequence[Mapping[str, float]]) -> list[float]:
        """The incumbent after each trial, or after each unit of seconds: none ends later."""
        curve = incumbents(trials, self.objective, self.report)
        if self.seconds is None:
            return curve
        spent = list(accumulate(metrics[self.seconds] for metrics in trials))
        steps = (bisect(spent, self.unit * n) for n in range(1, len(trials) + 1))
        return [curve[max(0, step - 1)] for step in steps]


def of_strategy(
    variant: Variant,
    evaluator: Tabular,
    axes: Axes,
    seeds: int,
    trials: int,
    **how: bool,
) -> tuple[Curves, float]:
    """Curves of a strategy, and milliseconds per ask and tell."""
    curves, milliseconds = [], []
    for seed in range(seeds):
        strategy = Timed(variant.make(evaluator.context.space, Objective(axes.objective), **how))
        done = completed(strategy, evaluator, trials, seed)
        curves.append(axes.curve([trial.metrics for trial in done]))
        milliseconds.append(1000 * strategy.seconds / strategy.asked)
    return curves, fmean(milliseconds)


def of_peer(
    peer: Peer, evaluator: Tabular, axes: Axes, seeds: int, trials: int
) -> tuple[Curves, float]:
    """Curves of another project's search, and its milliseconds per proposal."""
    space = evaluator.context.space
    known: dict[str, Mapping[str, float]] = {}

    def value(architecture: Architecture) -> float:
        trial = Trial(0, Proposal(architecture))
        known[architecture.id] = evaluator.evaluate(trial, lambda step, metrics: None)
        return known[architecture.id][axes.objective]

    curves, milliseconds = [], []
    for seed in range(seeds):
        oracle = Oracle(space, value, trials)
        start = time.perf_counter()
        with suppress(Spent):
            peer(space, oracle, seed)
        milliseconds.append(1000 * (time.perf_counter() - start) / oracle.asked)
        found = [known[architecture.id] for architecture in oracle.order]
        found += [found[-1]] * (trials - len(found))  # it converged
        curves.append(axes.curve(found))
    return curves, fmean(milliseconds)


def on_table(
    path: Path,
    rows: Sequence[str],
    peers: Sequence[str],
    axes: Axes,
    seeds: int,
    trials: int,
    figure: Path,
    **how: bool,
) -> Figures:
    """Search the table with every strategy and peer; print one row each, and draw the curves."""
    evaluator = Tabular(Context(NASBench201(), None, "cpu", 0), path, KEY, axes.columns)
    if axes.seconds is not None:
        with path.open(newline="", encoding="utf-8") as file:
            axes = replace(axes, unit=fmean(float(r[axes.seconds]) for r in csv.DictReader(file)))
    checkpoints = sorted({n for n in CHECKPOINTS if n < trials} | {trials})
    step = f"times {axes.unit:,.0f} s of training" if axes.seconds else "trials"
    click.echo(
        f"{path.name}: {axes.report} of the incumbent by {axes.objective} after so many {step},\n"
        f"mean ± standard error (standard deviation) over {seeds} seeds"
    )
    print_row("", [*map(str, checkpoints), "ms per ask and tell"])
    figures: Figures = {}
    drawn: dict[str, Curves] = {}
    searches: list[tuple[str, Callable[[], tuple[Curves, float]]]] = [
        (v.label, partial(of_strategy, v, evaluator, axes, seeds, trials, **how))
        for v in variants(rows)
    ]
    searches += [
        (name, partial(of_peer, PEERS[name].run, evaluator, axes, seeds, trials)) for name in peers
    ]
    for label, find in searches:
        curves, milliseconds = find()
        drawn[label] = curves
        summaries = {n: Summary([curve[n - 1] for curve in curves]) for n in checkpoints}
        cells = [summary.text(2) for summary in summaries.values()]
        print_row(label, [*cells, f"{milliseconds:.2f}"])
        figures[label] = {str(n): s.to_json() for n, s in summaries.items()}
    draw(figure, drawn, axes, step)
    return figures


def draw(path: Path, curves: Mapping[str, Curves], shown: Axes, step: str) -> None:
    """Draw the mean curves into a PNG file."""
    picture = Figure(figsize=(9, 6), layout="constrained")
    axes = picture.subplots()
    means = {n: [fmean(v) for v in zip(*lines, strict=True)] for n, lines in curves.items()}
    for label, mean in means.items():
        axes.plot(range(1, len(mean) + 1), mean, label=label)
    axes.set_xlabel(step)
    axes.set_ylabel(f"{shown.report} of the incumbent by {shown.objective}, mean of the seeds")
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


def on_effort(table: Path | None, names: Sequence[str], seeds: int) -> None:
    """Search with trainings of 12 and of 200 epochs; the currency is the epochs trained."""
    from benchmarks import multi_fidelity  # it prints by what is here

    if table is None:
        raise click.UsageError("--by effort needs --table PATH")
    click.echo(machine())
    sources = {name: multi_fidelity.source(name) for name in names}
    figures = multi_fidelity.nasbench(table).searched(sources, "real", seeds)
    click.echo(json.dumps(dict([figures])))


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
@click.option(
    "--by",
    type=click.Choice(["trials", "seconds", "effort"]),
    default="trials",
    show_default=True,
    help="Show the incumbent against trials, seconds of recorded training, or epochs trained.",
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
    by: str,
    repeats: bool,
) -> None:
    if by == "effort":
        on_effort(table, strategies.split(","), seeds)
        return
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
        axes = Axes(objective, report, SECONDS if by == "seconds" else None)
        figures |= on_table(table, rows, others, axes, seeds, trials, figure, repeats=repeats)
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
