"""MLflow: one parent run per run, one nested run per trial; a mirror of the journal.

The journal is the queue: a background thread mirrors its events from the position that
``mlflow.json`` remembers, and the search never waits. All that is sent follows from the journal,
times among it, and what an earlier attempt may have sent already is looked for by its tags. So a
dead server, a lost answer and a kill are made good in one way, which is to begin again from what
the disk says: in the thread itself, by ``evonas resume`` or by ``evonas sync``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from evonas import files
from evonas.errors import OptionError, PluginError
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trial import Trial, TrialState
from evonas.trials import Trials

STATE = "mlflow.json"
# What a store that is down, full, locked or of another version raises; requests' errors are
# OSErrors, a missing database driver is an ImportError.
_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
_REFUSED = "INVALID_PARAMETER_VALUE"  # Asking again would block what waits behind.
_NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", _REFUSED)  # never made, or deleted
_DEFAULT = "sqlite:///mlruns/mlflow.db"
_SQLITE = "sqlite:///"
_SCHEME = r"(postgresql|mysql|mssql|http|https|databricks)(\+[a-z0-9]+)?:"
_STATUS = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
_STATUS |= {"finished": "FINISHED", "interrupted": "KILLED"}  # of the run
_PARENT = "mlflow.parentRunId"
_STAGE = "evonas.stage"
_TRIAL = "evonas.trial"  # a number within the stage
_RUN_DIR = "evonas.run_dir"
_PATIENCE = 5.0  # seconds that ``start`` waits for a server
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between attempts: the first, doubled up to the second
_GIVE_UP = 10.0  # seconds that ``close`` waits for a store that does not answer
_STALLED = 60.0  # seconds without progress after which ``close`` no longer believes in a store


class MLflow(Tracker):
    """Log to MLflow.

    Args:
        uri: Tracking store; default: MLFLOW_TRACKING_URI, else ``sqlite:///mlruns/mlflow.db``.
        experiment: Name of the MLflow experiment.
    """

    def __init__(
        self,
        uri: str | None = None,
        experiment: Annotated[str, Field(min_length=1, max_length=500)] = "evonas",
    ) -> None:
        chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = _absolute(chosen or _DEFAULT)
        self._chosen, self._experiment = bool(chosen), experiment
        self._report: Report | None = None
        self._wake, self._ready, self._abandon = (threading.Event() for _ in range(3))
        self._failing = self._complete = False
        self._progress = time.monotonic()

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        """Begin to mirror; a database file is made before this returns, so that workers find it."""
        self._run, self._events = run, events
        self._settle(run)
        self._thread = threading.Thread(target=self._follow, name="evonas-mlflow", daemon=True)
        self._thread.start()
        if not self._ready.wait(None if self.uri.startswith(_SQLITE) else _PATIENCE):
            self._warn(TimeoutError(f"nothing within {_PATIENCE:.0f} seconds"))

    def record(self, trial: Trial) -> None:
        """Wake the thread: the journal has grown."""
        if trial.state is not TrialState.RUNNING:
            self._wake.set()

    def close(self, report: Report) -> None:
        """Wait for the mirror: as long as it moves, or ten seconds if nobody answers."""
        self._report = report
        self._wake.set()
        start = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.2)
            idle = time.monotonic() - max(start, self._progress)
            if idle > (_GIVE_UP if self._failing else _STALLED):
                self._abandon.set()
                self._thread.join(1.0)
                break
        state = _State.of(self._run, self.uri)
        waiting = [t for t in self._events[state.events :] if t.state is not TrialState.RUNNING]
        lacking = len(state.refused) + len(waiting)
        if lacking or not self._complete:
            what = f"{lacking} trials" if lacking else "the end of the run"
            print(f"MLflow lacks {what}: run `evonas sync {self._run.run_dir}`")

    def sync(self, run: RunInfo, events: Sequence[Trial], report: Report | None = None) -> int:
        """Mirror now what the store lacks of a run; without a report it was cut off."""
        self._settle(run)
        try:
            mirror = _Mirror(self.uri, self._experiment, run, events)
            sent = sum(mirror.send(events))
            mirror.finish(report) if report else mirror.end("KILLED")
        except _ERRORS as error:
            raise PluginError(f"MLflow at {_public(self.uri)}: {_first_line(error)}") from error
        return sent

    def folder(self, run_id: str) -> Path | None:
        """The folder that the MLflow run was made from, if it is still there."""
        try:
            folder = _open(self.uri).get_run(run_id).data.tags.get(_RUN_DIR)
        except _ERRORS as error:
            if getattr(error, "error_code", "") in _NO_SUCH_RUN:
                return None
            raise PluginError(f"MLflow at {_public(self.uri)}: {_first_line(error)}") from error
        return Path(folder) if folder and Path(folder).is_dir() else None

    def _settle(self, run: RunInfo) -> None:
        """If nobody chose a store, it is the file that the run was logged to, wherever we are."""
        earlier = _State.of(run).uri
        if not self._chosen and earlier.startswith(_SQLITE):
            self.uri = earlier

    def _follow(self) -> None:
        """The thread: mirror what is there, wait for more, begin again after a failure."""
        pause = 0.0
        while not self._abandon.wait(pause):
            pause = min(2 * pause, _LONGEST_PAUSE) or _PAUSE
            try:
                mirror = _Mirror(self.uri, self._experiment, self._run, self._events)
                self._ready.set()
                while True:
                    report = self._report  # looked at first: it comes after the last event
                    for _ in mirror.send(self._events):
                        self._failing, self._progress, pause = False, time.monotonic(), _PAUSE
                    if report is not None:
                        mirror.finish(report)
                        self._complete = True
                        return
                    self._wake.wait()
                    self._wake.clear()
            except _ERRORS as error:
                self._warn(error)
                self._ready.set()

    def _warn(self, error: Exception) -> None:
        if not self._failing:
            why = _first_line(error)
            print(f"MLflow at {_public(self.uri)} does not answer ({why}); the search goes on")
        self._failing = True


@dataclass
class _State:
    """What ``mlflow.json`` remembers."""

    uri: str = ""  # the store, without user and password
    experiment_id: str = ""
    run_id: str = ""  # the parent
    events: int = 0  # so many of the journal are mirrored
    refused: list[int] = field(default_factory=list)  # places of those that the store did not take

    @staticmethod
    def of(run: RunInfo, uri: str | None = None) -> _State:
        """What the run folder says, of this store alone if one is given; else the beginning."""
        try:
            state = _State(**json.loads((run.run_dir / STATE).read_text()))
        except (OSError, ValueError, TypeError):  # lost: the store is asked then
            return _State()
        return state if uri is None or state.uri == _public(uri) else _State()


class _Mirror:
    """One run in one store, written synchronously. After an error make a new one."""

    def __init__(self, uri: str, experiment: str, run: RunInfo, events: Sequence[Trial]) -> None:
        self._run, self._client, self._state = run, _open(uri), _State.of(run, uri)
        # Events before this place may be in the store; those to come no earlier mirror has seen.
        self._doubtful = len(events)
        own = self._state.run_id and self._state.events <= len(events)  # else: another journal's
        if not own or not self._goes_on():
            self._begin(uri, experiment)
        # What was refused is tried again, and what stands behind it is found to be there.
        self._state.events = min([self._state.events, *self._state.refused])
        self._state.refused.clear()
        self._trials = Trials(run.objectives, events[: self._state.events])

    def send(self, events: Sequence[Trial]) -> Iterator[bool]:
        """Mirror the events that are not; yields for each trial that ended whether it was sent."""
        try:
            while (place := self._state.events) < len(events):
                if events[place].state is not TrialState.RUNNING:
                    yield self._send(events[place], place)
                self._state.events += 1
        finally:  # once, for a flush of the disk takes its time; what a kill leaves out is in doubt
            self._remember()

    def _send(self, trial: Trial, place: int) -> bool:
        try:
            self._log_points(trial)
            return self._log_trial(trial, place < self._doubtful)
        except MlflowException as error:
            if error.error_code != _REFUSED:
                raise
            print(f"MLflow refuses {_name(trial)} ({_first_line(error)})")
            self._state.refused.append(place)
            return False

    def finish(self, report: Report) -> None:
        """Send the parent's final metrics, tags and files, and end it."""
        best = report.incumbent
        values = {f"{state}_trials": float(count) for state, count in report.trials.items()}
        values["search_seconds"] = report.seconds
        values |= {} if report.acceptance is None else {"acceptance": report.acceptance}
        values |= {f"best_{name}": value for name, value in (best.metrics if best else {}).items()}
        values |= {f"audit_{name}": value for name, value in report.audit.items()}
        values |= {k if k == "test_accuracy" else f"final_{k}": v for k, v in report.final.items()}
        tags = {"status": report.status, "reason": report.reason}
        tags |= {"incumbent": str(best.number)} if best else {}
        tags |= {"remarks": "\n".join(report.remarks)} if report.remarks else {}
        for name, text in tags.items():
            self._client.set_tag(self._state.run_id, f"evonas.{name}", text[:5000])
        folder = sorted(self._run.run_dir.iterdir())
        paths = [p for p in folder if p.name not in ("lock", STATE) and p.suffix != ".tmp"]
        # The run ended when its folder was last written to: the same end sent twice counts once.
        times = [self._run.started + report.seconds, *(path.stat().st_mtime for path in paths)]
        points = _points(values, int(max(times) * 1000), sum(report.trials.values()))
        self._log(self._state.run_id, points)
        for path in paths:
            if path.is_dir():
                self._client.log_artifacts(self._state.run_id, str(path), path.name)
            else:
                self._client.log_artifact(self._state.run_id, str(path))
        self.end(_STATUS[report.status])

    def end(self, status: str) -> None:
        """End the parent."""
        self._client.set_terminated(self._state.run_id, status)

    def _goes_on(self) -> bool:
        """Whether the parent that is remembered is still there; if so, it runs again."""
        try:
            self._client.update_run(self._state.run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code not in _NO_SUCH_RUN:
                raise
            return False
        return True

    def _begin(self, uri: str, experiment: str) -> None:
        """Make the parent, or find that of an attempt whose answer was lost."""
        place = _experiment(self._client, experiment, uri)
        begin, tags = int(self._run.started * 1000), _parent_tags(self._run)
        same = self._client.search_runs([place], f"attributes.start_time = {begin}")
        parent = next((r for r in same if r.data.tags.get(_RUN_DIR) == tags[_RUN_DIR]), None)
        if parent is None:
            self._doubtful = 0
            parent = self._client.create_run(place, begin, tags)
        # Of one that was found a budget, say, may have changed, which MLflow would refuse.
        params = _entries(_flat(self._run.recipe))
        self._log(parent.info.run_id, [], [p for p in params if p.key not in parent.data.params])
        self._state = _State(_public(uri), place, parent.info.run_id)
        self._remember()

    def _remember(self) -> None:
        files.write(self._run.run_dir / STATE, json.dumps(asdict(self._state)).encode())

    def _log_points(self, trial: Trial) -> None:
        """Points of the parent's curves over the trials, where this one changes them."""
        before = self._curves()
        self._trials.add(trial)
        changed = dict(self._curves().items() - before.items())
        self._log(self._state.run_id, _points(changed, self._end(trial), trial.number))

    def _curves(self) -> dict[str, float]:
        name, best = self._run.objectives[0].metric, self._trials.best
        values = {} if best is None else {f"best_{name}": best.metrics[name]}
        volume = self._trials.hypervolume
        return values if volume is None else {**values, "hypervolume": volume}

    def _log_trial(self, trial: Trial, doubtful: bool) -> bool:
        """Send a trial that ended; whether the store lacked it, or some of it."""
        tags, end = _tags(trial, self._state.run_id), self._end(trial)
        begin = end - int(trial.seconds * 1000)
        place, own = self._state.experiment_id, (_PARENT, _STAGE, _TRIAL)
        same = " AND ".join(f"tags.`{key}` = '{tags[key]}'" for key in own)
        stored = self._client.search_runs([place], same) if doubtful else []
        child = stored[0] if stored else self._client.create_run(place, begin, tags)
        if child.info.status in _STATUS.values():
            return False
        self._log(child.info.run_id, _metrics(trial, begin, end), _params(trial))
        self._client.set_terminated(child.info.run_id, _STATUS[trial.state], end)
        return True

    def _end(self, trial: Trial) -> int:
        """When it ended, in ms, by the journal: what is sent twice is the same and counts once."""
        return int((self._run.started + trial.elapsed) * 1000)

    def _log(self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param] = ()) -> None:
        """``log_batch`` within MLflow's limits: 1,000 entries a call, 100 of them parameters."""
        while metrics or params:
            self._client.log_batch(run_id, metrics[:800], params[:100], synchronous=True)
            metrics, params = metrics[800:], params[100:]


def _absolute(uri: str) -> str:
    """The store's URI, independent of the working directory."""
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
    if not re.match(_SCHEME, uri):
        use = "use sqlite:///PATH/mlflow.db or http://SERVER"
        raise OptionError("uri", f"{_public(uri)!r} is no store that MLflow still writes to; {use}")
    return uri


def _public(uri: str) -> str:
    """The URI without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _open(uri: str) -> MlflowClient:
    """A client; a SQLite store is made and migrated here, by one process at a time."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    if not uri.startswith(_SQLITE):
        # MLflow's own defaults keep a dead server's client busy for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        return MlflowClient(uri)
    path = Path(uri.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path.with_name(f"{path.name}.lock")):
        # Readers and the writer do not block each other, and a commit is one flush instead of two.
        # Set before MLflow makes its tables, which then takes 2.4 s instead of 6.4 s.
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """The id of an experiment, which is made if it is not there."""
    beside = uri.startswith(_SQLITE) and Path(uri.removeprefix(_SQLITE)).with_name("artifacts")
    try:
        return str(client.create_experiment(name, beside.as_uri() if beside else None))
    except MlflowException as error:
        there = error.error_code == "RESOURCE_ALREADY_EXISTS"
        if not there or (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


def _name(trial: Trial) -> str:
    stage = trial.proposal.stage
    return f"{'trial' if stage == 'search' else stage}-{trial.number:04d}"


def _tags(trial: Trial, parent: str) -> dict[str, str]:
    tags = {
        _PARENT: parent,
        "mlflow.runName": _name(trial),
        _STAGE: trial.proposal.stage,
        _TRIAL: trial.number,
        "evonas.state": trial.state,
        "evonas.architecture": trial.architecture.id,
        "evonas.parents": ", ".join(map(str, trial.proposal.parents)),
        "evonas.resume_from": trial.proposal.resume_from,
        "evonas.origin": trial.origin,
        "evonas.error": trial.error and trial.error.splitlines()[0],
    }
    return {key: str(value)[:5000] for key, value in tags.items() if value is not None}


def _parent_tags(run: RunInfo) -> dict[str, str]:
    return {
        "mlflow.runName": run.name,
        "mlflow.source.name": "evonas",
        "mlflow.source.type": "LOCAL",
        _RUN_DIR: str(run.run_dir.absolute()),
        **{f"evonas.env.{_safe(k)}": v[:5000] for k, v in run.environment.items()},
    }


def _params(trial: Trial) -> list[Param]:
    own = {"architecture": trial.architecture.id, "fidelity": trial.proposal.fidelity}
    repeat = {"repeat": trial.proposal.repeat} if trial.proposal.repeat else {}
    return _entries([*own.items(), *repeat.items(), *trial.architecture.choices.items()])


def _metrics(trial: Trial, begin: int, end: int) -> list[Metric]:
    """The curve, spread over the trial's time, then the final metrics at its last step."""
    points, pieces = [], len(trial.curve) + 1
    for i, (step, values) in enumerate(trial.curve, start=1):
        points += _points(values, min(begin + (end - begin) * i // pieces, end - 1), step)
    last = trial.curve[-1][0] if trial.curve else 0
    return points + _points({**trial.metrics, "seconds": trial.seconds}, end, last)


def _points(values: Mapping[str, float], at: int, step: int) -> list[Metric]:
    return [Metric(_safe(name), value, at, step) for name, value in values.items()]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths and values of a nested mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _entries(pairs: Iterable[tuple[str, Any]]) -> list[Param]:
    """Values by keys that MLflow accepts, none of which hides another."""
    values: dict[str, str] = {}
    for name, value in pairs:
        key = _safe(name)
        while key in values:
            key = f"{key}_"
        values[key] = str(value)[:6000]
    return [Param(key, value) for key, value in values.items()]


def _safe(name: str) -> str:
    """A key that MLflow accepts: it reads one as a relative path without detours."""
    parts = re.sub(r"[^\w\-./ ]", "_", name)[:240].split("/")
    key = "/".join(part for part in parts if part not in ("", ".", ".."))
    return f"_{key}" if key.startswith("..") or not key else key


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
