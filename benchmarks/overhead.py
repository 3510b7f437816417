"""Seconds per trial that evonas itself costs, everything logged, beside Optuna with MLflow.

    python -m benchmarks.overhead --trials 1000

Both sides run trials that do nothing and log the same content to MLflow on SQLite on the disk: ten
parameters, five epochs of twenty metrics, a nested run per trial. evonas: random search through
``search``, journal, MLflow tracker, from its start until the tracker has drained and closed.
Optuna: ``study.optimize`` with a random sampler and MLflow's own calls in the objective, one
``log_params`` and a ``log_metrics`` per epoch. Each side has its own database, made beforehand.
They take turns in blocks; the figures are medians over blocks.

Then every strategy is timed alone: seconds per ask and per tell after 100, 1,000 and 10,000 trials.
What fits a model to all of them is told random trials on the way, others have proposed them all
themselves. ``hypernet`` is left out: it learns before the first ask.

The search loop alone (ask, evaluate, tell, journal) is timed by aging evolution with the same
content but no tracker, around trial 100 and around the last. It flushes the journal twice a trial,
so the disk's own time for that is measured too: before, between and after.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import click
import mlflow
import optuna
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer
from evonas.evaluators.base import Context, Evaluator
from evonas.executors.serial import Serial
from evonas.recipe.registry import Registry
from evonas.runs.journal import Journal
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace, Task
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.base import Strategy
from evonas.strategies.random import RandomSearch
from evonas.trackers.base import Report, RunInfo
from evonas.trackers.mlflow import MLflow
from evonas.trial import Limit, Objective, Proposal, Trial, TrialState

CHOICES = {f"choice{i}": tuple(range(5)) for i in range(10)}
EPOCHS, METRICS = 5, 20
OBJECTIVES = (Objective("value"),)
BLOCKS = 5
TOLD, ASKS = (100, 1_000, 10_000), 30
MODELS = ("tpe", "guided_evolution", "reinforce")


class Choices(SearchSpace):
    def __init__(self) -> None:
        self.domains = {name: Categorical(options) for name, options in CHOICES.items()}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        raise NotImplementedError("nothing is built here")

    def costs(self, architecture: Architecture, task: Task) -> dict[str, float]:
        return {"params": total(architecture)}


def epoch(number: int) -> dict[str, float]:
    return {f"metric{i}": (number + 1) * i / 7 for i in range(METRICS)}


class Nothing(Evaluator):
    metrics = ("value",)

    def __init__(self) -> None:
        super().__init__(Context(Choices(), None, "cpu", seed=0))

    def evaluate(
        self, trial: Trial, report: Callable[[int, Mapping[str, float]], None]
    ) -> Mapping[str, float]:
        for number in range(EPOCHS):
            report(number, epoch(number))
        return {"value": float(sum(int(v) for v in trial.architecture.choices.values()))}


def loop(strategy: Strategy, trials: int, folder: Path, tracker: MLflow | None) -> list[float]:
    """Run the search loop with its journal; seconds since the start at the end of every trial."""
    times = []
    with (
        Journal(folder) as journal,
        Serial(lambda device: Nothing(), ("cpu",), isolate=False) as executor,
    ):
        journal.begin({})
        if tracker is not None:
            run = RunInfo("overhead", folder, {}, OBJECTIVES, {}, time.time())
            tracker.start(run, journal.events)
        start = time.perf_counter()
        for event in Search(strategy, executor, Budget(trials), seed=0):
            journal.append(event)
            if tracker is not None:
                tracker.record(event)
            if event.metrics:
                times.append(time.perf_counter() - start)
    return times


def evonas_block(uri: str, folder: Path, trials: int) -> tuple[float, float]:
    """Seconds per trial: everything, and the loop while the tracker works beside it."""
    folder.mkdir()
    start = time.perf_counter()
    tracker = MLflow(uri, "evonas")
    times = loop(RandomSearch(Choices(), OBJECTIVES), trials, folder, tracker)
    tracker.close(Report("finished", "done", {"complete": trials}, times[-1]))
    return (time.perf_counter() - start) / trials, times[-1] / trials


def optuna_block(uri: str, trials: int, seed: int) -> float:
    """Seconds per trial of Optuna, logging as MLflow's users do."""

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_categorical(name, opts) for name, opts in CHOICES.items()}
        with mlflow.start_run(nested=True, run_name=f"trial-{trial.number}"):
            mlflow.log_params(params)
            for number in range(EPOCHS):
                mlflow.log_metrics(epoch(number), step=number)
            value = float(sum(params.values()))
            mlflow.log_metrics({"value": value})
        return value

    start = time.perf_counter()
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("overhead")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed), direction="maximize")
    with mlflow.start_run():
        study.optimize(objective, n_trials=trials)
    return (time.perf_counter() - start) / trials


class Lattice(SearchSpace):
    """Eight ordered choices of five, 390,625 points."""

    counted = ("params",)

    def __init__(self) -> None:
        self.domains = {f"choice{i}": Integer(0, 4) for i in range(8)}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        raise NotImplementedError("nothing is built here")

    def costs(self, architecture: Architecture, task: Task) -> dict[str, float]:
        return {"params": total(architecture)}


def total(architecture: Architecture) -> float:
    return float(sum(int(value) for value in architecture.choices.values()))


def asks(name: str) -> list[tuple[float, float]]:
    """Median seconds per ask and per pair of tells of a strategy, after each of ``TOLD`` trials."""
    space = Lattice().limited({"params": Limit(max=24)}, Task(1, 8, 8, 2))
    strategy: Strategy = Registry().find("strategy", name)(space, OBJECTIVES)
    medians = []
    count, seconds = 0, deque[tuple[float, float]](maxlen=ASKS)
    for target in TOLD:
        while count < target:
            rng = Random(count)
            own = name not in MODELS or count >= target - ASKS
            start = time.perf_counter()
            proposal = strategy.ask(rng) if own else Proposal(space.sample(rng))
            asked = time.perf_counter()
            assert proposal is not None, "the space is large enough"
            trial = Trial(count, proposal)
            metrics = {"value": total(proposal.architecture) + rng.gauss(0, 1)}
            strategy.tell(trial)
            strategy.tell(replace(trial, state=TrialState.COMPLETE, metrics=metrics))
            seconds.append((asked - start, time.perf_counter() - asked))
            count += 1
        medians.append(tuple(map(statistics.median, zip(*seconds, strict=True))))
    return medians


def time_strategies() -> dict[str, dict[str, float]]:
    """Print a row per strategy; milliseconds."""
    print(f"\nmilliseconds per ask / per trial told, after so many trials\n{'':<24}", end="")
    print("".join(f"{count:>18,}" for count in TOLD))
    figures = {}
    for name in sorted(Registry().origins("strategy")):
        if name == "hypernet":
            continue
        medians = asks(name)
        cells = (f"{1000 * ask:.2f} / {1000 * tell:.2f}" for ask, tell in medians)
        print(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
        figures[name] = {
            str(n): round(1000 * ask, 3) for n, (ask, _) in zip(TOLD, medians, strict=True)
        }
    return figures


def flush(folder: Path, count: int = 300) -> float:
    """Median seconds that the disk takes to flush a line of a journal."""
    seconds = []
    with (folder / "flushed").open("ab", buffering=0) as file:
        for _ in range(count):
            start = time.perf_counter()
            file.write(b"x" * 1000)
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def around(times: list[float], trial: int, width: int = 100) -> float:
    """Median seconds per trial of the ``width`` trials that end with ``trial``."""
    span = times[max(0, trial - width) : trial]
    return statistics.median(b - a for a, b in pairwise(span))


def show(label: str, *seconds: float) -> None:
    """A line of the table, in milliseconds."""
    print(f"{label:<52}" + " ".join(f"{1000 * each:8.2f}" for each in seconds))


@click.command()
@click.option("--trials", default=1000, help="Trials a side.")
@click.option("--flat", default=10_000, help="Trials of the loop alone.")
@click.option("--asks/--no-asks", "timed", default=True, help="Time every strategy.")
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False, exists=True))
def main(trials: int, flat: int, timed: bool, workdir: Path | None) -> None:
    """Measure, print a table, and JSON as the last line."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    size = max(1, trials // BLOCKS)
    with tempfile.TemporaryDirectory(dir=workdir) as name:
        folder = Path(name)
        uris = {side: f"sqlite:///{folder}/{side}.db" for side in ("evonas", "optuna")}
        evonas_block(uris["evonas"], folder / "made", 1)
        optuna_block(uris["optuna"], 1, 0)
        disk, ours, beside, theirs = [flush(folder)], [], [], []
        for block in range(BLOCKS):
            everything, loop_only = evonas_block(uris["evonas"], folder / str(block), size)
            ours.append(everything)
            beside.append(loop_only)
            theirs.append(optuna_block(uris["optuna"], size, block))
            print(f"block {block} of {size} trials: {ours[-1]:.4f}, {theirs[-1]:.4f} s per trial")
        disk.append(flush(folder))
        (folder / "flat").mkdir()
        used = time.process_time()
        times = loop(AgingEvolution(Choices(), OBJECTIVES), flat, folder / "flat", None)
        used = (time.process_time() - used) / flat
        disk.append(flush(folder))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"\n{platform.platform()}, {os.cpu_count()} CPUs (load {load})")
    print(f"Python {platform.python_version()}, MLflow {mlflow.__version__}", end=", ")
    print(f"Optuna {optuna.__version__}, {time.strftime('%F %R')}; milliseconds per trial:")
    show("evonas, everything logged: median of the blocks", statistics.median(ours))
    show("Optuna with MLflow: median of the blocks", statistics.median(theirs))
    print(f"{'ratio: median of the blocks':<52}{ratio:9.3f}")
    show("evonas, first and last block", ours[0], ours[-1])
    show("Optuna with MLflow, first and last block", theirs[0], theirs[-1])
    show("evonas' loop while MLflow is written beside it", statistics.median(beside))
    show(f"evonas' loop alone, mean of {flat}", times[-1] / flat)
    show("evonas' loop alone, processor time", used)
    show("evonas' loop alone, around trial 100", around(times, 100))
    show(f"evonas' loop alone, around trial {flat}", around(times, flat))
    show("one flush of the disk: before, between, after", *disk)
    result = {
        "evonas_s_per_trial": statistics.median(ours),
        "optuna_mlflow_s_per_trial": statistics.median(theirs),
        "ratio": ratio,
        "main_loop_s_per_trial": times[-1] / flat,
        "main_loop_s_at_100": around(times, 100),
        f"main_loop_s_at_{flat}": around(times, flat),
        "main_loop_beside_mlflow_s_per_trial": statistics.median(beside),
        "main_loop_cpu_s_per_trial": used,
        "disk_flush_s": statistics.median(disk),
    }
    rounded: dict[str, Any] = {key: round(value, 6) for key, value in result.items()}
    if timed:
        rounded["ask_ms"] = time_strategies()
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
