"""The terminal: a live table on a screen, plain lines into a file or pipe."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evonas.trackers.base import Report, RunInfo, Tracker, headline
from evonas.trial import Trial, TrialState
from evonas.trials import Trials

_SILENCE = 30.0  # seconds without a line after which a pipe is told what goes on
_ROWS = 12  # trials that the table shows; a screen is not higher
_REDRAWN = 2.0  # times a second


@dataclass
class _Running:
    """A trial that runs, as far as it was heard of."""

    trial: Trial
    since: float
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


class Console(Tracker):
    """What runs and how far it is, the best so far, how many ended how, the time left."""

    def __init__(self) -> None:
        self._terminal = Terminal(highlight=False, soft_wrap=True)
        self._shows = self._terminal.is_terminal
        self._clock: Callable[[], float] = time.monotonic
        self._live: Live | None = None
        self._over = threading.Event()
        self.run_dir: Path | None = None
        self._reset(None)

    def _reset(self, run: RunInfo | None, events: Sequence[Trial] = ()) -> None:
        """Forget another run: one console may tell of several, one after another."""
        recipe = run.recipe if run else {}
        self._trials = Trials(run.objectives if run else (), events)
        self._budget: Mapping[str, Any] = recipe.get("budget", {})
        self._evaluation: Mapping[str, Any] = recipe.get("evaluation", {})
        self._taken = sum(trial.origin is not None for trial in self._trials.latest.values())
        self._earlier, self._effort = len(self._trials.ended), 0.0
        self._start = self._said = self._heard = self._clock()
        self._elapsed = max((trial.elapsed for trial in events), default=0.0)
        self._running: dict[tuple[str, int], _Running] = {}
        self._drawn = self._accepted = 0
        self._doing = ""  # what goes on while no trial runs
        self._stopping = False

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        """Say what runs, and start the live table, or the thread that breaks long silences."""
        self.stop()
        self.run_dir = run.run_dir
        self._reset(run, events)
        versions = ", ".join(f"{k} {run.environment[k]}" for k in ("evonas", "python", "torch"))
        self._say(f"{run.name}: {versions}, on {run.environment['devices']}; in {run.run_dir}")
        if self._taken:
            self._say(f"started from {self._taken} trials of other runs")
        if run.resumed:
            self._say(f"resumed after {self._earlier} trials")
        if self._shows:
            self._live = Live(
                get_renderable=self._table, console=self._terminal, refresh_per_second=_REDRAWN
            )
            self._live.start()
        else:
            self._over = threading.Event()
            heard = (weakref.ref(self), self._over)  # of a run that crashed nobody closes it
            threading.Thread(target=_break_silence, args=heard, daemon=True).start()

    def record(self, trial: Trial) -> None:
        """Count the trial; print it if it is the best or failed, or all if there is no screen.

        Of final trainings and the audit's, their beginning and their failure.
        """
        key = trial.proposal.stage, trial.number
        if trial.state is TrialState.RUNNING:
            self._running[key] = _Running(trial, self._clock())
        else:
            self._running.pop(key, None)
        if trial.proposal.stage != "search":
            self._record_final(trial)
            return
        self._elapsed, self._heard = trial.elapsed, self._clock()
        self._trials.add(trial)
        if trial.state is TrialState.RUNNING:
            return
        self._effort += trial.proposal.fidelity
        if trial.state is TrialState.FAILED:
            self._say(f"trial {trial.number} failed: {_reason(trial)}")
        elif self._trials.best is trial:
            metrics = headline(trial.metrics, self._trials.objectives)
            shown = ", ".join(f"{k} {v:,.6g}" for k, v in metrics.items())
            self._say(f"trial {trial.number} is the best so far: {shown}")
        elif not self._shows and len(self._trials.ended) % 10 == 0:
            self._say(f"{len(self._trials.ended)} trials done, {self._state()}")

    def _record_final(self, trial: Trial) -> None:
        origin, audited = trial.proposal.parents[0], trial.proposal.stage == "audit"
        if trial.state is TrialState.RUNNING and audited:
            self._say(f"auditing trial {origin}: training it for good")
        elif trial.state is TrialState.RUNNING:
            self._say(f"training trial {origin} for good, seed {trial.proposal.repeat}")
        elif trial.state is TrialState.FAILED:
            self._say(f"training trial {origin} for good failed: {_reason(trial)}")

    def step(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> None:
        """A running trial reported this; called from the thread that waits for it.

        A final training's last step is always said.
        """
        known = self._running.get((trial.proposal.stage, trial.number))
        if known is None:
            return
        known.step, known.metrics = step, metrics
        if trial.proposal.stage != "search" and not self._shows and step == self._epochs(trial):
            self._say(f"  {self._line(known)}")

    def draws(self, drawn: int, accepted: int) -> None:
        """So many random architectures were drawn, and so many of them met the limits."""
        self._drawn, self._accepted = drawn, accepted

    def note(self, message: str) -> None:
        """Print it."""
        self._say(message)

    def interrupted(self) -> None:
        """Say at once that what runs is finished; called by a signal's handler."""
        self._stopping = True
        with suppress(RuntimeError):  # the signal may have come in the middle of a write
            self._say(self._last_words())

    def close(self, report: Report) -> None:
        """End the live table."""
        self.stop()

    def stop(self) -> None:
        """Give the terminal back, however the run ended; may be called twice."""
        self._over.set()
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        self._said = self._clock()
        self._terminal.print(line, markup=False)

    def _due(self) -> bool:
        """Whether somebody who reads a pipe has waited long enough."""
        return self._clock() - self._said >= _SILENCE

    def _progress(self) -> str:
        """What runs, in a line."""
        running = sorted(self._running.values(), key=lambda r: r.since)
        lines = [self._line(each) for each in running[:3]]
        more = f"; and {len(running) - 3} more" if len(running) > 3 else ""
        return "; ".join([*filter(None, [self._state()]), *lines]) + more or "at work"

    def _line(self, running: _Running) -> str:
        """A running trial: how far it is, and what it reported last."""
        trial, of = running.trial, self._epochs(running.trial)
        name = f"trial {trial.number}"
        if trial.proposal.stage != "search":
            name = f"trial {trial.proposal.parents[0]}, seed {trial.proposal.repeat}"
        if not running.step:
            return f"{name} runs for {_clocked(self._clock() - running.since)}"
        shown = headline(running.metrics, self._trials.objectives)
        values = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        return f"{name}, step {running.step}{f' of {of}' if of else ''}: {values}"

    def _epochs(self, trial: Trial) -> int | None:
        """How many steps the trial will report, if the evaluation is one that has epochs."""
        evaluation: Any = self._evaluation
        while isinstance(evaluation, Mapping):
            final, epochs = evaluation.get("final_epochs"), evaluation.get("epochs")
            if trial.proposal.stage != "search" and final is not None:
                return int(final)
            if evaluation.get("of") is None and epochs is not None:
                return max(1, round(int(epochs) * trial.proposal.fidelity))
            evaluation = evaluation.get("of")
        return None

    def _table(self) -> RenderableType:
        """A row for every trial that runs, and the state below."""
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        name = self._trials.objectives[0].metric if self._trials.objectives else ""
        running = sorted(self._running.items())
        for (stage, number), each in running[:_ROWS]:
            of = self._epochs(each.trial)
            step = f"epoch {each.step}{f' of {of}' if of else ''}" if each.step else ""
            shown = headline(each.metrics, self._trials.objectives)
            metric = name if name in shown else next(iter(shown), "")
            value = f"{metric} {shown[metric]:.4f}" if metric else ""
            title = f"trial {number}" if stage == "search" else f"{stage} {number}"
            table.add_row(title, step, value, _clocked(self._clock() - each.since))
        if len(running) > _ROWS:
            table.add_row(f"{len(running) - _ROWS} more")
        return Group(table, Text(self._state()))

    def _last_words(self) -> str:
        count = len(self._running)
        what = f"finishing {count} trial{'s' if count > 1 else ''}" if count else "stopping"
        return f"{what}; press Ctrl-C again to stop now"

    def _state(self) -> str:
        """How far the search is, as it is now."""
        if self._stopping:
            return self._last_words()
        if any(stage != "search" for stage, _ in self._running):
            return "final trainings"
        done = len(self._trials.ended)
        parts = [f"{done} trials ended"] if self._shows else []
        if not done:
            return f"{len(self._running)} running" if self._running else ""
        if best := self._trials.best:
            name = self._trials.objectives[0].metric
            parts.append(f"best {name} {best.metrics[name]:.4f} (trial {best.number})")
        rate = (done - self._earlier) / max(1e-9, self._clock() - self._start)
        if done > self._earlier:
            parts.append(f"{60 * rate:.1f} trials/min")
        left = self._left()
        if left is not None and left < 1:
            parts.append(f"finishing {len(self._running)}")
        elif left is not None:
            parts.append(f"{_clocked(left)} left")
        if self._drawn:
            parts.append(f"{self._accepted / self._drawn:.0%} of draws within the limits")
        states = [trial.state for trial in self._trials.ended]
        for state in (TrialState.FAILED, TrialState.PRUNED):
            if count := states.count(state):
                parts.append(f"{count} {state}")
        return ", ".join(parts)

    def _left(self) -> float | None:
        """Seconds: by the budget's minutes, and by the effort that its trials still are.

        What running trials have reported counts in part, so that the first trial tells already.
        """
        left = []
        now = self._clock()
        if "minutes" in self._budget:
            left.append(60 * self._budget["minutes"] - self._elapsed - (now - self._heard))
        begun = self._effort + sum(map(self._part, self._running.values()))
        if "trials" in self._budget and begun > 0:
            ended = self._trials.ended
            mean = sum(t.proposal.fidelity for t in ended) / len(ended) if ended else 1.0
            session = len(ended) - self._earlier
            wanted = (self._budget["trials"] + self._taken - self._earlier - session) * mean
            partly = begun - self._effort
            left.append(max(0.0, wanted - partly) * (now - self._start) / begun)
        return max(0.0, min(left)) if left else None

    def _part(self, running: _Running) -> float:
        of = self._epochs(running.trial)
        return running.trial.proposal.fidelity * min(1.0, running.step / of) if of else 0.0


def _break_silence(reference: weakref.ref[Console], over: threading.Event) -> None:
    """The thread: into a pipe, something at least every thirty seconds."""
    while not over.wait(min(1.0, _SILENCE)):
        console = reference()
        if console is None:
            return
        if console._due():
            console._say(console._progress())
        del console


def _reason(trial: Trial) -> str:
    return (trial.error or "").splitlines()[0]


def _clocked(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
