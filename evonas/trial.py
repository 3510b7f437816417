"""Objective, Limit, Proposal and Trial: what is wanted, and the events that a run is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from evonas.architecture import Architecture

Direction = Literal["max", "min"]
Stage = Literal["search", "final", "audit"]
_READ = ConfigDict(extra="forbid", allow_inf_nan=False)  # Of what is read from JSON.
_Number = Annotated[int, Field(ge=0)]
Curve = tuple[tuple[int, Mapping[str, float]], ...]
Reporter = Callable[[int, Mapping[str, float]], None]  # step, metrics


def figure(value: float) -> str:
    """A metric's value: every digit of a whole number, as counts are, and six of any other."""
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole else f"{value:,.6g}"


@dataclass(frozen=True)
class Objective:
    """A metric and the direction in which it is better."""

    metric: str
    direction: Direction = "max"

    def key(self, metrics: Mapping[str, float]) -> float:
        """The metric with its sign such that larger is better."""
        return metrics[self.metric] if self.direction == "max" else -metrics[self.metric]


def keys(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> tuple[float, ...]:
    """One larger-is-better number per objective; tuples compare lexicographically."""
    return tuple(objective.key(metrics) for objective in objectives)


@dataclass(frozen=True)
class Limit:
    """Bounds of a cost, both included."""

    min: float = -math.inf
    max: float = math.inf

    def __str__(self) -> str:
        bounds = ((self.min, "at least"), (self.max, "at most"))
        return " and ".join(f"{word} {b:,.0f}" for b, word in bounds if math.isfinite(b))

    def violation(self, value: float) -> float:
        """How far outside, relative to the bound; 0 within."""
        if value > self.max:
            return value / self.max - 1 if self.max > 0 else math.inf
        return self.min / value - 1 if 0 < value < self.min else float(value < self.min)


class TrialState(StrEnum):
    """Where a trial stands. All but RUNNING are final."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    PRUNED = "pruned"


@dataclass(frozen=True)
class Proposal:
    """What a strategy asks to be tried.

    Attributes:
        architecture: The point of the search space.
        fidelity: Effort of the trial, 1 being full effort; what it means is the evaluator's.
        parents: Numbers of the trials it descends from.
        resume_from: Number of the trial whose training it continues.
        repeat: 0 the first time; 1, 2, … for further trainings, which measure the noise.
        stage: What it is tried for: the search itself, the final training of its best, or the
            audit of its scores. Trials are numbered within their stage.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _READ

    architecture: Architecture
    fidelity: float = 1.0
    parents: tuple[_Number, ...] = ()
    resume_from: _Number | None = None
    repeat: _Number = 0
    stage: Stage = "search"

    @property
    def key(self) -> tuple[str, float, int]:
        """What makes two proposals the same: architecture, fidelity and repeat."""
        return self.architecture.id, self.fidelity, self.repeat

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return {**vars(self), "architecture": self.architecture.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Proposal:
        """Read what ``to_json`` wrote; ValueError if it is something else."""
        return _PROPOSAL.validate_python(data)


@dataclass(frozen=True)
class Trial:
    """One event in the life of a trial; a later event with the same number supersedes it.

    Attributes:
        number: 0, 1, 2, … in order of proposal.
        proposal: What is tried.
        state: Where it stands.
        metrics: Final metrics; empty unless COMPLETE or PRUNED.
        curve: (step, metrics) pairs reported on the way, usually one per epoch.
        seconds: What the evaluation took.
        error: Why it failed: one line, then the traceback.
        elapsed: Seconds of search, over all sessions, when the event happened.
        origin: Where it was taken from, if another run made it: ``RUN#number``.
        effort: What was trained in it, in full trainings of the recipe: epochs times images times
            pixels. Where nobody counts (tables, evaluators of plugins that train in their own way,
            a worker that died) it is the fidelity. 0 while RUNNING.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _READ

    number: _Number
    proposal: Proposal
    state: TrialState = TrialState.RUNNING
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Curve = ()
    seconds: float = 0.0
    error: str | None = None
    elapsed: float = 0.0
    origin: str | None = None
    effort: float = 0.0

    @property
    def architecture(self) -> Architecture:
        """The proposal's architecture."""
        return self.proposal.architecture

    def rank(self, objectives: Sequence[Objective]) -> tuple[float, ...]:
        """What completed trials compare by, larger is better: the fidelity, then the objectives.

        Values of unequal effort do not compare, and that of the fuller trial is the better known.
        """
        return self.proposal.fidelity, *keys(objectives, self.metrics)

    def failed(self, error: str, seconds: float = 0.0) -> Trial:
        """This trial, ended by ``error``; what it trained is not known."""
        effort = self.proposal.fidelity
        state = TrialState.FAILED
        return replace(self, state=state, error=error, seconds=seconds, effort=effort, metrics={})

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        curve = [[step, dict(metrics)] for step, metrics in self.curve]
        plain = {"proposal": self.proposal.to_json(), "metrics": dict(self.metrics), "curve": curve}
        return {**vars(self), **plain}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Trial:
        """Read what ``to_json`` wrote; journals of before have no effort but the fidelity.

        Raises:
            ValueError: If it is something else.
        """
        trial = _TRIAL.validate_python(data)
        if lacking := {"state", "metrics", "curve"} - data.keys():  # defaults are for new trials
            raise ValueError(f"{min(lacking)}: is missing")
        if "effort" not in data and trial.state is not TrialState.RUNNING:
            return replace(trial, effort=trial.proposal.fidelity)
        return trial


_PROPOSAL, _TRIAL = TypeAdapter(Proposal), TypeAdapter(Trial)
