"""What the stages of a run share: the same loop, journal and trackers, and the wish to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, runtime_checkable

from evonas.executors.base import Executor
from evonas.recipe.registry import blamed
from evonas.runs.assemble import Assembly
from evonas.runs.draws import Draws
from evonas.runs.journal import Journal
from evonas.runs.search import Budget, End, Search, Watcher
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trackers.base import Tracker
from evonas.trial import Proposal, Stage, Trial
from evonas.trials import Trials


class Stopped(Exception):
    """The user wants to stop; what is in the journal is kept, and resuming goes on from there."""


@dataclass(frozen=True)
class Session:
    """One process's work on a run.

    Attributes:
        assembly: The run's parts.
        folder: The run folder.
        journal: The run's, held by this process.
        trackers: Told of everything.
        stopping: Whether the user wants to stop.
    """

    assembly: Assembly
    folder: Path
    journal: Journal
    trackers: tuple[Tracker, ...]
    stopping: Callable[[], bool]

    def note(self, message: str) -> None:
        """Tell the trackers something that a person wants to know."""
        for tracker in self.trackers:
            with blamed(type(tracker), "cannot take a note"):
                tracker.note(message)

    def record(self, event: Trial) -> None:
        """Write an event down, then tell the trackers."""
        self.journal.append(event)
        for tracker in self.trackers:
            with blamed(type(tracker), "cannot record"):
                tracker.record(event)

    def trials(self, stage: Stage = "search") -> Trials:
        """What is known of a stage; only the search's trials are ranked by the objectives."""
        objectives = self.assembly.objectives if stage == "search" else ()
        return Trials(objectives, self.journal.events, stage)

    def search(self, strategy: Strategy) -> End:
        """Go on with the search until it ends.

        Raises:
            TooManyFailures: If trials fail one after another.
        """
        assembly, work = self.assembly, self.assembly.evaluator.context.work
        draws = Draws(self.folder, assembly.space.limits) if assembly.space.limits else None
        prepared = work.pixels / work.full if work.full else 0.0
        executor, followers = assembly.executor(), self._followers()
        if executor.remark:
            self.note(executor.remark)
        with executor:
            search = self._search(
                strategy, executor, assembly.budget, assembly.pruner(), prepared=prepared
            )
            for event in search:
                self.record(event)
                if draws is not None:
                    total = draws.total()
                    for follower in followers:
                        follower.draws(*total)
        return search.end

    def train(self, proposals: Sequence[Proposal]) -> list[Trial]:
        """Train these proposals of one later stage, but for those that were tried before.

        Returns:
            The last event of each, in their order: COMPLETE or FAILED.

        Raises:
            Stopped: If the user wants to stop before all have ended.
        """
        stage = proposals[0].stage
        known = self.trials(stage)
        missing = [p for p in proposals if p.key not in known.proposed]
        if missing or known.running:
            plan, budget = Plan(self.assembly.space, proposals), Budget(max_failures=None)
            elapsed = max((event.elapsed for event in self.journal.events), default=0.0)
            with self.assembly.final_executor(len(missing) + len(known.running)) as executor:
                for event in self._search(plan, executor, budget, stage=stage, elapsed=elapsed):
                    self.record(event)
            known = self.trials(stage)
        ended = {trial.proposal.key: trial for trial in known.ended}
        if any(proposal.key not in ended for proposal in proposals):
            raise Stopped
        return [ended[proposal.key] for proposal in proposals]

    def _search(
        self,
        strategy: Strategy,
        executor: Executor,
        budget: Budget,
        watcher: Watcher | None = None,
        **more: Any,
    ) -> Search:
        """A search that goes on from the journal; ``more`` are arguments of ``Search``."""
        if followers := self._followers():
            watcher = _Steps(watcher, followers)
        seed, events = self.assembly.recipe.seed, self.journal.events
        return Search(strategy, executor, budget, seed, events, self.stopping, watcher, **more)

    def _followers(self) -> list[Follows]:
        return [tracker for tracker in self.trackers if isinstance(tracker, Follows)]

    def begin_again(self, trials: Sequence[Trial]) -> None:
        """Have trials that ended run once more, by their numbers, when ``train`` is called next."""
        for trial in trials:
            self.record(Trial(trial.number, trial.proposal, elapsed=trial.elapsed))


class Plan(Strategy):
    """Proposals that are given, in their order, each once.

    Args:
        space: Not asked: the proposals may exceed its limits.
        proposals: Of one stage.
    """

    def __init__(self, space: SearchSpace, proposals: Sequence[Proposal]) -> None:
        super().__init__(space, ())
        self.told = Trials(stage=proposals[0].stage)
        self._proposals = tuple(proposals)

    def ask(self, rng: Random) -> Proposal | None:
        """The first that was not made."""
        return next((p for p in self._proposals if p.key not in self.told.proposed), None)


@runtime_checkable
class Follows(Protocol):
    """A tracker that wants to know of trials while they run."""

    def step(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> None:
        """A running trial reported this; from any thread, and it waits: return at once."""

    def draws(self, drawn: int, accepted: int) -> None:
        """So many random architectures were drawn, and so many of them met the limits."""


class _Steps:
    """Passes on what running trials report, and asks another watcher whether to stop them."""

    def __init__(self, watcher: Watcher | None, followers: Sequence[Follows]) -> None:
        self._watcher, self._followers = watcher, followers
        self._running: dict[int, Trial] = {}

    def tell(self, trial: Trial) -> None:
        self._running[trial.number] = trial
        if self._watcher is not None:
            self._watcher.tell(trial)

    def should_stop(self, number: int, step: int, metrics: Mapping[str, float]) -> bool:
        for follower in self._followers:
            follower.step(self._running[number], step, metrics)
        return self._watcher is not None and self._watcher.should_stop(number, step, metrics)
