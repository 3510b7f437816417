"""Evaluators for test_processes.py, in a module of their own so that spawned workers find them."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evonas.architecture import Architecture
from evonas.evaluators.base import Context, Evaluator, Infeasible, Reporter
from evonas.trial import Proposal, Trial

NOWHERE: Any = None  # no space: those of evonas import torch, and workers are to do without


def trial(number: int = 0, do: str = "nothing", **choices: int | float | str) -> Trial:
    """A trial that does as it is told."""
    return Trial(number, Proposal(Architecture("test", {"do": do, **choices})))


class Unprintable(BaseException):
    """Not an Exception, and its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Obedient(Evaluator):
    """Does what the architecture says, and tells about its process."""

    metrics = ("pid",)

    def __init__(self, device: str) -> None:
        super().__init__(Context(NOWHERE, None, device, seed=0))
        self.device = device

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        report(1, {"loss": 0.5})
        getattr(self, trial.architecture.choices["do"])(trial.architecture.choices)
        return {
            "pid": os.getpid(),
            "threads": float(os.environ.get("OMP_NUM_THREADS", -1)),
            "gpu": float(os.environ.get("CUDA_VISIBLE_DEVICES") or -1),
            "on_gpu": self.device == "cuda",
            "torch_threads": self.torch_threads(),
        }

    def torch_threads(self) -> int:
        """Threads that torch uses; -1 if nobody imported it."""
        torch = sys.modules.get("torch")
        return torch.get_num_threads() if torch else -1

    def nothing(self, choices) -> None:
        pass

    def sleep(self, choices) -> None:
        time.sleep(choices["seconds"])

    def hang(self, choices) -> None:
        """Write down who hangs, and stay busy for ever."""
        write(choices["file"], str(os.getpid()))
        while True:
            pass

    def hang_with_child(self, choices) -> None:
        child = subprocess.Popen(["sleep", "300"])
        write(choices["file"], f"{os.getpid()} {child.pid}")
        while True:
            pass

    def hang_in_c(self, choices) -> None:
        """Never give the interpreter's lock back, with a child that is nobody's any more."""
        sleeper = "import subprocess as s; print(s.Popen(['sleep', '300'], stdout=s.DEVNULL).pid)"
        orphan = subprocess.run(
            [sys.executable, "-c", sleeper], stdout=subprocess.PIPE, start_new_session=True
        )
        write(choices["file"], f"{os.getpid()} {orphan.stdout.decode()}")
        ctypes.PyDLL(None).sleep(300)

    def meet(self, choices) -> None:
        """End only when the other one has come, too."""
        write(choices["mine"], "here")
        wait_for(choices["other"])

    def leave(self, choices) -> None:
        os._exit(choices["code"])

    def exit(self, choices) -> None:
        sys.exit(0)

    def crash(self, choices) -> None:
        ctypes.string_at(0)

    def close_everything(self, choices) -> None:
        os.closerange(3, 256)

    def fork_and_return(self, choices) -> None:
        os.fork()

    def raise_what_is_no_exception(self, choices) -> None:
        raise Unprintable

    def eat(self, choices) -> None:
        """Take memory until there is none left."""
        with open(choices["file"], "a") as file:
            file.write("here ")
        taken = []
        while True:
            taken.append(b"x" * 50_000_000)

    def fail(self, choices) -> None:
        raise ValueError("as told")

    def exceed(self, choices) -> None:
        raise Infeasible({"latency": 6.0, "violation": 0.2})

    def tell(self, choices) -> None:
        """Fail with what an environment variable is."""
        raise ValueError(f"it is {os.environ[choices['name']]}")


class OnLostGPU(Obedient):
    """The GPU 1 has been lost: everything there fails, and at once."""

    def nothing(self, choices) -> None:
        if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(0.2)


class Stubborn(Evaluator):
    """Reports for ever, about itself, and does what it is told with what reporting raises."""

    metrics = ("pid",)

    def __init__(self, device: str) -> None:
        super().__init__(Context(NOWHERE, None, device, seed=0))

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        do, step = trial.architecture.choices["do"], 0
        while True:
            step += 1
            try:
                report(step, {"pid": os.getpid(), "nan": math.nan})
            except Exception:
                continue
            except BaseException:
                if do == "raise":
                    raise ValueError("in place of it") from None
                if do == "return":
                    return {"pid": -1.0}
                if do == "report" and step < 5:
                    continue
                raise
            if do == "die" and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)


def unbuildable(device: str) -> Evaluator:
    raise ValueError(f"no data on {device}")


def unstartable(device: str) -> Evaluator:
    os._exit(4)


def write(path: str, text: str) -> None:
    """Write a file that appears only when it is complete."""
    Path(path + ".part").write_text(text)
    os.rename(path + ".part", path)


def wait_for(path: str | Path, seconds: float = 10.0) -> str:
    """The text of a file that somebody is about to write."""
    until(Path(path).exists, seconds)
    return Path(path).read_text()


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what is about to be so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so after {seconds:g} seconds: {holds}"
        time.sleep(0.01)


def python(*arguments: str, **more: Any) -> subprocess.Popen[Any]:
    """An interpreter that imports what tests do, in a session of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, env=environment, start_new_session=True, **more)


def alive(pid: int) -> bool:
    """Whether a thread of the process still runs; a zombie that nobody reaps does not."""
    try:
        os.kill(pid, 0)
        states = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return not states or any(") Z " not in state for state in states)


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    """Whether all of the processes end within ``seconds``."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))
