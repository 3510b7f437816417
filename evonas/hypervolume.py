"""How good a Pareto front is, in one number: the volume of what it dominates.

Zitzler and Thiele, Multiobjective optimization using evolutionary algorithms, PPSN 1998; computed
by DEAP. Volume needs a corner and units. Both come from the first ten completed trials and stay:
the worst value of every objective among them is 0, the best is 1. So parameters and accuracies
count alike; a network as good as the best of the ten in everything makes a volume of 1, a front
beyond them more; what is worse than the corner in one objective adds nothing; and the curve of a
search never falls. Runs of different first trials have different units: compare those of one seed,
or see ``benchmarks/pareto.py``, whose units are the table's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

from deap.benchmarks import tools

from evonas.objective import Objective, dominates, keys
from evonas.trial import Trial, TrialState

_FIRST = 10
_Point = tuple[float, ...]  # one value per objective, larger being better


def volume(front: Sequence[_Point], corner: Sequence[float]) -> float:
    """Volume between a corner and points, larger being better; those not beyond it add nothing."""
    beyond = [
        SimpleNamespace(fitness=SimpleNamespace(wvalues=point))
        for point in front
        if all(value > low for value, low in zip(point, corner, strict=True))
    ]
    return float(tools.hypervolume(beyond, [-low for low in corner])) if beyond else 0.0


@dataclass(frozen=True)
class Hypervolume:
    """A fold over trials, in the order in which they end.

    Attributes:
        objectives: Of the run.
        front: Nondominated points so far; of the first ten completed trials, all points.
        corner: The worst values among the ten; empty before.
        units: Best minus worst among them; of equal values 1.
        value: The volume; None before ten trials completed.
    """

    objectives: tuple[Objective, ...]
    front: tuple[_Point, ...] = ()
    corner: _Point = ()
    units: _Point = ()
    value: float | None = None

    def told(self, trial: Trial) -> Hypervolume:
        """The fold with one more trial; itself if that changes nothing.

        With one objective nothing does, and no trial that was not run with full effort.
        """
        full = trial.state is TrialState.COMPLETE and trial.proposal.fidelity == 1
        if not full or len(self.objectives) < 2:
            return self
        point = keys(self.objectives, trial.metrics)
        if not self.corner:
            first = (*self.front, point)
            return replace(self, front=first) if len(first) < _FIRST else self._begun(first)
        if any(dominates(other, point) or other == point for other in self.front):
            return self
        left = (other for other in self.front if not dominates(point, other))
        return self._measured((*left, point))

    def _begun(self, first: Sequence[_Point]) -> Hypervolume:
        """The fold after the first ten: corner and units are known."""
        columns = list(zip(*first, strict=True))
        units = tuple((max(column) - min(column)) or 1.0 for column in columns)
        begun = replace(self, corner=tuple(map(min, columns)), units=units)
        return begun._measured(
            tuple(p for p in dict.fromkeys(first) if not any(dominates(o, p) for o in first))
        )

    def _measured(self, front: tuple[_Point, ...]) -> Hypervolume:
        scaled = [
            tuple((v - c) / u for v, c, u in zip(point, self.corner, self.units, strict=True))
            for point in front
        ]
        return replace(self, front=front, value=volume(scaled, [0.0] * len(self.corner)))


def curve(events: Iterable[Trial], objectives: Sequence[Objective]) -> list[tuple[int, float]]:
    """Number of the trial and volume, wherever the volume changed."""
    points: list[tuple[int, float]] = []
    fold = Hypervolume(tuple(objectives))
    for trial in events:
        told = fold.told(trial)
        if told.value is not None and told.value != fold.value:
            points.append((trial.number, told.value))
        fold = told
    return points
