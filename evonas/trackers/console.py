"""The terminal: a live line on a screen, plain lines into a file or pipe."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.trial import Objective, Trial, TrialState


class Console(Tracker):
    """Trials done, best so far, trials per minute, time left."""

    def __init__(self) -> None:
        self._terminal = Terminal(highlight=False, soft_wrap=True)
        self._live = self._terminal.is_terminal
        self._progress = Progress(
            TextColumn("{task.completed:.0f} trials"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[state]}"),
            console=self._terminal,
            auto_refresh=self._live,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._objectives: tuple[Objective, ...] = ()
        self._total: int | None = None
        self._seconds: float | None = None
        self._done = self._failed = self._earlier = 0
        self._best: Trial | None = None
        self._start = time.monotonic()
        self.run_dir: Path | None = None

    def start(self, run: RunInfo, history: tuple[Trial, ...] = ()) -> None:
        """Say what runs, and start the live line."""
        self.run_dir = run.run_dir
        versions = ", ".join(f"{k} {run.environment[k]}" for k in ("evonas", "python", "torch"))
        self._say(f"{run.name}: {versions}, on {run.environment['devices']}; in {run.run_dir}")
        budget = run.recipe["budget"]
        self._total = budget.get("trials")
        self._seconds = 60 * budget["minutes"] if "minutes" in budget else None
        self._objectives = run.objectives[:1]
        for trial in history:
            self._count(trial)
        self._earlier, self._start = self._done, time.monotonic()
        if taken := len({trial.number for trial in history if trial.origin is not None}):
            self._say(f"started from {taken} trials of other runs")
            self._total = self._total and self._total + taken
        if run.resumed:
            self._say(f"resumed after {self._done} trials")
        self._task = self._progress.add_task("", total=self._total, state="")
        self._progress.start()
        self._show(0.0)

    def record(self, trial: Trial) -> None:
        """Count the trial; print it if it is the best or failed, or all if there is no screen."""
        improved = self._count(trial)
        if trial.state is TrialState.RUNNING:
            return
        if trial.state is TrialState.FAILED:
            reason = (trial.error or "").splitlines()[0]
            self._say(f"trial {trial.number} failed: {reason}")
        elif improved:
            shown = ", ".join(f"{k} {v:,.6g}" for k, v in trial.metrics.items())
            self._say(f"trial {trial.number} is the best so far: {shown}")
        elif not self._live and self._done % 10 == 0:
            self._say(f"{self._done} trials done, {self._state(trial.elapsed)}")
        self._show(trial.elapsed)

    def note(self, message: str) -> None:
        """Print it."""
        self._say(message)

    def close(self, report: Report) -> None:
        """End the live line."""
        self.stop()

    def stop(self) -> None:
        """Give the terminal back, however the run ended; may be called twice."""
        self._progress.stop()

    def _say(self, line: str) -> None:
        self._terminal.print(line, markup=False)

    def _count(self, trial: Trial) -> bool:
        """Take the event in; whether it is the new best."""
        if trial.state is TrialState.RUNNING:
            return False
        self._done += 1
        self._failed += trial.state is TrialState.FAILED
        if trial.state is not TrialState.COMPLETE:
            return False
        by = self._objectives
        if self._best is None or trial.rank(by) > self._best.rank(by):
            self._best = trial
            return True
        return False

    def _show(self, elapsed: float) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=self._done, state=self._state(elapsed))

    def _state(self, elapsed: float) -> str:
        parts = []
        if self._best is not None:
            name = self._objectives[0].metric
            value = self._best.metrics[name]
            parts.append(f"best {name} {value:.4f} (trial {self._best.number})")
        minutes = (time.monotonic() - self._start) / 60
        rate = (self._done - self._earlier) / minutes if minutes > 0 else 0.0
        if self._done > self._earlier:
            parts.append(f"{rate:.1f} trials/min")
        left = []
        if self._total is not None and rate > 0:
            left.append((self._total - self._done) / rate * 60)
        if self._seconds is not None:
            left.append(self._seconds - elapsed)
        if left:
            minutes_left, seconds_left = divmod(max(0, round(min(left))), 60)
            parts.append(f"{minutes_left}:{seconds_left:02d} left")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)
