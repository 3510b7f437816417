import functools
import multiprocessing
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from workers_helper import (
    Obedient,
    Stubborn,
    alive,
    gone,
    python,
    trial,
    unbuildable,
    unstartable,
    wait_for,
)

from evonas.errors import RecipeError
from evonas.executors.parts.fork_server import descendants
from evonas.executors.processes import Processes
from evonas.executors.serial import Serial
from evonas.recipe.options import check
from evonas.trial import TrialState

pytestmark = pytest.mark.faults("workers: whatever happens to them, every trial ends once")


SECONDS = 30.0  # far more than anything here takes: a hang fails the test, and does not stop it


def processes(workers=1, make_evaluator=Obedient, devices=("cpu",), **settings):
    return Processes(make_evaluator, devices, workers, **settings)


def test_results_come_back_and_the_worker_is_kept():
    told = replace(trial(7), elapsed=1.5)
    with processes(workers=2) as executor:
        first = executor.submit(told).result(SECONDS)
        second = executor.submit(trial(8)).result(SECONDS)
    assert first == replace(
        told,
        state=TrialState.COMPLETE,
        metrics=first.metrics,
        curve=((1, {"loss": 0.5}),),
        seconds=first.seconds,
        effort=1.0,
    )
    assert first.metrics["pid"] == second.metrics["pid"] != os.getpid()
    assert gone([int(first.metrics["pid"])], 0)


def test_a_broken_limit_ends_a_trial_here_and_there_alike():
    told = trial(3, "exceed")
    with processes() as executor:
        there = executor.submit(told).result(SECONDS)
    with Serial(Obedient, ("cpu",)) as executor:
        here = executor.submit(told).result(SECONDS)
    assert there == replace(here, seconds=there.seconds)
    assert there.state is TrialState.PRUNED
    assert there.metrics == {"latency": 6.0, "violation": 0.2}
    assert there.curve == ((1, {"loss": 0.5}),)


def test_trials_run_at_once(tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    with processes(workers=2) as executor:
        assert executor.workers == 2
        futures = [
            executor.submit(trial(0, "meet", mine=a, other=b)),
            executor.submit(trial(1, "meet", mine=b, other=a)),
        ]
        assert [f.result(SECONDS).state for f in futures] == [TrialState.COMPLETE] * 2


def test_more_trials_than_workers_wait_for_their_turn():
    with processes() as executor:
        futures = [executor.submit(trial(n)) for n in range(4)]
    assert [f.result(0).number for f in futures] == [0, 1, 2, 3]


def test_each_worker_has_its_gpu_and_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr("evonas.executors.processes.cores", lambda: 6)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    with processes(workers=None, devices=("cuda:0", "cuda:1")) as executor:
        futures = [
            executor.submit(trial(0, "meet", mine=a, other=b)),
            executor.submit(trial(1, "meet", mine=b, other=a)),
        ]
        seen = [f.result(SECONDS).metrics for f in futures]
    assert {m["gpu"] for m in seen} == {4, 5}
    assert all(m["threads"] == 3 and m["on_gpu"] for m in seen)
    # The server that forks the workers has torch, if this process started it for networks.
    assert {m["torch_threads"] for m in seen} <= {-1, 3}


def test_a_failed_trial_keeps_a_cpu_worker_but_not_a_gpu_worker():
    for device, kept in (("cpu", True), ("cuda:0", False)):
        with processes(devices=(device,)) as executor:
            before = executor.submit(trial(0)).result(SECONDS)
            failed = executor.submit(trial(1, "fail")).result(SECONDS)
            after = executor.submit(trial(2)).result(SECONDS)
        assert failed.state is TrialState.FAILED
        assert failed.error.startswith("ValueError: as told\nTraceback")
        assert (before.metrics["pid"] == after.metrics["pid"]) is kept


@pytest.mark.faults("2: a trial whose worker dies is run once more")
def test_a_killed_worker_costs_its_trial_only_and_that_the_second_time(tmp_path):
    with processes(workers=2) as executor:
        hanging = executor.submit(trial(0, "hang", file=str(tmp_path / "pid")))
        other = executor.submit(
            trial(1, "meet", mine=str(tmp_path / "b"), other=str(tmp_path / "a"))
        )
        first = int(wait_for(tmp_path / "pid"))
        (tmp_path / "pid").unlink()
        os.kill(first, signal.SIGKILL)
        second = int(wait_for(tmp_path / "pid"))
        assert second != first
        assert not hanging.done()
        os.kill(second, signal.SIGKILL)
        killed = hanging.result(SECONDS)
        following = executor.submit(trial(2)).result(SECONDS)
        assert not other.done()
        (tmp_path / "a").touch()
        assert other.result(SECONDS).state is TrialState.COMPLETE
    assert killed.state is TrialState.FAILED
    assert killed.error == "worker died: killed by SIGKILL"
    assert following.state is TrialState.COMPLETE


@pytest.mark.faults("2: a trial whose worker dies is run once more")
def test_a_trial_whose_worker_was_killed_once_ends_as_if_nothing_had_been(tmp_path):
    with processes() as executor:
        waiting = executor.submit(
            trial(0, "meet", mine=str(tmp_path / "pid"), other=str(tmp_path / "go")),
            lambda *_: False,
        )
        wait_for(tmp_path / "pid")
        (worker,) = [p.pid for p in multiprocessing.active_children()]
        os.kill(worker, signal.SIGKILL)
        (tmp_path / "go").touch()
        ended = waiting.result(SECONDS)
    assert ended.state is TrialState.COMPLETE
    assert ended.curve == ((1, {"loss": 0.5}),)


@pytest.mark.faults("2: a trial whose worker dies is run once more")
def test_a_worker_killed_between_trials_costs_nothing():
    with processes() as executor:
        pid = int(executor.submit(trial(0)).result(SECONDS).metrics["pid"])
        os.kill(pid, signal.SIGKILL)
        assert gone([pid])
        assert executor.submit(trial(1)).result(SECONDS).state is TrialState.COMPLETE


def test_the_server_that_forks_workers_is_killed_and_begun_again():
    with processes() as executor:
        pid = int(executor.submit(trial(0)).result(SECONDS).metrics["pid"])
        server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(server, signal.SIGKILL)
        assert gone([server, pid])
        assert executor.submit(trial(1)).result(SECONDS).state is TrialState.COMPLETE


@pytest.mark.parametrize("code", [0, 3])
def test_a_worker_that_leaves_fails_its_trial(code):
    with processes() as executor:
        ended = executor.submit(trial(0, "leave", code=code)).result(SECONDS)
        assert ended.error == f"worker died: exit code {code}"
        assert executor.submit(trial(1)).result(SECONDS).state is TrialState.COMPLETE


def test_an_evaluator_that_cannot_be_built_fails_the_trial():
    with processes(make_evaluator=unbuildable) as executor:
        for number in range(2):
            ended = executor.submit(trial(number)).result(SECONDS)
            assert ended.state is TrialState.FAILED
            assert ended.error.startswith("ValueError: no data on cpu\nTraceback")


def test_a_worker_that_dies_at_once_fails_the_trial():
    with processes(make_evaluator=unstartable) as executor:
        assert executor.submit(trial()).result(SECONDS).error == "worker died: exit code 4"


def test_what_cannot_be_pickled_is_refused_at_once():
    with pytest.raises((AttributeError, TypeError)):
        processes(make_evaluator=functools.partial(lambda device: None))


def test_a_trial_that_takes_too_long_is_killed_with_all_it_started(tmp_path):
    with processes(timeout=1) as executor:
        ended = executor.submit(trial(0, "hang_with_child", file=str(tmp_path / "pids")))
        pids = [int(pid) for pid in wait_for(tmp_path / "pids").split()]
        assert len(pids) == 2
        assert ended.result(SECONDS).error == "timeout: not done after 1 seconds"
        assert 1 <= ended.result().seconds < 5
        assert gone(pids, 1)
        assert executor.submit(trial(1)).result(SECONDS).state is TrialState.COMPLETE


@pytest.mark.parametrize("kind", [Serial, Processes])
@pytest.mark.parametrize("do", ["nothing", "raise", "return", "report"])
def test_a_watched_trial_is_stopped_whatever_its_evaluator_catches(kind, do):
    seen = []

    def watch(step, metrics):
        seen.append((step, metrics))
        return step == 2

    with kind(Stubborn, ("cpu",)) as executor:
        ended = executor.submit(trial(3, do), watch).result(SECONDS)
    pid = ended.metrics["pid"]
    assert (ended.number, ended.state, ended.error) == (3, TrialState.PRUNED, None)
    assert ended.curve == ((1, {"pid": pid}), (2, {"pid": pid}))
    assert list(ended.curve) == seen, "nobody is asked about what the journal cannot hold"


@pytest.mark.parametrize("fault", [BrokenPipeError, SystemExit])
@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_what_a_watcher_raises_is_no_fault_of_the_trial(kind, fault):
    def watch(step, metrics):
        raise fault("who was to be told has gone")

    make = {"serial": Serial, "processes": Processes}[kind]
    executor = make(Stubborn, ("cpu",))
    try:
        with pytest.raises(fault):
            executor.submit(trial(0, "return"), watch).result(SECONDS)
    finally:
        executor.close(kill=True)


def test_a_pruned_trial_keeps_its_worker_and_the_next_need_not_be_watched():
    with processes(devices=("cuda:0",)) as executor:
        before = executor.submit(trial(0)).result(SECONDS)
        stopped = executor.submit(trial(1), lambda *_: True).result(SECONDS)
        after = executor.submit(trial(2)).result(SECONDS)
        watched = executor.submit(trial(3), lambda *_: False).result(SECONDS)
    assert (stopped.state, stopped.metrics) == (TrialState.PRUNED, {"loss": 0.5})
    assert before.metrics["pid"] == after.metrics["pid"] == watched.metrics["pid"]
    assert after.curve == watched.curve == ((1, {"loss": 0.5}),)


def test_a_worker_that_dies_while_watched_leaves_its_curve():
    with processes(make_evaluator=Stubborn) as executor:
        dead = executor.submit(trial(0, "die"), lambda *_: False).result(SECONDS)
        following = executor.submit(trial(1), lambda *_: True).result(SECONDS)
    assert dead.state is TrialState.FAILED
    assert dead.error == "worker died: killed by SIGKILL"
    assert [step for step, _ in dead.curve] == [1, 2, 3]
    assert dead.effort == 1, "what it trained nobody knows: its fidelity"
    assert following.state is TrialState.PRUNED


def test_the_timeout_is_for_the_whole_of_a_watched_trial():
    with processes(make_evaluator=Stubborn, timeout=1) as executor:
        ended = executor.submit(trial(), lambda *_: time.sleep(0.05)).result(SECONDS)
    assert ended.error == "timeout: not done after 1 seconds"
    assert len(ended.curve) > 1


def test_close_with_kill_waits_for_nobody(tmp_path):
    executor = processes()
    running = executor.submit(trial(0, "hang", file=str(tmp_path / "pid")))
    waiting = executor.submit(trial(1))
    pid = int(wait_for(tmp_path / "pid"))
    start = time.monotonic()
    executor.close(kill=True)
    assert time.monotonic() - start < 3
    assert running.result(0).error == "killed: the executor was closed"
    assert waiting.cancelled()
    assert not alive(pid)
    assert not multiprocessing.active_children()
    executor.close()  # again: nothing left to do
    with pytest.raises(RuntimeError, match="after close"):
        executor.submit(trial(2))


def test_close_during_the_start_of_a_worker_leaves_none():
    executor = processes(workers=2)
    futures = [executor.submit(trial(n)) for n in range(2)]
    executor.close(kill=True)
    assert all(f.cancelled() or f.result(0).state is TrialState.FAILED for f in futures)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("setting", ["workers", "timeout"])
def test_numbers_smaller_than_one_are_refused(setting):
    with pytest.raises(RecipeError, match=rf"^executor\.{setting}: .* than or equal to 1, not 0"):
        check(Processes, {setting: 0}, "executor")


# A main program of its own, run in a session of its own, to be killed and interrupted.

PROGRAM = """
import signal, sys, time
from workers_helper import Obedient, trial
from evonas.executors.parts.fork_server import descendants
from evonas.executors.processes import Processes

def start(*trials, workers=2):
    executor = Processes(Obedient, ("cpu",), workers)
    return executor, [executor.submit(t) for t in trials]

if __name__ == "__main__":
    folder = sys.argv[1]
    {body}
"""


def run_program(folder, body, imports=""):
    script = folder / "program.py"
    script.write_text(imports + PROGRAM.replace("{body}", body))
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return python(str(script), str(folder), **output)


@pytest.mark.faults("3: kill -9 of the search leaves no process")
def test_what_a_trial_left_behind_ends_with_a_killed_search_though_it_is_deep_in_c(tmp_path):
    body = """start(trial(0, "hang_in_c", file=folder + "/pids"), workers=1)
    time.sleep(60)"""
    program = run_program(tmp_path, body)
    pids = [int(pid) for pid in wait_for(tmp_path / "pids").split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    program.kill()
    program.wait()
    assert gone(pids, 5)


@pytest.mark.faults("3: kill -9 of the search leaves no process")
def test_workers_die_with_a_killed_parent(tmp_path):
    body = """executor, (idle, _) = start(
        trial(0, "meet", mine=folder + "/here", other=folder + "/pids"),
        trial(1, "hang_with_child", file=folder + "/pids"),
    )
    print(int(idle.result().metrics["pid"]), flush=True)
    time.sleep(60)"""
    program = run_program(tmp_path, body)
    pids = [int(program.stdout.readline()), *map(int, wait_for(tmp_path / "pids").split())]
    assert len(pids) == 3
    assert all(map(alive, pids))
    program.kill()
    program.wait()
    assert gone(pids, 5)


@pytest.mark.faults("2: a trial that ran out of memory is not run again")
def test_what_ran_out_of_memory_is_not_run_again(tmp_path):
    group = Path("/sys/fs/cgroup/memory", f"evonas-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("1000000000")
    except OSError as error:
        pytest.skip(f"no control groups may be made here: {error}")
    body = f"""open({str(group / "cgroup.procs")!r}, "w").write("0")
    executor, (future,) = start(trial(0, "eat", file=folder + "/eaters"), workers=1)
    print(future.result().error)
    executor.close()"""
    try:
        program = run_program(tmp_path, body)
        assert program.communicate(timeout=SECONDS)[0] == "worker died: out of memory\n"
    finally:
        while (group / "cgroup.procs").read_text():  # helpers of the interpreter, on their way out
            time.sleep(0.01)
        group.rmdir()
    assert wait_for(tmp_path / "eaters").split() == ["here"]


def test_the_interpreter_exits_though_trials_run(tmp_path):
    body = """start(trial(0, "hang", file=folder + "/pid"), trial(1), trial(2), workers=1)
    while not __import__("os").path.exists(folder + "/pid"): time.sleep(0.01)"""
    program = run_program(tmp_path, body)
    pid = int(wait_for(tmp_path / "pid"))
    assert program.communicate(timeout=5)[0] == ""
    assert program.returncode == 0
    assert not alive(pid)


def test_a_worker_does_not_import_the_main_program(tmp_path):
    body = """executor, futures = start(trial(0), workers=os.cpu_count())
    print(futures[0].result().state)
    executor.close()"""
    program = run_program(tmp_path, body, imports="import os; print('imported')")
    assert program.communicate(timeout=SECONDS)[0] == "imported\ncomplete\n"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.faults("12: a signal to all processes interrupts trials and fails none")
def test_what_is_sent_to_all_reaches_the_parent_only(sent, tmp_path):
    body = f"""signal.signal({int(sent)}, lambda *_: None)
    print("ready", flush=True)
    executor, (future,) = start(trial(0, "sleep", seconds=0.5), workers=1)
    print(future.result().state)
    executor.close()"""
    program = run_program(tmp_path, body)
    assert program.stdout.readline() == "ready\n"
    while program.poll() is None:
        for pid in [program.pid, *descendants(program.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, sent)
        time.sleep(0.01)
    assert program.communicate()[0] == "complete\n"
