"""A folder through which a search and its workers, on any machine that sees it, pass trials.

Nothing but renaming is relied upon, and of clocks nothing: that a worker lives is seen by its file,
which changes as long as it does.

    open/KEY.json               a trial that waits; who renames it has it
    taken/KEY@WORKER.json       a trial that a worker has
    reports/KEY@WORKER.json     what it reported last, for the search to answer
    answers/KEY@WORKER.json     whether it is to stop
    ended/KEY@WORKER.json       its end, for the search to read
    read/KEY@WORKER.json        an end that was read, but perhaps not written down yet
    workers/WORKER.json         a worker, and how many trials it takes at once

A key is STAGE-NUMBER-ATTEMPT, so what comes late, from a worker that was given up, is known for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import Field

from evonas import files
from evonas.errors import StorageError
from evonas.trial import Stage, Trial

_FOLDERS = ("open", "taken", "reports", "answers", "ended", "read", "workers")
_POLL = 0.05  # seconds between looks for an answer
_PATIENCE = 60.0  # seconds to wait for one
Shape = TypeVar("Shape")


@dataclass(frozen=True, order=True)
class Key:
    """One attempt at a trial."""

    stage: Stage
    number: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.stage}-{self.number}-{self.attempt}"

    @staticmethod
    def of(text: str) -> Key:
        """Read what ``str`` wrote; ValueError if it is something else."""
        stage, number, attempt = text.split("-")
        if stage not in get_args(Stage):
            raise ValueError(f"no stage: {stage}")
        return Key(stage, int(number), int(attempt))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Offer:
    """What a file of ``open`` and ``taken`` says."""

    trial: Trial
    watched: bool


@dataclass(frozen=True)
class Reported:
    """What a file of ``reports`` says."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """What a file of ``answers`` says."""

    step: int
    stop: bool


@dataclass(frozen=True)
class Worker:
    """What a file of ``workers`` says."""

    slots: Annotated[int, Field(ge=1)]


class Lost(Exception):
    """The search has given this worker up, and what it had is somebody else's."""


class Exchange:
    """The folder; either side has one of these.

    Args:
        path: The folder; it is made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make the folders.

        Raises:
            StorageError: If they cannot be made.
        """
        try:
            for name in _FOLDERS:
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}") from error

    def entries(self, folder: str) -> dict[Key, str]:
        """What lies in a folder of trials: the worker of each key, "" in ``open``."""
        found = {}
        for path in (self.path / folder).glob("*.json"):
            key, _, worker = path.stem.partition("@")
            with suppress(ValueError):  # a file that somebody else has put there
                found[Key.of(key)] = worker
        return found

    def read(self, shape: type[Shape], folder: str, key: Key, worker: str = "") -> Shape | None:
        """What a file says; None if it is no longer there.

        Raises:
            StorageError: If it says something else.
        """
        return files.load(self._file(folder, key, worker), shape)

    def write(self, folder: str, key: Key, worker: str, content: Mapping[str, Any]) -> None:
        """Write a file, whole."""
        files.store(self._file(folder, key, worker), json.dumps(content))

    def drop(self, folder: str, key: Key, worker: str = "") -> bool:
        """Remove a file; False if it was not there."""
        try:
            self._file(folder, key, worker).unlink()
        except FileNotFoundError:
            return False
        return True

    def move(self, key: Key, worker: str, source: str, target: str) -> bool:
        """Rename a file into another folder; False if it was not there, or is somebody else's."""
        try:
            self._file(source, key, worker).rename(self._file(target, key, worker))
        except FileNotFoundError:
            return False
        return True

    def workers(self) -> dict[str, tuple[int, int]]:
        """How many trials each worker takes at once, and a stamp that changes while it lives."""
        found = {}
        for path in (self.path / "workers").glob("*.json"):
            # Opened, not only looked at: network file systems then ask their server.
            worker = files.load(path, Worker)
            with suppress(FileNotFoundError):
                if worker is not None:
                    found[path.stem] = worker.slots, path.stat().st_mtime_ns
        return found

    def dismiss(self, worker: str) -> None:
        """Give a worker up; or, for the worker, leave."""
        self._worker(worker).unlink(missing_ok=True)

    def join(self, worker: str, slots: int) -> None:
        """For a worker: be there."""
        files.store(self._worker(worker), json.dumps({"slots": slots}))

    def live(self, worker: str) -> None:
        """For a worker: show that it lives.

        Raises:
            Lost: If it was given up.
        """
        try:
            os.utime(self._worker(worker))
        except FileNotFoundError:
            raise Lost from None

    def take(self, worker: str) -> tuple[Key, Trial, bool] | None:
        """For a worker: have a trial that waits, and know whether its reports are wanted."""
        for key in sorted(self.entries("open")):
            if self.move(key, worker, "open", "taken"):
                offer = self.read(Offer, "taken", key, worker)
                if offer is not None:
                    return key, offer.trial, offer.watched
        return None

    def ask(self, key: Key, worker: str, step: int, metrics: Mapping[str, float]) -> bool:
        """For a worker: report, and wait for the answer whether to stop.

        Nobody answers while the search is interrupted: after a minute the trial goes on.
        """
        self.write("reports", key, worker, {"step": step, "metrics": dict(metrics)})
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            answer = self.read(Answer, "answers", key, worker)
            if answer is not None and answer.step == step:
                return answer.stop
            time.sleep(_POLL)
        return False

    def end(self, key: Key, worker: str, ended: Trial) -> None:
        """For a worker: hand in how a trial ended."""
        self.write("ended", key, worker, ended.to_json())
        for folder in ("taken", "reports", "answers"):
            self.drop(folder, key, worker)

    def _file(self, folder: str, key: Key, worker: str) -> Path:
        # What waits is nobody's, whoever lays it there.
        return self.path / folder / (f"{key}.json" if folder == "open" else f"{key}@{worker}.json")

    def _worker(self, worker: str) -> Path:
        return self.path / "workers" / f"{worker}.json"
