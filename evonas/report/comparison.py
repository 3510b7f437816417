"""One HTML page about several runs: curves over seeds, final scores, distributions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from evonas.report import importance, numbers, series, statistics
from evonas.report.page import render
from evonas.trackers.base import Report, RunInfo
from evonas.trial import Objective, Trial
from evonas.trials import Trials

_POINTS = 160  # of a curve
_DOTS = 2000  # of quality against size


@dataclass(frozen=True)
class Run:
    """One of the runs that are compared."""

    info: RunInfo
    events: tuple[Trial, ...]
    report: Report

    @property
    def seed(self) -> int:
        """Its seed, by which runs of two groups are paired."""
        return int(self.info.recipe["seed"])

    @cached_property
    def trials(self) -> Trials:
        """Of the search."""
        return Trials(self.info.objectives, self.events)

    @property
    def scores(self) -> dict[str, float]:
        """Of the winner: the search's, and over them those of its final training."""
        best = self.report.incumbent
        return {**(best.metrics if best else {}), **self.report.final}

    @cached_property
    def best_so_far(self) -> list[tuple[dict[str, float], float]]:
        """Steps of the best so far: where they stand on each axis, and the objective."""
        metric = self.info.objectives[0].metric
        return [
            (axes, known.best.metrics[metric])
            for _, axes, known in series.replayed(self.trials)
            if known.best is not None
        ]


Groups = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Published:
    """A network that somebody else reports, to be looked at beside the winners.

    Attributes:
        source: Who reports it; those of one source are joined by a line.
        name: What they call it.
        params: Its parameters.
        score: Its final score, of the metric that is compared.
    """

    source: str
    name: str
    params: float
    score: float


def rows(groups: Groups, metric: str) -> list[dict[str, Any]]:
    """A row a group: its runs, their scores' mean and spread, what the winners cost, mean rank.

    Args:
        groups: Runs that differ in their seed alone, by what is their own.
        metric: Of the final training that is compared, or the search's.
    """
    objective = _objective(groups)
    sign = -1 if objective == Objective(metric, "min") else 1  # ranks take the larger as the better
    scores = {name: of_seeds(runs, metric) for name, runs in groups.items()}
    ranks = statistics.mean_ranks(
        {name: {seed: sign * v for seed, v in own.items()} for name, own in scores.items()}
    )
    found: list[dict[str, Any]] = []
    for name, runs in groups.items():
        values = list(scores[name].values())
        best = [run.trials.best.metrics for run in runs if run.trials.best]
        found.append(
            {
                "group": name,
                "runs": len(runs),
                metric: _mean(values),
                "spread": stdev(values) if len(values) > 1 else math.nan,
                "best": _mean(metrics[objective.metric] for metrics in best),
                "params": _mean(run.scores["params"] for run in runs if "params" in run.scores),
                "seconds": _mean(run.report.seconds for run in runs),
                "effort": _mean(run.report.effort for run in runs),
                "rank": ranks.get(name, math.nan),
            }
        )
    return sorted(found, key=lambda row: (row["rank"], row["group"]))


def compared(groups: Groups) -> str:
    """What final scores are: test accuracy if all have it, else the first objective."""
    reports = [run.report for runs in groups.values() for run in runs]
    if all("test_accuracy" in report.final for report in reports):
        return "test_accuracy"
    return _objective(groups).metric


def _objective(groups: Groups) -> Objective:
    """The first, which all runs have."""
    return next(iter(groups.values()))[0].info.objectives[0]


def of_seeds(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """The metric of each run by its seed."""
    return {run.seed: run.scores[metric] for run in runs if metric in run.scores}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return fmean(known) if known else math.nan


def differences(groups: Groups, metric: str) -> list[tuple[str, str, statistics.Difference]]:
    """The best group against every other, seed by seed."""
    first, *others = (row["group"] for row in rows(groups, metric))
    found = []
    for other in others:
        own, theirs = (of_seeds(groups[name], metric) for name in (first, other))
        if (difference := statistics.paired(own, theirs)) is not None:
            found.append((first, other, difference))
    return found


def text(groups: Groups, title: str, published: Sequence[Published] = ()) -> str:
    """The page."""
    metric = compared(groups)
    found = rows(groups, metric)
    first = next(iter(groups.values()))[0]
    objective = series.objective(first.trials)
    seeds = {run.seed for runs in groups.values() for run in runs}
    samples = {name: _errors(runs, objective["share"]) for name, runs in groups.items()}
    samples = {name: sample for name, sample in samples.items() if len(sample) > 1}
    charts: dict[str, Any] = {
        "groups": list(groups),
        "best": {x: _curves(groups, x) for x in ("trials", "seconds", "effort")},
        "scores": [
            {"group": name, "seed": seed, "value": value}
            for name, runs in groups.items()
            for seed, value in of_seeds(runs, metric).items()
        ],
        "distributions": _distributions(samples),
        "quality": _quality(groups),
        "winners": _winners(groups, found, metric, published),
        "score_label": numbers.label(metric),
        "objective": objective,
    }
    return render(
        "comparison.html",
        charts,
        title=title,
        subtitle=f"{len(groups)} groups of runs that differ in their seed alone; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}; "
        f"data {first.info.recipe.get('dataset', {}).get('name', 'of a table')}",
        scores=_table(found, metric),
        differences=[
            (
                f"{a} against {b}",
                numbers.difference(metric, d.mean),
                _interval(metric, d),
                d.sentence,
            )
            for a, b, d in differences(groups, metric)
        ],
        band="extremes" if max(map(len, groups.values())) < 5 else "quartiles",
        tests=_tests(samples),
        has_winners=len({point["x"] for point in charts["winners"]}) > 1,
        members=[
            (n, run.seed, run.report.status, str(run.info.run_dir))
            for n, runs in groups.items()
            for run in runs
        ],
    )


def _interval(metric: str, difference: statistics.Difference) -> str:
    if math.isnan(difference.low):
        return ""
    ends = (difference.low, difference.high)
    return " to ".join(numbers.difference(metric, end) for end in ends)


def _table(found: Sequence[Mapping[str, Any]], metric: str) -> list[list[str]]:
    def shown(name: str, value: float) -> str:
        return "" if math.isnan(value) else numbers.metric(name, value)

    head = ["group", "runs", numbers.label(metric), "spread", "best of the search"]
    lines = [[*head, "parameters", "search", "effort", "mean rank"]]
    for row in found:
        cells = [shown(metric, row[metric]), shown(metric, row["spread"])]
        cells += [shown("val_accuracy", row["best"]), shown("params", row["params"])]
        cells += [shown(name, row[name]) for name in ("seconds", "effort", "rank")]
        lines.append([str(row["group"]), str(row["runs"]), *cells])
    return lines


def _curves(groups: Groups, against: str) -> list[dict[str, Any]]:
    """Mean and band over the seeds, on a grid that ends where the first run of a group does."""
    found = []
    for name, runs in groups.items():
        curves = [
            [(axes[against], value) for axes, value in run.best_so_far]
            for run in runs
            if run.best_so_far
        ]
        if not curves:
            continue
        end = min(curve[-1][0] for curve in curves)
        grid = [end * (i + 1) / _POINTS for i in range(_POINTS)]
        if against == "trials":
            grid = sorted({float(round(x)) for x in grid})
        values = statistics.band([statistics.steps(curve, grid) for curve in curves])
        found += [
            {"group": name, "x": x, "mean": point[0], "low": point[1], "high": point[2]}
            for x, point in zip(grid, values, strict=True)
            if point is not None
        ]
    return found


def _errors(runs: Sequence[Run], share: bool) -> list[float]:
    return [error for run in runs for error in series.errors(run.trials, share)]


def _distributions(samples: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    grid = statistics.grid_of(list(samples.values())) if samples else []
    return [
        {"group": name, "x": x, "share": share, "low": low, "high": high}
        for name, sample in samples.items()
        for x, (share, low, high) in zip(grid, statistics.distribution(sample, grid), strict=True)
    ]


def _tests(samples: Mapping[str, Sequence[float]]) -> list[tuple[str, str, str, str]]:
    names = sorted(samples, key=lambda name: float(fmean(samples[name])))
    found = []
    for other in names[1:]:
        distance, p = statistics.apart(samples[names[0]], samples[other])
        sizes = f"{len(samples[names[0]])} and {len(samples[other])}"
        found.append((f"{names[0]} against {other}", sizes, f"{distance:.3f}", f"{p:.3g}"))
    return found


def _quality(groups: Groups) -> list[dict[str, Any]]:
    found = [
        {
            "group": name,
            "x": trial.metrics["params"],
            "y": trial.metrics[run.info.objectives[0].metric],
            "note": f"{name}, seed {run.seed}, trial {trial.number}",
        }
        for name, runs in groups.items()
        for run in runs
        for trial in run.trials.complete
        if "params" in trial.metrics
    ]
    return importance.evenly(found, _DOTS)


def _winners(
    groups: Groups, means: Sequence[Mapping[str, Any]], metric: str, published: Sequence[Published]
) -> list[dict[str, Any]]:
    """Final scores against parameters: the groups' means, and what others have."""
    found: list[dict[str, Any]] = []
    for row in means:
        name, params, score = row["group"], row["params"], row[metric]
        if not math.isnan(params + score):
            seeds = len(of_seeds(groups[name], metric))
            note = f"{name}, {seeds} seed{'s' if seeds > 1 else ''}"
            found.append({"of": "here", "x": params, "y": score, "note": note})
    found += [{"of": p.source, "x": p.params, "y": p.score, "note": p.name} for p in published]
    return sorted(found, key=lambda point: point["x"])
