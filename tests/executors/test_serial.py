import os
import time
from dataclasses import replace

import pytest
from workers_helper import Obedient, trial

from evonas.errors import RecipeError
from evonas.executors.serial import Serial
from evonas.trial import TrialState

pytestmark = pytest.mark.faults(
    "1: a trial that ends, crashes or forks its process costs itself and no more"
)


SECONDS = 30.0
DIED = "worker died: "
FAULTS = {
    "exit": "SystemExit: 0",
    "crash": DIED + "killed by SIGSEGV",
    "close_everything": DIED + "exit code 1",
    "fork_and_return": None,
    "raise_what_is_no_exception": "Unprintable: (which cannot be printed)",
    "fail": "ValueError: as told",
}


@pytest.mark.parametrize("do", FAULTS)
def test_whatever_a_trial_does_to_its_process_the_search_goes_on(do):
    with Serial(Obedient, ("cpu",)) as executor:
        ended = executor.submit(trial(0, do)).result(SECONDS)
        following = executor.submit(trial(1)).result(SECONDS)
    said = (ended.error or "").partition("\n")[0]
    assert said == (FAULTS[do] or "")
    assert ended.state is (TrialState.FAILED if FAULTS[do] else TrialState.COMPLETE)
    assert following.state is TrialState.COMPLETE
    assert following.metrics["pid"] != os.getpid()


def test_a_trial_runs_in_this_process_if_that_is_asked_for():
    with Serial(Obedient, ("cpu",), isolate=False) as executor:
        ended = executor.submit(trial()).result(0)
        stopped = executor.submit(trial(1, "raise_what_is_no_exception")).result(0)
    assert ended.metrics["pid"] == os.getpid()
    assert stopped.state is TrialState.FAILED


def test_a_trial_takes_no_longer_than_its_timeout(tmp_path):
    with Serial(Obedient, ("cpu",), timeout=1) as executor:
        ended = executor.submit(trial(0, "hang", file=str(tmp_path / "pid")))
        assert ended.result(SECONDS).error == "timeout: not done after 1 seconds"
    with pytest.raises(RecipeError, match=r"executor\.timeout"):
        Serial(Obedient, ("cpu",), isolate=False, timeout=1)


@pytest.mark.faults("11: trials that are not done when budget.minutes is over are ended")
def test_trials_of_the_search_are_ended_at_the_deadline():
    final = replace(trial(3), proposal=replace(trial(3).proposal, stage="final"))
    with Serial(Obedient, ("cpu",)) as executor:
        executor.submit(trial(0)).result(SECONDS)  # the worker is there now
        executor.deadline = time.monotonic() + 3
        told = executor.submit(trial(1, "sleep", seconds=300), lambda *_: False).result(SECONDS)
        silent = executor.submit(trial(2, "sleep", seconds=300)).result(SECONDS)
        assert executor.submit(final).result(SECONDS).state is TrialState.COMPLETE
    assert (told.state, told.metrics, told.error) == (TrialState.PRUNED, {"loss": 0.5}, None)
    assert (silent.state, silent.curve) == (TrialState.FAILED, ())
    assert silent.error == "timeout: not done when the budget's time was over by more than a tenth"
