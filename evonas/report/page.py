"""One self-contained HTML page about a run."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from evonas.errors import StorageError
from evonas.report import figures
from evonas.report.table import cells
from evonas.trackers.base import Report
from evonas.trial import Objective, Trial, TrialState
from evonas.trials import Trials

_SHOWN = 20

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }}
td, th {{ padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: left }}
img {{ max-width: 100% }} pre {{ background: #f5f5f5; padding: .6em; overflow-x: auto }}
</style></head><body>
<h1>{name}</h1>
<p>{status}: {reason}. {counts}, {seconds:.0f} s of search.</p>
{body}
</body></html>
"""


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
    try:
        pictures = figures.draw(run_dir / "figures", objectives, events)
        body = "\n".join(_body(objectives, events, report, pictures))
        path.write_text(
            _PAGE.format(
                name=html.escape(name),
                status=report.status,
                reason=html.escape(report.reason),
                counts=", ".join(f"{count} {state}" for state, count in report.trials.items()),
                seconds=report.seconds,
                body=body,
            ),
            encoding="utf-8",
        )
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return path


def _body(
    objectives: Sequence[Objective],
    events: Sequence[Trial],
    report: Report,
    pictures: Iterable[Path],
) -> Iterable[str]:
    if report.incumbent is not None:
        yield f"<h2>Incumbent: trial {report.incumbent.number}</h2>"
        rows = {**report.incumbent.metrics, **{f"final {k}": v for k, v in report.final.items()}}
        yield _table(("metric", "value"), [(k, f"{v:,.6g}") for k, v in rows.items()])
        choices = report.incumbent.architecture.choices
        yield _table(("choice", "value"), list(choices.items()))
    yield from (f"<p>{html.escape(remark)}.</p>" for remark in report.remarks)
    if report.table:
        head, *lines = cells(report.table)
        yield f"<h2>Table</h2>{_table(head, lines)}"
    if report.audit:
        yield f"<h2>Audit</h2><p>{html.escape(report.verdict)}</p>"
        yield _table(("metric", "value"), [(k, f"{v:,.4g}") for k, v in report.audit.items()])
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        yield f'<img alt="{picture.stem}" src="data:image/png;base64,{data}">'
    best = Trials(objectives, events).ranking()[:_SHOWN]
    if best:
        yield f"<h2>The best {len(best)}</h2>"
        names = list(best[0].metrics)
        yield _table(
            ("trial", "fidelity", "parents", *names),
            [
                (
                    t.number,
                    f"{t.proposal.fidelity:.3g}",
                    *_parents(t),
                    *(f"{t.metrics.get(n, 0):,.6g}" for n in names),
                )
                for t in best
            ],
        )
    failed = [t for t in Trials((), events).latest.values() if t.state is TrialState.FAILED]
    if failed:
        yield f"<h2>Failed: {len(failed)}</h2>"
        yield from (f"<pre>trial {t.number}: {html.escape(t.error or '')}</pre>" for t in failed)


def _parents(trial: Trial) -> tuple[str]:
    return (", ".join(map(str, trial.proposal.parents)) or "none",)


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    def row(cells: Sequence[object], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)

    lines = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table><tr>{row(head, 'th')}</tr>{lines}</table>"
