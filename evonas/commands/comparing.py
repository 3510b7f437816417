"""``evonas compare``: runs side by side, in groups that differ in more than their seed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evonas import files
from evonas.errors import RecipeError
from evonas.recipe import reading
from evonas.report import comparison, numbers, table
from evonas.runs import summary, sweep
from evonas.runs.journal import held, read_journal
from evonas.runs.run import info_of
from evonas.trackers.mlflow import MLflow

# Sections that say how a run was carried out, and not what it was.
_ASIDE = ("seed", "name", "tracking", "executor", "sweep", "audit")


def compare(
    references: Sequence[str],
    output: Path,
    uri: str | None = None,
    published: Path | None = None,
) -> comparison.Groups:
    """Write the page of several runs; returns them by group.

    Args:
        references: Run folders, folders of sweeps, or MLflow ids of runs.
        output: The page.
        uri: The MLflow store that knows the ids.
        published: A table of networks to be drawn beside the winners, see ``read_published``.

    Raises:
        RecipeError: If they are fewer than two, or no runs of the same data and objectives, or the
            table cannot be read.
        StorageError: If the disk does not take the page.
    """
    runs = [_read(folder) for name in references for folder in _folders(name, uri)]
    if len(runs) < 2:
        raise RecipeError("compare: name two runs or more, or a sweep of as many")
    for run in runs[1:]:
        if run.info.data != runs[0].info.data:
            raise RecipeError(_unlike(runs[0], run, "their data are not the same"))
        if run.info.objectives != runs[0].info.objectives:
            raise RecipeError(_unlike(runs[0], run, "their objectives are not the same"))
    groups = grouped(runs)
    others = read_published(published, comparison.compared(groups)) if published else ()
    names = dict.fromkeys(run.info.name for run in runs)
    title = f"{', '.join(names)}: {len(runs)} runs compared"
    files.store(output, comparison.text(groups, title, others))
    return groups


def read_published(path: Path, metric: str) -> list[comparison.Published]:
    """Networks that others report, of a CSV file.

    Args:
        path: With the columns ``source``, ``name``, ``params`` and the metric's name, a share.
        metric: What is compared.

    Raises:
        RecipeError: In one line, with the line of the file.
    """
    networks = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    params, score = float(row["params"]), float(row[metric])
                    networks.append(comparison.Published(row["source"], row["name"], params, score))
                except (KeyError, TypeError, ValueError) as error:
                    reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                    raise RecipeError(f"{path}, line {number}: {reason}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    return networks


def _unlike(first: comparison.Run, other: comparison.Run, why: str) -> str:
    return f"compare: {first.info.run_dir} and {other.info.run_dir}: {why}"


def _folders(name: str, uri: str | None) -> list[Path]:
    folder = Path(name)
    if sweep.holds(folder):
        return sweep.read(folder).run_dirs()
    if folder.is_dir():
        return [folder]
    logged = MLflow(uri).folder(name)
    if logged is None:
        raise RecipeError(f"compare: {name} is no run folder, and no run of the tracker")
    return [logged]


def _read(folder: Path) -> comparison.Run:
    header, events = read_journal(folder)
    info = info_of(folder, header)
    report = summary.read(folder, info.objectives, events) or summary.so_far(
        folder, info.objectives, events, held(folder)
    )
    return comparison.Run(info, tuple(events), report)


def grouped(runs: Sequence[comparison.Run]) -> dict[str, list[comparison.Run]]:
    """Runs that differ in their seed alone, by what is their own."""
    contents = ({k: v for k, v in run.info.recipe.items() if k not in _ASIDE} for run in runs)
    flat = [dict(reading.flat(content)) for content in contents]
    keys = list(dict.fromkeys(key for recipe in flat for key in recipe))
    apart = [key for key in keys if len({repr(recipe.get(key)) for recipe in flat}) > 1]
    groups: dict[str, list[comparison.Run]] = {}
    for recipe, run in zip(flat, runs, strict=True):
        labels = [
            _label(key, recipe[key])
            for key in apart
            if key in recipe and not _told_by_name(key, recipe, flat, apart)
        ]
        groups.setdefault(", ".join(labels) or run.info.name, []).append(run)
    return groups


def _told_by_name(
    key: str, recipe: Mapping[str, Any], flat: Sequence[Mapping[str, Any]], apart: Sequence[str]
) -> bool:
    """Whether an option comes with another component: all runs with this one have its value."""
    name = f"{key.partition('.')[0]}.name"
    if name not in apart or key == name:
        return False
    alike = [other.get(key) for other in flat if other.get(name) == recipe.get(name)]
    return len(set(map(repr, alike))) == 1


def _label(key: str, value: Any) -> str:
    short = key.removesuffix(".name").rpartition(".")[2]
    return str(value) if key.endswith(".name") else f"{short} {value}"


def lines(groups: comparison.Groups, as_json: bool) -> list[str]:
    """For the terminal: a row a group, and what the differences say.

    Or for programs, in one line: an object a group, absent figures null.
    """
    metric = comparison.compared(groups)
    rows = comparison.rows(groups, metric)
    if as_json:
        plain = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            for row in rows
        ]
        return [json.dumps(plain)]
    head = ["group", "runs", metric, "±", "best of search", "params", "seconds", "effort"]
    cells = [[*head, "mean rank"]]
    digits = [(metric, 4), ("spread", 4), ("best", 4), ("params", 0)]
    digits += [("seconds", 0), ("effort", 1), ("rank", 2)]
    for row in rows:
        figures = ["" if math.isnan(row[n]) else f"{row[n]:,.{d}f}" for n, d in digits]
        cells.append([str(row["group"]), str(row["runs"]), *figures])
    sentences = [
        f"{first} against {other}: {numbers.difference(metric, d.mean)}, {d.sentence}"
        for first, other, d in comparison.differences(groups, metric)
    ]
    return [*table.aligned(cells), *sentences]
