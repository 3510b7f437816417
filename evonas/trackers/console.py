"""The terminal: a live table on a screen, plain lines into a file or pipe.

Events come from the search's thread, steps from the threads that wait for workers; the table is
drawn by a thread of rich's, and silences are broken by one of ours. There is no lock, which a
signal's handler could find taken: whoever draws reads copies, of dictionaries and lists alone, and
what takes several of them, such as the best trial, is put down by the search's thread.
"""

from __future__ import annotations

import _thread
import os
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evonas.trackers.base import Report, RunInfo, Tracker, headline
from evonas.trial import Trial, TrialState, figure
from evonas.trials import Trials

_SHARED = ("hypernet", "supernet")  # Their first trial reports epochs, which others have none of.
_SILENCE = 30.0  # seconds without a line after which a pipe is told what goes on
_COUNTED = 5.0  # seconds between two lines that count the trials: some tables answer in no time
_ROWS = 12  # trials that the table shows at most
_BELOW = 4  # lines of a screen that are left for the state and for who reads along
_REDRAWN = 2.0  # times a second
_NO_RUN = RunInfo("", Path(), {}, (), {}, 0.0)


@dataclass(frozen=True)
class _Running:
    """A trial that runs, as far as it was heard of."""

    trial: Trial
    since: float
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def wrapped(line: str, width: int) -> str:
    """Broken between words, which a terminal does not do; what is longer stays whole."""
    return textwrap.fill(
        line,
        max(20, width),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def unread() -> None:
    """Nobody reads any more, as after ``| head``: be silent, and stop as if interrupted once."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _thread.interrupt_main()


class _Terminal(Terminal):
    def on_broken_pipe(self) -> None:
        unread()


class Console(Tracker):
    """What runs and how far it is, the best so far, how many ended how, the time left."""

    def __init__(self) -> None:
        self._terminal = _Terminal(highlight=False, soft_wrap=True, emoji=False)
        # FORCE_COLOR has rich take a pipe for a screen, and a dumb terminal cannot draw again.
        cursor = self._terminal.is_terminal and not self._terminal.is_dumb_terminal
        self._shows = cursor and self._terminal.file.isatty()
        self._clock: Callable[[], float] = time.monotonic
        self._live: Live | None = None
        self._over = threading.Event()
        self.run_dir: Path | None = None
        self._reset(_NO_RUN, ())

    def _reset(self, run: RunInfo, events: Sequence[Trial]) -> None:
        """Forget another run: one console may tell of several, one after another."""
        self._trials = Trials(run.objectives, events)
        self._budget: Mapping[str, Any] = run.recipe.get("budget", {})
        self._evaluation: Mapping[str, Any] = run.recipe.get("evaluation", {})
        self._grace: float | None = run.recipe.get("executor", {}).get("grace")
        self._taken = sum(trial.origin is not None for trial in self._trials.latest.values())
        self._earlier = len(self._trials.ended)
        self._start = self._said = self._clock()
        self._begun = self._start - max((trial.elapsed for trial in events), default=0.0)
        # Trials that an earlier session began are run again without another event.
        again = self._trials.running.values() if run.resumed else ()
        self._running = {_key(trial): _Running(trial, self._start) for trial in again}
        self._best = self._trials.best
        self._counted = -_COUNTED
        self._drawn = self._accepted = 0
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
                get_renderable=self._table,
                console=self._terminal,
                refresh_per_second=_REDRAWN,
                transient=True,  # at the end the outcome says it better
                redirect_stderr=sys.stderr.isatty(),  # what goes to a file stays there
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
        now, ended = self._clock(), trial.state is not TrialState.RUNNING
        if ended:
            self._running.pop(_key(trial), None)
        else:
            if not self._running and len(self._trials.ended) == self._earlier:
                self._start = now  # what was prepared before says nothing of the pace
            self._running[_key(trial)] = _Running(trial, now)
        if trial.proposal.stage != "search":
            self._record_final(trial)
            return
        self._begun = now - trial.elapsed
        self._trials.add(trial)
        if ended:
            self._best = self._trials.best
            self._record_end(trial, now)

    def _record_end(self, trial: Trial, now: float) -> None:
        tenth = len(self._trials.ended) % 10 == 0
        if trial.state is TrialState.FAILED:
            self._say(f"trial {trial.number} failed: {_reason(trial)}")
        elif self._best is trial:
            metrics = headline(trial.metrics, self._trials.objectives)
            shown = ", ".join(f"{k} {figure(v)}" for k, v in metrics.items())
            self._say(f"trial {trial.number} is the best so far: {shown}")
        elif tenth and not self._shows and now - self._counted >= _COUNTED:
            self._counted = now
            self._say(self._state())

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
        # One that an earlier session began may be heard of here first.
        known = self._running.get(_key(trial)) or _Running(trial, self._clock())
        self._running[_key(trial)] = known = replace(known, step=step, metrics=metrics)
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
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        self._said = self._clock()
        shown = wrapped(line, self._terminal.width) if self._shows else line
        self._terminal.print(shown, markup=False)

    def _break_silence(self) -> None:
        """Say something, if somebody who reads a pipe has waited long enough."""
        if self._clock() - self._said >= _SILENCE:
            self._say(self._progress())

    def _progress(self) -> str:
        """What runs, in a line."""
        running = sorted(list(self._running.values()), key=lambda r: r.since)
        lines = [self._line(each) for each in running[:3]]
        more = [f"and {len(running) - 3} more"] if len(running) > 3 else []
        return "; ".join([self._state(), *lines, *more])

    def _line(self, running: _Running) -> str:
        """A running trial: how far it is, and what it reported last."""
        name = _name(running.trial)
        if not running.step:
            return f"{name} runs for {_clocked(self._clock() - running.since)}"
        shown = headline(running.metrics, self._trials.objectives)
        values = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        return f"{name}, {self._reached(running)}" + (f": {values}" if values else "")

    def _reached(self, running: _Running) -> str:
        """The last step, which of a training is an epoch."""
        if not running.step:
            return ""
        of = self._epochs(running.trial)
        return f"epoch {running.step} of {of}" if of else f"step {running.step}"

    def _epochs(self, trial: Trial) -> int | None:
        """How many steps the trial will report, if the evaluation is one that has epochs."""
        searched, trainer = trial.proposal.stage == "search", self._evaluation
        while isinstance(inner := trainer.get("of"), Mapping):
            if searched and trainer.get("name") in _SHARED:
                return None
            trainer = inner
        epochs = trainer.get("epochs")
        if not searched and trainer.get("final_epochs") is not None:
            return int(trainer["final_epochs"])
        return None if epochs is None else max(1, round(int(epochs) * trial.proposal.fidelity))

    def _table(self) -> RenderableType:
        """A row for every trial that runs, and the state below."""
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        running = sorted(list(self._running.items()))
        rows = max(1, min(_ROWS, self._terminal.height - _BELOW))
        for _, each in running[:rows]:
            shown = headline(each.metrics, self._trials.objectives)
            first = self._trials.objectives[0].metric
            metric = first if first in shown else next(iter(shown), "")
            value = f"{metric} {shown[metric]:.4f}" if metric else ""
            since = _clocked(self._clock() - each.since)
            table.add_row(_name(each.trial), self._reached(each), value, since)
        if len(running) > rows:
            table.add_row(f"{len(running) - rows} more")
        # The terminal wraps what is printed, but what is drawn again must be wrapped here.
        return Group(table, Text(self._state(), no_wrap=False, overflow="fold"))

    def _last_words(self) -> str:
        count = len(self._running)
        what = f"finishing {count} trial{'s' if count > 1 else ''}" if count else "stopping"
        if count and self._grace is not None:
            what += f", for {self._grace:g} s at most"
        return f"{what}; press Ctrl-C again to stop now"

    def _state(self) -> str:
        """How far the run is, as it is now."""
        if self._stopping:
            return self._last_words()
        stages = {stage for stage, _ in list(self._running)}
        if later := stages - {"search"}:
            return "auditing" if later == {"audit"} else "final trainings"
        if not self._trials.ended:
            idle = f"at work for {_clocked(self._clock() - self._start)}"
            return f"{len(self._running)} running" if stages else idle
        return ", ".join([*self._reckoned(), *self._counts()])

    def _reckoned(self) -> list[str]:
        """How many trials ended, the best of them, and how long the rest will take."""
        done, best = len(self._trials.ended), self._best
        parts = [f"{done} trial{'s' if done > 1 else ''} ended"]
        if best is not None:
            name = self._trials.objectives[0].metric
            parts.append(f"best {name} {best.metrics[name]:.4f} (trial {best.number})")
        if done > self._earlier:
            rate = (done - self._earlier) / max(1e-9, self._clock() - self._start)
            parts.append(f"{60 * rate:.1f} trials/min")
        if "effort" in self._budget:
            parts.append(f"effort {self._trials.effort:.1f} of {self._budget['effort']:g}")
        left, running = self._left(), len(self._running)
        if left is not None and left >= 1:
            parts.append(f"{_clocked(left)} left")
        elif left is not None and running:
            parts.append(f"finishing {running}")
        return parts

    def _counts(self) -> list[str]:
        """The share of draws within the limits, and the trials that came to nothing."""
        parts = []
        if self._drawn:
            parts.append(f"{self._accepted / self._drawn:.0%} of draws within the limits")
        states = [trial.state for trial in self._trials.ended]
        for state in (TrialState.FAILED, TrialState.PRUNED):
            if count := states.count(state):
                parts.append(f"{count} {state}")
        return parts

    def _left(self) -> float | None:
        """Seconds: by the budget's minutes, its effort, and the fidelities of its other trials.

        What running trials have reported counts in part, so that the first trial tells already;
        but what effort a fidelity is, only trials that ended tell.
        """
        left, now = [], self._clock()
        ended = list(self._trials.ended)
        session = ended[self._earlier :]
        fidelities = sum(trial.proposal.fidelity for trial in session)
        effort = sum(trial.effort for trial in session)
        partly = sum(map(self._part, list(self._running.values())))
        if "minutes" in self._budget:
            left.append(60 * self._budget["minutes"] - (now - self._begun))
        if "effort" in self._budget and effort > 0:
            part = partly * effort / fidelities
            wanted = self._budget["effort"] - self._trials.effort
            left.append((wanted - part) * (now - self._start) / (effort + part))
        if "trials" in self._budget and fidelities + partly > 0:
            mean = sum(t.proposal.fidelity for t in ended) / len(ended) if ended else 1.0
            wanted = (self._budget["trials"] + self._taken - len(ended)) * mean
            left.append(max(0.0, wanted - partly) * (now - self._start) / (fidelities + partly))
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
        console._break_silence()
        del console


def _key(trial: Trial) -> tuple[str, int]:
    return trial.proposal.stage, trial.number


def _name(trial: Trial) -> str:
    """As people know it: later stages train trials of the search."""
    if trial.proposal.stage == "search":
        return f"trial {trial.number}"
    return f"trial {trial.proposal.parents[0]}, seed {trial.proposal.repeat}"


def _reason(trial: Trial) -> str:
    return (trial.error or "").splitlines()[0]


def _clocked(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
