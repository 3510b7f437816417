"""What came out of a run, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evonas.report import table
from evonas.runs.run import Outcome
from evonas.trackers.base import Report
from evonas.trackers.parts import state
from evonas.trial import Trial, figure

_UNDER = " " * 15  # What belongs to the line above begins below its text.


def lines(outcome: Outcome) -> Iterator[str]:
    """How it ended, what was found, where it lies and what to do next."""
    report, folder = outcome.report, outcome.run_dir
    counts = ", ".join(f"{count} {state}" for state, count in report.trials.items()) or "no trials"
    spent = f"{report.seconds:.0f} s of search, effort {report.effort:.3g} in full trainings"
    yield ""
    yield f"{report.status}: {report.reason} ({counts}; {spent})"
    if report.acceptance is not None:
        yield f"  accepted     {report.acceptance:.1%} of random architectures met the limits"
    for remark in report.remarks:
        yield f"  remark       {remark}"
    if report.incumbent is not None:
        yield from _found(report, report.incumbent)
    for line in table.aligned(table.cells(report.table)) if report.table else ():
        yield f"  {line}"
    yield f"  run folder   {folder}   (report.html, history.jsonl)"
    if (folder / "incumbent" / "network.pt2").exists():
        yield f"  network      {folder}/incumbent/network.pt2   (MODEL_CARD.md beside it)"
        yield f"  use it       evonas predict {folder} PICTURE…"
    if (folder / "front").is_dir():
        yield f"  the front's  {folder}/front/TRIAL   (a network and its card each)"
    if report.status == "interrupted":
        yield f"  go on with   evonas resume {folder}"
    if (folder / state.FILE).exists():
        from evonas.commands import browsing  # MLflow, which takes seconds to import

        for title, what in browsing.after(folder):
            yield f"  {title:<12} {what}"


def _found(report: Report, incumbent: Trial) -> Iterator[str]:
    """The winner, and the front that it is of."""
    yield f"  incumbent    trial {incumbent.number}, architecture {incumbent.architecture.id}"
    for name, value in incumbent.architecture.choices.items():
        yield f"{_UNDER}{name} = {value}"
    yield from metrics(incumbent.metrics, "search")
    news = report.final.items() - incumbent.metrics.items()  # costs, say, are told already
    yield from metrics({n: v for n, v in report.final.items() if (n, v) in news}, "final training")
    if report.verdict:
        yield f"  audit        {report.verdict}"
    if len(report.front) > 1:
        volume = "" if report.hypervolume is None else f", hypervolume {report.hypervolume:.4g}"
        yield f"  Pareto front of {len(report.front)} trials{volume}:"
        first, *others = report.front
        names = [name for name in first.metrics if all(name in trial.metrics for trial in others)]
        rows = [[str(t.number), *(figure(t.metrics[n]) for n in names)] for t in report.front]
        for line in table.aligned([["trial", *names], *rows]):
            yield f"{_UNDER}{line}"


def metrics(values: Mapping[str, float], origin: str) -> Iterator[str]:
    """A line a metric, with where it comes from."""
    for name, value in values.items():
        yield f"  {name:<12} {figure(value)}   ({origin})"
