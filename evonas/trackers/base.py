"""The contract of a tracker: told of every event, it never holds up the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evonas.trial import Objective, Trial


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run when it starts.

    Attributes:
        name: The recipe's name.
        run_dir: The run folder.
        recipe: The resolved recipe as plain data.
        objectives: What the run optimises.
        environment: Installed versions and devices.
        started: Unix time at which the run first started.
        resumed: Whether the run goes on from a history.
        source: How it was begun: ``command``, ``user``, ``commit``, as far as known.
        data: Fingerprint of the data set; empty without one.
        fidelities: What the strategy gives to trials, ascending: the rungs.
        sweep: Name of the sweep that the run belongs to.
    """

    name: str
    run_dir: Path
    recipe: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    environment: Mapping[str, str]
    started: float
    resumed: bool = False
    source: Mapping[str, str] = field(default_factory=dict)
    data: str = ""
    fidelities: tuple[float, ...] = (1.0,)
    sweep: str = ""


@dataclass(frozen=True)
class Report:
    """What is known when a run ends.

    Attributes:
        status: "finished", "interrupted" or "failed".
        reason: One sentence: why the search ended.
        trials: Number of trials by state.
        seconds: Length of the search.
        incumbent: The winner of the final trainings; without any, the search's best.
        front: The Pareto front, if there are several objectives; else the incumbent.
        final: Metrics of the final training, the test split's among them.
        acceptance: Share of sampled architectures that met the constraints, if there are any.
        audit: How well the search's scores agree with full trainings, if that was measured.
        verdict: The audit in one sentence.
        hypervolume: Of the front (see ``evonas.trials``), if there are several objectives.
        remarks: What the strategy has to say of the search, a line each.
        table: The rows that the strategy ends with, all of the same columns.
        effort: Of the search, in full trainings, without trials of other runs.
    """

    status: str
    reason: str
    trials: Mapping[str, int]
    seconds: float
    incumbent: Trial | None = None
    front: tuple[Trial, ...] = ()
    final: Mapping[str, float] = field(default_factory=dict)
    acceptance: float | None = None
    audit: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""
    hypervolume: float | None = None
    remarks: tuple[str, ...] = ()
    table: tuple[Mapping[str, float], ...] = ()
    effort: float = 0.0


def headline(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> dict[str, float]:
    """The metrics that a line has room for: of the validation scores accuracy and objectives."""
    named = {"val_accuracy", *(objective.metric for objective in objectives)}
    return {n: v for n, v in metrics.items() if n in named or not n.startswith("val_")}


class Tracker(ABC):
    """Somebody who is told what happens. ``record`` returns at once: slow work is done aside.

    What a plugin's tracker raises ends the run, which can be resumed: it is a PluginError.
    """

    @abstractmethod
    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        """The run begins, or goes on.

        Args:
            run: What runs.
            events: Those of the journal. It grows: an event is in it, and on the disk, before it is
                recorded. To be read alone.

        Raises:
            PluginError: If the tracker cannot work at all.
        """

    @abstractmethod
    def record(self, trial: Trial) -> None:
        """An event happened, of any stage (``Proposal.stage``)."""

    @abstractmethod
    def close(self, report: Report) -> None:
        """The run ended; the run folder is complete. May wait a bounded time."""

    def note(self, message: str) -> None:  # noqa: B027  (who tells nobody ignores it)
        """Something that a person wants to know happened; may come before ``start``."""
