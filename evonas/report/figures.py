"""Pictures of a history, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evonas import history
from evonas.objective import Objective
from evonas.trial import Trial, TrialState


def draw(folder: Path, objectives: Sequence[Objective], events: Sequence[Trial]) -> list[Path]:
    """Draw what there is to draw; returns the files, none without a completed trial."""
    complete = [t for t in history.latest(events) if t.state is TrialState.COMPLETE]
    if not complete:
        return []
    folder.mkdir(exist_ok=True)
    files = [_progress(folder / "progress.png", objectives[0], complete)]
    cost = objectives[1].metric if len(objectives) > 1 else "params"
    if cost != objectives[0].metric and all(cost in t.metrics for t in complete):
        files.append(_against(folder / f"against_{cost}.png", objectives[0], cost, complete))
    return files


def _progress(path: Path, objective: Objective, complete: Sequence[Trial]) -> Path:
    values = [t.metrics[objective.metric] for t in complete]
    best = accumulate(values, max if objective.direction == "max" else min)
    figure, axes = _axes()
    numbers = [t.number for t in complete]
    axes.plot(numbers, values, ".", color="0.6", label="trial")
    axes.step(numbers, list(best), where="post", color="C0", label="best so far")
    axes.set(xlabel="trial", ylabel=objective.metric)
    axes.legend()
    return _save(figure, path)


def _against(path: Path, objective: Objective, cost: str, complete: Sequence[Trial]) -> Path:
    way = Objective(cost, "min")
    figure, axes = _axes()
    for trials, style, label in (
        (complete, {"marker": ".", "linestyle": "", "color": "0.6"}, "trial"),
        (
            history.pareto_front(complete, (way, objective)),
            {"marker": "o", "color": "C1"},
            "Pareto front",
        ),
    ):
        axes.plot(
            [t.metrics[cost] for t in trials],
            [t.metrics[objective.metric] for t in trials],
            label=label,
            **style,  # type: ignore[arg-type]
        )
    if min(t.metrics[cost] for t in complete) > 0:
        axes.set_xscale("log")
    axes.set(xlabel=cost, ylabel=objective.metric)
    axes.legend()
    return _save(figure, path)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
