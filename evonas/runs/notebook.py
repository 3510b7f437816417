"""Runs for notebooks and scripts: what ``evonas.run``, ``evonas.resume`` and ``evonas.load`` are.

::

    import evonas

    run = evonas.run("digits_evo", {"budget.trials": 20})
    run.trials.sort_values("val_accuracy")
    run.best.architecture.choices
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonas.errors import DataError, HistoryError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.recipe.schema import Recipe
from evonas.runs import network as networks
from evonas.runs import run as runs
from evonas.runs import summary
from evonas.runs.journal import read_journal
from evonas.trackers.base import Report
from evonas.trackers.console import Console
from evonas.trial import Objective, Trial
from evonas.trials import Trials

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from evonas.training.data import Images

PLUGINS = Path("plugins")  # is looked at if nothing else is named


class Run:
    """A run, as its folder says; one that is still going on is read as far as it came.

    Args:
        folder: The run folder.

    Attributes:
        folder: The run folder; ``folder / "report.html"`` is its page.
        recipe: The recipe, with every default filled in.
        registry: Where its components come from.

    Raises:
        HistoryError: If there is no run in the folder.
        StorageError: If its journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        header, self._events = read_journal(folder)
        self.folder = folder
        self.recipe: Recipe = reading.load(folder / reading.FILE)
        self.registry = runs.registry_of(header)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What was optimised."""
        return tuple(Objective(name, way) for name, way in self.recipe.objectives.items())

    @cached_property
    def trials(self) -> pandas.DataFrame:
        """The trials of the search, a row each, by number.

        Columns: ``state``; every metric by its name; every choice as ``choice_NAME``; ``seconds``;
        ``effort``, in full trainings; ``elapsed``, seconds of search when it ended; ``fidelity``;
        ``parents``; ``architecture``, its id; ``error``, the first line.
        """
        import pandas

        rows = [_row(trial) for trial in self._search.latest.values()]
        return pandas.DataFrame(rows).set_index("number") if rows else pandas.DataFrame()

    @property
    def best(self) -> Trial | None:
        """The winner of the final trainings; before there is one, the search's best so far."""
        ended = summary.read(self.folder, self.objectives, self._events)
        return ended.incumbent if ended else self._search.best

    @property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto front of the objectives; of one objective, the best trial."""
        return self._search.front()

    def network(self, trial: int | None = None) -> nn.Module:
        """The winner's network: images (N, channels, height, width) of 0…255 to logits.

        It is ``nn.Sequential(Normalize, network)`` in inference mode, and can be trained further.

        Args:
            trial: Another trial of the search whose weights were kept.

        Raises:
            HistoryError: If there is no such network.
        """
        return networks.read(self.folder, trial).module

    def predict(self, pictures: Sequence[str | Path] | Images) -> pandas.DataFrame:
        """What the winner says: a row a picture, a column a class, probabilities.

        Args:
            pictures: Files, prepared as the training's were; or uint8, (N, height, width,
                channels), of the network's size.

        Raises:
            HistoryError: If there is no trained winner yet.
            DataError: If a picture cannot be read, or images have another shape.
        """
        import pandas

        winner, files = networks.read(self.folder), None
        if isinstance(pictures, Sequence):
            files = [Path(picture) for picture in pictures]
            if absent := [path for path in files if not path.is_file()]:
                raise DataError(f"{absent[0]}: no such file")
            pictures, unreadable = winner.prepare(files)
            for number, reason in unreadable.items():
                raise DataError(f"{files[number]}: {reason}")
        rows = winner.predict(pictures)
        return pandas.DataFrame(rows, index=files, columns=list(winner.classes))

    def report(self) -> Report:
        """What was known when the run ended: status, final metrics, audit, remarks.

        Raises:
            HistoryError: If it has not ended yet.
        """
        report = summary.read(self.folder, self.objectives, self._events)
        if report is None:
            raise HistoryError(f"{self.folder} has not ended; evonas.resume goes on with it")
        return report

    @cached_property
    def _search(self) -> Trials:
        return Trials(self.objectives, self._events)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self._search.counts().items())
        return f"<evonas run {self.folder}: {counts or 'no trials'}>"


def run(
    recipe: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    plugins: Sequence[str | Path] | None = None,
    show: bool = True,
) -> Run:
    """Run a recipe: search, train the winner, test it, log everything.

    Ctrl-C, or a notebook's stop, once: what runs is finished, and ``resume`` goes on later.

    Args:
        recipe: A file, the name of a recipe that evonas comes with, or the recipe itself.
        overrides: Keys of the recipe and their values: ``{"budget.trials": 20}``.
        run_dir: The run folder; default: a new one in ``mlruns``.
        plugins: Folders with components of your own; default: ``plugins``, if it is there.
        show: Whether to print how it goes.

    Raises:
        EvonasError: Before anything is written if the recipe, its data or plugins are at fault.
    """
    folders = [PLUGINS] if plugins is None and PLUGINS.is_dir() else plugins or ()
    given = _recipe(recipe, _settings(overrides))
    registry = Registry(tuple(Path(folder) for folder in folders))
    folder = None if run_dir is None else Path(run_dir)
    return _watched(partial(runs.start, given, registry, folder), show)


def resume(
    run_dir: str | Path, overrides: Mapping[str, Any] | None = None, show: bool = True
) -> Run:
    """Go on with a run that was interrupted, killed, or whose budget is to grow.

    Args:
        run_dir: The run folder.
        overrides: As of ``run``; budget, final, audit, executor and tracking may change.
        show: Whether to print how it goes.

    Raises:
        HistoryError: If the folder holds no run, or recipe or data are not those of the run.
    """
    return _watched(partial(runs.resume, Path(run_dir), _settings(overrides)), show)


def load(run_dir: str | Path) -> Run:
    """Look at a run that was made earlier, here or by the command line.

    Raises:
        HistoryError: If there is no run in the folder.
    """
    return Run(Path(run_dir))


Begin = Callable[[Sequence[Console], Callable[[], bool]], runs.Outcome]


def _watched(begin: Begin, show: bool) -> Run:
    console = Console()
    interruption = runs.Interruption(console.interrupted)
    # Signals reach the main thread alone; in another one nothing is watched.
    main = threading.current_thread() is threading.main_thread()
    try:
        with interruption.watching() if main else nullcontext():
            outcome = begin((console,) if show else (), interruption)
    finally:
        console.stop()
    return Run(outcome.run_dir)


def _settings(overrides: Mapping[str, Any] | None) -> list[str]:
    """As ``--set`` takes them; what JSON says is YAML too."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (overrides or {}).items()]


def _recipe(given: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    if isinstance(given, Mapping):
        return reading.validate(reading.apply(dict(given), overrides), "recipe")
    return reading.load(Path(given), overrides)


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": str(trial.state),
        **trial.metrics,
        **{f"choice_{name}": value for name, value in trial.architecture.choices.items()},
        "seconds": trial.seconds,
        "effort": trial.effort,
        "elapsed": trial.elapsed,
        "fidelity": trial.proposal.fidelity,
        "parents": trial.proposal.parents,
        "architecture": trial.architecture.id,
        "error": (trial.error or "").partition("\n")[0] or None,
    }
