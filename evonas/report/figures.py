"""Pictures of a history, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evonas.trial import Objective, Trial
from evonas.trials import Trials


def draw(folder: Path, trials: Trials) -> list[Path]:
    """Draw what there is to draw; returns the files, none without a completed trial."""
    objectives = trials.objectives
    complete = sorted(trials.complete, key=lambda trial: trial.number)
    if not complete:
        return []
    folder.mkdir(exist_ok=True)
    files = [_progress(folder / "progress.png", objectives[0], complete)]
    other = objectives[1] if len(objectives) > 1 else Objective("params", "min")
    if other.metric != objectives[0].metric and all(other.metric in t.metrics for t in complete):
        path = folder / f"against_{other.metric}.png"
        files.append(_against(path, objectives[0], other, complete))
    if volumes := trials.volumes():
        files.append(_volumes(folder / "hypervolume.png", volumes, complete[-1].number))
    return files


def _progress(path: Path, objective: Objective, complete: Sequence[Trial]) -> Path:
    values = [t.metrics[objective.metric] for t in complete]
    ranked = [(t.rank((objective,)), t.metrics[objective.metric]) for t in complete]
    best = [value for _, value in accumulate(ranked, max)]
    figure, axes = _axes()
    numbers = [t.number for t in complete]
    axes.plot(numbers, values, ".", color="0.6", label="trial")
    axes.step(numbers, best, where="post", color="C0", label="best so far")
    axes.set(xlabel="trial", ylabel=objective.metric)
    axes.legend()
    return _save(figure, path)


def _against(path: Path, objective: Objective, other: Objective, complete: Sequence[Trial]) -> Path:
    cost = other.metric
    figure, axes = _axes()
    for trials, style, label in (
        (complete, {"marker": ".", "linestyle": "", "color": "0.6"}, "trial"),
        (
            Trials((other, objective), complete).front(),
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


def _volumes(path: Path, volumes: Sequence[tuple[int, float]], last: int) -> Path:
    # Trials that ran side by side end in another order than that of their numbers.
    numbers, values = zip(*sorted([*volumes, (last, 0.0)]), strict=True)
    figure, axes = _axes()
    axes.step(numbers, list(accumulate(values, max)), where="post", color="C1")
    axes.set(xlabel="trial", ylabel="hypervolume of the Pareto front")
    return _save(figure, path)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
