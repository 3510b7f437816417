"""One run from start to end: search, history, trackers, final training, report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import yaml

from evonas import __version__, files
from evonas.errors import HistoryError, RunInUse, StorageError, TooManyFailures
from evonas.executors.base import Executor
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.recipe.schema import Recipe
from evonas.report import page
from evonas.runs import audit, ending, warm_start
from evonas.runs.assemble import Assembly, assemble, tracker_of
from evonas.runs.journal import JOURNAL, Journal, read_journal
from evonas.runs.search import End, search
from evonas.strategies.base import Strategy
from evonas.trackers.base import Report, RunInfo, Tracker, note_all
from evonas.trial import Objective, Trial, TrialState
from evonas.trials import Trials

_GROWS = ("budget.", "final.", "audit.", "executor.", "tracking.")  # what a resumed run may change
_MAIN_PACKAGES = ("torch", "torchvision", "deap", "optuna", "mlflow", "numpy")


@runtime_checkable
class Syncs(Protocol):
    """A tracker that keeps what it is told somewhere where some of it may be missing."""

    def sync(self, run: RunInfo, events: Sequence[Trial], report: Report | None) -> int:
        """Send now whatever was missed of a run; returns the number of trials sent.

        Args:
            run: What ran.
            events: Its journal.
            report: Its end; None if it was cut off.

        Raises:
            PluginError: If the tracker's store cannot be reached.
        """


class Interruption:
    """SIGINT or SIGTERM, once: finish what runs. A second one: stop now.

    Attributes:
        signal: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether to stop proposing."""
        return self.signal is not None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle the two signals; the handlers of before are put back."""
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.signal = self.signal is None, number
        if not first:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        run_dir: The run folder.
        report: What is known at its end.
    """

    run_dir: Path
    report: Report


def start(
    given: Recipe,
    registry: Registry,
    run_dir: Path | None = None,
    listeners: Sequence[Tracker] = (),
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a recipe.

    Args:
        given: The recipe.
        registry: Where its components come from.
        run_dir: The run folder; default: a new one under ``mlruns``.
        listeners: Trackers beside the recipe's own, such as the console.
        stopping: See ``search``.

    Raises:
        EvonasError: Before anything is written if the recipe, its data or plugins are at fault.
    """
    folder = run_dir or _fresh(given)
    assembly = assemble(given, registry, folder)
    taken = warm_start.events(assembly)
    _make(folder, assembly)
    with _journal(folder, listeners) as journal:
        _store(assembly, folder)
        files.store(folder / "environment.txt", _installed(assembly))
        journal.begin(
            {
                "version": __version__,
                "started": time.time(),
                "recipe": assembly.recipe.digest,
                "data": assembly.fingerprint,
                "plugins": [str(path.absolute()) for path in registry.plugins],
                "taken": len(taken),
            }
        )
        _take(journal, taken)
        return _execute(assembly, folder, journal, listeners, stopping)


def resume(
    run_dir: Path,
    overrides: Sequence[str] = (),
    listeners: Sequence[Tracker] = (),
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Go on with a run; only budget, executor and tracking may be changed.

    Raises:
        HistoryError: If the folder holds no run, or recipe or data are not those of the run.
    """
    header, _ = read_journal(run_dir)
    for override in overrides:
        if not override.startswith(_GROWS):
            raise HistoryError(
                f"--set {override}: a resumed run may change {', '.join(_GROWS)}… only"
            )
    assembly = assemble(
        reading.load(run_dir / reading.FILE, overrides), registry_of(header), run_dir
    )
    with _journal(run_dir, listeners) as journal:
        _check(journal, run_dir, assembly)
        if len(journal.events) < journal.header.get("taken", 0):  # it was killed on the way
            _take(journal, warm_start.events(assembly)[len(journal.events) :])
        _store(assembly, run_dir)
        return _execute(assembly, run_dir, journal, listeners, stopping)


def _take(journal: Journal, events: Sequence[Trial]) -> None:
    for event in events:
        journal.append(event)


def _store(assembly: Assembly, folder: Path) -> None:
    text = yaml.safe_dump(assembly.recipe.dump(), sort_keys=False)
    files.store(folder / reading.FILE, text)


def _execute(
    assembly: Assembly,
    folder: Path,
    journal: Journal,
    listeners: Sequence[Tracker],
    stopping: Callable[[], bool],
) -> Outcome:
    info = RunInfo(
        assembly.recipe.name,
        folder,
        assembly.recipe.dump(),
        assembly.objectives,
        environment(assembly.devices),
        journal.header["started"],
        resumed=any(trial.origin is None for trial in journal.events),
    )
    own = tracker_of(assembly.recipe, assembly.registry)
    trackers = (*listeners, *([] if type(own) in map(type, listeners) else [own]))
    for tracker in trackers:
        tracker.start(info, journal.events)
    end: End | TooManyFailures = End.STOPPED
    strategy = assembly.strategy()
    wanted = _Wanted(strategy, assembly.objectives, journal.events)

    def followed(executor: Executor) -> Iterator[Trial]:
        nonlocal end
        earlier = tuple(journal.events)
        seed, budget = assembly.recipe.seed, assembly.budget
        pruner = assembly.pruner()
        end = yield from search(strategy, executor, budget, seed, earlier, stopping, pruner)

    try:
        assembly.evaluator.prepare(partial(note_all, trackers), stopping)
        with assembly.executor() as executor:
            for trial in followed(executor):
                wanted.tell(trial)
                if trial.state is TrialState.RUNNING:
                    # Before it is written down: so a killed run, resumed, frees what it would have.
                    assembly.evaluator.retain(wanted.trials())
                journal.append(trial)
                for tracker in trackers:
                    tracker.record(trial)
    except TooManyFailures as error:
        end = error
    report = ending.conclude(assembly, folder, journal.events, end, trackers, stopping, strategy)
    for tracker in trackers:
        tracker.close(report)
    if isinstance(end, TooManyFailures):
        raise end
    return Outcome(folder, report)


class _Wanted:
    """The trials whose leftovers may still be wanted: a fold over events."""

    def __init__(
        self, strategy: Strategy, objectives: Sequence[Objective], events: Sequence[Trial]
    ) -> None:
        self._strategy, self._objectives = strategy, objectives[:1]
        self._running: dict[int, Trial] = {}
        self._best: Trial | None = None
        self._count = 0
        for trial in events:
            self.tell(trial)

    def tell(self, trial: Trial) -> None:
        """Take in an event."""
        self._count = max(self._count, trial.number + 1)
        if trial.state is TrialState.RUNNING:
            self._running[trial.number] = trial
            return
        self._running.pop(trial.number, None)
        by = self._objectives
        if trial.state is TrialState.COMPLETE and (
            self._best is None or trial.rank(by) > self._best.rank(by)
        ):
            self._best = trial

    def trials(self) -> list[int]:
        """The most important first: what running trials need, the best, what may be needed."""
        needed: list[int] = []
        for number, trial in self._running.items():
            rung = trial.proposal.resume_from
            needed += [number, *trial.proposal.parents, *([] if rung is None else [rung])]
        if self._best is not None:
            needed.append(self._best.number)
        living = self._strategy.living()
        others = reversed(range(self._count)) if living is None else living
        return list(dict.fromkeys([*needed, *others]))


def examine(
    run_dir: Path,
    trials: int,
    listeners: Sequence[Tracker] = (),
    stopping: Callable[[], bool] = lambda: False,
) -> audit.Audit | None:
    """Audit a run that is over: train a sample of its trials for good, and compare.

    Args:
        run_dir: The run folder.
        trials: Size of the sample.
        listeners: Told how it goes.
        stopping: Asked before every training.

    Returns:
        None if there is nothing to compare (see ``audit.audit``).

    Raises:
        HistoryError: If the folder holds no run, or none with enough completed trials.
        RunInUse: If the run is still going on.
        retraining.Stopped: If the user wants to stop; asking again goes on.
    """
    note = partial(note_all, listeners)
    header, _ = read_journal(run_dir)
    assembly = assemble(reading.load(run_dir / reading.FILE), registry_of(header), run_dir)
    with _journal(run_dir, listeners) as journal:
        _check(journal, run_dir, assembly)
        ranking = Trials(assembly.objectives, journal.events).ranking()
        if len(ranking) < audit.LEAST:
            raise HistoryError(f"{run_dir}: {len(ranking)} completed trials are too few to audit")
        retraining = ending.retraining_of(assembly, run_dir, note, stopping)
        done = ending.audited(assembly, run_dir, ranking, retraining, trials, note)
        report = ending.known(run_dir, assembly.objectives, journal.events)
        if done is not None and report is not None:
            name, objectives = assembly.recipe.name, assembly.objectives
            page.write(run_dir, name, objectives, journal.events, report)
            _send(run_dir, journal.header, journal.events)
        return done


def sync(run_dir: Path) -> int:
    """Send to the run's tracker what it lacks; returns the number of trials sent.

    Raises:
        HistoryError: If the folder holds no run.
        RunInUse: If the run is still going on; it sends for itself.
        PluginError: If the tracker's store cannot be reached.
    """
    read_journal(run_dir)
    with Journal(run_dir) as journal:  # held, so that a running search does not send the same
        return _send(run_dir, journal.header, journal.events)


def _send(run_dir: Path, header: Mapping[str, Any], events: Sequence[Trial]) -> int:
    if not header:
        raise HistoryError(f"{run_dir} holds no run: its first record was never written")
    stored = reading.load(run_dir / reading.FILE)
    objectives = tuple(Objective(metric, way) for metric, way in stored.objectives.items())
    info = RunInfo(
        stored.name, run_dir, stored.dump(), objectives, environment(()), header["started"]
    )
    report = ending.known(run_dir, objectives, events)
    tracker = tracker_of(stored, registry_of(header))
    return tracker.sync(info, events, report) if isinstance(tracker, Syncs) else 0


def registry_of(header: Mapping[str, Any]) -> Registry:
    """The registry that a run began with."""
    return Registry(tuple(Path(path) for path in header.get("plugins", ())))


def _fresh(given: Recipe) -> Path:
    """Name of a run folder that does not exist yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("mlruns") / f"{given.name.replace(' ', '_')}-{stamp}-{secrets.token_hex(4)}"


def _make(folder: Path, assembly: Assembly) -> None:
    """Make the run folder; one that holds a run is refused."""
    try:
        if (folder / JOURNAL).exists():
            header, _ = read_journal(folder)
            if header and header["recipe"] != assembly.recipe.digest:
                raise HistoryError(
                    f"{folder} holds a run of another recipe; choose another --run-dir"
                )
            if header:
                raise RunInUse(f"{folder} holds a run already; go on with: evonas resume {folder}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"run folder {folder}: {error.strerror}") from error


def _check(journal: Journal, run_dir: Path, assembly: Assembly) -> None:
    """Refuse a folder whose journal is not that of its recipe and data."""
    if not journal.header:
        raise HistoryError(f"{run_dir} holds no run: its first record was never written")
    if journal.header["recipe"] != assembly.recipe.digest:
        raise HistoryError(f"{run_dir} is a run of another recipe than its {reading.FILE} says")
    if journal.header["data"] != assembly.fingerprint:
        raise HistoryError(f"{run_dir}: the data set is not the one that the run began with")


@contextmanager
def _journal(folder: Path, listeners: Sequence[Tracker]) -> Iterator[Journal]:
    with Journal(folder) as journal:
        if journal.dropped:
            dropped = f"{journal.path}: dropped a torn last line of {journal.dropped} bytes"
            note_all(listeners, dropped)
        yield journal


def environment(devices: Sequence[str]) -> dict[str, str]:
    """Versions and devices that a result depends on."""
    versions = {name: importlib.metadata.version(name) for name in _MAIN_PACKAGES}
    return {
        "evonas": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        "devices": ", ".join(devices),
        **versions,
    }


def _installed(assembly: Assembly) -> str:
    """The environment and every installed distribution, one a line."""
    head = [f"# {name}: {value}" for name, value in environment(assembly.devices).items()]
    found = {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()}
    return "\n".join([*head, *sorted(found, key=str.lower)]) + "\n"
