"""How long things take: what a run must keep of its minutes for its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from evonas.trial import Trial
from evonas.trials import Trials

_RECENT = 20  # So many trials tell how long the next one takes: a search drifts to other sizes.
_LOOKED_AT = 200  # Among so many, the longest tell how long a final training takes.
_SLOW = 0.9  # Of these the slower ones count, for the best network is seldom a small one.
_OVERRUN = 0.1  # A trial is not begun if it would end later than the time by more than this share.
_UNKNOWN = 1 / 3  # This share is kept where trials do not tell how long a final training takes.
_MOST = 2 / 3  # More is never kept: what few trials find is not worth many final trainings.


@dataclass(frozen=True)
class Reserve:
    """What is kept of the minutes: for the final trainings and the audit, and not to overrun.

    Attributes:
        seconds: Of the whole run.
        trainings: How many final trainings and trainings of the audit there will be.
        workers: How many of them run at once.
    """

    seconds: float
    trainings: int
    workers: int

    def __call__(self, trials: Trials) -> float:
        """Seconds before the end at which no further trial may begin.

        Args:
            trials: The search's, as far as it came.
        """
        own = (t for t in reversed(trials.complete) if t.origin is None and t.seconds > 0)
        known = list(islice(own, _LOOKED_AT))
        if not known:
            return 0.0
        last = self._at_the_end(known)
        trial = _slow([trial.seconds for trial in known[:_RECENT]])
        return last + max(0.0, trial - _OVERRUN * self.seconds)

    def _at_the_end(self, known: Sequence[Trial]) -> float:
        """Seconds of the final trainings and the audit, each of which is an effort of 1."""
        recent = known[:_RECENT]
        if 2 * sum(trial.effort > 0 for trial in recent) <= len(recent):
            return _UNKNOWN * self.seconds  # shared weights or proxies score, and train nothing
        # Most of a short trial's time may be what every trial takes, however little it trains.
        most = max(trial.effort for trial in known)
        longest = [trial for trial in known if trial.effort >= most / 2][:_RECENT]
        pace = _slow([trial.seconds / trial.effort for trial in longest])
        return min(pace * math.ceil(self.trainings / self.workers), _MOST * self.seconds)


def _slow(values: Sequence[float]) -> float:
    return sorted(values)[int(_SLOW * (len(values) - 1))]
