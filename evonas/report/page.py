"""One self-contained HTML page about a run; how it looks is in ``page.html``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from evonas.errors import StorageError
from evonas.report import figures
from evonas.report.table import cells
from evonas.trackers.base import Report
from evonas.trial import Objective, Trial, TrialState
from evonas.trials import Trials

_SHOWN = 20
_PAGES = jinja2.Environment(loader=jinja2.PackageLoader("evonas", "report"), autoescape=True)


def write(
    run_dir: Path,
    name: str,
    objectives: Sequence[Objective],
    events: Sequence[Trial],
    report: Report,
) -> Path:
    """Draw the figures and write ``report.html`` into the run folder.

    Raises:
        StorageError: If the disk does not take it.
    """
    path = run_dir / "report.html"
    trials = Trials(objectives, events)
    best = trials.ranking()[:_SHOWN]
    names = list(best[0].metrics) if best else []
    final = {f"final {name}": value for name, value in report.final.items()}
    try:
        pictures = [
            (picture.stem, base64.b64encode(picture.read_bytes()).decode())
            for picture in figures.draw(run_dir / "figures", trials)
        ]
        page = _PAGES.get_template("page.html").render(
            name=name,
            report=report,
            counts=", ".join(f"{count} {state}" for state, count in report.trials.items()),
            seconds=f"{report.seconds:.0f}",
            incumbent=_figures({**(report.incumbent.metrics if report.incumbent else {}), **final}),
            rows=cells(report.table) if report.table else [],
            audit=_figures(report.audit, 4),
            pictures=pictures,
            best_head=("trial", "fidelity", "parents", *names),
            best=[_row(trial, names) for trial in best],
            failed=[t for t in trials.latest.values() if t.state is TrialState.FAILED],
        )
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return path


def _figures(values: Mapping[str, float], digits: int = 6) -> list[tuple[str, str]]:
    return [(name, f"{value:,.{digits}g}") for name, value in values.items()]


def _row(trial: Trial, names: Sequence[str]) -> list[str]:
    parents = ", ".join(map(str, trial.proposal.parents)) or "none"
    metrics = (f"{trial.metrics.get(name, 0):,.6g}" for name in names)
    return [str(trial.number), f"{trial.proposal.fidelity:.3g}", parents, *metrics]
