from __future__ import annotations

import multiprocessing
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from evonas.architecture import Architecture
from evonas.errors import PluginError, RecipeError
from evonas.objective import Objective
from evonas.trackers.base import Report, RunInfo
from evonas.trackers.mlflow import MLflow
from evonas.trial import Proposal, Trial, TrialState

PARENT = "mlflow.parentRunId"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store/mlflow.db"


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
    "finished", "done", {"complete": 3}, 5.0, trial(1, 0.9), final={"test_accuracy": 0.8}
)


def log(uri: str, info: RunInfo, trials: list[Trial], report: Report = REPORT) -> MLflow:
    tracker = MLflow(uri)
    tracker.start(info)
    for each in trials:
        tracker.record(each)
    tracker.close(report)
    return tracker


def stored(uri: str) -> tuple[list[Run], dict[int, Run]]:
    """Parents, and children by trial number; a trial that is there twice is an error."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("evonas")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], max_results=5000))
    parents = [r for r in runs if PARENT not in r.data.tags]
    numbers = [int(r.data.tags["evonas.trial"]) for r in runs if PARENT in r.data.tags]
    assert len(set(numbers)) == len(numbers)
    children = [r for r in runs if PARENT in r.data.tags]
    assert {r.data.tags[PARENT] for r in children} <= {p.info.run_id for p in parents}
    return parents, {int(r.data.tags["evonas.trial"]): r for r in children}


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
    assert [(m.step, m.value) for m in best[:2]] == [(0, 0.5), (1, 0.9)]
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"report.html", "figures"}
    child = children[1]
    assert child.info.run_name == "trial-0001"
    assert child.info.status == "FINISHED"
    assert child.data.params["c0"] == "1"
    assert child.data.params["architecture"] == trial(1).architecture.id
    assert child.data.tags["evonas.parents"] == "7, 3"
    assert child.data.metrics["acc"] == 0.9
    assert child.data.metrics["seconds"] == 2.0
    curve = client.get_metric_history(child.info.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert child.info.end_time - child.info.start_time == 2000
    assert children[2].info.status == "FAILED"
    assert children[2].data.tags["evonas.error"] == "ValueError: no"


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
    assert len(children[0].data.params) == 252
    assert len(client.get_metric_history(children[0].info.run_id, "loss")) == 700


def test_a_resumed_run_is_one_run(uri: str, info: RunInfo) -> None:
    log(uri, info, [trial(0), trial(1)], Report("interrupted", "", {}, 1.0))
    tracker = MLflow(uri)
    tracker.start(info, (trial(0), trial(1), trial(2), Trial(3, trial(3).proposal)))
    tracker.record(trial(3))
    tracker.close(REPORT)
    (parent,), children = stored(uri)
    assert sorted(children) == [0, 1, 2, 3]
    assert parent.info.status == "FINISHED"


def test_a_trial_left_half_sent_is_completed(uri: str, info: RunInfo) -> None:
    log(uri, info, [])
    (parent,), _ = stored(uri)
    tags = {PARENT: parent.info.run_id, "evonas.trial": "0"}
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
    with pytest.raises(RecipeError, match=r"tracking\.uri"):
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


def test_nobody_answers(info: RunInfo, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    log(uri, info, [trial(0), trial(1)])
    said = capsys.readouterr().out
    assert "does not answer" in said
    assert "MLflow lacks 2 trials: run `evonas sync" in said
    with pytest.raises(PluginError, match=uri):
        MLflow(uri).sync(info, (trial(0),))


def test_a_locked_database_loses_nothing(uri: str, info: RunInfo) -> None:
    log(uri, info, [])
    tracker = MLflow(uri)
    tracker.start(info)
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
    for number in range(5):
        tracker.record(trial(number))
    tracker.close(REPORT)
    holder.join()
    assert sorted(stored(uri)[1]) == [0, 1, 2, 3, 4]


def first_use(uri: str, folder: Path) -> None:
    folder.mkdir()
    info = RunInfo(folder.name, folder, {}, (Objective("acc"),), {}, time.time())
    log(uri, info, [trial(0)])


def test_four_processes_may_be_the_first(uri: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    users = [context.Process(target=first_use, args=(uri, tmp_path / str(n))) for n in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert [user.exitcode for user in users] == [0] * 4
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("evonas")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 8


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
        import os
        import signal

        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    server = serve()
    tracker = MLflow(uri)
    tracker.start(info)
    for number in range(3):
        tracker.record(trial(number))
    time.sleep(2)
    kill(server)
    for number in range(3, 6):
        tracker.record(trial(number))
    time.sleep(3)
    server = serve()
    for number in range(6, 9):
        tracker.record(trial(number))
    tracker.close(REPORT)
    try:
        assert MLflow(uri).sync(info, tuple(trial(n) for n in range(9)), REPORT) >= 0
        _, children = stored(uri)
        assert sorted(children) == list(range(9))
    finally:
        kill(server)
