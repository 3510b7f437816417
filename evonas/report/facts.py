"""What a page about a run says in words and tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evonas import files
from evonas.report import importance, numbers
from evonas.report.lineage import Ancestor
from evonas.trackers.base import Report, RunInfo, headline
from evonas.trial import Objective, Trial, TrialState
from evonas.trials import Trials

_NETWORK = "incumbent"
_TILES = ("params", "flops", "latency", "peak_memory")
_SPREAD = "_std"  # what a standard deviation's name ends with
_SAME = 1e-6


@dataclass(frozen=True)
class _Test:
    """What is shown of ``test.json``."""

    accuracy: float
    images: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Block:
    """What ``architecture.json`` says of a block of the network."""

    name: str
    what: str
    shape: tuple[int, ...]
    params: int


@dataclass(frozen=True)
class _About:
    """What is shown of ``architecture.json``."""

    blocks: tuple[_Block, ...] = ()


def subtitle(run: RunInfo) -> str:
    """Strategy, space, data and seed: two runs of one recipe can be told apart."""
    names = [
        run.recipe.get(section, {}).get("name") for section in ("strategy", "space", "dataset")
    ]
    return " · ".join([*filter(None, names), f"seed {run.recipe.get('seed', 0)}"])


def sentence(report: Report) -> str:
    """How it ended, and what ran."""
    counts = ", ".join(f"{count:,} {state}" for state, count in report.trials.items())
    reason = report.reason.removeprefix(f"{report.status}; ")
    said = f"{report.status.capitalize()}: {reason}. {counts or 'No trial'}"
    said += f"; {numbers.duration(report.seconds)} of search, effort "
    said += f"{numbers.plain(report.effort)} in full trainings."
    if report.acceptance is not None:
        said += f" {report.acceptance:.1%} of random architectures met the limits."
    return said


def header(run: RunInfo) -> list[tuple[str, str]]:
    """What was done, on what, when: a page that is printed says it."""
    recipe, machine = run.recipe, run.environment
    limits = [
        f"{numbers.label(name)} {way} {numbers.metric(name, value)}"
        for name, bounds in recipe.get("constraints", {}).items()
        for way, value in bounds.items()
    ]
    units = {"effort": "full trainings"}
    budget = [
        f"{v:g} {units.get(k, k.replace('_', ' '))}" for k, v in recipe.get("budget", {}).items()
    ]
    where = [machine.get("devices"), machine.get("platform"), f"{machine.get('cpus')} CPUs"]
    versions = [f"{n} {machine[n]}" for n in ("evonas", "python", "torch") if n in machine]
    rows = [
        ("strategy", _component(recipe, "strategy")),
        ("search space", _component(recipe, "space")),
        ("data", _component(recipe, "dataset")),
        ("evaluation", _component(recipe, "evaluation")),
        (
            "objectives",
            ", ".join(f"{numbers.label(o.metric)} {o.direction}" for o in run.objectives),
        ),
        ("limits", ", ".join(limits)),
        ("budget", ", ".join(budget)),
        ("begun", time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))),
        ("command", run.source.get("command", "")),
        ("commit", run.source.get("commit", "")),
        ("versions", ", ".join(versions)),
        ("machine", ", ".join(part for part in where if part)),
        ("run folder", str(run.run_dir)),
    ]
    return [(name, value) for name, value in rows if value]


def _component(recipe: Mapping[str, Any], section: str) -> str:
    options = dict(recipe.get(section) or {})
    if section == "dataset" and not Path(str(options.get("path", ""))).exists():
        options.pop("path", None)  # the default, of a source that reads nothing from there
    return _told(options)


def _told(options: Mapping[str, Any]) -> str:
    """A component with its options, and those of what it wraps."""
    shown = [
        f"{name} {_told(value) if isinstance(value, Mapping) else value}"
        for name, value in options.items()
        if name != "name"
    ]
    name = str(options.get("name", ""))
    return f"{name} ({', '.join(shown)})" if name and shown else name or ", ".join(shown)


def tiles(run: RunInfo, report: Report) -> list[tuple[str, str]]:
    """The result at a glance: the accuracy on the test split with its interval, and the costs."""
    best = report.incumbent
    if best is None:
        return []
    found = {**best.metrics, **report.final}
    rows = []
    if "test_accuracy" in found:
        tested = numbers.metric("test_accuracy", found["test_accuracy"])
        rows.append((tested, f"test accuracy{_interval(run, found['test_accuracy'])}"))
    first = run.objectives[0].metric
    if first in found and first != "test_accuracy":
        when = "final training" if first in report.final else "search"
        rows.append((numbers.metric(first, found[first]), f"{numbers.label(first)} ({when})"))
    for name in _TILES:
        if name in found and name != first:
            value = found[name]
            short = numbers.short(value).strip() if name in ("params", "flops") else ""
            rows.append((short or numbers.metric(name, value), numbers.label(name)))
    ended = sum(count for state, count in report.trials.items() if state != "running")
    return [*rows, (numbers.count(ended), "trials that ended")]


def _interval(run: RunInfo, mean: float) -> str:
    """Of the kept network, on the images that it was tested on."""
    test = files.load(run.run_dir / _NETWORK / "test.json", _Test)
    if test is None or test.interval is None:
        return ""
    low, high = (numbers.percent(bound) for bound in test.interval)
    kept = ""
    if abs(test.accuracy - mean) > _SAME:
        kept = f", mean of the trainings; {numbers.percent(test.accuracy)} of the one kept"
    return f"{kept}; 95\N{NO-BREAK SPACE}% interval {low} to {high}, {test.images:,} images"


def network(run_dir: Path, report: Report) -> Sequence[_Block]:
    """The winner's blocks, from its first to its last."""
    about = files.load(run_dir / _NETWORK / "architecture.json", _About) if report.final else None
    return about.blocks if about else ()


def choices(trial: Trial) -> list[tuple[str, str]]:
    """Of a trial's architecture."""
    return [(name, numbers.choice(v)) for name, v in trial.architecture.choices.items()]


def metrics(report: Report) -> list[tuple[str, ...]]:
    """A header, and the winner's metrics, of the search and the final training if there is one."""
    columns = {"of the search": report.incumbent.metrics if report.incumbent else {}}
    if report.final:
        columns["of the final training"] = report.final
    names = dict.fromkeys(name for found in columns.values() for name in found)
    rows = [
        (numbers.label(name), *(_shown(name, found) for found in columns.values()))
        for name in names
        if not name.endswith(_SPREAD)
    ]
    return [("metric", *columns), *rows]


def _shown(name: str, found: Mapping[str, float]) -> str:
    """A metric if there is one, and its standard deviation over the seeds if there were several."""
    if name not in found:
        return ""
    spread = found.get(f"{name}{_SPREAD}")
    own = numbers.metric(name, found[name])
    return own if spread is None else f"{own} ± {numbers.metric(name, spread)}"


def finalists(trials: Trials, finals: Sequence[Trial]) -> list[list[str]]:
    """A header, and a line for every trial that was trained in full: its means over the seeds."""
    if not finals:
        return []
    objective = trials.objectives[0]
    trained = _by_trial(finals)
    means = {number: _means(own) for number, own in trained.items()}

    def score(number: int) -> float:
        return objective.key(means[number]) if objective.metric in means[number] else 0.0

    names = [n for n in headline(finals[0].metrics, trials.objectives) if n != "seconds"]
    rows = [["trial", "seeds", "in the search", *map(numbers.label, names)]]
    for number in sorted(trained, key=score, reverse=True):
        searched = trials.latest.get(number)
        before = _shown(objective.metric, searched.metrics if searched else {})
        after = [_shown(name, means[number]) for name in names]
        rows.append([str(number), str(len(trained[number])), before, *after])
    return rows


def _by_trial(finals: Sequence[Trial]) -> dict[int, list[Trial]]:
    """Final trainings by the number of the trial that they train."""
    trained: dict[int, list[Trial]] = {}
    for final in finals:
        trained.setdefault(final.proposal.parents[0], []).append(final)
    return trained


def _means(finals: Sequence[Trial]) -> dict[str, float]:
    """Every metric's mean over the seeds, and its standard deviation if they differ in it."""
    found: dict[str, float] = {}
    for name in {name for final in finals for name in final.metrics}:
        values = [final.metrics[name] for final in finals if name in final.metrics]
        found[name] = fmean(values)
        if len(set(values)) > 1:
            found[f"{name}{_SPREAD}"] = stdev(values)
    return found


def front(objectives: Sequence[Objective], members: Sequence[Trial]) -> list[list[str]]:
    """A header, and a line for every member of a front of several."""
    if len(objectives) < 2 or len(members) < 2:
        return []
    shown = headline(members[0].metrics, objectives)
    names = [name for name in shown if all(name in trial.metrics for trial in members)]
    rows = [[str(t.number), *(numbers.metric(n, t.metrics[n]) for n in names)] for t in members]
    return [["trial", *map(numbers.label, names)], *rows]


def family(rows: Sequence[Ancestor], objective: Objective) -> list[list[str]]:
    """A line for every ancestor."""
    name = objective.metric
    return [
        [
            str(row.generation),
            str(row.trial.number),
            _shown(name, row.trial.metrics),
            ", ".join(row.changes),
        ]
        for row in rows
    ]


def leaders(trials: Trials, finals: Sequence[Trial], most: int) -> list[list[str]]:
    """A header, and the best of the ranking: scores, costs, efforts and choices."""
    best = trials.ranking()[:most]
    if not best:
        return []
    columns = [["trial", *(str(trial.number) for trial in best)]]
    for name in headline(best[0].metrics, trials.objectives):
        columns.append([numbers.label(name), *(_shown(name, trial.metrics) for trial in best)])
    objective = trials.objectives[0].metric
    known = _by_trial([final for final in finals if objective in final.metrics])
    trained = {n: {objective: fmean(f.metrics[objective] for f in own)} for n, own in known.items()}
    if trained:
        means = [_shown(objective, trained.get(trial.number, {})) for trial in best]
        columns.append([f"final {numbers.label(objective)}", *means])
    if len({trial.proposal.fidelity for trial in best}) > 1:
        columns.append(["fidelity", *(numbers.plain(trial.proposal.fidelity) for trial in best)])
    columns.append(["effort", *(numbers.plain(trial.effort) for trial in best)])
    for name in importance.names(best):
        columns.append([name, *(numbers.choice(t.architecture.choices.get(name)) for t in best)])
    return [list(row) for row in zip(*columns, strict=True)]


def failures(trials: Trials) -> list[dict[str, Any]]:
    """By their message, the most frequent first: how many, which, and one traceback."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials.latest.values():
        if trial.state is TrialState.FAILED:
            lines = (trial.error or "no reason was given").splitlines()
            groups.setdefault(lines[0], []).append(trial)
    return [
        {
            "count": len(group),
            "message": message,
            "numbers": [trial.number for trial in group],
            "traceback": group[0].error or "",
        }
        for message, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
