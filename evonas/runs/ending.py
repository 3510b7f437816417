"""What comes when a search is over: final trainings, the audit, the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evonas import files
from evonas.errors import TooManyFailures
from evonas.report import page
from evonas.report.table import comma_separated
from evonas.runs import audit, incumbents
from evonas.runs.assemble import Assembly
from evonas.runs.retraining import Retraining, Stopped
from evonas.runs.search import End
from evonas.strategies.base import Strategy
from evonas.trackers.base import Report, Tracker, note_all
from evonas.trial import Objective, Trial
from evonas.trials import Trials

REPORT = "report.json"  # what of the report the history does not say
TABLE = "table.csv"


def conclude(
    assembly: Assembly,
    folder: Path,
    events: Sequence[Trial],
    end: End | TooManyFailures,
    trackers: Sequence[Tracker],
    stopping: Callable[[], bool],
    strategy: Strategy,
) -> Report:
    """Train the best for good and audit the search, unless that was done before; report.

    Args:
        assembly: The run's.
        folder: The run folder.
        events: Its history.
        end: Why the search ended; after an interruption nothing is trained.
        trackers: Told how it goes.
        stopping: Asked before every training.
        strategy: The search's, told all of the history.

    Raises:
        StorageError: If the disk does not take what is written.
    """
    note = partial(note_all, trackers)
    ranking = Trials(assembly.objectives, events).ranking()
    status, reason = "finished", str(end).splitlines()[0]
    if isinstance(end, TooManyFailures):
        status = "failed"
    elif end is End.STOPPED:
        status = "interrupted"
    elif ranking:
        retraining = retraining_of(assembly, folder, note, stopping)
        section = assembly.recipe.final
        terms = incumbents.Terms(section.top, section.seeds, section.flip)
        note("the search is over; training the best for good")
        try:
            incumbents.conclude(
                assembly.evaluator, assembly.objectives, ranking, retraining, terms, folder, note
            )
            if assembly.recipe.audit is not None:
                audited(assembly, folder, ranking, retraining, assembly.recipe.audit.trials, note)
        except incumbents.AllFailed as error:
            status, reason = "failed", f"the final training failed: {error}".splitlines()[0]
        except Stopped:
            status, reason = "interrupted", str(End.STOPPED)
    findings = strategy.findings()
    said: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "acceptance": assembly.acceptance,
        "remarks": list(findings.lines),
        "table": [dict(row) for row in findings.rows],
    }
    if said["table"]:
        files.store(folder / TABLE, comma_separated(said["table"]))
    files.store(folder / REPORT, json.dumps(said))
    report = _summary(folder, assembly.objectives, events, **said)
    page.write(folder, assembly.recipe.name, assembly.objectives, events, report)
    return report


def retraining_of(
    assembly: Assembly,
    folder: Path,
    note: Callable[[str], None],
    stopping: Callable[[], bool],
) -> Retraining:
    """The trainings for good of an assembled run; arguments as of ``Retraining``."""
    executor, evaluator = assembly.retraining_executor, assembly.make_evaluator
    return Retraining(folder, executor, evaluator, note, stopping)


def audited(
    assembly: Assembly,
    folder: Path,
    ranking: Sequence[Trial],
    retraining: Retraining,
    trials: int,
    note: Callable[[str], None],
) -> audit.Audit | None:
    """Audit the search and say what came out."""
    note("auditing the search: training a sample of its trials for good")
    seed = assembly.recipe.seed
    done = audit.audit(assembly.objectives, ranking, retraining, trials, seed, folder)
    retraining.forget_weights()
    note(
        "nothing to audit: too few trials, or no fuller training" if done is None else done.sentence
    )
    return done


def known(folder: Path, objectives: Sequence[Objective], events: Sequence[Trial]) -> Report | None:
    """The report of a run that ended, as its folder says now; None if it never did."""
    if not (folder / REPORT).exists():
        return None
    return _summary(folder, objectives, events, **json.loads((folder / REPORT).read_text()))


def _summary(
    folder: Path,
    objectives: Sequence[Objective],
    events: Sequence[Trial],
    status: str,
    reason: str,
    acceptance: float | None,
    remarks: Sequence[str] = (),  # runs of earlier versions have none
    table: Sequence[Mapping[str, float]] = (),  # the same
) -> Report:
    """What is known of a run, from its folder."""
    trials = list(Trials((), events).latest.values())
    best = Trials(objectives, events).best
    final: Mapping[str, float] = {}
    if (concluded := incumbents.stored(folder)) is not None and status == "finished":
        best, final = trials[concluded["trial"]], concluded["metrics"]
    examined = audit.stored(folder)
    volumes = Trials(objectives, events).volumes()
    return Report(
        status,
        reason,
        Counter(str(trial.state) for trial in trials),
        max((trial.elapsed for trial in events), default=0.0),
        best,
        Trials(objectives, events).front(),
        final,
        acceptance,
        examined.metrics if examined else {},
        examined.sentence if examined else "",
        volumes[-1][1] if volumes else None,
        tuple(remarks),
        tuple(table),
    )
