"""Trainings for good: done once each, side by side, and kept in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path

from evonas import files
from evonas.errors import StorageError
from evonas.evaluators.base import Evaluator, Reporter
from evonas.executors.base import Executor, MakeEvaluator
from evonas.training.checkpoints import BadWeights, read_weights, write_weights
from evonas.trial import Objective, Trial, TrialState

FOLDER = "retrained"
MAX_SEEDS = 100
_POLL = 0.2  # seconds between looks at ``stopping`` while trainings run
_Job = tuple[int, int]  # number of the trial, seed


class Stopped(Exception):
    """The user wants to stop; what was trained is kept, and resuming goes on from there."""


@dataclass(frozen=True)
class Retrainer:
    """Makes the evaluator whose trials are trainings for good, here or in a worker process.

    Trial ``n`` of it trains trial ``n // MAX_SEEDS`` with the seed ``n % MAX_SEEDS``: executors
    hand on trials, and nothing else.

    Attributes:
        make_evaluator: Makes the run's evaluator.
        folder: Where the weights go.
    """

    make_evaluator: MakeEvaluator
    folder: Path

    def __call__(self, device: str) -> Evaluator:
        """The evaluator for a device."""
        return _Retrain(self.make_evaluator(device), self.folder)


class _Retrain(Evaluator):
    metrics = ()

    def __init__(self, inner: Evaluator, folder: Path) -> None:
        super().__init__(inner.context)
        self._inner, self._folder = inner, folder

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        number, seed = divmod(trial.number, MAX_SEEDS)
        done = self._inner.retrain(replace(trial, number=number), seed, report)
        if done is None:
            return {}
        if done.network is not None:
            path = weights_path(self._folder, number, seed)
            write_weights(path, done.network.state_dict(), {})
        return done.metrics


class Retraining:
    """The trainings for good of one run.

    Args:
        run_dir: The run folder.
        make_executor: Makes an executor for a ``Retrainer`` and a number of trainings.
        make_evaluator: Makes the run's evaluator.
        note: Told how it goes.
        stopping: Asked before every training; True raises ``Stopped``.
    """

    def __init__(
        self,
        run_dir: Path,
        make_executor: Callable[[MakeEvaluator, int], Executor],
        make_evaluator: MakeEvaluator,
        note: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> None:
        self.folder = run_dir / FOLDER
        self._make_executor, self._note, self._stopping = make_executor, note, stopping
        self._retrainer = Retrainer(make_evaluator, self.folder)

    def run(
        self, trials: Sequence[Trial], seeds: Iterable[int], weights: bool
    ) -> dict[_Job, Trial]:
        """Train every trial's architecture with every seed, unless that was done before.

        Args:
            trials: What to train.
            seeds: Below ``MAX_SEEDS``.
            weights: Whether the weights are wanted too, and not only the figures.

        Returns:
            By number and seed: a COMPLETE or FAILED trial with metrics and curve. COMPLETE without
            metrics: the evaluator has nothing to train for good.

        Raises:
            Stopped: If ``stopping`` says so.
            StorageError: If the disk does not take the results.
        """
        seeds = tuple(seeds)
        jobs = {(trial.number, seed): trial for trial in trials for seed in seeds}
        done = {job: found for job in jobs if (found := self._stored(*job, weights)) is not None}
        missing = [job for job in jobs if job not in done]
        if missing:
            try:
                self.folder.mkdir(exist_ok=True)
                with self._make_executor(self._retrainer, len(missing)) as executor:
                    for job, ended in self._trained(executor, missing, jobs):
                        done[job] = ended
                        if ended.state is TrialState.COMPLETE:
                            self._store(*job, ended)
            except OSError as error:
                raise StorageError(f"{self.folder}: {error.strerror}") from error
        return {job: done[job] for job in jobs}

    def forget_weights(self) -> None:
        """Delete the weights; the figures stay."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink()

    def _trained(
        self, executor: Executor, missing: Sequence[_Job], jobs: Mapping[_Job, Trial]
    ) -> Iterator[tuple[_Job, Trial]]:
        """Every training as it ends; those that run when the user wants to stop are finished."""
        running: dict[Future[Trial], _Job] = {}
        waiting = list(missing)
        while waiting or running:
            while waiting and len(running) < executor.workers and not self._stopping():
                number, seed = job = waiting.pop(0)
                self._note(f"training trial {number} for good, seed {seed}")
                trial = replace(jobs[job], number=number * MAX_SEEDS + seed)
                running[executor.submit(trial, self._watch(number, seed))] = job
            if not running:
                raise Stopped
            done, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                yield job, replace(future.result(), number=job[0])

    def _watch(self, number: int, seed: int) -> Callable[[int, Mapping[str, float]], bool]:
        def watch(step: int, metrics: Mapping[str, float]) -> bool:
            values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self._note(f"  trial {number}, seed {seed}, step {step}: {values}")
            return False

        return watch

    def _store(self, number: int, seed: int, ended: Trial) -> None:
        weights = weights_path(self.folder, number, seed).exists()
        text = json.dumps({**ended.to_json(), "weights": weights})
        files.write(self.folder / f"{_name(number, seed)}.json", text.encode())

    def _stored(self, number: int, seed: int, weights: bool) -> Trial | None:
        """What was trained before; None if it was not, or must be again."""
        path = self.folder / f"{_name(number, seed)}.json"
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text())
            if weights and record["weights"]:
                read_weights(weights_path(self.folder, number, seed))
            return Trial.from_json(record)
        except (BadWeights, ValueError, KeyError, TypeError):  # somebody's editor, not a crash
            return None


def criterion(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> Objective | None:
    """What trainings for good are compared by: the first objective, else validation accuracy."""
    candidates = (objectives[0], Objective("val_accuracy"))
    return next((o for o in candidates if o.metric in metrics), None)


def weights_path(folder: Path, number: int, seed: int) -> Path:
    """Where the weights of a training for good are kept until the winner is known."""
    return folder / f"{_name(number, seed)}.safetensors"


def _name(number: int, seed: int) -> str:
    return f"trial_{number}_seed_{seed}"
