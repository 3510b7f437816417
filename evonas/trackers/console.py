"""The terminal: a live line on a screen, plain lines into a file or pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from evonas.trackers.base import Report, RunInfo, Tracker, headline
from evonas.trial import Trial, TrialState
from evonas.trials import Trials


class Console(Tracker):
    """Trials done, best so far, trials per minute, time left."""

    def __init__(self) -> None:
        self._terminal = Terminal(highlight=False, soft_wrap=True)
        self._live = self._terminal.is_terminal
        self._progress = Progress(
            TextColumn("{task.completed:.0f} trials"),
            BarColumn(bar_width=30),
            _Live(self._state),
            console=self._terminal,
            auto_refresh=self._live,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._trials = Trials()
        self._total: int | None = None
        self._seconds: float | None = None
        self._earlier = 0  # trials that ended before this session
        self._start = self._heard = time.monotonic()
        self._elapsed = 0.0  # seconds of search, when it was last heard of
        self._running: set[tuple[str, int]] = set()  # stage and number
        self._final = ""  # what a final training said last
        self._stopping = False
        self.run_dir: Path | None = None

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        """Say what runs, and start the live line."""
        self.run_dir = run.run_dir
        versions = ", ".join(f"{k} {run.environment[k]}" for k in ("evonas", "python", "torch"))
        self._say(f"{run.name}: {versions}, on {run.environment['devices']}; in {run.run_dir}")
        budget = run.recipe["budget"]
        self._total = budget.get("trials")
        self._seconds = 60 * budget["minutes"] if "minutes" in budget else None
        self._trials = Trials(run.objectives, events)
        self._earlier, self._start = len(self._trials.ended), time.monotonic()
        if taken := sum(trial.origin is not None for trial in self._trials.latest.values()):
            self._say(f"started from {taken} trials of other runs")
            self._total = self._total and self._total + taken
        if run.resumed:
            self._say(f"resumed after {self._earlier} trials")
        self._hear(max((trial.elapsed for trial in events), default=0.0))
        self._task = self._progress.add_task("", total=self._total)
        self._progress.start()
        self._show()

    def record(self, trial: Trial) -> None:
        """Count the trial; print it if it is the best or failed, or all if there is no screen.

        Of final trainings and the audit's, their beginning and their failure.
        """
        key = trial.proposal.stage, trial.number
        if trial.state is TrialState.RUNNING:
            self._running.add(key)
        else:
            self._running.discard(key)
        if trial.proposal.stage != "search":
            self._record_final(trial)
            return
        self._hear(trial.elapsed)
        self._trials.add(trial)
        if trial.state is TrialState.RUNNING:
            return
        if trial.state is TrialState.FAILED:
            self._say(f"trial {trial.number} failed: {_reason(trial)}")
        elif self._trials.best is trial:
            metrics = headline(trial.metrics, self._trials.objectives)
            shown = ", ".join(f"{k} {v:,.6g}" for k, v in metrics.items())
            self._say(f"trial {trial.number} is the best so far: {shown}")
        elif not self._live and len(self._trials.ended) % 10 == 0:
            self._say(f"{len(self._trials.ended)} trials done, {self._state()}")
        self._show()

    def _record_final(self, trial: Trial) -> None:
        origin, audited = trial.proposal.parents[0], trial.proposal.stage == "audit"
        self._final = f"training trial {origin} for good"
        if trial.state is TrialState.RUNNING and audited:
            self._say(f"auditing trial {origin}: training it for good")
        elif trial.state is TrialState.RUNNING:
            self._say(f"training trial {origin} for good, seed {trial.proposal.repeat}")
        elif trial.state is TrialState.FAILED:
            self._say(f"training trial {origin} for good failed: {_reason(trial)}")

    def note(self, message: str) -> None:
        """Print it; on the way of a final training it is also what the live line says."""
        if self._final and message.startswith("  "):
            self._final = f"final training: {message.strip().partition(':')[0]}"
        self._say(message)

    def interrupted(self) -> None:
        """Say at once that what runs is finished; called by a signal's handler."""
        self._stopping = True
        with suppress(RuntimeError):  # the signal may have come in the middle of a write
            self._say(self._last_words())

    def close(self, report: Report) -> None:
        """End the live line."""
        self.stop()

    def stop(self) -> None:
        """Give the terminal back, however the run ended; may be called twice."""
        self._progress.stop()

    def _say(self, line: str) -> None:
        self._terminal.print(line, markup=False)

    def _hear(self, elapsed: float) -> None:
        self._elapsed, self._heard = elapsed, time.monotonic()

    def _show(self) -> None:
        if self._live and self._task is not None:
            self._progress.update(self._task, completed=len(self._trials.ended))

    def _last_words(self) -> str:
        count = len(self._running)
        what = f"finishing {count} trial{'s' if count > 1 else ''}" if count else "stopping"
        return f"{what}; press Ctrl-C again to stop now"

    def _state(self) -> str:
        """What is going on, as it is now."""
        if self._stopping:
            return self._last_words()
        if self._final:
            return self._final
        if not self._trials.ended:
            return f"{len(self._running)} running" if self._running else ""
        parts = []
        if best := self._trials.best:
            name = self._trials.objectives[0].metric
            parts.append(f"best {name} {best.metrics[name]:.4f} (trial {best.number})")
        done = len(self._trials.ended)
        minutes = (time.monotonic() - self._start) / 60
        rate = (done - self._earlier) / minutes if minutes > 0 else 0.0
        if done > self._earlier:
            parts.append(f"{rate:.1f} trials/min")
        left = []
        if self._total is not None and rate > 0:
            left.append((self._total - done) / rate * 60)
        if self._seconds is not None:
            left.append(self._seconds - self._elapsed - (time.monotonic() - self._heard))
        if left and min(left) < 1:
            parts.append(f"finishing {len(self._running)}")
        elif left:
            minutes_left, seconds_left = divmod(max(0, round(min(left))), 60)
            parts.append(f"{minutes_left}:{seconds_left:02d} left")
        if failed := sum(trial.state is TrialState.FAILED for trial in self._trials.ended):
            parts.append(f"{failed} failed")
        return ", ".join(parts)


def _reason(trial: Trial) -> str:
    return (trial.error or "").splitlines()[0]


class _Live(ProgressColumn):
    """Text that is asked for whenever the line is drawn, which is several times a second."""

    def __init__(self, state: Callable[[], str]) -> None:
        super().__init__()
        self._text = state

    def render(self, task: Task) -> Text:
        return Text(self._text())
