"""One run from start to end: search, final trainings, audit, report; begun, resumed, looked at."""

from __future__ import annotations

import re
import secrets
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from evonas import __version__, files
from evonas.architecture import check_choices
from evonas.errors import (
    HistoryError,
    InvalidArchitecture,
    PluginError,
    RecipeError,
    RunInUse,
    StorageError,
    TooManyFailures,
)
from evonas.recipe import reading
from evonas.recipe.registry import Registry, blamed
from evonas.recipe.schema import Recipe
from evonas.report import page
from evonas.runs import audit, final, front, provenance, summary, warm_start
from evonas.runs.assemble import Assembly, Parts, assemble
from evonas.runs.journal import JOURNAL, Journal, held, read_header, read_journal
from evonas.runs.search import End
from evonas.runs.session import Session, Stopped
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trackers.console import Console
from evonas.training import devices
from evonas.trial import Objective, Proposal, Trial, TrialState

# What a resumed run may change: nothing that the trials of its search depend on.
_GROWS = "budget, final, audit, executor, tracking and evaluation.final_epochs"
_GROWS_PATTERN = r"(budget|final|audit|executor|tracking)[.=]|evaluation\.(of\.)*final_epochs="


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

    Args:
        announce: Called by the first, within the handler of the signal: it must not wait.

    Attributes:
        signal: The signal that came, or None.
    """

    def __init__(self, announce: Callable[[], None] = lambda: None) -> None:
        self.signal: int | None = None
        self._announce = announce

    def __call__(self) -> bool:
        """Whether to stop proposing."""
        return self.signal is not None

    @contextmanager
    def watching(self, *more: int) -> Iterator[None]:
        """Handle the two signals, and more; the handlers of before are put back.

        Raises:
            PluginError: If somebody raised KeyboardInterrupt, and no signal had come.
        """
        numbers = (signal.SIGINT, signal.SIGTERM, *more)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        except KeyboardInterrupt as error:
            if self.signal is not None:
                raise
            *_, frame = traceback.extract_tb(error.__traceback__)
            raise PluginError(
                f"{frame.filename}, line {frame.lineno}: raises KeyboardInterrupt; nobody sent one"
            ) from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.signal = self.signal is None, number
        if not first:
            raise KeyboardInterrupt
        self._announce()


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
    sweep: str = "",
) -> Outcome:
    """Run a recipe.

    Args:
        given: The recipe.
        registry: Where its components come from.
        run_dir: The run folder; default: a new one under ``mlruns``.
        listeners: Trackers beside the recipe's own, such as the console.
        stopping: See ``search``.
        sweep: Name of the sweep that the run belongs to.

    Raises:
        EvonasError: Before anything is written if the recipe, its data or plugins are at fault.
    """
    if given.sweep:
        raise RecipeError("the recipe has a sweep; run it with evonas sweep, or --set sweep={}")
    folder = run_dir or fresh_folder(given.name)
    assembly = assemble(given, registry, folder)
    taken, rungs = warm_start.events(assembly), sorted(assembly.strategy().fidelities)
    _make(folder, assembly)
    with _journal(folder, listeners) as journal:
        _store(assembly, folder)
        files.store(folder / provenance.FILE, provenance.installed(assembly.devices))
        if (data := assembly.make_evaluator.data) and data.test_files:
            files.store(folder / "test_images.txt", "\n".join((*data.test_files, "")))
        journal.begin(
            {
                "version": __version__,
                "started": time.time(),
                "source": provenance.source(),
                "recipe": assembly.recipe.digest,
                "data": assembly.fingerprint,
                "fidelities": rungs,
                "sweep": sweep,
                # One number for the whole run: with another, sums of floats come out otherwise.
                "threads": assembly.threads(),
                "plugins": [str(path.absolute()) for path in registry.plugins],
                "taken": len(taken),
            }
        )
        for event in taken:
            journal.append(event)
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
    with _reopened(run_dir, listeners, overrides) as (assembly, journal):
        if len(journal.events) < journal.header.get("taken", 0):  # it was killed on the way
            for event in warm_start.events(assembly)[len(journal.events) :]:
                journal.append(event)
        _store(assembly, run_dir)
        return _execute(assembly, run_dir, journal, listeners, stopping)


def reopened(run_dir: Path) -> Assembly:
    """The parts of a run that has begun, here or on another machine, for who does not write it.

    Raises:
        HistoryError: If it never began, or recipe, data or space are not those that it began with.
    """
    header, events = read_journal(run_dir)
    assembly = _assembled(run_dir, header)
    _check(run_dir, header, events, assembly)
    return assembly


@contextmanager
def _reopened(
    run_dir: Path, listeners: Sequence[Tracker], overrides: Sequence[str] = ()
) -> Iterator[tuple[Assembly, Journal]]:
    """The same for who writes it: its parts, and its journal, held."""
    assembly = _assembled(run_dir, read_header(run_dir), overrides)
    with _journal(run_dir, listeners) as journal:
        _check(run_dir, journal.header, journal.events, assembly)
        yield assembly, journal


def _assembled(run_dir: Path, header: Mapping[str, Any], overrides: Sequence[str] = ()) -> Assembly:
    """The parts of a run that has begun, as its folder says; to be held against its journal."""
    _check_begun(run_dir, header)
    for override in overrides:
        if not re.match(_GROWS_PATTERN, override):
            raise HistoryError(f"--set {override}: a resumed run may change {_GROWS} only")
    recipe = reading.load(run_dir / reading.FILE, overrides)
    return assemble(recipe, registry_of(header), run_dir)


def _check(
    run_dir: Path, header: Mapping[str, Any], events: Sequence[Trial], assembly: Assembly
) -> None:
    """Refuse a journal that is not of the recipe, the data and the space."""
    if header["recipe"] != assembly.recipe.digest:
        raise HistoryError(f"{run_dir} is a run of another recipe than its {reading.FILE} says")
    if header["data"] != assembly.fingerprint:
        raise HistoryError(f"{run_dir}: the data set here is not the one that the run began with")
    space, begun = assembly.space, dict[tuple[str, int], Proposal]()
    for trial in events:
        name = trial.proposal.stage, trial.number
        if trial.state is TrialState.RUNNING or trial.origin is not None:
            begun[name] = trial.proposal
        elif begun.get(name) != trial.proposal:
            raise HistoryError(f"{run_dir}: trial {trial.number} ends, and was never begun")
        try:  # its file is a plugin's, perhaps, and was edited
            check_choices(space.domains, trial.architecture.choices)
        except InvalidArchitecture as error:
            raise HistoryError(
                f"{run_dir}: space {space.name!r} has changed since the run began: "
                f"of trial {trial.number} {error}"
            ) from error


def _store(assembly: Assembly, folder: Path) -> None:
    files.store(folder / reading.FILE, reading.text(assembly.recipe))


def _execute(
    assembly: Assembly,
    folder: Path,
    journal: Journal,
    listeners: Sequence[Tracker],
    stopping: Callable[[], bool],
) -> Outcome:
    resumed = any(trial.origin is None for trial in journal.events)
    info = info_of(folder, journal.header, assembly.devices, resumed)
    own = assembly.tracker()
    # Whoever listens speaks to the terminal already, or asked for silence there.
    trackers = (*listeners, *([] if listeners and isinstance(own, Console) else [own]))
    for tracker in trackers:
        with blamed(type(tracker), "cannot start"):
            tracker.start(info, journal.events)
    session = Session(assembly, folder, journal, trackers, stopping)
    if data := assembly.make_evaluator.data:
        session.note(f"data: {data}")
    for remark in assembly.remarks:
        session.note(remark)
    if assembly.known:
        session.note(f"known networks come first: {', '.join(assembly.known)}")
    strategy = assembly.strategy()
    end: End | TooManyFailures
    with devices.cpu_threads(journal.header.get("threads")):
        try:
            prepared = assembly.evaluator.prepare(session.note, stopping)
            end = session.search(strategy) if prepared else End.STOPPED
        except TooManyFailures as error:
            end = error
        status, reason = _conclude(session, end)
    report = summary.write(session, info, status, reason, strategy)
    for tracker in trackers:
        with blamed(type(tracker), "cannot close"):
            tracker.close(report)
    if isinstance(end, TooManyFailures):
        raise end
    return Outcome(folder, report)


def _conclude(session: Session, end: End | TooManyFailures) -> tuple[str, str]:
    """Train the best in full and audit the search, unless that was done before.

    After an interruption nothing is trained.

    Returns:
        The run's status, and why it ended.
    """
    ranking, recipe = session.trials().ranking(), session.assembly.recipe
    reason = str(end).splitlines()[0]
    if isinstance(end, TooManyFailures):
        return "failed", reason
    if end is End.STOPPED:
        return "interrupted", reason
    if not ranking:
        return "finished", reason
    if session.assembly.evaluator.finals:
        session.note("the search is over; training the best for good")
    retry = summary.status(session.folder) == "failed"
    try:
        final.conclude(session, ranking, recipe.final, retry)
        if recipe.final.networks == "front":
            front.keep(session)
        if recipe.audit is not None:
            audit.audit(session, ranking, recipe.audit.trials)
    except final.AllFailed as error:
        return "failed", f"the final training failed: {error}".splitlines()[0]
    except Stopped:
        return "interrupted", str(End.STOPPED)
    return "finished", reason


def examine(
    run_dir: Path,
    trials: int,
    listeners: Sequence[Tracker] = (),
    stopping: Callable[[], bool] = lambda: False,
) -> audit.Audit | None:
    """Audit a run that is over: train a sample of its trials in full, and compare.

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
        Stopped: If the user wants to stop; asking again goes on.
    """
    with _reopened(run_dir, listeners) as (assembly, journal):
        session = Session(assembly, run_dir, journal, tuple(listeners), stopping)
        ranking = session.trials().ranking()
        if len(ranking) < audit.LEAST:
            raise HistoryError(f"{run_dir}: {len(ranking)} completed trials are too few to audit")
        info = info_of(run_dir, journal.header, assembly.devices)
        for listener in listeners:
            listener.start(info, journal.events)
        with devices.cpu_threads(journal.header.get("threads")):
            done = audit.audit(session, ranking, trials)
        report = summary.read(run_dir, assembly.objectives, journal.events)
        if report is not None:
            for listener in listeners:
                listener.close(report)
        if done is not None and report is not None:
            page.write(info, journal.events, report)
            _send(run_dir, journal.header, journal.events)
        return done


def report(run_dir: Path) -> Path:
    """Write the run's ``report.html`` anew, whether it ended or goes on; returns its path.

    Raises:
        HistoryError: If the folder holds no run.
        StorageError: If the disk does not take it.
    """
    goes_on = held(run_dir)
    header, events = read_journal(run_dir)
    info = info_of(run_dir, header)
    known = None if goes_on else summary.read(run_dir, info.objectives, events)
    said = known or summary.so_far(run_dir, info.objectives, events, goes_on)
    return page.write(info, events, said)


def sync(run_dir: Path) -> int:
    """Send to the run's tracker what it lacks; returns the number of trials sent.

    Raises:
        HistoryError: If the folder holds no run.
        RunInUse: If the run is still going on; it sends for itself.
        PluginError: If the tracker's store cannot be reached.
    """
    read_header(run_dir)
    with Journal(run_dir) as journal:  # held, so that a running search does not send the same
        return _send(run_dir, journal.header, journal.events)


def _send(run_dir: Path, header: Mapping[str, Any], events: Sequence[Trial]) -> int:
    info = info_of(run_dir, header)
    report = summary.read(run_dir, info.objectives, events)
    recipe = reading.load(run_dir / reading.FILE)
    tracker = Parts(recipe, registry_of(header))["tracking"]()
    return tracker.sync(info, events, report) if isinstance(tracker, Syncs) else 0


def info_of(
    run_dir: Path,
    header: Mapping[str, Any],
    computed_on: Sequence[str] = (),
    resumed: bool = False,
) -> RunInfo:
    """What trackers and pages are told of a run.

    Args:
        run_dir: The run folder.
        header: Of its journal.
        computed_on: Devices of this session; none: the environment that the run began in is told.
        resumed: Whether this session goes on with an earlier one's search.

    Raises:
        HistoryError: If the folder holds no search.
    """
    _check_begun(run_dir, header)
    recipe = reading.load(run_dir / reading.FILE)
    return RunInfo(
        recipe.name,
        run_dir,
        recipe.dump(),
        tuple(Objective(metric, way) for metric, way in recipe.objectives.items()),
        provenance.environment(computed_on) if computed_on else provenance.recorded(run_dir),
        header["started"],
        resumed,
        source=header.get("source", {}),
        data=header["data"] or "",
        fidelities=tuple(header.get("fidelities", (1.0,))),
        sweep=header.get("sweep", ""),
    )


def registry_of(header: Mapping[str, Any]) -> Registry:
    """The registry that a run began with."""
    folders = tuple(Path(path) for path in header.get("plugins", ()))
    return Registry(folders, named_by="the run's journal")


def fresh_folder(name: str) -> Path:
    """A folder of ``mlruns`` that does not exist yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("mlruns") / f"{name.replace(' ', '_')}-{stamp}-{secrets.token_hex(4)}"


def _make(folder: Path, assembly: Assembly) -> None:
    """Make the run folder; one that holds a run is refused."""
    try:
        header = read_header(folder) if (folder / JOURNAL).exists() else {}
        if header and header.get("recipe") != assembly.recipe.digest:
            raise HistoryError(f"{folder} holds a run of another recipe; choose another --run-dir")
        if header:
            raise RunInUse(f"{folder} holds a run already; go on with: evonas resume {folder}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"run folder {folder}: {error.strerror}") from error


def _check_begun(run_dir: Path, header: Mapping[str, Any]) -> None:
    if not header:
        raise HistoryError(f"{run_dir} holds no run: its first record was never written")
    if lacking := [key for key in ("started", "recipe", "data") if key not in header]:
        raise HistoryError(f"{run_dir} holds no search: its first record lacks {lacking[0]!r}")


@contextmanager
def _journal(folder: Path, listeners: Sequence[Tracker]) -> Iterator[Journal]:
    with Journal(folder) as journal:
        if journal.dropped:
            dropped = f"{journal.path}: dropped a torn last line of {journal.dropped} bytes"
            for listener in listeners:
                listener.note(dropped)
        yield journal
