"""Trials on a Ray cluster (extra ``ray``): by actors that live as long as the search."""

from __future__ import annotations

import json
import os
import pickle
import queue
import secrets
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from evonas.errors import PluginError
from evonas.executors.base import Executor, MakeEvaluator, Watch, reason, run_trial
from evonas.executors.parts import memory
from evonas.executors.parts.pool import START, Displaced, Pool, Slot, WorkerDied, WorkerLost
from evonas.recipe.options import Count, NonNegative, Positive
from evonas.trial import Trial

_KNOCK = 10.0  # seconds to wait for an answer of an address
_PLACE = 30.0  # seconds to wait at first for room in the cluster before another actor is asked
_REFRESH = 5.0  # seconds between looks at how large the cluster is
_HEADLESS = 30.0  # seconds without the head; after 60 Ray ends this process, whatever it does
_MARK = "seen.tmp"  # The run folder has it while it is looked whether a node sees it.


class Ray(Executor):
    """Run trials on the machines of a Ray cluster, each by an actor that is kept.

    As many run at once as the cluster has room for, also when nodes join or leave meanwhile. A
    trial whose actor dies is run once more, as in ``processes``; the loss of a node, or a lack of
    room, does not count. The search alone writes the journal. All nodes must see the run folder,
    where the weights are; the data set travels through Ray's object store, once a node.

    Args:
        make_evaluator: Builds the evaluator for a device; picklable.
        devices: Not used: nodes have their own.
        address: ``auto``, the cluster that this machine is part of; ``local``, a new one of this
            machine alone; or that of another, as ``ray://HOST:10001``.
        cpus_per_trial: CPU cores that a trial takes.
        gpus_per_trial: GPUs that it takes, such as 0.5; 0: it computes on the CPU.
        workers: Most trials at once; default: as many as there is room for.
        timeout: Seconds that one trial of the search may take; then its actor is killed.
        grace: Seconds that running trials have left after Ctrl-C or SIGTERM.

    Raises:
        PluginError: If Ray is not installed, or the cluster is not there.
    """

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        devices: tuple[str, ...],
        address: str = "auto",
        cpus_per_trial: Positive = 1.0,
        gpus_per_trial: NonNegative = 0.0,
        workers: Count | None = None,
        timeout: Annotated[float, Field(ge=1)] | None = None,
        grace: NonNegative = 60.0,
    ) -> None:
        super().__init__(make_evaluator, devices)
        self.grace = grace
        self._needs = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
        self._most, self._timeout = workers, timeout
        _connect(address)
        self._refreshed = self._answered = time.monotonic()
        self._begin = partial(_Remote, _Sent(make_evaluator), cpus_per_trial, gpus_per_trial)
        room = self._room()
        if room < 1:
            self.remark = f"trials wait for a node of the Ray cluster with room for {self._needs}"
        self._pool = Pool([self._slot() for _ in range(max(1, room))])

    @property
    def workers(self) -> int:  # type: ignore[override]
        """How many trials run at once now."""
        if time.monotonic() - self._refreshed > _REFRESH:
            self._refreshed = time.monotonic()
            room = self._room() if self._head_answers() else 0
            for _ in range(room - self._pool.size):  # a node has come
                self._pool.add(self._slot())
        return self._pool.size

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        """Start the trial in an idle actor, or as soon as there is one."""
        return self._pool.submit(trial, watch, self.deadline)

    def close(self, kill: bool = False) -> None:
        """End all actors; ``kill``: running trials become FAILED, waiting ones are cancelled."""
        self._pool.close(kill)

    def _slot(self) -> Slot:
        # Which GPU it was that failed is Ray's to know, and to find another.
        device = (lambda: "") if self._needs["GPU"] > 0 else None
        return Slot(self._begin, self._timeout, device)

    def _head_answers(self) -> bool:
        """Whether the head does; PluginError if it has not for long.

        A client of Ray's (``ray://``) does not know the head, and raises by itself.
        """
        ray = _ray()
        if ray.util.client.ray.is_connected():
            return True
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError as error:
            if time.monotonic() - self._answered > _HEADLESS:
                raise PluginError(f"executor ray: the cluster's head is gone: {error}") from error
            return False
        self._answered = time.monotonic()
        return True

    def _room(self) -> int:
        there = _ray().cluster_resources()
        fits = min(int(there.get(kind, 0) / need) for kind, need in self._needs.items() if need)
        return fits if self._most is None else min(fits, self._most)


def _connect(address: str) -> None:
    """Join the cluster, unless this process has; it stays joined until it ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = _ray()
    except ImportError as error:
        raise PluginError(
            "executor ray needs Ray: pip install 'evonas[ray]', here and on every node"
        ) from error
    if ray.is_initialized():
        return
    options = {"include_dashboard": False} if address == "local" else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if (host := address.removeprefix("ray://")) and ":" in host:
            # Ray itself waits for minutes where nobody answers.
            name, _, port = host.rpartition(":")
            socket.create_connection((name, int(port)), _KNOCK).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).partition("\n")[0]
        raise PluginError(
            f"executor.address: no Ray cluster at {address!r}: {said}; begin one by "
            "ray start --head, or take executor.address=local; for one that wants a token set "
            "RAY_AUTH_MODE=token"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's would exit, where a run is to be kept


def _ray() -> Any:
    """The library, which is an extra, and takes a while to import."""
    import ray

    return ray


class _Sent:
    """What builds the evaluator, in Ray's object store: sent to each node once.

    Args:
        make_evaluator: What it ``carried``, if it does, goes beside it, as arrays that all actors
            of a node share.

    Attributes:
        patience: Seconds that the next actor may take to be there.
    """

    def __init__(self, make_evaluator: MakeEvaluator) -> None:
        self._made = pickle.dumps(make_evaluator)  # so that what cannot be pickled fails at once
        self._data = getattr(make_evaluator, "carried", None)
        self.run_dir: Path | None = getattr(make_evaluator, "run_dir", None)
        self.patience = _PLACE

    @cached_property
    def stored(self) -> Any:
        """A reference to it, for an actor."""
        import torch

        ray, as_array = _ray(), torch.Tensor.numpy
        ray.util.register_serializer(torch.Tensor, serializer=as_array, deserializer=_as_tensor)
        return ray.put((self._made, list(sys.path), self._data))


def _as_tensor(array: Any) -> Any:
    import torch

    with warnings.catch_warnings():  # of an array that may not be written, which nobody does
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


class _Remote:
    """One actor, seen from the search."""

    def __init__(self, sent: _Sent, cpus: float, gpus: float) -> None:
        made = _ray().remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,  # by default Ray would run what kills its worker four times
            max_task_retries=0,
            max_concurrency=3,  # a trial, who waits for its reports, and who answers them
        )(_Actor)
        self._sent = sent
        self._actor = made.remote(sent.stored, "cuda" if gpus else "cpu")
        self._dead = False

    @property
    def alive(self) -> bool:
        """Whether it has not died, as far as is known."""
        return not self._dead

    def await_ready(self) -> None:
        """Wait for room, then until the evaluator is built."""
        patience = self._sent.patience
        if self._got(self._actor.is_there.remote(), patience) is None:
            self.kill()
            # Or it was slow to start, as where torch is imported from a network disk.
            self._sent.patience = min(2 * patience, START)
            raise Displaced("there is no room in the Ray cluster")
        if (run_dir := self._sent.run_dir) is not None and run_dir.is_dir():
            self._check_seen(run_dir)
        fault = self._got(self._actor.build.remote(), START)
        if fault is None:
            raise WorkerLost(f"timeout: no evaluator after {START:g} seconds")
        if fault:
            raise WorkerLost(fault)

    def run(self, trial: Trial, watch: Watch | None, timeout: float | None) -> Trial:
        """Run a trial, and answer its reports."""
        ray = _ray()
        start = time.monotonic()
        ended = self._actor.run.remote(json.dumps(trial.to_json()), watch is not None)
        while True:
            waiting = [ended, *([self._actor.report.remote()] if watch else [])]
            left = None if timeout is None else max(0.0, start + timeout - time.monotonic())
            ready, _ = ray.wait(waiting, num_returns=1, timeout=left)
            if not ready:
                raise WorkerLost(f"timeout: not done after {timeout:g} seconds")
            report = None if ready[0] == ended else self._got(ready[0])
            if report is None:
                return Trial.from_json(json.loads(self._got(ended)))
            assert watch is not None, "who is not watched does not report"
            self._got(self._actor.answer.remote(watch(*report)))

    def dismiss(self) -> None:
        """It ends when it is killed."""

    def end(self, grace: float) -> None:
        """Nothing is left of it, whatever the grace."""
        self.kill()

    def kill(self) -> None:
        """End it now."""
        ray = _ray()
        self._dead = True
        with suppress(ray.exceptions.RayError, ConnectionError):
            ray.kill(self._actor)

    def _check_seen(self, run_dir: Path) -> None:
        mark, text = run_dir / f"{secrets.token_hex(4)}-{_MARK}", secrets.token_hex(8)
        mark.write_text(text)
        try:
            if not self._got(self._actor.sees.remote(str(mark.absolute()), text)):
                raise WorkerLost(
                    f"a node of the Ray cluster does not see {run_dir}: put it on a path that all "
                    "nodes share (--run-dir)"
                )
        finally:
            mark.unlink()

    def _got(self, reference: Any, timeout: float | None = None) -> Any:
        """What the actor returns; None if that takes too long."""
        ray = _ray()
        try:
            return ray.get(reference, timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.OutOfMemoryError as error:
            self._dead = True
            raise WorkerLost("worker died: out of memory") from error
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
            self._dead = True
            if "node has died" in str(error) or "node was terminated" in str(error):
                raise Displaced("a node of the Ray cluster was lost") from error
            raise WorkerDied("worker died") from error
        except ray.exceptions.RaySystemError as error:
            said = str(error).partition("\n")[0]
            raise PluginError(f"executor ray: the cluster is gone: {said}") from error


class _Actor:
    """What runs on a node; see ``_Remote``."""

    def __init__(self, sent: tuple[bytes, list[str], Any], device: str) -> None:
        self._sent, self._device = sent, device
        self._reports: queue.SimpleQueue[tuple[int, Mapping[str, float]] | None] = (
            queue.SimpleQueue()
        )
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._evaluator: Any = None

    def is_there(self) -> bool:
        """Answered as soon as there is room for it."""
        return True

    def sees(self, path: str, text: str) -> bool:
        """Whether a file says so here."""
        with suppress(OSError):
            return Path(path).read_text() == text
        return False

    def build(self) -> str:
        """Build the evaluator; why that failed, if it did."""
        made, paths, data = self._sent
        sys.path += [path for path in paths if path not in sys.path]
        try:
            factory = pickle.loads(made)
            if data is not None:
                factory.data = data
            self._evaluator = factory(self._device)
        # Anybody's code, as in ``run_trial``: what it raises is the reason why the trial failed.
        except BaseException as error:
            return reason(error)
        return ""

    def run(self, trial: str, watched: bool) -> str:
        """How a trial ended, as JSON."""
        watch = self._ask if watched else None
        ended = run_trial(self._evaluator, Trial.from_json(json.loads(trial)), watch)
        memory.give_back()
        if watched:  # then the search waits for one report more than there are
            self._reports.put(None)
        return json.dumps(ended.to_json())

    def report(self) -> tuple[int, Mapping[str, float]] | None:
        """The next report of the trial that runs; None when it has ended."""
        return self._reports.get()

    def answer(self, stop: bool) -> None:
        """Whether the trial that reported is to stop."""
        self._answers.put(stop)

    def _ask(self, step: int, metrics: Mapping[str, float]) -> bool:
        self._reports.put((step, metrics))
        return self._answers.get()
