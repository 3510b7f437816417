"""Workers on a shared folder: three of them, of which one is killed, one stopped and continued."""

import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
from workers_helper import Obedient, Stubborn, gone, python, trial, until, wait_for

from evonas import testing
from evonas.errors import RecipeError, StorageError
from evonas.executors.folder import Folder
from evonas.executors.parts.exchange import Exchange, Key
from evonas.executors.serial import Serial
from evonas.runs.session import Stopped
from evonas.runs.worker import serve
from evonas.trial import Trial, TrialState

pytestmark = pytest.mark.faults(
    "16: workers on a folder are killed, stopped, preempted; every trial ends once"
)

SECONDS = 30.0

# A worker in a process of its own, whose trials run in the process of the worker.
WORKER = """
import signal, sys, threading
from pathlib import Path
from workers_helper import Obedient
from evonas.executors.parts.exchange import Exchange, Lost
from evonas.executors.serial import Serial
from evonas.runs import worker
from evonas.runs.session import Stopped


stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
while True:
    with Serial(Obedient, ("cpu",)) as executor:
        try:
            exchange = Exchange(Path(sys.argv[1]))
            worker.serve(exchange, executor, 0.1, print, lambda _: "", stop.is_set)
        except Lost:
            executor.close(kill=True)
            Path(sys.argv[1], "was_lost").touch()
        except Stopped:
            executor.close(kill=True)
            break
"""


def worker(folder):
    return python("-c", WORKER, str(folder))


@contextmanager
def helpers(folder, evaluators):
    """Workers in threads of this process, one for each evaluator."""
    stop = threading.Event()

    def work(make):
        with Serial(make, ("cpu",), isolate=False) as executor, pytest.raises(Stopped):
            serve(Exchange(folder), executor, 0.1, lambda _: None, lambda _: "", stop.is_set)

    Exchange(folder).make()
    threads = [threading.Thread(target=work, args=(make,)) for make in evaluators]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_it_keeps_the_contract(tmp_path):
    with helpers(tmp_path, [testing._Sum] * 2):
        assert testing.check_executor(partial(Folder, path=tmp_path), trials=6) == []
    assert not list(tmp_path.rglob("*.json"))


def test_a_trial_waits_for_the_first_worker_and_then_there_are_as_many_as_they_take(tmp_path):
    with Folder(Obedient, ("cpu",), tmp_path) as executor:
        assert executor.workers == 1
        first = executor.submit(trial(0))
        with helpers(tmp_path, [Obedient] * 3):
            assert first.result(SECONDS).state is TrialState.COMPLETE
            until(lambda: executor.workers == 3, SECONDS)


def test_a_watched_trial_is_stopped(tmp_path):
    seen = []

    def watch(step, metrics):
        seen.append(step)
        return step == 3

    with helpers(tmp_path, [Stubborn]), Folder(Obedient, ("cpu",), tmp_path) as executor:
        ended = executor.submit(trial(0), watch).result(SECONDS)
    assert ended.state is TrialState.PRUNED
    assert seen == [step for step, _ in ended.curve] == [1, 2, 3]


@pytest.mark.faults("11: trials that are not done when budget.minutes is over are ended")
def test_a_worker_with_an_overdue_trial_begins_anew(tmp_path):
    final = replace(trial(1), proposal=replace(trial(1).proposal, stage="final"))
    with Folder(Obedient, ("cpu",), tmp_path / "work") as executor:
        late = executor.submit(trial(2, "hang", file=str(tmp_path / "a")))
        helper = worker(tmp_path / "work")
        wait_for(tmp_path / "a", SECONDS)
        executor.deadline = time.monotonic()
        assert late.result(SECONDS).error.startswith("timeout: ")
        assert executor.submit(final).result(SECONDS).state is TrialState.COMPLETE
    os.killpg(helper.pid, signal.SIGTERM)
    helper.wait(SECONDS)


@pytest.mark.slow
def test_one_worker_is_killed_one_is_stopped_and_comes_back_too_late(tmp_path):
    folder = tmp_path / "work"
    with Folder(Obedient, ("cpu",), folder, lease=1.5) as executor:
        hanging = executor.submit(
            trial(0, "meet", mine=str(tmp_path / "a"), other=str(tmp_path / "go"))
        )
        killed = worker(folder)
        wait_for(tmp_path / "a", SECONDS)
        (tmp_path / "a").unlink()
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        stopped = worker(folder)
        wait_for(tmp_path / "a", SECONDS)  # the lease has run out, and it was begun again
        (tmp_path / "go").touch()
        assert hanging.result(SECONDS).state is TrialState.COMPLETE

        (tmp_path / "go").unlink()
        slow = executor.submit(
            trial(1, "meet", mine=str(tmp_path / "b"), other=str(tmp_path / "go"))
        )
        wait_for(tmp_path / "b", SECONDS)
        (tmp_path / "b").unlink()
        os.kill(stopped.pid, signal.SIGSTOP)
        third = worker(folder)
        wait_for(tmp_path / "b", SECONDS)
        (tmp_path / "go").touch()
        ended = slow.result(SECONDS)
        os.kill(stopped.pid, signal.SIGCONT)
        wait_for(folder / "was_lost", SECONDS)
        assert ended.state is TrialState.COMPLETE
        following = [executor.submit(trial(n)) for n in (2, 3)]
        assert [f.result(SECONDS).number for f in following] == [2, 3]
        for process in (stopped, third):
            process.terminate()
            assert process.wait(SECONDS) == 0
    assert not list(folder.rglob("*.json")), "what came too late was thrown away"


@pytest.mark.slow
def test_two_workers_lost_with_it_fail_a_trial(tmp_path):
    with Folder(Obedient, ("cpu",), tmp_path / "work", lease=1) as executor:
        lost = executor.submit(trial(0, "hang", file=str(tmp_path / "pid")), lambda *_: False)
        for _ in range(2):
            process = worker(tmp_path / "work")
            pid = int(wait_for(tmp_path / "pid", SECONDS))
            (tmp_path / "pid").unlink()
            os.kill(process.pid, signal.SIGKILL)
            assert gone([pid]), "its trial's process ends with it"
        ended = lost.result(SECONDS)
    assert ended.state is TrialState.FAILED
    assert ended.error.startswith("worker lost: ")
    assert ended.curve == ((1, {"loss": 0.5}),)


@pytest.mark.slow
def test_who_is_told_to_leave_gives_its_trial_back_and_the_next_one_takes_it(tmp_path):
    with Folder(Obedient, ("cpu",), tmp_path / "work") as executor:
        waiting = executor.submit(
            trial(0, "meet", mine=str(tmp_path / "a"), other=str(tmp_path / "go"))
        )
        first = worker(tmp_path / "work")
        wait_for(tmp_path / "a", SECONDS)
        first.terminate()
        assert first.wait(SECONDS) == 0
        (tmp_path / "go").touch()
        with helpers(tmp_path / "work", [Obedient]):
            assert waiting.result(SECONDS).state is TrialState.COMPLETE


def test_a_session_takes_over_what_the_one_before_left(tmp_path):
    first = Folder(Obedient, ("cpu",), tmp_path)
    waiting, finished = trial(0), trial(1)
    first.submit(waiting)
    with helpers(tmp_path, [Obedient]):
        assert first.submit(finished).result(SECONDS).number == 1
    first.close(kill=True)  # before anything was written down
    with Folder(Obedient, ("cpu",), tmp_path) as second:
        assert second.submit(finished).result(SECONDS).metrics["pid"] == os.getpid()
        other = second.submit(trial(0, "fail"))  # another trial of the same number
        with helpers(tmp_path, [Obedient]):
            assert other.result(SECONDS).error.startswith("ValueError: as told")
    with pytest.raises(RuntimeError, match="after close"):
        second.submit(trial(2))


def test_what_ended_while_no_search_was_there_is_not_run_again(tmp_path):
    left = Exchange(tmp_path)
    left.make()
    for n in range(3):  # as a search leaves them that is killed
        content = {"trial": trial(n).to_json(), "watched": False}
        left.write("open", Key("search", n, 4), "", content)
    with helpers(tmp_path, [Obedient]):
        until(lambda: len(left.entries("ended")) == 3, SECONDS)
    ended = [
        left.read(Trial, "ended", key, worker) for key, worker in left.entries("ended").items()
    ]
    with Folder(Obedient, ("cpu",), tmp_path) as executor:
        first = executor.submit(trial(0)).result(SECONDS)
        time.sleep(0.5)  # what is submitted later is not thrown away meanwhile
        rest = [executor.submit(trial(n)).result(SECONDS) for n in (1, 2)]
    assert {t.seconds for t in (first, *rest)} == {t.seconds for t in ended}


def test_what_another_trial_of_the_number_left_is_offered_no_longer(tmp_path):
    left = Exchange(tmp_path)
    left.make()
    content = {"trial": trial(0).to_json(), "watched": False}
    left.write("open", Key("search", 0, 0), "", content)
    with Folder(Obedient, ("cpu",), tmp_path) as executor:
        other = executor.submit(trial(0, "fail"))
        until(lambda: list(left.entries("open")) == [Key("search", 0, 1)], SECONDS)
        with helpers(tmp_path, [Obedient]):
            assert other.result(SECONDS).error.startswith("ValueError: as told")


def test_what_others_lay_into_the_folder_is_passed_over_and_what_is_damaged_is_named(tmp_path):
    exchange = Exchange(tmp_path)
    exchange.make()
    for name in ("notes", "search-0", "asleep-0-0", "search-x-0"):
        (tmp_path / "open" / f"{name}.json").write_text("{}")
    assert exchange.entries("open") == {}
    offered = tmp_path / "open" / "search-0-0.json"
    for text in ("", "[]", "{}", json.dumps({"trial": {"number": "?"}, "watched": False})):
        offered.write_text(text)
        with pytest.raises(StorageError, match=r"search-0-0@a\.json: is damaged"):
            exchange.take("a")
    (tmp_path / "workers" / "a.json").write_text('{"slots": -1}')
    with pytest.raises(StorageError, match=r"a\.json: is damaged: slots"):
        exchange.workers()


def test_without_a_folder_it_is_refused():
    with pytest.raises(RecipeError, match=r"executor\.path"):
        Folder(Obedient, ("cpu",))
