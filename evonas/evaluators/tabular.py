"""Look the score up in a table: recorded trainings in place of real ones.

For developing strategies (NAS-Bench-201, Dong and Yang, ICLR 2020, and its like): a search that
took GPU-years replays in seconds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from evonas.architecture import Architecture
from evonas.errors import DataError, OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.trial import Trial


class Tabular(Evaluator):
    """Metrics from a CSV or JSON file, one row per architecture.

    Args:
        context: The world; it needs no data.
        path: The table: CSV with a header, or JSON: a list of objects, or an object of objects
            by key.
        template: Makes the key of an architecture from its choices, such as "{op}-{width}".
        columns: Metric name → column; ``seconds`` is the simulated time of a trial.
        key: The column that holds the key.
        full: Metric name → column: what training for good gives on the validation split.
        final: Metric name → column, read once for the run's winner, such as its test accuracy.
    """

    def __init__(
        self,
        context: Context,
        path: Path,
        template: str,
        columns: dict[str, str],
        key: str = "architecture",
        full: dict[str, str] | None = None,
        final: dict[str, str] | None = None,
    ) -> None:
        super().__init__(context)
        self._path, self._template = path, template
        self._columns, self._full, self._final = columns, full or {}, final or {}
        self.metrics, self.finals = tuple(columns), bool(full)
        if not columns:
            raise OptionError("columns", "name at least one metric")
        choices = {name: domain.values()[0] for name, domain in context.space.domains.items()}
        try:
            template.format_map(choices)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            reason = f"{error!r} in {template!r}; choices are {', '.join(choices)}"
            raise OptionError("template", reason) from error
        self._rows = _rows(path, key)
        first = next(iter(self._rows.values()), None)
        if first is None:
            raise DataError(f"{path}: the table has no rows")
        if not isinstance(first, Mapping):
            raise DataError(f"{path}: a row must be an object of columns, not {first!r}")
        for column in (*columns.values(), *self._full.values(), *self._final.values()):
            if column not in first:
                raise DataError(
                    f"{path}: no column {column!r}; there are {', '.join(map(str, first))}"
                )

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The row's columns, of finals those of ``full``; a missing row fails the trial."""
        columns = self._columns if trial.proposal.stage == "search" else self._full
        return self._look_up(trial.architecture, columns)

    def effort(self, fidelity: float) -> float:
        """A look-up, whatever the fidelity."""
        return 1.0

    def test(self, trial: Trial) -> Mapping[str, float]:
        """The winner's ``final`` columns."""
        return self._look_up(trial.architecture, self._final)

    def _look_up(self, architecture: Architecture, columns: Mapping[str, str]) -> dict[str, float]:
        key = self._template.format_map(dict(architecture.choices))
        if key not in self._rows:
            raise LookupError(f"{self._path} has no row {key!r}")
        return {metric: float(self._rows[key][column]) for metric, column in columns.items()}


def _rows(path: Path, key: str) -> dict[str, Mapping[str, str]]:
    """Rows of a table by what they have in the column ``key``."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = json.load(file) if path.suffix == ".json" else csv.DictReader(file)
            if isinstance(table, dict):
                return {str(name): row for name, row in table.items()}
            return {str(row[key]): row for row in table}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"evaluation.path: {path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: no column {key!r} to find rows by") from error
