"""MLflow: one run per run, one nested run per trial; a mirror of the journal.

The journal is the queue: a background thread mirrors its events from the position that
``mlflow.json`` remembers, and the search never waits. All that is sent follows from the journal,
times among it, and what an earlier attempt may have sent already is looked for by its tags. So a
dead server, a lost answer and a kill are made good in one way, which is to begin again from what
the disk says: in the thread itself, by ``evonas resume`` or by ``evonas sync``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from evonas.errors import PluginError
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trackers.parts import entries, machine, store, views
from evonas.trackers.parts.mirror import Mirror
from evonas.trackers.parts.state import State
from evonas.trial import Trial, TrialState

_PATIENCE = 5.0  # seconds that ``start`` waits for a server
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between attempts: the first, doubled up to the second
_GIVE_UP = 10.0  # seconds that ``close`` waits for a store that does not answer
_STALLED = 60.0  # seconds without progress after which ``close`` no longer believes in a store
_NEWS = 10.0  # seconds after which ``close`` says again for how much it waits

_Name = Annotated[str, Field(max_length=250)]
_Key = Annotated[str, Field(pattern=r"^[\w\-./ ]+$", max_length=250)]


class MLflow(Tracker):
    """Log to MLflow.

    Args:
        uri: Tracking store; default: MLFLOW_TRACKING_URI, else ``sqlite:///mlruns/mlflow.db``. One
            with a password can be given by the variable alone, which is written nowhere.
        experiment: Name of the MLflow experiment; default: the recipe's name.
        run_name: Of the run; default: recipe, strategy and seed.
        tags: Further tags of the run.
        register: Name of a registered model; the network becomes its newest version.

    Attributes:
        uri: Of the store that is used.
    """

    def __init__(
        self,
        uri: str | None = None,
        experiment: _Name = "",
        run_name: _Name = "",
        tags: dict[_Key, str] | None = None,
        register: _Name = "",
    ) -> None:
        chosen = store.told_openly(uri) if uri else os.environ.get("MLFLOW_TRACKING_URI")
        self._chosen = bool(chosen)
        self.uri = store.absolute(chosen or store.DEFAULT)
        self._mirror = partial(
            Mirror, experiment=experiment, run_name=run_name, tags=tags or {}, register=register
        )
        self._report: Report | None = None
        self._wake, self._ready, self._abandon = (threading.Event() for _ in range(3))
        self._failing = self._complete = False
        self._progress = time.monotonic()

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        """Begin to mirror; a new database file is made before this returns: workers may want it.

        One that is there may be locked by somebody, and nobody waits for it.
        """
        self._run, self._events = run, events
        self._settle(run)
        waits = (file := store.file_of(self.uri)) is None or not file.exists()
        self._thread = threading.Thread(target=self._follow, name="evonas-mlflow", daemon=True)
        self._thread.start()
        if waits and not self._ready.wait(_PATIENCE):
            # A store that takes long to be made has not failed: ``close`` goes on believing in it.
            self._warn(f"nothing within {_PATIENCE:.0f} seconds")

    def record(self, trial: Trial) -> None:
        """Wake the thread: the journal has grown."""
        if trial.state is not TrialState.RUNNING:
            self._wake.set()

    def close(self, report: Report) -> None:
        """Wait for the mirror: as long as it moves, or ten seconds if nobody answers."""
        self._report = report
        self._wake.set()
        start = said = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.2)
            now = time.monotonic()
            if now - said > _NEWS:
                said = now
                print(f"waiting for MLflow, which lacks {self._lack()}", file=sys.stderr)
            if now - max(start, self._progress) > (_GIVE_UP if self._failing else _STALLED):
                self._abandon.set()
                self._thread.join(1.0)
                break
        if not self._complete or State.of(self._run.run_dir).refused:
            print(
                f"MLflow lacks {self._lack()}: run `evonas sync {self._run.run_dir}`",
                file=sys.stderr,
            )

    def _lack(self) -> str:
        """What of the run is not in the store."""
        state = State.of(self._run.run_dir, store.public(self.uri))
        waiting = [t for t in self._events[state.events :] if t.state is not TrialState.RUNNING]
        trials = len(state.refused) + len(waiting)
        return f"{trials} trials" if trials else "the end of the run"

    def sync(self, run: RunInfo, events: Sequence[Trial], report: Report | None = None) -> int:
        """Mirror now what the store lacks of a run; without a report it was cut off."""
        self._settle(run)
        try:
            mirror = self._mirror(self.uri, run, events)
            sent = sum(mirror.send(events))
            mirror.finish(report) if report else mirror.cut_off()
        except store.ERRORS as error:
            raise self._unreachable(error) from error
        return sent

    def folder(self, run_id: str) -> Path | None:
        """The folder that the MLflow run was made from, if it is still there."""
        try:
            folder = store.client_of(self.uri).get_run(run_id).data.tags.get(entries.RUN_DIR)
        except store.ERRORS as error:
            if getattr(error, "error_code", "") in store.NO_SUCH_RUN:
                return None
            raise self._unreachable(error) from error
        return Path(folder) if folder and Path(folder).is_dir() else None

    def experiments(self) -> list[tuple[str, str, bool]]:
        """Id and name of those that evonas logged to, the latest first; whether it has the view."""
        try:
            found = store.client_of(self.uri).search_experiments(order_by=["last_update_time DESC"])
        except store.ERRORS as error:
            raise self._unreachable(error) from error
        return [
            (e.experiment_id, e.name, views.TAG in e.tags) for e in found if e.name != "Default"
        ]

    def _unreachable(self, error: Exception) -> PluginError:
        return PluginError(f"MLflow at {store.public(self.uri)}: {store.first_line(error)}")

    def _settle(self, run: RunInfo) -> None:
        """If nobody chose a store, it is the file that the run was logged to, wherever we are."""
        earlier = State.of(run.run_dir).uri
        if not self._chosen and store.file_of(earlier):
            self.uri = earlier

    def _follow(self) -> None:
        """The thread: mirror what is there, wait for more, begin again after a failure."""
        pause = 0.0
        while not self._abandon.wait(pause):
            pause = min(2 * pause, _LONGEST_PAUSE) or _PAUSE
            try:
                mirror = self._mirror(self.uri, self._run, self._events)
                self._ready.set()
                with machine.watched(self._run, self.uri, mirror.run_id):
                    while True:
                        report = self._report  # looked at first: it comes after the last event
                        for _ in mirror.send(self._events):
                            self._failing, self._progress, pause = False, time.monotonic(), _PAUSE
                        if report is not None:
                            break
                        self._wake.wait()
                        self._wake.clear()
                mirror.finish(report)
                self._complete = True
                return
            except store.ERRORS as error:
                if not self._failing:
                    self._warn(store.first_line(error))
                self._failing = True
                self._ready.set()

    def _warn(self, why: str) -> None:
        print(
            f"MLflow at {store.public(self.uri)} does not answer ({why}); the search goes on",
            file=sys.stderr,
        )
