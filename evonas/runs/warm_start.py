"""Warm start: what other runs found out is told to the strategy before it is first asked.

The trials become the first events of the new run's own journal, so it needs those runs no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from evonas.errors import HistoryError, InvalidArchitecture, RecipeError
from evonas.recipe import reading
from evonas.recipe.schema import searched
from evonas.runs.assemble import Assembly
from evonas.runs.journal import read_journal
from evonas.trial import Proposal, Trial, TrialState
from evonas.trials import Trials


@runtime_checkable
class Finds(Protocol):
    """A tracker that knows runs by ids of its own."""

    def folder(self, run_id: str) -> Path | None:
        """The run folder of such a run; None if there is none.

        Raises:
            PluginError: If the tracker's store cannot be reached.
        """


def events(assembly: Assembly) -> list[Trial]:
    """The events that a run begins with: RUNNING and the end of every trial worth telling.

    Those are the completed and pruned trials of the runs that ``start_from`` names which the new
    run's constraints allow, each architecture once. Failed ones are left to be tried again. Numbers
    begin with 0; what refers to weights, which stay with the other runs, is left out.

    Raises:
        RecipeError: If a run is not there, or its trials are not comparable.
        StorageError: If its journal is damaged.
    """
    told: list[Trial] = []
    known: set[tuple[str, float, int]] = set()
    for name in assembly.recipe.start_from:
        numbers: dict[int, int] = {}  # of that run → of the new run
        for trial in _trials(assembly, name):
            proposal = _proposal(assembly, trial, numbers)
            if proposal is None or proposal.key in known:
                continue
            known.add(proposal.key)
            number = numbers[trial.number] = len(told) // 2
            begun = Trial(number, proposal, origin=f"{name}#{trial.number}")
            told += [
                begun,
                replace(trial, number=number, proposal=proposal, origin=begun.origin, elapsed=0.0),
            ]
    return told


def _proposal(assembly: Assembly, trial: Trial, numbers: Mapping[int, int]) -> Proposal | None:
    """What was proposed, in the new run's space and numbers; None if it is not to be told."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    try:
        architecture = assembly.space.architecture(trial.architecture.choices)
    except InvalidArchitecture:  # the constraints are others
        return None
    parents = tuple(numbers[p] for p in trial.proposal.parents if p in numbers)
    return replace(trial.proposal, architecture=architecture, parents=parents, resume_from=None)


def _trials(assembly: Assembly, name: str) -> list[Trial]:
    """The trials of a run, whose recipe must be comparable."""
    folder = _folder(assembly, name)
    try:
        header, told = read_journal(folder)
    except HistoryError as error:
        raise RecipeError(f"start_from: {error}") from error
    other, own = reading.load(folder / reading.FILE).dump(), assembly.recipe.dump()
    for recipe in (other, own):
        recipe["evaluation"] = searched(recipe["evaluation"])
    for section in ("space", "evaluation"):
        for path, theirs, ours in _differences(section, other[section], own[section]):
            raise RecipeError(f"start_from: {name}: its {path} is {theirs}, not {ours}")
    if header.get("data") != assembly.fingerprint:
        raise RecipeError(f"start_from: {name}: its data set is another one")
    trials = list(Trials((), told).latest.values())
    for trial in trials:
        missing = [o.metric for o in assembly.objectives if o.metric not in trial.metrics]
        if trial.state is TrialState.COMPLETE and missing:
            raise RecipeError(f"start_from: {name}: its trials have no {missing[0]}")
    return trials


def _folder(assembly: Assembly, name: str) -> Path:
    """The run folder: given itself, or known to the tracker by an id."""
    if Path(name).is_dir():
        return Path(name)
    tracker = assembly.tracker()
    folder = tracker.folder(name) if isinstance(tracker, Finds) else None
    if folder is None:
        raise RecipeError(f"start_from: {name} is no run folder, and no run of the tracker")
    return folder


def _differences(path: str, theirs: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    """Path and both values of what differs."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in sorted({*theirs, *ours}):
            yield from _differences(f"{path}.{key}", theirs.get(key), ours.get(key))
    elif theirs != ours:
        yield path, theirs, ours
