"""How long things take: what a run must keep of its minutes for its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from evonas.evaluators.base import Evaluator
from evonas.trial import Trial
from evonas.trials import Trials

_RECENT = 20  # So many trials tell how long the next one takes: a search drifts to other sizes.
_SLOW = 0.9  # Of these the slower ones count, for the best network is seldom a small one.
_OVERRUN = 0.1  # A trial is not begun if it would end later than the time by more than this share.
_UNKNOWN = 1 / 3  # This share is kept where trials do not tell how long a final training takes.


@dataclass(frozen=True)
class Reserve:
    """What is kept of the minutes: for the final trainings and the audit, and not to overrun.

    Attributes:
        seconds: Of the whole run.
        evaluator: Says how much effort a trial and a final training are.
        trainings: How many of the latter there will be.
        workers: How many of them run at once.
    """

    seconds: float
    evaluator: Evaluator
    trainings: int
    workers: int

    def __call__(self, trials: Trials) -> float:
        """Seconds before the end at which no further trial may begin.

        Args:
            trials: The search's, as far as it came.
        """
        if not self.evaluator.finals:  # a trial is a look-up, and there is nothing after the search
            return 0.0
        own = (t for t in reversed(trials.complete) if t.origin is None and t.seconds > 0)
        known = list(islice(own, _RECENT))
        if not known:
            return 0.0
        last = self._at_the_end(known)
        trial = _slow([trial.seconds for trial in known])
        return last + max(0.0, trial - _OVERRUN * self.seconds)

    def _at_the_end(self, known: Sequence[Trial]) -> float:
        """Seconds of the final trainings and the audit."""
        effort = self.evaluator.final_effort()
        if effort is None:
            return _UNKNOWN * self.seconds
        paces = [t.seconds / self.evaluator.effort(t.proposal.fidelity) for t in known]
        return _slow(paces) * effort * math.ceil(self.trainings / self.workers)


def _slow(values: Sequence[float]) -> float:
    return sorted(values)[int(_SLOW * (len(values) - 1))]
