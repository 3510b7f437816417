"""What is known of a run: one fold over trial events, and views of it.

Strategies, the console, MLflow and the report all ask the same object, so that "best so far" and
"the front" are written, and can be wrong, in one place.

The hypervolume says in one number how good a Pareto front is: the volume of what it dominates.
Zitzler and Thiele, Multiobjective optimization using evolutionary algorithms, PPSN 1998; computed
by DEAP. Volume needs a corner and units. Both come from the first ten completed trials and stay:
the worst value of every objective among them is 0, the best is 1. So parameters and accuracies
count alike; a network as good as the best of the ten in everything makes a volume of 1, a front
beyond them more; what is worse than the corner in one objective adds nothing; and the curve of a
search never falls. Runs of different first trials have different units: compare those of one seed,
or see ``benchmarks/pareto.py``, whose units are the table's.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace

from evonas.architecture import Architecture
from evonas.errors import HistoryError
from evonas.trial import Objective, Proposal, Stage, Trial, TrialState, keys

_FIRST = 10  # completed trials that give the hypervolume its corner and its units
_Point = tuple[float, ...]  # one value per objective, larger being better


class Trials:
    """The trials of one stage, as far as they were told.

    Args:
        objectives: What ranks them.
        events: Told at once; more by ``add``.
        stage: Events of other stages are passed over.

    Attributes:
        latest: The last event of every trial by number, in the order of proposal.
        running: Those of trials that have not ended.
        ended: Those of trials that have, in the order in which they did.
        complete: Those of completed trials among them.
        pruned: Those of pruned trials among them.
        proposed: Keys of all proposals (``Proposal.key``).
        effort: Of the trials that have ended, in full trainings; not of those of other runs.
    """

    def __init__(
        self,
        objectives: Sequence[Objective] = (),
        events: Iterable[Trial] = (),
        stage: Stage = "search",
    ) -> None:
        self.objectives, self.stage = tuple(objectives), stage
        self.latest: dict[int, Trial] = {}
        self.running: dict[int, Trial] = {}
        self.ended: list[Trial] = []
        self.complete: list[Trial] = []
        self.pruned: list[Trial] = []
        self.proposed: set[tuple[str, float, int]] = set()
        self.effort = 0.0
        self._ranked: list[tuple[_Point, int, Trial]] = []  # rank, the best first, and number
        self._fullest: dict[str, Trial] = {}  # by the architecture's id
        self._volume = Hypervolume(self.objectives)  # told of ``complete`` when it is asked for
        for trial in events:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Take in an event.

        Raises:
            HistoryError: If a trial completed without a metric that is to be optimised.
        """
        if trial.proposal.stage != self.stage:
            return
        known = self.latest.get(trial.number)
        self.latest[trial.number] = trial
        self.proposed.add(trial.proposal.key)
        if trial.state is TrialState.RUNNING:
            if known is not None and known.state is not TrialState.RUNNING:
                self._forget(trial.number)  # it is run again
            self.running[trial.number] = trial
            return
        self.running.pop(trial.number, None)
        self.ended.append(trial)
        self.effort += _own_effort(trial)
        if trial.state is TrialState.COMPLETE:
            self._add_complete(trial)
        elif trial.state is TrialState.PRUNED:
            self.pruned.append(trial)

    def _add_complete(self, trial: Trial) -> None:
        for objective in self.objectives:
            if objective.metric not in trial.metrics:
                raise HistoryError(
                    f"trial {trial.number} completed without {objective.metric!r}, which is to be "
                    "optimised: recipe and journal are not of one run"
                )
        self.complete.append(trial)
        rank = tuple(-value for value in trial.rank(self.objectives))
        insort(self._ranked, (rank, trial.number, trial))
        self._add_fullest(trial)

    def _add_fullest(self, trial: Trial) -> None:
        known = self._fullest.setdefault(trial.architecture.id, trial)
        # Of repeated trainings the first counts: the best of several would be there for its luck.
        if (-trial.proposal.fidelity, trial.number) < (-known.proposal.fidelity, known.number):
            self._fullest[trial.architecture.id] = trial

    def _forget(self, number: int) -> None:
        self.effort -= sum(_own_effort(trial) for trial in self.ended if trial.number == number)
        for trials in (self.ended, self.complete, self.pruned):
            trials[:] = [trial for trial in trials if trial.number != number]
        self._ranked = [entry for entry in self._ranked if entry[1] != number]
        self._fullest = {}
        for _, _, trial in self._ranked:
            self._add_fullest(trial)
        self._volume = Hypervolume(self.objectives)

    def exclude(self, architecture: Architecture) -> None:
        """Count it among what was proposed: somebody else tries it."""
        self.proposed.add(Proposal(architecture).key)

    def ranked(self) -> Iterator[Trial]:
        """The ranking, one after another: who wants the first of it need not make all of it."""
        for _, _, trial in self._ranked:
            if self._fullest[trial.architecture.id] is trial:
                yield trial

    def ranking(self) -> list[Trial]:
        """Completed trials, the fullest first, then the best; every architecture once.

        It is there with its fullest trial, and of repeated ones the first. Of equals the earlier
        is first.
        """
        return list(self.ranked())

    @property
    def best(self) -> Trial | None:
        """The first of the ranking; None before a trial completed."""
        return next(self.ranked(), None)

    def fullest(self, architecture: Architecture) -> Trial | None:
        """The trial with which an architecture stands in the ranking; None if none completed."""
        return self._fullest.get(architecture.id)

    def front(self) -> tuple[Trial, ...]:
        """The fullest trials that no other dominates, the best by the first objective first."""
        front: list[Trial] = []
        highest: tuple[_Point, ...] = ()  # of two objectives one value; of more a front of its own
        for trial in self.ranked():
            if front and trial.proposal.fidelity < front[0].proposal.fidelity:
                break
            # Who comes earlier is no worse in the first objective: the others decide.
            before, highest = highest, _joined(highest, keys(self.objectives, trial.metrics)[1:])
            if highest is not before:
                front.append(trial)
        return tuple(front)

    def volumes(self) -> list[tuple[int, float]]:
        """The hypervolume's curve: number of the trial and volume, wherever it changed.

        Empty with one objective, and before ten trials completed.
        """
        for trial in self.complete[self._volume.told :]:
            self._volume.tell(trial)
        return self._volume.curve

    @property
    def hypervolume(self) -> float | None:
        """Of the front; None with one objective, and before ten trials completed."""
        curve = self.volumes()
        return curve[-1][1] if curve else None

    def counts(self) -> Counter[str]:
        """Number of trials by state."""
        return Counter(str(trial.state) for trial in self.latest.values())


def _covers(a: _Point, b: _Point) -> bool:
    """Whether ``a`` is nowhere worse than ``b``."""
    return all(x >= y for x, y in zip(a, b, strict=True))


def _joined(front: tuple[_Point, ...], point: _Point) -> tuple[_Point, ...]:
    """Nondominated points with one more among them; the same tuple if that is no worse than one."""
    if any(_covers(known, point) for known in front):
        return front
    return (*(known for known in front if not _covers(point, known)), point)


def _own_effort(trial: Trial) -> float:
    return trial.effort if trial.origin is None else 0.0


def volume(front: Sequence[_Point], corner: Sequence[float]) -> float:
    """Volume between a corner and points, larger being better; those not beyond it add nothing."""
    beyond = [
        SimpleNamespace(fitness=SimpleNamespace(wvalues=point))
        for point in front
        if all(value > low for value, low in zip(point, corner, strict=True))
    ]
    from deap.benchmarks import tools  # its import takes long, and few runs have two objectives

    return float(tools.hypervolume(beyond, [-low for low in corner])) if beyond else 0.0


class Hypervolume:
    """The volume of the front, as completed trials are told in the order in which they end.

    With one objective there is none, and trials that were not run with full effort do not count.

    Attributes:
        told: Number of trials.
        front: Nondominated points so far.
        curve: Number of the trial and volume, wherever it changed.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives
        self.told = 0
        self.front: tuple[_Point, ...] = ()
        self.curve: list[tuple[int, float]] = []
        self._first: list[_Point] = []  # ten, which give corner and units; fewer before

    def tell(self, trial: Trial) -> None:
        """Take in a completed trial."""
        self.told += 1
        if trial.proposal.fidelity < 1 or len(self.objectives) < 2:
            return
        point = keys(self.objectives, trial.metrics)
        before, self.front = self.front, _joined(self.front, point)
        self._first = [*self._first, point][:_FIRST]
        if len(self._first) < _FIRST or (self.front is before and self.curve):
            return
        columns = list(zip(*self._first, strict=True))
        corner = [min(column) for column in columns]
        units = [(max(column) - low) or 1.0 for column, low in zip(columns, corner, strict=True)]
        scaled = [
            tuple((v - c) / u for v, c, u in zip(point, corner, units, strict=True))
            for point in self.front
        ]
        value = volume(scaled, [0.0] * len(corner))
        if not self.curve or value != self.curve[-1][1]:
            self.curve.append((trial.number, value))
