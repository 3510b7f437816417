"""GPUs that are shared, and one that fails; NVIDIA's programs are scripts, for there is no GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from workers_helper import Obedient, OnLostGPU, alive, gone, trial, wait_for

from evonas.errors import RecipeError
from evonas.executors.parts.gpus import Service, reckoned
from evonas.executors.processes import Processes
from evonas.recipe.options import check
from evonas.training.devices import cores, placements
from evonas.trial import TrialState

GPUS = ("cuda:0", "cuda:1")
# Speaks as nvidia-cuda-mps-control does: -f runs it, what is said on stdin is told the one that
# listens in the folder; who finds none fails.
CONTROL = """#!/bin/sh
folder=${CUDA_MPS_PIPE_DIRECTORY:-/nowhere}
if [ "$1" = -f ]; then
  [ -z "$CUDA_VISIBLE_DEVICES" ] || exit 3
  touch "$folder/control"; echo $$ > "$STARTED"
  while [ -e "$folder/control" ]; do sleep 0.05; done
  exit 0
fi
read command
[ -e "$folder/control" ] || exit 1
[ "$command" != quit ] || rm "$folder/control"
"""
MEMORY = """#!/bin/sh
case "$1" in --id=0) echo 81000;; --id=0,1) echo 81000; echo 14000;; *) exit 6;; esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that is looked into first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("nvidia-cuda-mps-control", CONTROL), ("nvidia-smi", MEMORY)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    return folder


@pytest.mark.parametrize(
    ("names", "cores", "at_once", "workers"),
    [
        (["0"], 16, True, 8),
        (["0"], 16, False, 2),
        (["0"], 4, True, 4),
        (["0", "1"], 16, True, 2),  # as many as fit in the smaller one
        (["0"], 1, True, 1),
        (["7"], 16, True, 1),  # nobody knows its memory
    ],
)
def test_workers_of_a_gpu(
    names: list[str], cores: int, at_once: bool, workers: int, programs: Path
) -> None:
    assert reckoned(names, cores, at_once) == workers


def test_without_nvidias_programs_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not Service().start()
    assert reckoned(["0"], 16, False) == 1


def test_on_a_cpu_auto_is_as_many_as_ever(programs: Path, tmp_path: Path) -> None:
    with Processes(Obedient, ("cpu",), per_device="auto") as executor:
        assert executor.workers == len(placements(("cpu",), None, 1, cores(), None))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("value", ["many", 1.5, None, 0, -1])
def test_what_is_neither_a_number_nor_auto_is_refused(value: Any) -> None:
    with pytest.raises(
        RecipeError, match=r"^executor\.per_device: must be a whole number from 1 on or auto, not"
    ):
        check(Processes, {"per_device": value}, "executor")


def test_the_service_begins_and_ends_with_the_run(programs: Path, tmp_path: Path) -> None:
    with Processes(Obedient, ("cuda:0",), per_device="auto") as executor:
        pid = int(wait_for(tmp_path / "started"))
        assert alive(pid)
        pipes = executor._service.env["CUDA_MPS_PIPE_DIRECTORY"]
        ended = executor.submit(trial(0, "tell", name="CUDA_MPS_PIPE_DIRECTORY")).result(30)
        assert ended.error is not None
        assert f"it is {pipes}" in ended.error, "workers find it"
    assert gone([pid])
    assert not Path(pipes).exists()


def test_a_service_that_runs_is_used_and_left(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "control").touch()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    service = Service()
    assert service.start()
    assert service.env == {}
    service.close()
    assert (tmp_path / "control").exists()
    assert not (tmp_path / "started").exists()


def test_one_that_does_not_start_is_done_without(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "nvidia-cuda-mps-control").write_text("#!/bin/sh\nexit 1\n")
    service = Service()
    with pytest.warns(UserWarning, match="did not start; workers of a GPU take turns"):
        assert not service.start()
    assert service.env == {}


@pytest.mark.faults("14: the service for GPUs ends with a search that is killed")
def test_it_ends_with_a_search_that_is_killed(programs: Path, tmp_path: Path) -> None:
    program = "import time; from evonas.executors.parts.gpus import Service; s = Service()"
    search = subprocess.Popen(
        [sys.executable, "-c", f"{program}; s.start(); time.sleep(60)"],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # nobody is left to remove its folder
    )
    pid = int(wait_for(tmp_path / "started"))
    search.send_signal(signal.SIGKILL)
    search.wait()
    assert gone([pid])


@pytest.mark.faults("14: a GPU that fails takes its own workers with it, and no trial")
def test_a_gpu_that_fails_drains_its_own_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    executor = Processes(OnLostGPU, GPUS, per_device=2)
    futures = [executor.submit(trial(n)) for n in range(8)]
    with pytest.warns(UserWarning, match="the GPU does not work: .*; others go on"):
        ended = [future.result(60) for future in futures]
    size = executor._pool.size
    executor.close()
    assert [e.state for e in ended] == [TrialState.COMPLETE] * 8
    assert {e.metrics["gpu"] for e in ended} == {0.0}
    assert size == 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_when_the_last_gpu_fails_trials_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    start = time.monotonic()
    with Processes(OnLostGPU, ("cuda:1",)) as executor:
        ended = executor.submit(trial()).result(60)
    assert ended.state is TrialState.FAILED
    assert ended.error is not None
    assert ended.error.startswith("the GPU does not work: ")
    assert time.monotonic() - start < 60


def test_a_cuda_error_of_a_trial_on_a_gpu_that_works_is_the_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evonas.executors.parts.workers._fault", lambda context, placement: "")
    with Processes(OnLostGPU, ("cuda:1",)) as executor:
        ended = executor.submit(trial()).result(60)
    assert ended.state is TrialState.FAILED
    assert ended.error is not None
    assert ended.error.startswith("RuntimeError: CUDA error: an illegal memory access")


def test_each_has_its_share_of_the_memory() -> None:
    one, *_ = placements(GPUS, None, 4, cores=16, visible=None)
    assert one.memory == pytest.approx(0.9 / 4)
    alone, *_ = placements(GPUS, None, 1, cores=16, visible=None)
    assert alone.memory == 1
