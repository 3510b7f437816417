"""A run as JSON, an object a line: for programs that watch one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trial import Trial


class Lines(Tracker):
    """Say everything as it happens; the key ``event`` tells what it is.

    ``start``: name, run_dir, objectives, recipe, source. ``trial``: the journal's record of a trial
    that begins or ended, without its curve. ``step``: stage, trial, step and metrics of one that
    runs. ``note``: message. ``end``: status, reason, trials by state, seconds, effort, incumbent,
    its metrics, final metrics, front, acceptance, hypervolume, audit and verdict (see ``Report``).

    Args:
        say: Given the lines.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._print = say
        self.run_dir: Path | None = None

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        """Say what runs."""
        self.run_dir = run.run_dir
        objectives = {objective.metric: objective.direction for objective in run.objectives}
        about = {"name": run.name, "run_dir": str(run.run_dir), "objectives": objectives}
        self._say("start", {**about, "recipe": run.recipe, "source": dict(run.source)})

    def record(self, trial: Trial) -> None:
        """Say that a trial began or ended."""
        self._say("trial", {k: v for k, v in trial.to_json().items() if k != "curve"})

    def step(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> None:
        """Say what a running trial reported."""
        where = {"stage": trial.proposal.stage, "trial": trial.number}
        self._say("step", {**where, "step": step, "metrics": dict(metrics)})

    def draws(self, drawn: int, accepted: int) -> None:
        """Said by nobody: a record of a trial says enough."""

    def note(self, message: str) -> None:
        """Say it."""
        self._say("note", {"message": message})

    def interrupted(self) -> None:
        """Said by the end."""

    def close(self, report: Report) -> None:
        """Say what came out."""
        best = report.incumbent
        said = {
            "status": report.status,
            "reason": report.reason,
            "trials": dict(report.trials),
            "seconds": report.seconds,
            "effort": report.effort,
            "incumbent": best and {"trial": best.number, **best.architecture.to_json()},
            "metrics": dict(best.metrics) if best else {},
            "final": dict(report.final),
            "front": [trial.number for trial in report.front],
            "acceptance": report.acceptance,
            "hypervolume": report.hypervolume,
            "audit": dict(report.audit),
            "verdict": report.verdict,
        }
        self._say("end", said)

    def stop(self) -> None:
        """Nothing to give back."""

    def _say(self, event: str, content: Mapping[str, Any]) -> None:
        self._print(json.dumps({"event": event, **content}))
