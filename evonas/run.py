"""One run from start to end: search, history, trackers, final training, report."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from evonas import __version__, history, incumbents, recipe
from evonas.assemble import Assembly, assemble, tracker_of
from evonas.errors import HistoryError, RunInUse, StorageError, TooManyFailures
from evonas.executors.base import Executor
from evonas.history import History
from evonas.objective import Objective
from evonas.recipe import Recipe
from evonas.registry import Registry
from evonas.report import page
from evonas.search import End, search
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trial import Trial

RECIPE = "recipe.yaml"
REPORT = "report.json"  # what of the report the history does not say
_GROWS = ("budget.", "executor.", "tracking.")  # what a resumed run may change
_MAIN_PACKAGES = ("torch", "torchvision", "deap", "optuna", "mlflow", "numpy")


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
    assembly = assemble(given, registry)
    folder = _new_folder(given, run_dir, assembly)
    with _journal(folder, listeners) as journal:
        _write(folder / RECIPE, yaml.safe_dump(assembly.recipe.dump(), sort_keys=False))
        _write(folder / "environment.txt", _installed(assembly))
        journal.begin(
            {
                "version": __version__,
                "started": time.time(),
                "recipe": assembly.recipe.digest,
                "data": assembly.fingerprint,
                "plugins": [str(path.absolute()) for path in registry.plugins],
            }
        )
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
    header, _ = history.read(run_dir)
    for override in overrides:
        if not override.startswith(_GROWS):
            raise HistoryError(
                f"--set {override}: a resumed run may change {', '.join(_GROWS)}… only"
            )
    registry = Registry(tuple(Path(path) for path in header.get("plugins", ())))
    assembly = assemble(recipe.load(run_dir / RECIPE, overrides), registry)
    with _journal(run_dir, listeners) as journal:
        if not journal.header:
            raise HistoryError(f"{run_dir} holds no run: its first record was never written")
        if journal.header["recipe"] != assembly.recipe.digest:
            raise HistoryError(f"{run_dir} is a run of another recipe than its {RECIPE} says")
        if journal.header["data"] != assembly.fingerprint:
            raise HistoryError(f"{run_dir}: the data set is not the one that the run began with")
        _write(run_dir / RECIPE, yaml.safe_dump(assembly.recipe.dump(), sort_keys=False))
        return _execute(assembly, run_dir, journal, listeners, stopping)


def _execute(
    assembly: Assembly,
    folder: Path,
    journal: History,
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
        resumed=bool(journal.events),
    )
    own = tracker_of(assembly.recipe, assembly.registry)
    trackers = (*listeners, *([] if type(own) in map(type, listeners) else [own]))
    for tracker in trackers:
        tracker.start(info, tuple(journal.events))
    end: End | TooManyFailures = End.STOPPED

    def followed(executor: Executor) -> Iterator[Trial]:
        nonlocal end
        earlier = tuple(journal.events)
        seed, budget = assembly.recipe.seed, assembly.budget
        end = yield from search(assembly.strategy(), executor, budget, seed, earlier, stopping)

    try:
        with assembly.executor() as executor:
            for trial in followed(executor):
                journal.append(trial)
                for tracker in trackers:
                    tracker.record(trial)
    except TooManyFailures as error:
        end = error
    report = _conclude(assembly, folder, journal.events, end, trackers)
    for tracker in trackers:
        tracker.close(report)
    if isinstance(end, TooManyFailures):
        raise end
    return Outcome(folder, report)


def _conclude(
    assembly: Assembly,
    folder: Path,
    events: Sequence[Trial],
    end: End | TooManyFailures,
    trackers: Sequence[Tracker],
) -> Report:
    """Train the winner for good, unless that was done before, and write the report."""

    def note(message: str) -> None:
        for tracker in trackers:
            tracker.note(message)

    final: Mapping[str, float] = {}
    best = history.incumbent(events, assembly.objectives)
    status, reason = "finished", str(end).splitlines()[0]
    if isinstance(end, TooManyFailures):
        status = "failed"
    elif end is End.STOPPED:
        status = "interrupted"
    elif best is not None:
        try:
            final = incumbents.conclude(assembly.evaluator, best, folder, note)
        except RuntimeError as error:  # diverged, or out of memory
            status, reason = "failed", f"the final training failed: {error}".splitlines()[0]
    said: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "acceptance": assembly.acceptance,
    }
    _write(folder / REPORT, json.dumps(said))
    report = _summary(assembly.objectives, events, final, **said)
    page.write(folder, assembly.recipe.name, assembly.objectives, events, report)
    return report


def sync(run_dir: Path) -> int:
    """Send to the run's tracker what it lacks; returns the number of trials sent.

    Raises:
        HistoryError: If the folder holds no run.
        RunInUse: If the run is still going on; it sends for itself.
        PluginError: If the tracker's store cannot be reached.
    """
    history.read(run_dir)
    with History(run_dir) as journal:  # held, so that a running search does not send the same
        return _send(run_dir, journal.header, journal.events)


def _send(run_dir: Path, header: Mapping[str, Any], events: Sequence[Trial]) -> int:
    if not header:
        raise HistoryError(f"{run_dir} holds no run: its first record was never written")
    stored = recipe.load(run_dir / RECIPE)
    registry = Registry(tuple(Path(path) for path in header["plugins"]))
    objectives = tuple(Objective(metric, way) for metric, way in stored.objectives.items())
    info = RunInfo(
        stored.name, run_dir, stored.dump(), objectives, environment(()), header["started"]
    )
    report = None
    if (run_dir / REPORT).exists():
        said = json.loads((run_dir / REPORT).read_text())
        best = history.incumbent(events, objectives)
        final = incumbents.stored(run_dir, best.number) if best else None
        report = _summary(objectives, events, final or {}, **said)
    return tracker_of(stored, registry).sync(info, tuple(events), report)


def _summary(
    objectives: Sequence[Objective],
    events: Sequence[Trial],
    final: Mapping[str, float],
    status: str,
    reason: str,
    acceptance: float | None,
) -> Report:
    return Report(
        status,
        reason,
        Counter(str(trial.state) for trial in history.latest(events)),
        max((trial.elapsed for trial in events), default=0.0),
        history.incumbent(events, objectives),
        history.pareto_front(events, objectives),
        final,
        acceptance,
    )


def _new_folder(given: Recipe, run_dir: Path | None, assembly: Assembly) -> Path:
    """Make the run folder; one that holds another recipe's run is refused."""
    home = Path("mlruns")
    try:
        if run_dir is None:
            home.mkdir(exist_ok=True)
            stamp = time.strftime("%Y%m%d-%H%M%S")
            prefix = f"{given.name.replace(' ', '_')}-{stamp}-"
            return Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        if (run_dir / history.FILE).exists():
            header, _ = history.read(run_dir)
            if header and header["recipe"] != assembly.recipe.digest:
                raise HistoryError(
                    f"{run_dir} holds a run of another recipe; choose another --run-dir"
                )
            if header:
                raise RunInUse(
                    f"{run_dir} holds a run already; go on with: evonas resume {run_dir}"
                )
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"run folder {run_dir or home}: {error.strerror}") from error
    return run_dir


@contextmanager
def _journal(folder: Path, listeners: Sequence[Tracker]) -> Iterator[History]:
    with History(folder) as journal:
        if journal.dropped:
            for listener in listeners:
                size = journal.dropped
                listener.note(f"{journal.path}: dropped a torn last line of {size} bytes")
        yield journal


def _write(path: Path, text: str) -> None:
    try:
        history.write_whole(path, text)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


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
