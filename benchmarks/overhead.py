"""Seconds per trial that evonas itself costs, everything logged, beside Optuna with MLflow.

    python -m benchmarks.overhead --trials 1000

Both sides run trials that do nothing and log the same content to MLflow on SQLite: ten parameters,
five epochs of twenty metrics, a nested run per trial. evonas: random search through ``search``,
journal, MLflow tracker, until the tracker has drained. Optuna: ``study.optimize`` with a random
sampler and MLflow's own calls in the objective, one ``log_params`` and a ``log_metrics`` per epoch.
The two sides take turns in blocks; the figures are medians over blocks. The search loop alone
(ask, evaluate, tell, journal) is timed by aging evolution, around trial 100 and around the last.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import click
import mlflow
import optuna

from evonas import history
from evonas.architecture import Categorical
from evonas.evaluators.base import Evaluator
from evonas.executors.serial import Serial
from evonas.objective import Objective
from evonas.search import Budget, search
from evonas.spaces.base import SearchSpace
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.base import Strategy
from evonas.strategies.random import RandomSearch
from evonas.trackers.base import Report, RunInfo
from evonas.trackers.mlflow import MLflow
from evonas.trial import Trial

CHOICES = {f"choice{i}": tuple(range(5)) for i in range(10)}
EPOCHS, METRICS = 5, 20
OBJECTIVES = (Objective("value"),)
BLOCKS = 5


class Choices(SearchSpace):
    def __init__(self) -> None:
        self.domains = {name: Categorical(options) for name, options in CHOICES.items()}

    def build(self, architecture: object, task: object) -> object:
        raise NotImplementedError("nothing is built here")


def epoch(number: int) -> dict[str, float]:
    return {f"metric{i}": (number + 1) * i / 7 for i in range(METRICS)}


class Nothing(Evaluator):
    metrics = ("value",)

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def evaluate(self, trial: Trial, report: object) -> Mapping[str, float]:
        for number in range(self.epochs):
            report(number, epoch(number))  # type: ignore[operator]
        return {"value": float(sum(int(v) for v in trial.architecture.choices.values()))}


def loop(strategy: Strategy, trials: int, folder: Path, tracker: MLflow | None) -> list[float]:
    """Run the search loop with its journal; seconds since the start at the end of every trial."""
    times = []
    epochs = EPOCHS if tracker else 0
    with (
        history.History(folder) as journal,
        Serial(lambda device: Nothing(epochs), ("cpu",)) as executor,
    ):
        journal.begin({})
        start = time.perf_counter()
        for event in search(strategy, executor, Budget(trials), seed=0):
            journal.append(event)
            if tracker is not None:
                tracker.record(event)
            if event.metrics:
                times.append(time.perf_counter() - start)
    return times


def evonas_block(uri: str, folder: Path, trials: int) -> tuple[float, float]:
    """Seconds per trial: everything, and the loop while the tracker works beside it."""
    folder.mkdir()
    tracker = MLflow(uri, "evonas")
    info = RunInfo("overhead", folder, {}, OBJECTIVES, {}, time.time())
    tracker.start(info)
    start = time.perf_counter()
    times = loop(RandomSearch(Choices(), OBJECTIVES), trials, folder, tracker)
    tracker.close(Report("finished", "done", {"complete": trials}, times[-1]))
    return (time.perf_counter() - start) / trials, times[-1] / trials


def optuna_block(uri: str, trials: int, seed: int) -> float:
    """Seconds per trial of Optuna, logging as MLflow's users do."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("optuna")

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_categorical(name, opts) for name, opts in CHOICES.items()}
        with mlflow.start_run(nested=True, run_name=f"trial-{trial.number}"):
            mlflow.log_params(params)
            for number in range(EPOCHS):
                mlflow.log_metrics(epoch(number), step=number)
            value = float(sum(params.values()))
            mlflow.log_metrics({"value": value})
        return value

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed), direction="maximize")
    with mlflow.start_run():
        start = time.perf_counter()
        study.optimize(objective, n_trials=trials)
        return (time.perf_counter() - start) / trials


def around(times: list[float], trial: int, width: int = 100) -> float:
    """Median seconds per trial of the ``width`` trials that end with ``trial``."""
    span = times[max(0, trial - width) : trial]
    return statistics.median(b - a for a, b in pairwise(span))


@click.command()
@click.option("--trials", default=1000, help="Trials a side.")
@click.option("--flat", default=10_000, help="Trials of the loop alone.")
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False, exists=True))
def main(trials: int, flat: int, workdir: Path | None) -> None:
    """Measure, print a table, and JSON as the last line."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    size = max(1, trials // BLOCKS)
    with tempfile.TemporaryDirectory(dir=workdir) as name:
        folder = Path(name)
        ours, loops, theirs = [], [], []
        uris = {side: f"sqlite:///{folder}/{side}.db" for side in ("evonas", "optuna")}
        for block in range(BLOCKS):
            everything, alone = evonas_block(uris["evonas"], folder / str(block), size)
            ours.append(everything)
            loops.append(alone)
            theirs.append(optuna_block(uris["optuna"], size, block))
            print(f"block {block}: evonas {ours[-1]:.4f}, Optuna and MLflow {theirs[-1]:.4f}")
        (folder / "flat").mkdir()
        times = loop(AgingEvolution(Choices(), OBJECTIVES), flat, folder / "flat", None)
    result = {
        "evonas_s_per_trial": statistics.median(ours),
        "optuna_mlflow_s_per_trial": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "main_loop_s_per_trial": times[-1] / flat,
        "main_loop_beside_mlflow_s_per_trial": statistics.median(loops),
        "main_loop_s_at_100": around(times, 100),
        f"main_loop_s_at_{flat}": around(times, flat),
    }
    print(f"\n{platform.platform()}, Python {platform.python_version()}, {time.strftime('%F')}")
    for label, value in result.items():
        print(f"{label:<40}{value:>12.5f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
