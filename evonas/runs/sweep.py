"""A sweep: one recipe with several values of some of its keys, every combination a run.

The runs stand in folders of the sweep's folder, which also keeps the recipe. So a sweep goes on as
a run does: what finished stays, what was cut off is resumed, what is missing is begun.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonas import files
from evonas.errors import EvonasError, HistoryError, RecipeError, StorageError, TooManyFailures
from evonas.recipe import reading
from evonas.recipe.registry import SECTIONS, Registry
from evonas.recipe.schema import Recipe
from evonas.runs import run as runs
from evonas.runs import summary
from evonas.runs.assemble import assemble
from evonas.runs.journal import JOURNAL
from evonas.runs.session import Stopped
from evonas.trackers.base import Tracker

FILE = "sweep.yaml"  # the recipe, in the sweep's folder
_STATE = "sweep.json"
_SEPARATOR = " · "


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        label: Its values: ``tpe · seed 0``.
        recipe: Its own.
    """

    label: str
    recipe: Recipe

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return re.sub(r"[^\w.=-]+", "_", self.label.replace(_SEPARATOR, "-"))


@dataclass(frozen=True)
class Sweep:
    """A sweep and its folder.

    Attributes:
        folder: Holds the run folders.
        members: In the order of the recipe: the last key changes fastest.
        registry: Where their components come from.
    """

    folder: Path
    members: tuple[Member, ...]
    registry: Registry

    def run_dirs(self) -> list[Path]:
        """Folders of the members that were begun."""
        folders = (self.folder / member.folder for member in self.members)
        return [folder for folder in folders if (folder / JOURNAL).exists()]


def begin(given: Recipe, registry: Registry, folder: Path | None = None) -> Sweep:
    """Make the folder of a new sweep; every member is checked before anything is written.

    Raises:
        RecipeError: If the recipe has no sweep, or a member is no recipe that could run.
        HistoryError: If the folder holds a sweep already.
    """
    found = members(given)
    place = folder or runs.fresh_folder(f"{given.name}-sweep")
    if holds(place):
        raise HistoryError(f"{place} holds a sweep already; go on with: evonas sweep {place}")
    for member in found:
        try:
            assemble(member.recipe, registry, place / member.folder)
        except EvonasError as error:
            error.args = (f"{member.label}: {error}",)
            raise
    text = reading.text(given)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{place}: {error.strerror}") from error
    plugins = [str(path.absolute()) for path in registry.plugins]
    files.store(place / _STATE, json.dumps({"plugins": plugins}))
    files.store(place / FILE, text)
    return Sweep(place, found, registry)


def holds(folder: Path) -> bool:
    """Whether a sweep was begun in the folder."""
    return (folder / FILE).exists() and (folder / _STATE).exists()


def read(folder: Path) -> Sweep:
    """A sweep that was begun.

    Raises:
        HistoryError: If there is none in the folder.
    """
    if not holds(folder):
        raise HistoryError(f"{folder} holds no sweep: {FILE} and {_STATE} are not there")
    given = reading.load(folder / FILE)
    state = files.load(folder / _STATE, dict[str, list[Path]]) or {}
    return Sweep(folder, members(given), Registry(tuple(state.get("plugins", ()))))


def members(given: Recipe) -> tuple[Member, ...]:
    """The runs of a sweep.

    Raises:
        RecipeError: If there are none, or one is no valid recipe.
    """
    if not given.sweep:
        raise RecipeError("the recipe has no sweep; evonas run runs it")
    content = given.dump()
    content.pop("sweep")
    axes = [
        [(key, *pair) for pair in _labelled(key, values)] for key, values in given.sweep.items()
    ]
    found = []
    for values in itertools.product(*axes):
        label = _SEPARATOR.join(name for _, name, _ in values)
        settings = [_setting(key, value) for key, _, value in values]
        if given.tracking.name == "mlflow" and "run_name" not in given.tracking.options:
            settings.append(f"tracking.run_name={json.dumps(f'{given.name}{_SEPARATOR}{label}')}")
        recipe = reading.validate(reading.apply(content, settings), f"sweep, {label}")
        found.append(Member(label, recipe))
    folders = [member.folder for member in found]
    if twice := next((name for name in folders if folders.count(name) > 1), None):
        raise RecipeError(f"sweep: two runs would be called {twice}; give their values labels")
    return tuple(found)


def _labelled(key: str, values: Sequence[Any] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(values, Mapping):
        return list(values.items())
    short = key.rpartition(".")[2]
    named = [v["name"] if isinstance(v, Mapping) and "name" in v else v for v in values]
    return [
        (name if isinstance(name, str) else f"{short} {name}", value)
        for name, value in zip(named, values, strict=True)
    ]


def _setting(key: str, value: Any) -> str:
    """The override that ``--set`` would take: a component's name drops the other's options."""
    named = f"{key}.name" if key in SECTIONS and isinstance(value, str) else key
    return f"{named}={json.dumps(value)}"


def run(
    sweep: Sweep,
    listeners: Sequence[Tracker] = (),
    stopping: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Run what is left of a sweep, one member after another.

    Args:
        sweep: Begun, or read again.
        listeners: Trackers beside the recipe's own.
        stopping: Asked before every proposal.
        say: Told which member runs.

    Returns:
        The status of every member by label: "finished", or "failed".

    Raises:
        Stopped: If the user wants to stop; reading the sweep again goes on.
    """
    ended = {}
    for place, member in enumerate(sweep.members, start=1):
        folder = sweep.folder / member.folder
        if (status := summary.status(folder)) != "finished":
            say(f"run {place} of {len(sweep.members)}: {member.label}")
            try:
                if (folder / JOURNAL).exists():
                    outcome = runs.resume(folder, (), listeners, stopping)
                else:
                    given, name = member.recipe, sweep.folder.name
                    outcome = runs.start(given, sweep.registry, folder, listeners, stopping, name)
                status = outcome.report.status
            except TooManyFailures:  # a result like others
                status = "failed"
        ended[member.label] = status
        if status == "interrupted":
            raise Stopped
    return ended
