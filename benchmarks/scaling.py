"""What grows with the number of trials, and with the number of workers.

    python -m benchmarks.scaling --trials 10000 --trials 100000
    python -m benchmarks.scaling --trials 10000 --strategies guided_evolution
    python -m benchmarks.scaling --workers processes --workers ray
    python -m benchmarks.scaling --table nasbench201_cifar100.csv
    python -m benchmarks.scaling --memory 200

Each option is a part, and all that are given are measured, one after another.

``--trials``: whole runs of trials that do nothing but report ten epochs, with journal and console,
each in a process of its own. Seconds and processor time per trial of the first, the middle and the
last tenth; the memory of the search's process; then, in fresh processes, the time until a resumed
run has a first trial more, and that until the page is written anew. Processor time is what to
compare on a machine that has other work: the rest is the disk's, two flushes a trial.

``--workers``: one and two workers on the same trainings, in turns, each worker with one thread.
Trials a second, without the first quarter of them, in which workers start.

``--table``: a simulation by events on NAS-Bench-201 with the recorded seconds of its trainings:
strategies are asked and told as in a search, by one process whose own time passes on the simulated
clock, too. Utilisation is the share of the workers' time that is spent on trials until the last
one begins; what comes after is the end of any search.

``--memory``: what a worker holds between trials, and at most during each, where networks vary:
images of 64 pixels, 150,000 to 250,000 parameters, 30 million FLOPs at most.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from math import log1p
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any, TypeVar

import click
import numpy as np

from benchmarks.search_quality import KEY, SECONDS, machine
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.evaluators.tabular import Tabular
from evonas.executors.base import run_trial
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run as runs
from evonas.runs.journal import JOURNAL, read_journal
from evonas.spaces.nasbench201 import NASBench201
from evonas.strategies.base import Strategy
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trackers.console import Console
from evonas.trial import Objective, Trial, TrialState

EPOCHS = 10  # that a trial which does nothing reports
TENTHS = 10
WORKERS = (1, 8, 64, 512)
HOURS = (1, 2, 4, 16, 64, 256)
SIMULATED = (
    *("random", "aging_evolution", "evolution", "nsga2", "local_search"),
    *("reinforce", "tpe", "guided_evolution"),
)
FLOPS = 30e6  # Of networks that are weighed: some of the size would train for minutes.
FIRST = 10  # A worker's memory is compared with what it is in so many trials.
PLACES = {"processes": {}, "ray": {"address": "local"}}
Result = TypeVar("Result")


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call it in a fresh process, so that memory and imports are its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def megabytes(name: str) -> float:
    """Of this process: its memory now (``VmRSS``), or at most so far (``VmHWM``); on Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def begun(recipe: Mapping[str, Any], folder: Path, *listeners: Tracker) -> None:
    """A run from start to end, that prints nothing."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        told = (*listeners, Console())
        runs.start(reading.validate(recipe, "recipe"), Registry(), folder, told)


# Trials that do nothing.


class Nothing(Evaluator):
    """A value that rises with the choices, with noise, and a learning curve towards it."""

    metrics = reports = ("val_accuracy", "val_loss")

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """At once."""
        size = sum(log1p(float(value)) for value in trial.architecture.choices.values())
        accuracy = size / 40 + Random(trial.architecture.id).gauss(0, 0.05)
        for epoch in range(1, EPOCHS + 1):
            reached = accuracy * epoch / EPOCHS
            report(epoch, {"val_accuracy": reached, "val_loss": 1 - reached, "train_loss": 0.5})
        return {"val_accuracy": accuracy, "val_loss": 1 - accuracy}


@dataclass(frozen=True)
class Mark:
    """Where a search was when so many trials had ended."""

    trials: int
    seconds: float
    processor: float
    megabytes: float


class Marks(Tracker):
    """Marks at equal distances.

    Args:
        every: So many trials.
    """

    def __init__(self, every: int) -> None:
        self._every, self._ended = every, 0
        self.all: list[Mark] = []

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        self._mark()

    def record(self, trial: Trial) -> None:
        if trial.state is not TrialState.RUNNING:
            self._ended += 1
            if self._ended % self._every == 0:
                self._mark()

    def close(self, report: Report) -> None:
        pass

    def _mark(self) -> None:
        now = time.perf_counter(), time.process_time(), megabytes("VmRSS")
        self.all.append(Mark(self._ended, *now))


def nothing(strategy: str, trials: int) -> dict[str, Any]:
    """The recipe of a run of trials that do nothing."""
    return {
        "name": "nothing",
        "space": "plain_cnn",
        "strategy": strategy,
        "evaluation": "benchmarks.scaling:Nothing",
        "budget": {"trials": trials},
        "executor": {"name": "serial", "isolate": False},
        "tracking": "console",
    }


def searched(strategy: str, trials: int, folder: Path) -> list[Mark]:
    """Search from start to end."""
    marks = Marks(max(1, trials // TENTHS))
    begun(nothing(strategy, trials), folder, marks)
    return marks.all


def resumed(trials: int, folder: Path) -> tuple[float, float]:
    """Seconds until a run that goes on has ended a first trial more; megabytes at most."""
    start, marks = time.perf_counter(), Marks(1)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        runs.resume(folder, (f"budget.trials={trials + 1}",), (marks, Console()))
    return marks.all[-1].seconds - start, megabytes("VmHWM")


def reported(folder: Path) -> tuple[float, float]:
    """Seconds until the page is written anew, and megabytes at most."""
    start = time.perf_counter()
    runs.report(folder)
    return time.perf_counter() - start, megabytes("VmHWM")


def on_trials(strategies: Sequence[str], sizes: Sequence[int], workdir: Path | None) -> Any:
    """Print a row per strategy and size."""
    click.echo(f"\nTrials that do nothing, {EPOCHS} epochs reported; ms / processor ms per trial:")
    columns = ("first tenth", "middle", "last tenth", "MB", "journal MB", "resume s", "report s")
    click.echo(f"{'':<28}" + "".join(f"{name:>15}" for name in columns))
    figures = {}
    for strategy in strategies:
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=workdir) as name:
                folder = Path(name)
                marks = apart(searched, strategy, size, folder)
                journal = (folder / JOURNAL).stat().st_size / 1e6
                resume, resume_memory = apart(resumed, size, folder)
                report, report_memory = apart(reported, folder)
            spans = [
                [
                    1000 * (b.seconds - a.seconds) / (b.trials - a.trials),
                    1000 * (b.processor - a.processor) / (b.trials - a.trials),
                ]
                for a, b in pairwise(marks)
            ]
            shown = [f"{w:.2f} / {p:.2f}" for w, p in (spans[0], spans[len(spans) // 2], spans[-1])]
            shown += [f"{marks[0].megabytes:.0f} → {marks[-1].megabytes:.0f}", f"{journal:.1f}"]
            shown += [f"{resume:.1f}", f"{report:.1f}"]
            label = f"{strategy}, {size:,}"
            click.echo(f"{label:<28}" + "".join(f"{cell:>15}" for cell in shown))
            figures[label] = {
                "ms_by_tenths": [[round(value, 3) for value in span] for span in spans],
                "mb_by_tenths": [round(mark.megabytes) for mark in marks],
                "journal_mb": round(journal, 2),
                "resume_s": round(resume, 2),
                "resume_mb": round(resume_memory),
                "report_s": round(report, 2),
                "report_mb": round(report_memory),
            }
    return figures


# One worker and two.


def trained(place: str, workers: int, trials: int, epochs: int, folder: Path) -> float:
    """Trials a second of a run on the digits."""
    recipe = {
        "name": "workers",
        "dataset": {"name": "digits"},
        "space": "plain_cnn",
        "strategy": "random",
        "evaluation": {"name": "train", "epochs": epochs, "final_epochs": 1, "batch_size": 64},
        "constraints": {"params": {"max": 40_000}},
        "budget": {"trials": trials},
        "executor": {"name": place, "workers": workers, **PLACES[place]},
        "tracking": "console",
    }
    begun(recipe, folder)
    _, events = read_journal(folder)
    ends = [e.elapsed for e in events if e.proposal.stage == "search" and e.effort > 0]
    assert len(ends) == trials, "every trial ends"
    skipped = trials // 4
    return (trials - 1 - skipped) / (ends[-1] - ends[skipped])


def on_workers(places: Sequence[str], trials: int, epochs: int, repeats: int) -> Any:
    """Print a row per turn; the ratio of two workers to one."""
    os.environ["OMP_NUM_THREADS"] = "1"
    figures = {}
    for place in places:
        click.echo(f"\n{place}: trials a second with one worker and with two, and their ratio")
        ratios = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as name:
                one, two = (
                    apart(trained, place, n, trials, epochs, Path(name) / str(n)) for n in (1, 2)
                )
            ratios.append(two / one)
            click.echo(f"{one:8.3f} {two:8.3f} {ratios[-1]:8.2f}, load {os.getloadavg()[0]:.1f}")
        click.echo(f"median of the ratios: {median(ratios):.2f}")
        figures[place] = [round(ratio, 3) for ratio in ratios]
    return figures


# Any number of workers, simulated.


@dataclass(frozen=True)
class Simulated:
    """A search on the simulated clock.

    Attributes:
        utilisation: Share of the workers' time that was spent on trials until the last one began.
        ends: When each trial ended, ascending, in hours.
        best: The best value then.
        busy: Share of the time until then that the search's own process was at work.
    """

    utilisation: float
    ends: list[float]
    best: list[float]
    busy: float

    def after(self, hours: float) -> float | None:
        """The best value after so many hours; None before the first."""
        known = bisect(self.ends, hours)
        return self.best[known - 1] if known else None


def simulate(
    strategy: Strategy, evaluator: Evaluator, workers: int, trials: int, seed: int
) -> Simulated:
    """Search as ``runs.search`` does, on a clock that the trials' recorded seconds move.

    Args:
        strategy: A fresh one.
        evaluator: Whose trials say how many ``seconds`` they took.
        workers: Trials that run at once.
        trials: So many are begun, if the strategy proposes as many.
        seed: Of the run.
    """
    metric = strategy.objectives[0].metric
    clock = own = last = 0.0
    running: list[tuple[float, int, Trial]] = []
    spans: list[tuple[float, float]] = []  # begin and end of every trial
    ends: list[float] = []
    best: list[float] = []
    while True:
        while len(running) < workers and len(spans) < trials:
            start, number = time.process_time(), len(spans)
            proposal = strategy.ask(Random(f"{seed}/{number}"))
            if proposal is None:
                break
            strategy.tell(Trial(number, proposal))
            spent = time.process_time() - start
            clock, own = clock + spent, own + spent
            last = clock
            ended = run_trial(evaluator, Trial(number, proposal))
            spans.append((clock, clock + ended.seconds))
            heappush(running, (clock + ended.seconds, number, ended))
        if not running:
            break
        at, _, ended = heappop(running)
        clock = max(clock, at)
        start = time.process_time()
        strategy.tell(ended)
        spent = time.process_time() - start
        clock, own = clock + spent, own + spent
        ends.append(at / 3600)
        best.append(max(ended.metrics[metric], best[-1] if best else 0.0))
    work = sum(min(end, last) - begin for begin, end in spans)
    return Simulated(work / (workers * last) if last else 1.0, ends, best, own / clock)


def on_table(path: Path, names: Sequence[str], trials: int, seeds: int) -> Any:
    """Print a row per strategy and number of workers."""
    columns = {"test_200ep": "test_200ep", "seconds": SECONDS}
    evaluator = Tabular(Context(NASBench201(), None, "cpu", 0), path, KEY, columns)
    click.echo(
        f"\n{path.name}, {trials:,} trials, mean of {seeds} seeds: test_200ep of the best after so "
        "many simulated hours"
    )
    head = ("workers", "utilisation", "search busy", "hours", *(f"{h} h" for h in HOURS), "end")
    click.echo(f"{'':<18}" + "".join(f"{name:>12}" for name in head))
    figures: dict[str, Any] = {}
    for name in names:
        find = Registry().find("strategy", name)
        for workers in WORKERS:
            done = [
                simulate(
                    find(evaluator.context.space, (Objective("test_200ep"),)),
                    *(evaluator, workers, trials, seed),
                )
                for seed in range(seeds)
            ]
            row = {
                "utilisation": fmean(each.utilisation for each in done),
                "busy": fmean(each.busy for each in done),
                "hours": fmean(each.ends[-1] for each in done),
                "end": fmean(each.best[-1] for each in done),
            }
            cells = [f"{workers}", f"{row['utilisation']:.1%}", f"{row['busy']:.2%}"]
            cells.append(f"{row['hours']:,.1f}")
            for hours in HOURS:
                known = [value for each in done if (value := each.after(hours)) is not None]
                if len(known) == seeds:
                    row[f"{hours} h"] = fmean(known)
                cells.append(f"{fmean(known):.2f}" if len(known) == seeds else "")
            cells.append(f"{row['end']:.2f}")
            click.echo(f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells))
            figures[f"{name}, {workers}"] = {key: round(value, 4) for key, value in row.items()}
    return figures


# What a worker holds.


class Weighed(Wrapper):
    """Another evaluator, and the megabytes of the process that it runs in.

    Args:
        context: The world.
        of: The evaluator.
    """

    def __init__(self, context: Context, of: Callable[[Context], Evaluator]) -> None:
        super().__init__(context, of(context))

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """With ``held`` when the trial begins, after that before it, and ``peak`` during it."""
        held = megabytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # Linux then counts the peak anew
        metrics = super().score(trial, report)
        return {**metrics, "held": held, "peak": megabytes("VmHWM")}


def weighed(space: str, trials: int, images: int, folder: Path) -> list[tuple[float, float]]:
    """Megabytes that the worker held before each trial, and at most during it."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", images), ("test", 10)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 2  # of each enough to hold out some
    folder.mkdir()
    np.savez(folder / "images.npz", **arrays)
    recipe = {
        "name": "memory",
        "dataset": {"name": "npz", "path": folder / "images.npz", "validation": 0.2},
        "space": space,
        "strategy": "random",
        "evaluation": {
            "name": "benchmarks.scaling:Weighed",
            "of": {"name": "train", "epochs": 1, "batch_size": 32},
        },
        "constraints": {"params": {"min": 150_000, "max": 250_000}, "flops": {"max": FLOPS}},
        "budget": {"trials": trials},
        "executor": {"name": "processes", "workers": 1},
        "tracking": "console",
    }
    begun(recipe, folder / "run")
    _, events = read_journal(folder / "run")
    ended = [e for e in events if e.proposal.stage == "search" and "held" in e.metrics]
    return [(event.metrics["held"], event.metrics["peak"]) for event in ended]


def on_memory(spaces: Sequence[str], trials: int, images: int) -> Any:
    """Print a row per space."""
    click.echo(f"\nMB of a worker, between trials and at most: of the first {FIRST} trials, of all")
    figures = {}
    for space in spaces:
        with tempfile.TemporaryDirectory() as name:
            held, peak = zip(
                *apart(weighed, space, trials, images, Path(name) / space), strict=True
            )
        ratios = [max(values) / max(values[:FIRST]) for values in (held, peak)]
        step = max(1, len(held) // 10)
        click.echo(
            f"{space}: {len(held)} trials, held {max(held[:FIRST]):.0f} → {max(held):.0f} "
            f"({ratios[0]:.2f}), peak {max(peak[:FIRST]):.0f} → {max(peak):.0f} ({ratios[1]:.2f}); "
            f"held every {step} trials: {' '.join(f'{value:.0f}' for value in held[::step])}"
        )
        figures[space] = {"held": list(map(round, held)), "peak": list(map(round, peak))}
    return figures


@click.command(help=__doc__.partition("\n")[0])
@click.option("--trials", "sizes", type=click.IntRange(20), multiple=True, help="That do nothing.")
@click.option("--strategies", help="Of --trials and --table; default: two, and all.")
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--workers", "places", type=click.Choice(list(PLACES)), multiple=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--trainings", type=click.IntRange(4), default=40, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--table", type=click.Path(path_type=Path, exists=True), help="NAS-Bench-201's CSV.")
@click.option("--simulated", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--memory", type=click.IntRange(FIRST), help="Trials of a worker that is weighed.")
@click.option("--spaces", default="mobilenet,regnet", show_default=True)
@click.option("--images", type=click.IntRange(10), default=80, show_default=True)
def main(
    sizes: tuple[int, ...],
    strategies: str | None,
    workdir: Path | None,
    places: tuple[str, ...],
    repeats: int,
    trainings: int,
    epochs: int,
    table: Path | None,
    simulated: int,
    seeds: int,
    memory: int | None,
    spaces: str,
    images: int,
) -> None:
    if not (sizes or places or table or memory):
        raise click.UsageError("nothing to measure: give --trials, --workers, --table or --memory")
    click.echo(machine())
    names = strategies.split(",") if strategies else None
    figures: dict[str, Any] = {}
    if sizes:
        figures["trials"] = on_trials(names or ("random", "aging_evolution"), sizes, workdir)
    if places:
        figures["workers"] = on_workers(places, trainings, epochs, repeats)
    if table:
        figures["table"] = on_table(table, names or SIMULATED, simulated, seeds)
    if memory:
        figures["memory"] = on_memory(spaces.split(","), memory, images)
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
