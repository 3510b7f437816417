"""One machine's work for a run that is searched elsewhere: trials out of its folder, and back."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path

from evonas.errors import HistoryError, RecipeError
from evonas.executors.base import Executor
from evonas.executors.folder import Folder
from evonas.executors.parts.exchange import Exchange, Key, Lost
from evonas.executors.processes import Processes
from evonas.runs import summary
from evonas.runs.assemble import Assembly
from evonas.runs.journal import JOURNAL, read_header
from evonas.runs.run import reopened
from evonas.runs.session import Stopped
from evonas.training import devices
from evonas.trial import Trial

_POLL = 0.2  # seconds between looks into the folder
_BEAT = 5.0  # seconds between signs of life, if the lease is long
_LINGER = 10.0  # seconds without a trial after which the end of the run is believed


def work(
    run_dir: Path,
    workers: int | None,
    device: str,
    idle: float,
    say: Callable[[str], None],
    stopping: Callable[[], bool],
) -> None:
    """Run trials of a run until it is over, or there has been nothing to do for long.

    Args:
        run_dir: The run folder; it is waited for as long as there may be nothing to do.
        workers: Trials at once; default: as many as ``processes`` takes.
        device: As ``executor.device`` of a recipe, on this machine.
        idle: Seconds without a trial after which to leave.
        say: Told what happens.
        stopping: Asked often; when True, trials are given back.

    Raises:
        HistoryError: If there is no run, or its recipe or data are others here.
        RecipeError: If the run's executor is not ``folder``.
        Stopped: If it was asked to stop.
    """
    assembly = _assembled(run_dir, idle, stopping)
    folder = assembly.executor()
    assert isinstance(folder, Folder), "it was looked at before"
    folder.exchange.make()
    beat, over = min(_BEAT, folder.lease / 4), partial(_over, run_dir, idle)
    chosen = devices.choose(device, devices.available())
    while True:
        with Processes(
            assembly.make_evaluator, chosen, workers, timeout=folder.timeout
        ) as executor:
            try:
                return serve(folder.exchange, executor, beat, say, over, stopping)
            except Lost:
                executor.close(kill=True)
                say("the search gave this worker up; it begins anew")


def serve(
    exchange: Exchange,
    executor: Executor,
    beat: float,
    say: Callable[[str], None],
    over: Callable[[float], str],
    stopping: Callable[[], bool],
) -> None:
    """Take trials, run them, and hand in how they ended.

    Args:
        exchange: Where trials are.
        executor: Runs them.
        beat: Seconds between signs of life, some of which must fit into the lease.
        say: Told what happens.
        over: Given the seconds without a trial; why to leave, if that is so.
        stopping: Asked often.

    Raises:
        Lost: If the search has given this worker up.
        Stopped: If it was asked to stop.
    """
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    running: dict[Future[Trial], Key] = {}
    exchange.join(name, executor.workers)
    say(f"worker {name}: {executor.workers} trials at once, from {exchange.path}")
    busy = beaten = time.monotonic()
    try:
        while not stopping():
            if time.monotonic() - beaten > beat:
                exchange.live(name)
                beaten = time.monotonic()
            while len(running) < executor.workers and (taken := exchange.take(name)):
                key, trial, watched = taken
                watch = partial(exchange.ask, key, name) if watched else None
                running[executor.submit(trial, watch)] = key
            for future in _ended(running):
                key, ended = running.pop(future), future.result()
                exchange.end(key, name, ended)
                say(f"{key.stage} {key.number}: {ended.state} after {ended.seconds:.1f} s")
                busy = time.monotonic()
            if not running and (reason := over(time.monotonic() - busy)):
                say(reason)
                return
        raise Stopped
    finally:
        for key in running.values():
            exchange.move(key, name, "taken", "open")
        exchange.dismiss(name)


def _ended(running: dict[Future[Trial], Key]) -> set[Future[Trial]]:
    """Those that have ended after a short wait."""
    if not running:
        time.sleep(_POLL)
    return wait(running, _POLL, FIRST_COMPLETED).done


def _over(run_dir: Path, idle: float, seconds: float) -> str:
    if seconds > _LINGER and summary.status(run_dir) == "finished":
        return "the run is finished"
    return f"nothing to do for {idle / 60:g} minutes" if seconds > idle else ""


def _assembled(run_dir: Path, idle: float, stopping: Callable[[], bool]) -> Assembly:
    """The run's parts, as soon as it has begun."""
    deadline = time.monotonic() + idle
    journal = run_dir / JOURNAL
    while not (journal.exists() and read_header(run_dir)):
        if stopping():
            raise Stopped
        if time.monotonic() > deadline:
            raise HistoryError(f"{run_dir} holds no run after {idle / 60:g} minutes")
        time.sleep(_POLL)
    assembly = reopened(run_dir)
    if assembly.parts["executor"].cls is not Folder:
        raise RecipeError(
            f"executor.name: {assembly.recipe.executor.name} needs no workers; begin the run with "
            "--set executor=folder, or resume it so"
        )
    return assembly
