from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from evonas.architecture import Architecture
from evonas.errors import OptionError, PluginError
from evonas.trackers.base import Report, RunInfo
from evonas.trackers.mlflow import MLflow
from evonas.trackers.parts import store
from evonas.trackers.parts.state import FILE
from evonas.trial import Objective, Proposal, Stage, Trial, TrialState
from evonas.trials import Trials

pytestmark = pytest.mark.faults(
    "MLflow: down, slow, lost answers, killed: the search goes on and sync completes"
)


PARENT = "mlflow.parentRunId"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that holds MLflow's tables only: making one takes seconds."""
    folder = tmp_path_factory.mktemp("made")
    info = RunInfo("made", folder, {}, (Objective("acc"),), {}, time.time())
    MLflow(f"sqlite:///{folder}/mlflow.db", "other").sync(info, ())
    return folder / "mlflow.db"


@pytest.fixture
def uri(tmp_path: Path, made: Path) -> str:
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / "mlflow.db"
    with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)  # not a copy of the file: some of it is in the write-ahead log
    return f"sqlite:///{tmp_path}/store/mlflow.db"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evonas.trackers.mlflow._GIVE_UP", 1.0)


@pytest.fixture
def info(tmp_path: Path) -> RunInfo:
    (tmp_path / "run").mkdir()
    recipe = {"name": "r", "strategy": {"name": "random", "size": 3}}
    environment = {"python": "3"}
    return RunInfo("r", tmp_path / "run", recipe, (Objective("acc"),), environment, time.time())


def trial(number: int, acc: float = 0.5, choices: int = 2, epochs: int = 3) -> Trial:
    architecture = Architecture("s", {f"c{i}": number + i for i in range(choices)})
    curve = tuple((e, {"acc": acc * e / epochs, "loss": 1.0 / e}) for e in range(1, epochs + 1))
    proposal = Proposal(architecture, parents=(7, 3))
    metrics = {"acc": acc, "params": 1e6}
    return Trial(number, proposal, TrialState.COMPLETE, metrics, curve, 2.0, None, 10.0 + number)


REPORT = Report(
    "finished", "done", {"complete": 3}, 30.0, trial(1, 0.9), final={"test_accuracy": 0.8}
)


def log(uri: str, info: RunInfo, trials: Iterable[Trial], report: Report = REPORT) -> MLflow:
    tracker = MLflow(uri)
    tracker.start(info, journal := [])
    tell(tracker, journal, trials)
    tracker.close(report)
    return tracker


def tell(tracker: MLflow, journal: list[Trial], events: Iterable[Trial]) -> None:
    """As a run does: first the journal, then the tracker."""
    for event in events:
        journal.append(event)
        tracker.record(event)


def forget_last(info: RunInfo) -> None:
    """As if the mirror had been killed before it wrote down that it sent the last event."""
    state = json.loads((info.run_dir / FILE).read_text())
    (info.run_dir / FILE).write_text(json.dumps({**state, "events": state["events"] - 1}))


def stored(uri: str) -> tuple[list[Run], dict[int, Run]]:
    """Parents, and children by trial number; a trial that is there twice is an error."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("r")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], max_results=5000))
    parents = [r for r in runs if PARENT not in r.data.tags]
    numbers = [int(r.data.tags["evonas.trial"]) for r in runs if PARENT in r.data.tags]
    assert len(set(numbers)) == len(numbers)
    children = [r for r in runs if PARENT in r.data.tags]
    assert {r.data.tags[PARENT] for r in children} <= {p.info.run_id for p in parents}
    return parents, {int(r.data.tags["evonas.trial"]): r for r in children}


def test_remarks_and_repeats(uri: str, info: RunInfo) -> None:
    again = Trial(1, replace(trial(0).proposal, repeat=2), TrialState.COMPLETE, {"acc": 0.5})
    log(uri, info, [trial(0), again], replace(REPORT, remarks=("it is noisy", "and slow")))
    (parent,), children = stored(uri)
    assert parent.data.tags["evonas.remarks"] == "it is noisy\nand slow"
    assert "repeat" not in children[0].data.params
    assert children[1].data.params["repeat"] == "2"


def test_a_run_and_its_trials(uri: str, info: RunInfo) -> None:
    (info.run_dir / "report.html").write_text("x")
    (info.run_dir / "lock").write_text("1")
    (info.run_dir / "figures").mkdir()
    (info.run_dir / "figures" / "a.png").write_text("x")
    failed = trial(2).failed("ValueError: no\ntraceback", seconds=1.0)
    running = Trial(3, trial(3).proposal)
    log(uri, info, [trial(0, 0.5), trial(1, 0.9), failed, running])
    client = MlflowClient(uri)
    (parent,), children = stored(uri)
    assert sorted(children) == [0, 1, 2]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["strategy.size"] == "3"
    assert parent.data.metrics["test_accuracy"] == 0.8
    best = client.get_metric_history(parent.info.run_id, "best_acc")
    assert [(m.step, m.value) for m in best] == [(1, 0.5), (2, 0.9), (3, 0.9)]
    ended = client.get_metric_history(parent.info.run_id, "failed_trials")
    assert [(m.step, m.value) for m in ended] == [(1, 0), (2, 0), (3, 1)]
    assert not {"evonas.env.python", "evonas.environment"} & parent.data.tags.keys()
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"report.html", "figures"}
    child = children[1]
    assert child.info.run_name == "trial-0001 · random · seed 0"
    assert child.data.tags["evonas.run"] == parent.info.run_name == "r · random · seed 0"
    assert child.data.tags["evonas.strategy"] == "random"
    assert [n for n, c in children.items() if c.data.tags.get("evonas.best")] == [1]
    assert child.info.status == "FINISHED"
    assert child.data.params["c0"] == "1"
    assert set(child.data.params) == {"c0", "c1"}
    assert child.data.tags["evonas.architecture"] == trial(1).architecture.id
    assert child.data.tags["evonas.ancestors"] == "7, 3"
    assert child.data.tags["evonas.state"] == "complete"
    assert child.data.metrics["acc"] == 0.9
    assert child.data.metrics["seconds"] == 2.0
    curve = client.get_metric_history(child.info.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert child.info.end_time - child.info.start_time == 2000
    assert children[2].info.status == "FAILED"
    assert children[2].data.tags["evonas.error"] == "ValueError: no"
    assert "traceback" in children[2].data.tags["mlflow.note.content"]
    bars = {"parameters": child, "seconds": child, "test_accuracy": parent}
    for name, run in bars.items():
        (point,) = client.get_metric_history(run.info.run_id, name)
        assert point.step == 0


def two_objectives(number: int, acc: float) -> Trial:
    """A running trial and its end, with as many parameters as accuracy."""
    return replace(trial(number, acc), metrics={"acc": acc, "params": 1e6 * acc})


def test_the_hypervolume_over_time_is_the_same_live_resumed_and_sent_later(
    uri: str, info: RunInfo, tmp_path: Path
) -> None:
    """Trials end in another order than that of their numbers."""
    both = replace(info, objectives=(Objective("acc"), Objective("params", "min")))
    order = sorted(range(16), key=lambda n: n ^ 1)
    ends = [two_objectives(n, 0.5 + 0.2 * ((n * 7) % 16 - 8) / 8) for n in order]
    ends[12] = replace(ends[12], state=TrialState.PRUNED, metrics={"violation": 0.3})
    better = replace(trial(16), metrics={"acc": 0.9, "params": 1.0})
    history = (*(Trial(n, trial(n).proposal) for n in range(17)), *ends, better)

    def curve() -> list[tuple[int, float]]:
        client = MlflowClient(uri)
        (parent,), children = stored(uri)
        assert children[order[12]].data.metrics["violation"] == 0.3
        found = client.get_metric_history(parent.info.run_id, "hypervolume")
        client.delete_run(parent.info.run_id)
        for child in children.values():
            client.delete_run(child.info.run_id)
        return sorted((m.step, m.value) for m in found)

    known, expected = Trials(both.objectives), []
    for end in (*ends, better):
        known.add(end)
        if known.hypervolume is not None:
            expected.append((len(known.ended), known.hypervolume))
    assert [step for step, _ in expected] == list(range(10, 18))
    assert len({volume for _, volume in expected}) > 2
    log(uri, both, [*ends, better])
    live = curve()
    tracker = MLflow(uri)
    tracker.start(both, journal := list(history[:-6]))
    tell(tracker, journal, history[-6:])
    tracker.close(REPORT)
    resumed = curve()
    assert MLflow(uri).sync(both, history, REPORT) == 17
    assert MLflow(uri).sync(both, history, REPORT) == 0
    assert live == resumed == curve() == expected


@pytest.mark.parametrize(("status", "expected"), [("interrupted", "KILLED"), ("failed", "FAILED")])
def test_the_parent_says_how_the_run_ended(
    uri: str, info: RunInfo, status: str, expected: str
) -> None:
    log(uri, info, [], Report(status, "why", {}, 1.0))
    (parent,), _ = stored(uri)
    assert parent.info.status == expected
    assert parent.data.tags["evonas.reason"] == "why"


def test_more_than_a_batch_holds(uri: str, info: RunInfo) -> None:
    log(uri, info, [trial(0, choices=250, epochs=700)])
    client = MlflowClient(uri)
    _, children = stored(uri)
    assert len(children[0].data.params) == 250
    assert len(client.get_metric_history(children[0].info.run_id, "loss")) == 700


def test_a_resumed_run_is_one_run(uri: str, info: RunInfo) -> None:
    log(uri, info, [trial(0), trial(1)], Report("interrupted", "", {}, 1.0))
    tracker = MLflow(uri)
    journal = [trial(0), trial(1), trial(2), Trial(3, trial(3).proposal)]
    tracker.start(info, journal)
    tell(tracker, journal, [trial(3)])
    tracker.close(REPORT)
    (parent,), children = stored(uri)
    assert sorted(children) == [0, 1, 2, 3]
    assert parent.info.status == "FINISHED"


def test_a_trial_left_half_sent_is_completed(uri: str, info: RunInfo) -> None:
    log(uri, info, [])
    (parent,), _ = stored(uri)
    tags = {PARENT: parent.info.run_id, "evonas.stage": "search", "evonas.trial": "0"}
    MlflowClient(uri).create_run(parent.info.experiment_id, tags=tags)
    assert MLflow(uri).sync(info, (trial(0), trial(1))) == 2
    _, children = stored(uri)
    assert {n: r.info.status for n, r in children.items()} == {0: "FINISHED", 1: "FINISHED"}
    assert children[0].data.metrics["acc"] == 0.5


def test_sync_sends_what_is_missing_and_then_nothing(uri: str, info: RunInfo) -> None:
    history = tuple(trial(n) for n in range(4))
    assert MLflow(uri).sync(info, history[:1]) == 1
    assert MLflow(uri).sync(info, history, REPORT) == 3
    assert MLflow(uri).sync(info, history, REPORT) == 0
    (parent,), children = stored(uri)
    assert len(children) == 4
    assert parent.info.status == "FINISHED"


@pytest.mark.parametrize("bad", ["./mlruns", "file:///tmp/mlruns", "mlruns", "ftp://host/x"])
def test_stores_that_mlflow_gave_up_are_refused(bad: str) -> None:
    with pytest.raises(OptionError, match=r"^uri: "):
        MLflow(bad)


def test_the_store_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MLflow().uri == f"sqlite:///{Path.cwd()}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert MLflow().uri == "http://127.0.0.1:1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("impatient")
def test_nobody_answers(uri: str, info: RunInfo, capsys: pytest.CaptureFixture[str]) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    log(dead, info, [trial(0), trial(1)])
    assert time.monotonic() - start < 20
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert "MLflow lacks 2 trials: run `evonas sync" in said
    with pytest.raises(PluginError, match=dead):
        MLflow(dead).sync(info, (trial(0),))
    assert MLflow(uri).sync(info, (trial(0), trial(1)), REPORT) == 2
    assert sorted(stored(uri)[1]) == [0, 1]


@pytest.mark.faults("7: a locked MLflow database holds no search and loses nothing")
def test_a_database_that_somebody_locks_holds_no_search(uri: str, info: RunInfo) -> None:
    log(uri, info, [trial(0)])
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker = MLflow(uri)
        start = time.monotonic()
        tracker.start(info, journal := [trial(0)])
        tell(tracker, journal, [trial(1)])
        assert time.monotonic() - start < 10  # SQLite waits 20 seconds for the lock
        other.rollback()
    tracker.close(REPORT)
    assert sorted(stored(uri)[1]) == [0, 1]


@pytest.mark.faults("7: a locked MLflow database holds no search and loses nothing")
def test_a_locked_database_loses_nothing(uri: str, info: RunInfo) -> None:
    log(uri, info, [])
    tracker = MLflow(uri)
    tracker.start(info, journal := [])
    held = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(uri.removeprefix("sqlite:///"))
        connection.execute("BEGIN EXCLUSIVE")
        held.set()
        time.sleep(3)
        connection.rollback()
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    tell(tracker, journal, map(trial, range(5)))
    tracker.close(REPORT)
    holder.join()
    assert sorted(stored(uri)[1]) == [0, 1, 2, 3, 4]


def first_use(uri: str, folder: Path) -> None:
    folder.mkdir()
    info = RunInfo("r", folder, {}, (Objective("acc"),), {}, time.time())
    log(uri, info, [trial(0)])


@pytest.mark.faults("7: a locked MLflow database holds no search and loses nothing")
@pytest.mark.slow
def test_four_processes_may_be_the_first(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    context = multiprocessing.get_context("spawn")
    users = [context.Process(target=first_use, args=(uri, tmp_path / str(n))) for n in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert [user.exitcode for user in users] == [0] * 4
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("r")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 8


def make_and_be_killed(uri: str, statements: int) -> None:
    def counted(*_: object) -> None:
        nonlocal statements
        statements -= 1
        if not statements:
            os.kill(os.getpid(), signal.SIGKILL)

    sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", counted)
    store.client_of(uri)


@pytest.mark.faults
def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    for statements in (1, 40, 200):
        process = multiprocessing.Process(target=make_and_be_killed, args=(uri, statements))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert [e.name for e in store.client_of(uri).search_experiments()] == ["Default"]


def test_a_worse_trial_after_a_resume_is_not_the_best(uri: str, info: RunInfo) -> None:
    log(uri, info, [trial(0, 0.9)], Report("interrupted", "", {}, 1.0))
    tracker = MLflow(uri)
    tracker.start(info, journal := [trial(0, 0.9)])
    tell(tracker, journal, [trial(1, 0.2)])
    tracker.close(Report("interrupted", "", {}, 1.0))
    (parent,), _ = stored(uri)
    best = MlflowClient(uri).get_metric_history(parent.info.run_id, "best_acc")
    assert [(m.step, m.value) for m in best] == [(1, 0.9), (2, 0.9)]


def test_a_trial_sent_again_has_no_point_twice(uri: str, info: RunInfo) -> None:
    log(uri, info, [trial(0)])
    _, children = stored(uri)
    client = MlflowClient(uri)
    client.update_run(children[0].info.run_id, status="RUNNING")  # as if killed just before its end
    forget_last(info)
    assert MLflow(uri).sync(info, (trial(0),)) == 1
    assert len(client.get_metric_history(children[0].info.run_id, "loss")) == 3


def test_awkward_names_of_choices_hide_nothing(uri: str, info: RunInfo) -> None:
    names = ("a?", "a!", "/b", "c//d", "../e", "repeat", "ü x", "")
    architecture = Architecture("s", {name: str(i) for i, name in enumerate(names)})
    odd = Trial(0, Proposal(architecture, repeat=77), TrialState.COMPLETE, {"acc": 1.0})
    log(uri, info, [odd, trial(1)])
    _, children = stored(uri)
    params = children[0].data.params
    assert set(params.values()) == {*map(str, range(len(names))), "77"}


def test_a_refused_trial_does_not_block_the_next(
    uri: str, info: RunInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    log(uri, info, [trial(0)])
    _, children = stored(uri)
    MlflowClient(uri).update_run(children[0].info.run_id, status="RUNNING")
    forget_last(info)
    changed = Trial(0, Proposal(Architecture("s", {"c0": 99})), TrialState.COMPLETE, {"acc": 1.0})
    tracker = MLflow(uri)
    tracker.start(info, journal := [changed])
    tell(tracker, journal, [trial(1)])
    tracker.close(REPORT)
    (parent,), children = stored(uri)
    assert sorted(children) == [0, 1]
    assert parent.info.status == "FINISHED"
    said = capsys.readouterr().err
    assert "MLflow refuses trial-0000" in said
    assert "MLflow lacks 1 trials" in said
    assert MLflow(uri).sync(info, journal, REPORT) == 0
    assert MLflow(uri).sync(info, (trial(0), trial(1)), REPORT) == 1  # it is tried again each time
    assert MLflow(uri).sync(info, (trial(0), trial(1)), REPORT) == 0


def test_a_store_that_was_thrown_away_is_filled_again(uri: str, info: RunInfo) -> None:
    log(uri, info, [trial(0)])
    (parent,), _ = stored(uri)
    MlflowClient(uri).delete_run(parent.info.run_id)
    assert MLflow(uri).sync(info, (trial(0), trial(1)), REPORT) == 2
    assert MLflow(f"{uri}.other").sync(info, (trial(0), trial(1)), REPORT) == 2
    state = json.loads((info.run_dir / FILE).read_text())
    (info.run_dir / FILE).write_text(json.dumps({**state, "run_id": "0" * 32}))
    assert MLflow(f"{uri}.other").sync(info, (trial(0), trial(1)), REPORT) == 0
    (info.run_dir / FILE).write_text("")
    assert MLflow(f"{uri}.other").sync(info, (trial(0), trial(1)), REPORT) == 0


@pytest.mark.usefixtures("impatient")
def test_a_file_that_is_no_database_does_not_stop_the_search(
    tmp_path: Path, info: RunInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.db").write_text("these are notes, no database" * 100)
    start = time.monotonic()
    log(f"sqlite:///{tmp_path}/notes.db", info, [trial(0)])
    assert time.monotonic() - start < 30
    assert "file is not a database" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_server_that_takes_the_call_and_says_nothing(
    info: RunInfo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        uri = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracker = MLflow()
        start = time.monotonic()
        tracker.start(info, journal := [])
        tell(tracker, journal, [trial(0)])
        assert time.monotonic() - start < 8
        tracker.close(REPORT)
        assert time.monotonic() - start < 40
    said = capsys.readouterr().err
    assert "MLflow lacks 1 trials" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:secret@host/x",
        "HTTP://me:secret@host",
        "http:me:secret@host",
        "http:///me:secret@host",
        "https://:secret@host",
        "http://secret@host",
        "  http://me:secret@host",
        "me:secret@host:5000",
        "//me:secret@host/x",
        "http://[me:secret@::1]/",
        "http://host\\@me:secret@other",
        "http://me:secret\n@host",
        "http://host?token=secret",
        "http://host/x?a=b&token=secret",
        "http://host/x;token=secret",
        "http://host/#token=secret",
        "http://host/%3Ftoken=secret",
        "postgresql://me:sec@re/t@host/db",
        "postgresql+psycopg://me:secret@/db",
        "postgresql://host/db?sslpassword=secret",
        "mysql://me:secret%40x@host/db",
        "mssql+pyodbc:///?odbc_connect=PWD%3Dsecret",
        "databricks://secret@profile",
        "oracle://me:secret@host",
        "s3://KEY:secret@bucket/p",
        "file://me:secret@host/p",
    ],
)
@pytest.mark.faults("19: a password in tracking.uri reaches no file and no console")
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(OptionError, match=r"MLFLOW_TRACKING_URI|no store that MLflow") as caught:
        MLflow(uri)
    assert "sec" not in str(caught.value)


@pytest.mark.faults("19: a password in tracking.uri reaches no file and no console")
def test_a_text_that_names_a_store_is_shown_without_its_secrets() -> None:
    line = store.first_line(OSError("cannot reach postgresql://me:a@b/c@host/db?password=d today"))
    assert line == "cannot reach postgresql://host/db today"
    assert store.public("sqlite:////odd/na@me?.db") == "sqlite:////odd/na@me?.db"


def test_an_unchosen_store_is_found_again_from_elsewhere(
    info: RunInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    MLflow().sync(info, (trial(0),))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert MLflow().sync(info, (trial(0), trial(1))) == 1
    assert not (tmp_path / "elsewhere" / "mlruns").exists()


def test_a_run_that_was_cut_off_does_not_stay_running(uri: str, info: RunInfo) -> None:
    MLflow(uri).sync(info, (trial(0),))
    (parent,), _ = stored(uri)
    assert parent.info.status == "KILLED"


class Cut(BaseException):
    """The process is gone."""


CALLS = ("create_experiment", "create_run", "log_batch", "set_terminated", "update_run")
CALLS += ("search_runs", "log_artifact")


def faulty(monkeypatch: pytest.MonkeyPatch, fault: Callable[[int], None], late: bool) -> None:
    """The mirror meets ``fault(number of the call)`` at each call to the store: late, when the
    store has carried it out already."""
    calls = count()

    def meets_fault(name: str) -> Callable[..., Any]:
        def call(self: MlflowClient, *arguments: Any, **keywords: Any) -> Any:
            number = next(calls)
            if not late:
                fault(number)
            answer = getattr(MlflowClient, name)(self, *arguments, **keywords)
            if late:
                fault(number)
            return answer

        return call

    client = type("Faulty", (MlflowClient,), {name: meets_fault(name) for name in CALLS})
    monkeypatch.setattr("evonas.trackers.parts.store.MlflowClient", client)


def staged(number: int, stage: Stage, repeat: int = 0) -> Trial:
    """The end of a training for good of trial 1."""
    proposal = Proposal(trial(1).architecture, parents=(1,), repeat=repeat, stage=stage)
    return replace(trial(number, 0.99), proposal=proposal, elapsed=20.0)


def journal_of(ends: Iterable[Trial]) -> list[Trial]:
    return [event for end in ends for event in (Trial(end.number, end.proposal), end)]


STAGES = journal_of(
    [trial(0, 0.5), trial(1, 0.7).failed("no"), staged(0, "final"), staged(0, "audit")]
)


def folder_of(info: RunInfo, name: str) -> RunInfo:
    """The same run in another folder, whose only file is as old in all of them."""
    folder = info.run_dir / name
    folder.mkdir()
    (folder / "report.html").write_text("x")
    os.utime(folder / "report.html", (info.started + 50, info.started + 50))
    return replace(info, run_dir=folder)


def content(uri: str, experiment: str) -> list[Any]:
    """All that a person sees of the runs of an experiment, but for ids and folders."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    rows = []
    for run in client.search_runs([found.experiment_id], max_results=5000):
        parent = PARENT not in run.data.tags
        points = [
            (key, point.step, point.value, point.timestamp)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        ]
        folder = run.data.tags.get("evonas.run_dir", "no folder")
        tags = {k: v.replace(folder, "") for k, v in run.data.tags.items() if k != PARENT}
        times = (run.info.start_time, None if parent else run.info.end_time)
        files = [f.path for f in client.list_artifacts(run.info.run_id)] if parent else []
        rows.append([run.info.status, *times, tags, run.data.params, sorted(points), files])
    return sorted(rows, key=str)


def test_trainings_for_good_are_runs_of_their_own_names(uri: str, info: RunInfo) -> None:
    log(uri, info, STAGES)
    rows = content(uri, "r")
    by_name = {
        tags["mlflow.runName"].split(" ·")[0]: (tags, points)
        for _, _, _, tags, _, points, _ in rows
    }
    assert len(rows) == 5
    assert set(by_name) == {"r", "trial-0000", "trial-0001", "final-0000", "audit-0000"}
    tags, points = by_name["final-0000"]
    assert (tags["evonas.stage"], tags["evonas.ancestors"]) == ("final", "1")
    assert ("loss", 2, 0.5) in {point[:3] for point in points}
    assert by_name["trial-0000"][0]["evonas.stage"] == "search"
    best = [point[1:3] for point in by_name["r"][1] if point[0] == "best_acc"]
    assert best == [(1, 0.5), (2, 0.5)]


@pytest.mark.parametrize("late", [pytest.param(False, marks=pytest.mark.slow), True])
def test_cut_off_anywhere_and_mirrored_again_is_mirrored_once(
    uri: str, info: RunInfo, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    MLflow(uri, "whole").sync(folder_of(info, "whole"), STAGES, REPORT)
    expected = content(uri, "whole")
    for cut in count():
        experiment = f"cut {cut}"
        run = folder_of(info, experiment)

        with monkeypatch.context() as patch:

            def fault(number: int, cut: int = cut, patch: pytest.MonkeyPatch = patch) -> None:
                if number == cut:  # a process that is gone writes nothing down
                    patch.setattr(
                        "evonas.trackers.parts.mirror.Mirror._remember", lambda self: None
                    )
                    raise Cut

            faulty(patch, fault, late)
            try:
                MLflow(uri, experiment).sync(run, STAGES, REPORT)
            except Cut:
                missed = True
            else:
                missed = False
        if not missed:
            break
        MLflow(uri, experiment).sync(run, STAGES, REPORT)
        assert content(uri, experiment) == expected, cut
        assert MLflow(uri, experiment).sync(run, STAGES, REPORT) == 0
    assert content(uri, experiment) == expected
    assert cut > 15


def test_answers_that_are_lost_change_nothing(
    uri: str, info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(number: int) -> None:
        if number % 11 == 10:  # an attempt to end the run takes eight
            raise MlflowException("the connection was lost")

    MLflow(uri, "whole").sync(folder_of(info, "whole"), STAGES, REPORT)
    run = folder_of(info, "run")
    monkeypatch.setattr("evonas.trackers.mlflow._PAUSE", 0.01)
    faulty(monkeypatch, fault, late=True)
    tracker = MLflow(uri, "lossy")
    tracker.start(run, journal := [])
    tell(tracker, journal, STAGES)
    tracker.close(REPORT)
    assert content(uri, "lossy") == content(uri, "whole")


def mirror_and_die(uri: str, info: RunInfo, events: list[Trial], calls: int) -> None:
    def die(number: int) -> None:
        if number == calls:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        faulty(patch, die, late=True)
        tracker = MLflow(uri, "killed")
        tracker.start(info, events)
        tracker.close(REPORT)


def test_a_killed_process_is_made_good(uri: str, info: RunInfo) -> None:
    MLflow(uri, "whole").sync(folder_of(info, "whole"), STAGES, REPORT)
    run = folder_of(info, "run")
    context = multiprocessing.get_context("spawn")
    for calls in (5, 9):  # when a run was made, and when it had its metrics
        process = context.Process(target=mirror_and_die, args=(uri, run, STAGES, calls))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert MLflow(uri, "killed").sync(run, STAGES, REPORT) > 0
    assert content(uri, "killed") == content(uri, "whole")


def test_only_what_is_in_doubt_is_looked_for(
    uri: str, info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[Any] = []
    search = MlflowClient.search_runs

    def searching(self: MlflowClient, *arguments: Any, **keywords: Any) -> Any:
        if "evonas.best" not in str(arguments) and "evonas.front" not in str(arguments):
            searches.append(arguments)
        return search(self, *arguments, **keywords)

    monkeypatch.setattr(MlflowClient, "search_runs", searching)
    ends = [trial(n) for n in range(6)]
    log(uri, info, ends[:3], Report("interrupted", "", {}, 1.0))
    assert len(searches) == 1  # for the parent
    assert json.loads((info.run_dir / FILE).read_text())["events"] == 3
    tracker = MLflow(uri)
    tracker.start(info, journal := ends[:4])
    assert tracker._ready.wait(60)  # what is in doubt is what is there when the mirror begins
    tell(tracker, journal, ends[4:])
    tracker.close(REPORT)
    # and for trial 3, which the first session may have sent, and for the best, to tag it
    assert len(searches) == 3
    assert sorted(stored(uri)[1]) == list(range(6))


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(info: RunInfo, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"

    def serve() -> subprocess.Popen[bytes]:
        store = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
        place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *store, *place]
        server = subprocess.Popen(
            [*command, "--artifacts-destination", str(tmp_path / "kept")], start_new_session=True
        )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                return server
            except OSError:
                time.sleep(0.5)
        raise AssertionError("the server does not start")

    def kill(server: subprocess.Popen[bytes]) -> None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    server = serve()
    tracker = MLflow(uri)
    tracker.start(info, journal := [])
    tell(tracker, journal, map(trial, range(3)))
    time.sleep(2)
    kill(server)
    tell(tracker, journal, map(trial, range(3, 6)))
    time.sleep(3)
    server = serve()
    tell(tracker, journal, map(trial, range(6, 9)))
    tracker.close(REPORT)
    try:
        history = tuple(trial(n) for n in range(9))
        MLflow(uri).sync(info, history, REPORT)  # if the pause between tries outlasted ``close``
        assert MLflow(uri).sync(info, history, REPORT) == 0
        (parent,), children = stored(uri)
        assert parent.info.status == "FINISHED"
        assert sorted(children) == list(range(9))
        client = MlflowClient(uri)
        for child in children.values():
            assert child.info.status == "FINISHED"
            loss = client.get_metric_history(child.info.run_id, "loss")
            assert [(m.step, m.value) for m in loss] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    finally:
        kill(server)


@pytest.mark.faults("21: an experiment that was deleted: the search goes on, sync completes it")
@pytest.mark.parametrize("mended", ["restored", "renamed"])
@pytest.mark.usefixtures("impatient")
def test_an_experiment_that_was_deleted(
    mended: str, uri: str, info: RunInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(experiment := client.create_experiment("r"))
    log(uri, info, [trial(0)])
    said = capsys.readouterr().err
    assert "restore" in said
    assert "rename" in said
    assert "MLflow lacks 1 trials: run `evonas sync" in said
    if mended == "restored":
        client.restore_experiment(experiment)
        again = MLflow(uri)
    else:
        again = MLflow(uri, "another name")
    assert again.sync(info, (trial(0),), REPORT) == 1


@pytest.mark.faults("21: artifacts that cannot be written: trials arrive, sync completes")
@pytest.mark.usefixtures("impatient")
def test_an_artifact_store_that_cannot_be_written(
    uri: str, info: RunInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blocked").write_text("no folder")
    client = MlflowClient(uri)
    client.create_experiment("r", (tmp_path / "blocked" / "artifacts").as_uri())
    (info.run_dir / "report.html").write_text("a page")
    log(uri, info, [trial(0)])
    assert sorted(stored(uri)[1]) == [0]
    said = capsys.readouterr().err
    assert "blocked/artifacts" in said
    (tmp_path / "blocked").unlink()
    MLflow(uri).sync(info, (trial(0),), REPORT)
    assert list((tmp_path / "blocked" / "artifacts").rglob("report.html"))
