"""What is known when a run ends: written into its folder, and read from there again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonas import files
from evonas.errors import StorageError
from evonas.report import page
from evonas.report.table import comma_separated
from evonas.runs import audit, draws, final
from evonas.runs.session import Session
from evonas.strategies.base import Strategy
from evonas.trackers.base import Report, RunInfo
from evonas.trial import Objective, Trial
from evonas.trials import Trials

_REPORT = "report.json"  # what of the report the other files do not say
_DRAWS = 10  # Of fewer random draws a share says nothing.
_TABLE = "table.csv"


@dataclass(frozen=True)
class _Said:
    """What ``report.json`` holds; see ``Report``."""

    status: str
    reason: str
    draws: tuple[int, int] = (0, 0)
    remarks: tuple[str, ...] = ()
    table: tuple[dict[str, Any], ...] = ()


def write(session: Session, run: RunInfo, status: str, reason: str, strategy: Strategy) -> Report:
    """Write ``report.json``, ``report.html`` and, if the strategy ends with rows, ``table.csv``.

    Args:
        session: The run's.
        run: What trackers are told of it.
        status: "finished", "interrupted" or "failed".
        reason: One sentence: why the run ended.
        strategy: Told all of the search.

    Raises:
        StorageError: If the disk does not take it.
    """
    folder, assembly = session.folder, session.assembly
    findings = strategy.findings()
    table = tuple(dict(row) for row in findings.rows)
    said = _Said(status, reason, draws.read(folder), tuple(findings.lines), table)
    if table:
        files.store(folder / _TABLE, comma_separated(table))
    files.store(folder / _REPORT, json.dumps(vars(said)))
    report = _report(folder, assembly.objectives, session.journal.events, said)
    page.write(run, session.journal.events, report)
    return report


def read(folder: Path, objectives: Sequence[Objective], events: Sequence[Trial]) -> Report | None:
    """The report of a run that ended, as its folder says now; None if it never did.

    Raises:
        StorageError: If a file of the folder is damaged; resuming the run makes it anew.
    """
    try:
        said = files.load(folder / _REPORT, _Said)
        return None if said is None else _report(folder, objectives, events, said)
    except StorageError as error:
        raise StorageError(f"{error}; evonas resume {folder} makes it anew") from error


def so_far(
    folder: Path, objectives: Sequence[Objective], events: Sequence[Trial], goes_on: bool
) -> Report:
    """What is known of a run that goes on, or was cut off: what its journal says."""
    said = _Said("cut off", "it ended before its time; evonas resume goes on with it")
    if goes_on:
        said = _Said("running", "this is how far it is")
    return _report(folder, objectives, events, said)


def status(folder: Path) -> str | None:
    """How the last session ended; None if it never did, or left a damaged file."""
    try:
        said = files.load(folder / _REPORT, _Said)
    except StorageError:
        return None
    return None if said is None else said.status


def _report(
    folder: Path,
    objectives: Sequence[Objective],
    events: Sequence[Trial],
    said: _Said,
) -> Report:
    trials = Trials(objectives, events)
    best, final_metrics = trials.best, {}
    concluded = final.stored(folder)
    if concluded is not None and said.status == "finished":
        best, final_metrics = trials.latest.get(concluded.trial), concluded.metrics
    examined, (drawn, accepted) = audit.stored(folder), said.draws
    return Report(
        status=said.status,
        reason=said.reason,
        trials=trials.counts(),
        seconds=max((trial.elapsed for trial in trials.latest.values()), default=0.0),
        incumbent=best,
        front=trials.front(),
        final=final_metrics,
        acceptance=accepted / drawn if drawn >= _DRAWS else None,
        audit=examined.metrics if examined else {},
        verdict=examined.sentence if examined else "",
        hypervolume=trials.hypervolume,
        remarks=said.remarks,
        table=said.table,
        effort=trials.effort,
    )
