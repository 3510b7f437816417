"""A run's session round a light evaluator, and one that trains finals as it is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evonas.architecture import Architecture
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs.assemble import Assembly, Parts
from evonas.runs.journal import Journal, read_journal
from evonas.runs.search import Budget
from evonas.runs.session import Session
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.training.checkpoints import Checkpoints, Continued
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

UP = (Objective("val_accuracy"),)
HERE = {"name": "serial", "isolate": False}
TWO = {"name": "processes", "workers": 2, "device": "cpu"}


class Told(Tracker):
    """Keeps what it is told."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        pass

    def record(self, trial: Trial) -> None:
        pass

    def note(self, message: str) -> None:
        self._tell(message)

    def step(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> None:
        (number,), seed = trial.proposal.parents, trial.proposal.repeat
        self._tell(f"trial {number}, seed {seed}, step {step}: {dict(metrics)}")

    def draws(self, drawn: int, accepted: int) -> None:
        pass

    def close(self, report: Report) -> None:
        pass


@contextmanager
def session(
    folder: Path,
    make_evaluator: Callable[[str], Evaluator],
    executor: Mapping[str, Any] = HERE,
    objectives: tuple[Objective, ...] = UP,
    seed: int = 0,
    tell: Callable[[str], None] = print,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Session]:
    """The session of a run whose search is over, as a process begins one."""
    recipe = reading.validate(
        {
            "name": "made up",
            "seed": seed,
            "space": "plain_cnn",
            "strategy": "random",
            "evaluation": "train",
            "budget": {"trials": 1},
            "executor": executor,
        },
        "test",
    )
    evaluator = make_evaluator("cpu")
    assembly = Assembly(
        recipe=recipe,
        parts=Parts(recipe, Registry()),
        space=evaluator.context.space,
        objectives=objectives,
        budget=Budget(),
        evaluator=evaluator,
        devices=("cpu",),
        fingerprint=None,
        make_evaluator=make_evaluator,  # type: ignore[arg-type]
    )
    with Journal(folder) as journal:
        if not journal.header:
            journal.begin({})
        yield Session(assembly, folder, journal, (Told(tell),), stopping)


def trial(number: int, do: str = "train", score: float = 0.0) -> Trial:
    """A completed trial; ``do`` says what its final training does."""
    architecture = Architecture("test", {"do": do, "x": number})
    metrics = {"val_accuracy": score}
    return Trial(number, Proposal(architecture), TrialState.COMPLETE, metrics, seconds=1.0)


def finals(trials: Sequence[Trial], seeds: int = 1) -> list[Proposal]:
    return [
        Proposal(one.architecture, parents=(one.number,), repeat=seed, stage="final")
        for one in trials
        for seed in range(seeds)
    ]


class Writes(Evaluator):
    """Writes down every training; gives a network of one number, which is the trial's."""

    metrics = ("val_accuracy",)
    finals = True

    def __init__(self, device: str = "cpu", folder: Path = Path()) -> None:
        weights = Continued(Checkpoints(folder / "weights", 1.0))
        super().__init__(Context(PlainCNN(1, 8), None, device, seed=0, weights=weights))
        self.log = folder / "log"

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        (number,), seed = trial.proposal.parents, trial.proposal.repeat
        with self.log.open("a") as file:
            file.write(f"{number}/{seed}\n")
        report(1, {"val_accuracy": 0.25})
        match trial.architecture.choices["do"]:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                raise ValueError("as told")
            case "figures":
                return {"val_accuracy": 0.5}
        network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, float(trial.architecture.choices["x"]))
        assert self.context.weights is not None
        self.context.weights.checkpoints.save(trial, network, 1)
        return {"val_accuracy": number / 100 + seed / 1000, "pid": float(os.getpid())}

    def test(self, trial: Trial) -> Mapping[str, float]:
        if trial.architecture.choices["do"] == "figures":
            return {}
        assert self.context.weights is not None
        kept = self.context.weights.checkpoints.read(trial.number, stage=trial.proposal.stage)
        assert kept.weights["weight"].dtype == torch.float32
        return {"test_accuracy": float(kept.weights["weight"])}


def writes(folder: Path) -> Callable[[str], Writes]:
    return partial(Writes, folder=folder)


def trials(folder: Path) -> list[Trial]:
    """The last event of every trial of a run's search."""
    return list(Trials((), read_journal(folder)[1]).latest.values())


def timeless(events: Sequence[Trial]) -> list[tuple[object, ...]]:
    """What of events does not depend on the clock."""
    return [(t.number, t.proposal, t.state, dict(t.metrics), t.curve) for t in events]


def trained(folder: Path) -> list[str]:
    """Trial and seed of every training, in order."""
    path = folder / "log"
    return path.read_text().split() if path.exists() else []
