"""MLflow: one parent run per run, one nested run per trial; a mirror that can be caught up.

A background thread owns the connection. The search hands it ended trials and never waits. Sending
is idempotent by the tag ``evonas.trial``, so whatever a dead server or a kill left out is sent
later: by the thread itself, by ``evonas resume`` or by ``evonas sync``.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from evonas.errors import PluginError, RecipeError
from evonas.files import locked
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trial import Trial, TrialState
from evonas.trials import Hypervolume

STATE = "mlflow.json"
# What a store that is down, full, locked or of another version raises; requests' errors are
# OSErrors, a missing database driver is an ImportError.
_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
_SQLITE = "sqlite:///"
_SCHEMES = ("postgresql", "mysql", "mssql", "http", "https", "databricks")
_STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.PRUNED: "KILLED",
}
_RUN_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PARENT = "mlflow.parentRunId"
_TRIAL = "evonas.trial"
_RUN_DIR = "evonas.run_dir"
_NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_PATIENCE = 5.0  # seconds that ``start`` waits for a server
_LONGEST_PAUSE = 30.0
_GIVE_UP = 10.0  # seconds that ``close`` waits for a store that does not answer
_STALLED = 60.0  # seconds without progress after which ``close`` no longer believes in a store


class MLflow(Tracker):
    """Log to MLflow.

    Args:
        uri: Tracking store; default: MLFLOW_TRACKING_URI, else ``sqlite:///mlruns/mlflow.db``.
        experiment: Name of the MLflow experiment.
    """

    def __init__(self, uri: str | None = None, experiment: str = "evonas") -> None:
        given = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = _absolute(given or _default())
        self._chosen = bool(given)
        self._experiment = experiment
        self._queue: queue.SimpleQueue[tuple[Trial, float] | Report] = queue.SimpleQueue()
        self._ready, self._abandon = threading.Event(), threading.Event()
        self._failing = self._complete = False
        self._queued = self._done = self._refused = 0  # trials; each has a single writing thread
        self._progress = time.monotonic()

    def start(self, run: RunInfo, history: tuple[Trial, ...] = ()) -> None:
        """Connect, and queue what the store lacks of the history.

        A database file is made before this returns, so that workers find it; a server that does
        not answer is waited for five seconds.
        """
        self._run = run
        self._store = self._of(run)
        for trial in _ended(history):
            self._put(trial, run.started + trial.elapsed)
        self._thread = threading.Thread(target=self._write, name="evonas-mlflow", daemon=True)
        self._thread.start()
        if not self._ready.wait(None if self.uri.startswith(_SQLITE) else _PATIENCE):
            self._warn(TimeoutError(f"nothing within {_PATIENCE:.0f} seconds"))

    def record(self, trial: Trial) -> None:
        """Queue an ended trial."""
        if trial.state is not TrialState.RUNNING:
            self._put(trial, time.time())

    def close(self, report: Report) -> None:
        """Wait for the queue: as long as it moves, or ten seconds if nobody answers."""
        self._queue.put(report)
        start = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.2)
            idle = time.monotonic() - max(start, self._progress)
            if idle > (_GIVE_UP if self._failing else _STALLED):
                self._abandon.set()
                self._thread.join(1.0)
                break
        if not self._complete:
            left = self._queued - self._done + self._refused
            what = f"{left} trials" if left else "the end of the run"
            print(f"MLflow lacks {what}: run `evonas sync {self._run.run_dir}`")

    def sync(
        self, run: RunInfo, history: tuple[Trial, ...] = (), report: Report | None = None
    ) -> int:
        """Send now whatever the store lacks of a run.

        Returns:
            The number of trials sent.

        Raises:
            PluginError: If the store cannot be reached.
        """
        store = self._of(run)
        try:
            store.connect()
            sent = sum(store.send(t, run.started + t.elapsed) for t in _ended(history))
            store.finish(report) if report else store.end("KILLED")
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

    def _of(self, run: RunInfo) -> _Store:
        """The store; if nobody chose one, the file that the run was logged to, wherever we are."""
        earlier = _remembered(run.run_dir).get("uri", "")
        if not self._chosen and earlier.startswith(_SQLITE):
            self.uri = earlier
        return _Store(self.uri, self._experiment, run)

    def _put(self, trial: Trial, end: float) -> None:
        self._queued += 1
        self._queue.put((trial, end))

    def _write(self) -> None:
        """The thread: send one thing after another, each until it succeeded."""
        self._connect()
        while not self._abandon.is_set():
            item = self._queue.get()
            pause = 1.0
            while not self._sent(item):
                if self._abandon.wait(pause):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
            if isinstance(item, Report):
                self._complete = not self._refused
                return
            self._done += 1

    def _connect(self) -> None:
        try:
            self._store.connect()
        except _ERRORS as error:
            self._warn(error)
        finally:
            self._ready.set()  # whatever happened: ``start`` waits for it

    def _sent(self, item: tuple[Trial, float] | Report) -> bool:
        """Whether that was settled: it arrived, or the store will never take it."""
        try:
            self._store.connect()
            if isinstance(item, Report):
                self._store.finish(item)
            else:
                self._store.send(*item)
        except _ERRORS as error:
            self._store.doubt()
            if not _refusal(error):
                self._warn(error)
                return False
            self._warn(error, "refuses")
            self._refused += 1
        self._failing = False
        self._progress = time.monotonic()
        return True

    def _warn(self, error: Exception, how: str = "does not answer") -> None:
        if not self._failing:
            why = _first_line(error)
            print(f"MLflow at {_public(self.uri)} {how} ({why}); the search goes on")
        self._failing = True


class _Child(NamedTuple):
    """A trial's run in the store: its id, when it began (ms), and whether all of it is there."""

    run_id: str
    begin: int
    complete: bool


class _Store:
    """One run in one store, written synchronously; every method may be repeated."""

    def __init__(self, uri: str, experiment: str, run: RunInfo) -> None:
        self._uri, self._experiment, self._run = uri, experiment, run
        self._state = run.run_dir / STATE
        self._client: MlflowClient | None = None
        self._parent = ""
        self._children: dict[int, _Child] = {}  # by number of the trial
        self._known = False  # whether _children is what the store holds
        self._best: tuple[float, ...] | None = None
        self._volume = Hypervolume(run.objectives)

    def connect(self) -> None:
        """Open the store, and find or make experiment and parent run."""
        if self._client is None:
            self._client = _open(self._uri)
        if not self._parent:
            self._parent = self._resumed(self._client) or self._create(self._client)

    def doubt(self) -> None:
        """A call failed: it may have been carried out all the same, so look again."""
        self._known = False

    def send(self, trial: Trial, end: float) -> bool:
        """Send an ended trial that the store lacks; whether it did."""
        client = self._connected
        if not self._known:
            self._children = dict(self._stored(client))
            self._known = True
        child = self._children.get(trial.number)
        best, volume = self._improves(trial), self._volume.told(trial)
        if child and child.complete:
            self._best, self._volume = best, volume
            return False
        length = int(trial.seconds * 1000)
        if child is None:
            begin = int(end * 1000) - length
            run = client.create_run(self._experiment_id, begin, _tags(trial, self._parent))
            child = self._children[trial.number] = _Child(run.info.run_id, begin, False)
        # Times follow from the stored beginning: what is sent twice is the same and counts once.
        finish = child.begin + length
        _log_batches(client, child.run_id, _metrics(trial, child.begin, finish), _params(trial))
        if best != self._best:
            name = self._run.objectives[0].metric
            self._log_point(f"best_{name}", trial.metrics[name], trial.number, finish)
        if volume.value is not None and volume.value != self._volume.value:
            self._log_point("hypervolume", volume.value, trial.number, finish)
        client.set_terminated(child.run_id, _STATUS[trial.state], finish)
        self._children[trial.number] = child._replace(complete=True)
        self._best, self._volume = best, volume
        return True

    def finish(self, report: Report) -> None:
        """Send the parent's final metrics, tags and files, and end it."""
        client, now = self._connected, int(time.time() * 1000)
        values = {f"{state}_trials": float(n) for state, n in report.trials.items()}
        values["search_seconds"] = report.seconds
        if report.acceptance is not None:
            values["acceptance"] = report.acceptance
        if report.incumbent is not None:
            values |= {f"best_{k}": v for k, v in report.incumbent.metrics.items()}
        values |= {f"audit_{k}": v for k, v in report.audit.items()}
        values |= {f"final_{k}" if k != "test_accuracy" else k: v for k, v in report.final.items()}
        step = sum(report.trials.values())
        metrics = [Metric(_safe(k), v, now, step) for k, v in values.items()]
        tags = {"evonas.status": report.status, "evonas.reason": report.reason}
        if report.incumbent is not None:
            tags["evonas.incumbent"] = str(report.incumbent.number)
        if report.remarks:
            tags["evonas.remarks"] = "\n".join(report.remarks)
        _log_batches(client, self._parent, metrics, {}, tags)
        for path in sorted(self._run.run_dir.iterdir()):
            if path.is_dir():
                client.log_artifacts(self._parent, str(path), path.name)
            elif path.name not in ("lock", STATE):
                client.log_artifact(self._parent, str(path))
        self.end(_RUN_STATUS[report.status])

    def end(self, status: str) -> None:
        """End the parent."""
        self._connected.set_terminated(self._parent, status)

    @property
    def _connected(self) -> MlflowClient:
        assert self._client is not None, "connect() comes first"
        return self._client

    def _resumed(self, client: MlflowClient) -> str | None:
        """The parent run that this run made earlier in the same store, running again."""
        state = _remembered(self._run.run_dir)
        if state.get("uri") != _public(self._uri):
            return None
        try:
            info = client.get_run(state["run_id"]).info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if info.lifecycle_stage != LifecycleStage.ACTIVE:
            return None  # somebody deleted it
        self._experiment_id = info.experiment_id
        client.update_run(info.run_id, status="RUNNING")
        return str(info.run_id)

    def _create(self, client: MlflowClient) -> str:
        self._experiment_id = _experiment(client, self._experiment, self._uri)
        run_id = self._found(client)
        if run_id is None:
            begin = int(self._run.started * 1000)
            run = client.create_run(self._experiment_id, begin, _parent_tags(self._run))
            run_id = str(run.info.run_id)
        _log_batches(client, run_id, [], _keyed(_flat(self._run.recipe)))
        state = {
            "uri": _public(self._uri),
            "experiment_id": self._experiment_id,
            "run_id": run_id,
        }
        draft = self._state.with_suffix(".tmp")
        draft.write_text(json.dumps(state))
        draft.replace(self._state)
        return run_id

    def _found(self, client: MlflowClient) -> str | None:
        """The parent that an earlier call made although its answer was lost."""
        same = f"attributes.start_time = {int(self._run.started * 1000)}"
        for run in client.search_runs([self._experiment_id], same):
            if run.data.tags.get(_RUN_DIR) == _place(self._run):
                return str(run.info.run_id)
        return None

    def _stored(self, client: MlflowClient) -> Iterator[tuple[int, _Child]]:
        """Number and run of every trial in the store."""
        token: str | None = None
        while True:
            page = client.search_runs(
                [self._experiment_id],
                f"tags.`{_PARENT}` = '{self._parent}'",
                max_results=1000,
                page_token=token,
            )
            runs: list[Run] = list(page)
            for run in runs:
                if _TRIAL in run.data.tags:
                    complete = run.info.status in _STATUS.values()
                    child = _Child(run.info.run_id, run.info.start_time, complete)
                    yield int(run.data.tags[_TRIAL]), child
            token = page.token
            if not token:
                return

    def _improves(self, trial: Trial) -> tuple[float, ...] | None:
        """The rank of the best trial by the first objective, with this one."""
        if trial.state is not TrialState.COMPLETE:
            return self._best
        rank = trial.rank(self._run.objectives[:1])
        return rank if self._best is None else max(rank, self._best)

    def _log_point(self, name: str, value: float, number: int, now: int) -> None:
        """A point of one of the parent's curves over the trials."""
        metric = Metric(_safe(name), value, now, number)
        _log_batches(self._connected, self._parent, [metric], {})


def _ended(history: Sequence[Trial]) -> list[Trial]:
    """The last event of every trial that ended, in the order in which they did."""
    return list({t.number: t for t in history if t.state is not TrialState.RUNNING}.values())


def _remembered(run_dir: Path) -> dict[str, str]:
    """What an earlier session wrote down; empty if that is lost, the store is asked then."""
    try:
        state: dict[str, str] = json.loads((run_dir / STATE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return state


def _refusal(error: Exception) -> bool:
    """Whether the store understood and said no: asking again would block what waits behind."""
    return isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"


def _default() -> str:
    return "sqlite:///mlruns/mlflow.db"


def _absolute(uri: str) -> str:
    """The store's URI, independent of the working directory."""
    scheme = re.match(r"([a-z]+)(\+[a-z0-9]+)?:", uri)
    if not uri.startswith(_SQLITE) and (scheme is None or scheme[1] not in _SCHEMES):
        raise RecipeError(
            f"tracking.uri: {_public(uri)!r} is no store that MLflow still writes to; "
            "use sqlite:///PATH/mlflow.db or http://SERVER"
        )
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
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
    with locked(path.with_name(f"{path.name}.lock")):
        # Readers and the writer do not block each other, and a commit is one flush instead of two.
        # Set before MLflow makes its tables, which then takes 2.4 s instead of 6.4 s.
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    location = None
    if uri.startswith(_SQLITE):
        location = (Path(uri.removeprefix(_SQLITE)).parent / "artifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, location))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # somebody else was faster
        if found is None:
            raise
        return str(found.experiment_id)


def _tags(trial: Trial, parent: str) -> dict[str, str]:
    tags = {
        _PARENT: parent,
        "mlflow.runName": f"trial-{trial.number:04d}",
        _TRIAL: str(trial.number),
        "evonas.state": str(trial.state),
        "evonas.architecture": trial.architecture.id,
        "evonas.parents": ", ".join(map(str, trial.proposal.parents)),
    }
    if trial.proposal.resume_from is not None:
        tags["evonas.resume_from"] = str(trial.proposal.resume_from)
    if trial.origin is not None:
        tags["evonas.origin"] = trial.origin
    if trial.error:
        tags["evonas.error"] = trial.error.splitlines()[0][:5000]
    return tags


def _parent_tags(run: RunInfo) -> dict[str, str]:
    return {
        "mlflow.runName": run.name,
        "mlflow.source.name": "evonas",
        "mlflow.source.type": "LOCAL",
        _RUN_DIR: _place(run),
        **{f"evonas.env.{_safe(k)}": v[:5000] for k, v in run.environment.items()},
    }


def _place(run: RunInfo) -> str:
    return str(run.run_dir.absolute())


def _params(trial: Trial) -> dict[str, Any]:
    proposal = trial.proposal
    own: dict[str, Any] = {"architecture": trial.architecture.id, "fidelity": proposal.fidelity}
    if proposal.repeat:
        own["repeat"] = proposal.repeat
    return _keyed([*own.items(), *trial.architecture.choices.items()])


def _metrics(trial: Trial, begin: int, end: int) -> list[Metric]:
    """The curve, spread over the trial's time, then the final metrics at its last step."""
    steps = len(trial.curve)
    curve = [
        Metric(_safe(name), value, min(begin + (end - begin) * i // (steps + 1), end - 1), step)
        for i, (step, values) in enumerate(trial.curve, start=1)
        for name, value in values.items()
    ]
    last = trial.curve[-1][0] if trial.curve else 0
    final = {**trial.metrics, "seconds": trial.seconds}
    return curve + [Metric(_safe(name), value, end, last) for name, value in final.items()]


def _log_batches(
    client: MlflowClient,
    run_id: str,
    metrics: Sequence[Metric],
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
) -> None:
    """``log_batch`` within MLflow's limits: 1,000 entries a call, 100 of them parameters."""
    entries = [Param(name, str(value)[:6000]) for name, value in params.items()]
    texts = [RunTag(name, value[:5000]) for name, value in (tags or {}).items()]
    while metrics or entries or texts:
        client.log_batch(run_id, metrics[:800], entries[:100], texts[:100], synchronous=True)
        metrics, entries, texts = metrics[800:], entries[100:], texts[100:]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths and values of a nested mapping."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _keyed(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by keys that MLflow accepts, none of which hides another."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        key = _safe(name)
        while key in values:
            key = f"{key}_"
        values[key] = value
    return values


def _safe(name: str) -> str:
    """A key that MLflow accepts: it reads one as a relative path without detours."""
    parts = re.sub(r"[^\w\-./ ]", "_", name)[:240].split("/")
    key = "/".join(part for part in parts if part not in ("", ".", ".."))
    return f"_{key}" if key.startswith("..") or not key else key


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
