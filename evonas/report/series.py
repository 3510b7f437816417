"""What the page's charts are drawn from: plain columns, few enough to be drawn at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from evonas.report import importance, numbers
from evonas.trial import Objective, Trial, TrialState
from evonas.trials import Trials

_POINTS = 3000  # of a chart; more are a carpet, and slow
_VALUES = 1500  # points of the charts of single choices
_THIN = 0.001  # of the run's length: bars that short are not seen
_CHOICES = 8  # charts of single choices
_SLACK = 0.25  # seconds: the search hears of an end, and of a beginning, a little late


def replayed(trials: Trials) -> Iterator[tuple[Trial, dict[str, float], Trials]]:
    """Every trial in the order of ending, where it stands on each axis, and what is known then.

    The axes are ``trials``, ``seconds`` and ``effort``, in full trainings.
    """
    known = Trials(trials.objectives)
    for place, trial in enumerate(trials.ended, start=1):
        known.add(trial)
        yield trial, {"trials": place, "seconds": trial.elapsed, "effort": known.effort}, known


def progress(trials: Trials) -> dict[str, Any]:
    """Every trial that ended, and the best so far: against trials, seconds and effort."""
    objective = trials.objectives[0]
    rows: list[dict[str, Any]] = []
    best: list[dict[str, Any]] = []
    volumes: list[dict[str, float]] = []
    for trial, axes, known in replayed(trials):
        at = {**axes, "seconds": round(axes["seconds"], 2), "effort": round(axes["effort"], 4)}
        whole = trial.state is TrialState.COMPLETE
        value = trial.metrics.get(objective.metric) if whole else None
        rows.append({**at, "n": trial.number, "value": value, "state": str(trial.state)})
        if known.best is trial:
            best.append({**at, "n": trial.number, "value": trial.metrics[objective.metric]})
        if known.hypervolume is not None:
            volumes.append({"trials": axes["trials"], "value": known.hypervolume})
    if best and rows:
        best.append({**rows[-1], "value": best[-1]["value"], "n": best[-1]["n"]})
    leading = {point["n"] for point in best}
    kept = [r for r in rows if r["n"] in leading]
    kept += importance.evenly([r for r in rows if r["n"] not in leading], _POINTS)
    drawn = [{**row, "note": _note(trials.latest[row["n"]], objective)} for row in kept]
    return {"rows": drawn, "best": best, "all": len(rows), "volumes": volumes}


def _note(trial: Trial, objective: Objective) -> str:
    """What hovering says."""
    lines = [f"trial {trial.number}, {trial.state}"]
    lines += [f"{numbers.label(k)} {numbers.metric(k, v)}" for k, v in trial.metrics.items()][:6]
    if trial.error:
        lines.append(trial.error.splitlines()[0][:80])
    return "\n".join(lines)


def against(trials: Trials, other: Objective) -> dict[str, Any] | None:
    """Completed trials by the first objective and another, and the front of the two."""
    first = trials.objectives[0]
    complete = [t for t in trials.complete if other.metric in t.metrics]
    if other.metric == first.metric or not complete:
        return None
    front = Trials((first, other), complete).front()
    chosen = {trial.number for trial in front}
    others = importance.evenly([t for t in complete if t.number not in chosen], _POINTS)
    rows: list[dict[str, Any]] = [
        {
            "n": trial.number,
            "x": trial.metrics[other.metric],
            "y": trial.metrics[first.metric],
            "front": trial.number in chosen,
            "note": _note(trial, first),
        }
        for trial in [*others, *front]
    ]
    return {"rows": rows, "x": numbers.label(other.metric), "better": other.direction}


def choices(trials: Trials, shares: dict[str, float]) -> list[dict[str, Any]]:
    """The most important choices: the objective of the trials by their values."""
    objective = trials.objectives[0]
    complete = importance.evenly(trials.complete, _VALUES)
    shown = list(shares)[:_CHOICES] or importance.names(complete)[:_CHOICES]
    rows = [(name, importance.by_value(objective, complete, name)) for name in shown]
    return [{"name": name, "rows": values} for name, values in rows if len(values) > 1]


def curves(finals: Sequence[Trial], metric: str) -> list[dict[str, Any]]:
    """The metric, epoch by epoch, of every final training."""
    return [
        {
            "training": f"trial {source}, seed {trial.proposal.repeat}",
            "step": step,
            "value": values[metric],
        }
        for trial in finals
        for source in trial.proposal.parents[:1]
        for step, values in trial.curve
        if metric in values
    ]


def objective(trials: Trials) -> dict[str, Any]:
    """How charts show the first objective: what it and its error are called, whether it is a share.

    The error of a share is what is missing to 1; of anything else it is the objective itself.
    """
    metric, direction = trials.objectives[0].metric, trials.objectives[0].direction
    label = numbers.label(metric)
    share = numbers.is_share(metric, [trial.metrics[metric] for trial in trials.complete])
    error = "validation error" if share else label
    return {"label": label, "direction": direction, "share": share, "error": error}


def errors(trials: Trials, share: bool) -> list[float]:
    """The errors of the completed trials."""
    values = [trial.metrics[trials.objectives[0].metric] for trial in trials.complete]
    return [1 - value for value in values] if share else values


def distribution(trials: Trials) -> list[dict[str, Any]]:
    """The empirical distribution of the objective: which share of the trials is at least so bad."""
    worse = sorted(errors(trials, objective(trials)["share"]))
    step = max(1, len(worse) // 400)
    points = [{"x": v, "y": (i + 1) / len(worse)} for i, v in enumerate(worse)]
    return [*points[:-1:step], *points[-1:]]


def lanes(events: Sequence[Trial]) -> list[dict[str, Any]]:
    """Who ran when, in lanes: as many as ran side by side; the latest, if there are too many.

    The journal says when a trial ended and how long it took, but not which worker had it: each
    takes the first lane that is free.
    """
    ran = [t for t in events if t.seconds > 0 and t.origin is None][-_POINTS:]
    spans = [(max(0.0, t.elapsed - t.seconds), t.elapsed, t) for t in ran]
    spans.sort(key=lambda span: (span[0], span[1], span[2].number))
    last = max((t.elapsed for t in ran), default=0.0)
    if not ran or median(end - begin for begin, end, _ in spans) < _THIN * last:
        return []
    free: list[float] = []  # when each lane is
    rows: list[dict[str, Any]] = []
    for begin, end, trial in spans:
        lane = next((i for i, at in enumerate(free) if at <= begin + _SLACK), len(free))
        free[lane : lane + 1] = [end]
        stage, duration = trial.proposal.stage, numbers.duration(trial.seconds)
        rows.append(
            {
                "lane": lane + 1,
                "begin": round(begin, 2),
                "end": round(end, 2),
                "state": str(trial.state) if stage == "search" else stage,
                "note": f"{stage} trial {trial.number}, {trial.state}, {duration}",
            }
        )
    return rows
