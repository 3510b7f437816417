"""A cluster of two nodes, on this machine, of which one is killed in mid-run."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
from workers_helper import Obedient, Stubborn, trial, unbuildable, until, wait_for

from evonas import testing
from evonas.errors import PluginError
from evonas.executors.parts.fork_server import descendants
from evonas.executors.ray import Ray
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run as runs
from evonas.runs.journal import read_journal
from evonas.trial import TrialState

pytestmark = pytest.mark.faults("15: workers and nodes of Ray are lost; every trial ends once")


ray = pytest.importorskip("ray", reason="needs the extra ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

SECONDS = 120.0


@pytest.fixture(scope="module")
def cluster():
    """A head and a node of a core each; who kills a node begins another."""
    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def make(cluster):
    return partial(Ray, address=cluster.address)


def test_it_keeps_the_contract(make):
    assert testing.check_executor(make, trials=6) == []


@pytest.mark.slow
def test_each_node_runs_a_trial_and_a_watched_one_is_stopped(make, tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    with make(Obedient, ("cpu",)) as executor:
        assert executor.workers == 2
        both = [
            executor.submit(trial(0, "meet", mine=a, other=b)),
            executor.submit(trial(1, "meet", mine=b, other=a)),
        ]
        ended = [future.result(SECONDS) for future in both]
    assert [e.state for e in ended] == [TrialState.COMPLETE] * 2
    assert {e.metrics["threads"] for e in ended} == {1}
    with make(Stubborn, ("cpu",)) as executor:
        stopped = executor.submit(trial(0), lambda step, _: step == 3).result(SECONDS)
    assert stopped.state is TrialState.PRUNED
    assert [step for step, _ in stopped.curve] == [1, 2, 3]


@pytest.mark.slow
def test_what_dies_twice_or_takes_too_long_or_cannot_be_built_fails(make):
    with make(Obedient, ("cpu",), timeout=2) as executor:
        dead = executor.submit(trial(0, "leave", code=3), lambda *_: False).result(SECONDS)
        late = executor.submit(trial(1, "sleep", seconds=60)).result(SECONDS)
        following = executor.submit(trial(2)).result(SECONDS)
    assert (dead.error, dead.curve) == ("worker died", ((1, {"loss": 0.5}),))
    assert late.error == "timeout: not done after 2 seconds"
    assert following.state is TrialState.COMPLETE
    with make(unbuildable, ("cpu",)) as executor:
        unbuilt = executor.submit(trial(0)).result(SECONDS)
    assert unbuilt.error.startswith("ValueError: no data on cpu")


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_once_goes_on_in_another(make, tmp_path):
    with make(Obedient, ("cpu",), workers=1) as executor:
        go = str(tmp_path / "go")
        waiting = executor.submit(trial(0, "meet", mine=str(tmp_path / "pid"), other=go))
        wait_for(tmp_path / "pid", SECONDS)
        (tmp_path / "pid").unlink()
        actors = ray._private.state.actors().values()
        (worker,) = [actor["Pid"] for actor in actors if actor["State"] == "ALIVE"]
        os.kill(worker, signal.SIGKILL)
        wait_for(tmp_path / "pid", SECONDS)
        (tmp_path / "go").touch()
        assert waiting.result(SECONDS).state is TrialState.COMPLETE


@pytest.mark.slow
def test_the_loss_of_a_node_costs_no_trial(make, cluster, tmp_path):
    lost = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    with make(Obedient, ("cpu",)) as executor:
        names = [str(tmp_path / name) for name in "ab"]
        both = [
            executor.submit(trial(n, "meet", mine=names[n], other=str(tmp_path / "go")))
            for n in (0, 1)
        ]
        for name in names:
            wait_for(name, SECONDS)
        cluster.remove_node(lost, allow_graceful=False)
        (tmp_path / "go").touch()
        ended = [future.result(SECONDS) for future in both]
        assert [e.state for e in ended] == [TrialState.COMPLETE] * 2
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        until(lambda: executor.workers == 2, SECONDS)  # who joins is used
        again = [executor.submit(trial(n)) for n in range(2, 6)]
        assert [future.result(SECONDS).number for future in again] == [2, 3, 4, 5]


@pytest.mark.slow
def test_a_run_with_rungs_a_data_set_and_a_final_training(cluster, images):
    content = {
        "name": "tiny",
        "dataset": {"name": "npz", "path": str(images())},
        "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 8},
        "strategy": {"name": "successive_halving", "min_fidelity": 0.5, "eta": 2},
        "evaluation": {"name": "train", "epochs": 2, "final_epochs": 1},
        "budget": {"trials": 6},
        "executor": {"name": "ray", "address": cluster.address},
        "tracking": "console",
    }
    outcome = runs.start(reading.validate(content, "test"), Registry(), Path("run"))
    assert outcome.report.status == "finished"
    assert outcome.report.final["test_accuracy"] > 0
    _, events = read_journal(Path("run"))
    assert not [event.error for event in events if event.error]
    assert [event for event in events if event.proposal.resume_from is not None]


def test_an_actor_that_is_slow_to_start_is_waited_for(make, monkeypatch):
    monkeypatch.setattr("evonas.executors.ray._PLACE", 0.02)
    with make(Obedient, ("cpu",), workers=1) as executor:
        assert executor.submit(trial(0)).result(SECONDS).state is TrialState.COMPLETE


def test_a_cluster_without_room_is_told_of(make):
    with make(Obedient, ("cpu",), cpus_per_trial=100) as executor:
        assert "room for {'CPU': 100" in executor.remark
    with make(Obedient, ("cpu",)) as executor:
        assert not executor.remark


def test_a_cluster_whose_token_is_not_here_is_a_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        section = f"executor={{name: ray, address: 127.0.0.1:{somebody.getsockname()[1]}}}"
        done = subprocess.run(
            [sys.executable, "-m", "evonas", "run", "digits_evo", "--set", section],
            env={**os.environ, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == PluginError.exit_code
    assert "no authentication token was found" in done.stderr
    assert done.stderr.count("\n") == 1


HEAD = """
import sys

from ray.cluster_utils import Cluster

made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(made.address, flush=True)
sys.stdin.read()
made.shutdown()
"""


@pytest.mark.slow
def test_the_loss_of_the_head_ends_the_search_which_can_be_resumed():
    python = [sys.executable, "-m", "evonas"]
    quick = ["--set", "evaluation.epochs=1", "--set", "budget.trials=10000"]
    with subprocess.Popen([sys.executable, "-c", HEAD], stdin=PIPE, stdout=PIPE, text=True) as head:
        executor = f"executor={{name: ray, address: '{head.stdout.readline().strip()}'}}"
        command = ["run", "digits_evo", "--run-dir", "run", "--set", "tracking=console", *quick]
        with subprocess.Popen(
            [*python, *command, "--set", executor], stderr=PIPE, text=True
        ) as search:
            wait_for("run/history.jsonl", SECONDS)
            while not any(event.seconds for event in read_journal(Path("run"))[1]):
                time.sleep(0.1)  # until a trial has ended
            (gcs,) = (
                pid
                for pid in descendants(head.pid)
                if Path(f"/proc/{pid}/comm").read_text().strip() == "gcs_server"
            )
            os.kill(gcs, signal.SIGKILL)
            assert "evonas: executor ray: the cluster's head is gone" in search.stderr.read()
        assert search.returncode == PluginError.exit_code
        head.stdin.close()
    told = len(read_journal(Path("run"))[1])
    more = ["--set", f"budget.trials={told + 2}", "--set", "executor=serial"]
    done = subprocess.run([*python, "resume", "run", *more], check=False)
    assert done.returncode == 0


def test_without_ray_or_a_cluster_it_is_said_in_a_line(monkeypatch):
    ray.shutdown()
    with pytest.raises(PluginError, match=r"executor\.address: no Ray cluster at '127.0.0.1:1'"):
        Ray(Obedient, ("cpu",), address="127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PluginError, match="pip install 'evonas\\[ray\\]'"):
        Ray(Obedient, ("cpu",))
