"""How long report.html takes to write, and how large it is: 100, 1,000 and 10,000 trials.

python -m benchmarks.report
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

from evonas.architecture import Architecture
from evonas.report import page
from evonas.trackers.base import Report, RunInfo
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

SIZES = (100, 1_000, 10_000)
CHOICES = 14


def history(count: int) -> list[Trial]:
    """Trials of fourteen choices, each with a curve of ten epochs and one parent."""
    rng = Random(0)
    ended = []
    for number in range(count):
        choices = {f"c{i}": rng.randint(1, 9) for i in range(CHOICES)}
        accuracy = 0.5 + 0.03 * choices["c0"] + 0.1 * rng.random()
        metrics = {"val_accuracy": accuracy, "params": 1e4 * choices["c0"] + rng.random() * 1e4}
        curve = tuple((step, {"val_accuracy": accuracy * step / 10}) for step in range(1, 11))
        parents = (rng.randrange(number),) if number else ()
        proposal = Proposal(Architecture("s", choices), parents=parents)
        ended.append(
            Trial(
                number, proposal, TrialState.COMPLETE, metrics, curve, 2.0, elapsed=2.0 * number + 2
            )
        )
    return ended


def main() -> None:
    objectives = (Objective("val_accuracy"), Objective("params", "min"))
    run = RunInfo("benchmark", Path(), {}, objectives, {}, 0.0)
    page.text(run, history(30), Report("finished", "", {}, 0.0))  # imports
    print(f"{'trials':>7} {'seconds':>8} {'MB':>6}")
    for count in SIZES:
        events = history(count)
        trials = Trials(objectives, events)
        report = Report("finished", "", trials.counts(), 1.0, trials.best, trials.front())
        begin = time.perf_counter()
        text = page.text(run, events, report)
        print(f"{count:>7,} {time.perf_counter() - begin:>8.2f} {len(text.encode()) / 1e6:>6.2f}")


if __name__ == "__main__":
    main()
