"""One self-contained HTML page about a run.

What it says is gathered here and in ``facts``, what its charts are drawn from in ``series``; how it
looks is in ``base.html``, ``page.html`` and ``style.css``; ``charts.js`` draws, with Observable
Plot and D3, which are part of the page: it opens offline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from evonas import files
from evonas.report import facts, importance, lineage, numbers, series
from evonas.report.table import cells
from evonas.trackers.base import Report, RunInfo
from evonas.trial import Objective, Trial
from evonas.trials import Trials

_LEADERS = 30  # rows of the leaderboard
_IMPORTANT = 12  # bars of the chart of importance
_LITTLE = 0.1  # R²: a model that explains less says nothing of the choices
_ROOM = Path(__file__).parent
_PAGES = jinja2.Environment(loader=jinja2.PackageLoader("evonas", "report"), autoescape=True)


def write(run: RunInfo, events: Sequence[Trial], report: Report) -> Path:
    """Write ``report.html`` into the run folder.

    Raises:
        StorageError: If the disk does not take it.
    """
    path = run.run_dir / "report.html"
    files.store(path, text(run, events, report))
    return path


def text(run: RunInfo, events: Sequence[Trial], report: Report) -> str:
    """The page."""
    trials, finals = Trials(run.objectives, events), Trials((), events, "final").complete
    curve = _curve(run, finals)
    found = importance.importance(run.objectives[0], trials.complete)
    shares = found.shares if found and found.explained >= _LITTLE else {}
    charts = {
        "objective": series.objective(trials),
        "progress": series.progress(trials) if trials.ended else None,
        "against": series.against(trials, _other(run.objectives)),
        "curves": series.curves(finals, curve),
        "curve_label": numbers.label(curve),
        "errors": series.distribution(trials),
        "lanes": series.lanes(events),
        "importance": [{"name": n, "share": s} for n, s in list(shares.items())[:_IMPORTANT]],
        "choices": series.choices(trials, shares),
    }
    best = report.incumbent
    rows = lineage.tree(trials, best) if best else []
    return render(
        "page.html",
        charts,
        title=f"{run.name}: {facts.subtitle(run)}",
        run=run,
        report=report,
        subtitle=facts.subtitle(run),
        sentence=facts.sentence(report),
        facts=facts.header(run),
        tiles=facts.tiles(run, report),
        blocks=facts.network(run.run_dir, report),
        winner_choices=facts.choices(best) if best else [],
        winner_metrics=facts.metrics(report),
        finalists=facts.finalists(trials, finals),
        complete=len(trials.complete),
        explained=found and found.explained,
        least=importance.LEAST,
        front=facts.front(run.objectives, report.front),
        family=facts.family(rows, run.objectives[0]) if len(rows) > 1 else [],
        family_cut=len(rows) >= lineage.LARGEST,
        rows=cells(report.table) if report.table else [],
        audit=[(numbers.label(k), numbers.metric(k, v)) for k, v in report.audit.items()],
        leaders=facts.leaders(trials, finals, _LEADERS),
        ranked=numbers.count(len(trials.ranking())),
        failures=facts.failures(trials),
    )


def render(template: str, charts: Mapping[str, Any], **shown: Any) -> str:
    """A page of this room's look.

    Args:
        template: Extends ``base.html``.
        charts: What ``charts.js`` finds in DATA; plain data, that the template may look at, too.
        shown: What the template asks for, ``title`` among it.
    """
    # A name may be called "</script>": within the element nothing may look like its end.
    data = json.dumps(charts, separators=(",", ":")).replace("<", "\\u003c")
    libraries = [(_ROOM / "assets" / name).read_text() for name in ("d3.min.js", "plot.umd.min.js")]
    return _PAGES.get_template(template).render(
        data=Markup(data),
        library=Markup("\n".join(libraries)),
        script=Markup((_ROOM / "charts.js").read_text()),
        charts=charts,
        **shown,
    )


def _other(objectives: Sequence[Objective]) -> Objective:
    """What the first objective is drawn against."""
    return objectives[1] if len(objectives) > 1 else Objective("params", "min")


def _curve(run: RunInfo, finals: Sequence[Trial]) -> str:
    """What the final trainings' curves show: the objective if they report it."""
    names = {name for trial in finals for _, values in trial.curve for name in values}
    wanted = (run.objectives[0].metric, "val_accuracy", "train_loss")
    return next((name for name in wanted if name in names), "")
