"""MLflow: one parent run per run, one nested run per trial; a mirror that can be caught up.

A background thread owns the connection. The search hands it ended trials and never waits. Sending
is idempotent by the tag ``evonas.trial``, so whatever a dead server or a kill left out is sent
later: by the thread itself, by ``evonas resume`` or by ``evonas sync``.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from evonas.errors import PluginError, RecipeError
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trial import Trial, TrialState

_log = logging.getLogger(__name__)

STATE = "mlflow.json"
_ERRORS = (MlflowException, SQLAlchemyError, OSError)  # requests' errors are OSErrors
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
_STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.PRUNED: "KILLED",
}
_RUN_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PARENT = "mlflow.parentRunId"
_TRIAL = "evonas.trial"
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
        self.uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or _default())
        self._experiment = experiment
        self._queue: queue.SimpleQueue[tuple[Trial, float] | Report] = queue.SimpleQueue()
        self._abandon = threading.Event()
        self._failing = False
        self._left = 0
        self._progress = time.monotonic()

    def start(self, run: RunInfo, history: tuple[Trial, ...] = ()) -> None:
        """Connect, and queue what the store lacks of the history."""
        self._run = run
        self._store = _Store(self.uri, self._experiment, run)
        try:
            self._store.connect()
        except _ERRORS as error:
            self._warn(error)
        for trial in _ended(history):
            self._put(trial, run.started + trial.elapsed)
        self._thread = threading.Thread(target=self._write, name="evonas-mlflow", daemon=True)
        self._thread.start()

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
            now = time.monotonic()
            dead = self._failing and now - max(start, self._progress) > _GIVE_UP
            if dead or now - max(start, self._progress) > _STALLED:
                self._abandon.set()
                self._thread.join(_GIVE_UP)
                print(f"MLflow lacks {self._left} trials: run `evonas sync {self._run.run_dir}`")
                return

    def sync(
        self, run: RunInfo, history: tuple[Trial, ...] = (), report: Report | None = None
    ) -> int:
        """Send now whatever the store lacks of a run.

        Returns:
            The number of trials sent.

        Raises:
            PluginError: If the store cannot be reached.
        """
        store = _Store(self.uri, self._experiment, run)
        try:
            store.connect()
            sent = sum(store.send(t, run.started + t.elapsed) for t in _ended(history))
            if report is not None:
                store.finish(report)
        except _ERRORS as error:
            raise PluginError(f"MLflow at {self.uri}: {_first_line(error)}") from error
        return sent

    def _put(self, trial: Trial, end: float) -> None:
        self._left += 1
        self._queue.put((trial, end))

    def _write(self) -> None:
        """The thread: send one thing after another, each until it succeeded."""
        while not self._abandon.is_set():
            item = self._queue.get()
            pause = 1.0
            while not self._sent(item):
                if self._abandon.wait(pause):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
            if isinstance(item, Report):
                return
            self._left -= 1

    def _sent(self, item: tuple[Trial, float] | Report) -> bool:
        try:
            self._store.connect()
            if isinstance(item, Report):
                self._store.finish(item)
            else:
                self._store.send(*item)
        except _ERRORS as error:
            self._warn(error)
            self._store.doubt()
            return False
        self._failing = False
        self._progress = time.monotonic()
        return True

    def _warn(self, error: Exception) -> None:
        if not self._failing:
            print(
                f"MLflow at {self.uri} does not answer ({_first_line(error)}); the search goes on"
            )
        self._failing = True


class _Store:
    """One run in one store, written synchronously; every method may be repeated."""

    def __init__(self, uri: str, experiment: str, run: RunInfo) -> None:
        self._uri, self._experiment, self._run = uri, experiment, run
        self._state = run.run_dir / STATE
        self._client: MlflowClient | None = None
        self._parent = ""
        self._children: dict[int, tuple[str, bool]] = {}  # trial → run id, whether it is complete
        self._known = False  # whether _children is what the store holds
        self._best: float | None = None

    def connect(self) -> None:
        """Open the store, and find or make experiment and parent run."""
        if self._client is None:
            self._client = _open(self._uri)
        if not self._parent:
            self._parent = self._resumed(self._client) or self._create(self._client)
        if not self._known:
            self._children = dict(self._stored(self._client))
            self._known = True

    def doubt(self) -> None:
        """A call failed: it may have been carried out all the same, so look again."""
        self._known = False

    def send(self, trial: Trial, end: float) -> bool:
        """Send an ended trial that the store lacks; whether it did."""
        client = self._connected
        run_id, complete = self._children.get(trial.number, ("", False))
        if complete:
            return False
        finish = int(end * 1000)
        begin = finish - int(trial.seconds * 1000)
        if not run_id:
            run = client.create_run(self._experiment_id, begin, _tags(trial, self._parent))
            run_id = run.info.run_id
            self._children[trial.number] = run_id, False
        _log_batches(client, run_id, _metrics(trial, begin, finish), _params(trial))
        client.set_terminated(run_id, _STATUS[trial.state], finish)
        self._children[trial.number] = run_id, True
        self._note_best(trial, finish)
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
        values |= {f"final_{k}" if k != "test_accuracy" else k: v for k, v in report.final.items()}
        step = sum(report.trials.values())
        metrics = [Metric(_safe(k), v, now, step) for k, v in values.items()]
        tags = {"evonas.status": report.status, "evonas.reason": report.reason}
        if report.incumbent is not None:
            tags["evonas.incumbent"] = str(report.incumbent.number)
        _log_batches(client, self._parent, metrics, {}, tags)
        for path in sorted(self._run.run_dir.iterdir()):
            if path.is_dir():
                client.log_artifacts(self._parent, str(path), path.name)
            elif path.name not in ("lock", STATE):
                client.log_artifact(self._parent, str(path))
        client.set_terminated(self._parent, _RUN_STATUS[report.status], now)

    @property
    def _connected(self) -> MlflowClient:
        assert self._client is not None, "connect() comes first"
        return self._client

    def _resumed(self, client: MlflowClient) -> str | None:
        """The parent run that this run made earlier in the same store, running again."""
        if not self._state.exists():
            return None
        state = json.loads(self._state.read_text())
        if state["uri"] != self._uri:
            return None
        self._experiment_id = state["experiment_id"]
        client.update_run(state["run_id"], status="RUNNING")
        return str(state["run_id"])

    def _create(self, client: MlflowClient) -> str:
        self._experiment_id = _experiment(client, self._experiment, self._uri)
        tags = {
            "mlflow.runName": self._run.name,
            "mlflow.source.name": "evonas",
            "mlflow.source.type": "LOCAL",
            "evonas.run_dir": str(self._run.run_dir.absolute()),
            **{f"evonas.env.{k}": v for k, v in self._run.environment.items()},
        }
        run = client.create_run(self._experiment_id, int(self._run.started * 1000), tags)
        run_id = str(run.info.run_id)
        _log_batches(client, run_id, [], dict(_flat(self._run.recipe)))
        state = {"uri": self._uri, "experiment_id": self._experiment_id, "run_id": run_id}
        draft = self._state.with_suffix(".tmp")
        draft.write_text(json.dumps(state))
        draft.replace(self._state)
        return run_id

    def _stored(self, client: MlflowClient) -> Iterator[tuple[int, tuple[str, bool]]]:
        """Number, run id and completeness of every child in the store."""
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
                    yield int(run.data.tags[_TRIAL]), (run.info.run_id, complete)
            token = page.token
            if not token:
                return

    def _note_best(self, trial: Trial, now: int) -> None:
        """The parent's curve of the best so far."""
        objective = self._run.objectives[0]
        if trial.state is not TrialState.COMPLETE:
            return
        key = objective.key(trial.metrics)
        if self._best is None or key > self._best:
            self._best = key
            value = trial.metrics[objective.metric]
            metric = Metric(_safe(f"best_{objective.metric}"), value, now, trial.number)
            _log_batches(self._connected, self._parent, [metric], {})


def _ended(history: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in history if trial.state is not TrialState.RUNNING]


def _default() -> str:
    return "sqlite:///mlruns/mlflow.db"


def _absolute(uri: str) -> str:
    """The store's URI, independent of the working directory."""
    scheme = re.match(r"([a-z]+)(\+[a-z0-9]+)?:", uri)
    if scheme is None or scheme[1] not in _SCHEMES:
        raise RecipeError(
            f"tracking.uri: {uri!r} is no store that MLflow still writes to; "
            "use sqlite:///PATH/mlflow.db or http://SERVER"
        )
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def _open(uri: str) -> MlflowClient:
    """A client; a SQLite store is made and migrated here, by one process at a time."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    if not uri.startswith("sqlite:///"):
        # MLflow's own defaults keep a dead server's client busy for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        return MlflowClient(uri)
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f"{path.name}.lock")):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        # Readers and the writer do not block each other, and a commit is one flush instead of two.
        connection = sqlite3.connect(path, timeout=20)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    return client


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
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
    if trial.error:
        tags["evonas.error"] = trial.error.splitlines()[0][:5000]
    return tags


def _params(trial: Trial) -> dict[str, Any]:
    choices = {_safe(name): value for name, value in trial.architecture.choices.items()}
    return {**choices, "architecture": trial.architecture.id, "fidelity": trial.proposal.fidelity}


def _metrics(trial: Trial, begin: int, end: int) -> list[Metric]:
    """The curve, spread over the trial's time, then the final metrics at its last step."""
    steps = len(trial.curve)
    curve = [
        Metric(_safe(name), value, begin + (end - begin) * i // (steps + 1), step)
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
        yield _safe(prefix), value


def _safe(name: str) -> str:
    """A key that MLflow accepts."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:250]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
