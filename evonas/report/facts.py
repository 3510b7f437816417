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
from evonas.trial import Objective, Trial
from evonas.trials import Trials

_NETWORK = "incumbent"
_TILES = ("params", "flops", "latency", "peak_memory")
_SPREAD = "_std"  # what a standard deviation's name ends with
_SAME = 1e-6
_NUMBERS = 12  # numbers of failed trials that are named


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
    parts = [_named(run, "strategy"), _named(run, "space"), _named(run, "dataset")]
    return " · ".join([*filter(None, parts), f"seed {run.recipe.get('seed', 0)}"])


def _named(run: RunInfo, section: str) -> str:
    return str(run.recipe.get(section, {}).get("name", ""))


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


def best_title(report: Report) -> str:
    """What the best trial is called."""
    if report.final:
        return "winner"
    return "best of the search" if report.status == "finished" else "best so far"


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


def network(run_dir: Path, report: Report) -> list[dict[str, str]]:
    """The winner's blocks, from its first to its last."""
    if not report.final:
        return []
    about = files.load(run_dir / _NETWORK / "architecture.json", _About) or _About()
    return [
        {
            "name": block.name,
            "what": block.what,
            "shape": " × ".join(map(str, block.shape)),
            "params": numbers.count(block.params) if block.params else "",
        }
        for block in about.blocks
    ]


def choices(trial: Trial) -> list[tuple[str, str]]:
    """Of a trial's architecture."""
    return [(name, numbers.choice(v)) for name, v in trial.architecture.choices.items()]


def metrics(report: Report) -> list[tuple[str, ...]]:
    """A header, and the winner's metrics, of the search and the final training if there is one."""
    search = dict(report.incumbent.metrics) if report.incumbent else {}
    names = dict.fromkeys([*search, *report.final])
    head, sources = ("metric", "of the search", "of the final training"), (search, report.final)
    shown = 2 if report.final else 1
    rows = [
        (numbers.label(name), *(_with_spread(name, found) for found in sources[:shown]))
        for name in names
        if not name.endswith(_SPREAD)
    ]
    return [head[: shown + 1], *rows]


def _with_spread(name: str, found: Mapping[str, float]) -> str:
    """A metric, and its standard deviation over the seeds if there were several."""
    if name not in found:
        return ""
    spread = found.get(f"{name}{_SPREAD}")
    own = numbers.metric(name, found[name])
    return own if spread is None else f"{own} ± {numbers.metric(name, spread)}"


def finalists(trials: Trials, finals: Sequence[Trial]) -> list[list[str]]:
    """A header, and a line for every trial that was trained in full: its means over the seeds."""
    runs = _by_trial(finals)
    if not runs:
        return []
    objective = trials.objectives[0].metric
    shown = [n for n in headline(finals[0].metrics, trials.objectives) if n != "seconds"]
    rows = [["trial", "seeds", "in the search", *map(numbers.label, shown)]]
    for number, own in sorted(runs.items(), key=lambda item: -_score(trials, item[1])):
        known = trials.latest.get(number)
        search = known.metrics.get(objective) if known else None
        cells = [
            _mean(name, [run.metrics[name] for run in own if name in run.metrics]) for name in shown
        ]
        before = "" if search is None else numbers.metric(objective, search)
        rows.append([str(number), str(len(own)), before, *cells])
    return rows


def _by_trial(finals: Sequence[Trial]) -> dict[int, list[Trial]]:
    """Final trainings by the number of the trial that they train."""
    runs: dict[int, list[Trial]] = {}
    for final in finals:
        runs.setdefault(final.proposal.parents[0], []).append(final)
    return runs


def _score(trials: Trials, finals: Sequence[Trial]) -> float:
    """What final trainings of one trial are ordered by."""
    objective = trials.objectives[0]
    known = [f.metrics for f in finals if objective.metric in f.metrics]
    return fmean(map(objective.key, known)) if known else 0.0


def _mean(name: str, values: Sequence[float]) -> str:
    found = {name: fmean(values)} if values else {}
    if len(set(values)) > 1:
        found[f"{name}{_SPREAD}"] = stdev(values)
    return _with_spread(name, found)


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
            numbers.metric(name, row.trial.metrics[name]) if name in row.trial.metrics else "",
            ", ".join(row.changes),
        ]
        for row in rows
    ]


def leaders(trials: Trials, finals: Sequence[Trial], most: int) -> list[list[str]]:
    """A header, and the best of the ranking: scores, costs, efforts and choices."""
    best = trials.ranking()[:most]
    if not best:
        return []
    shown = list(headline(best[0].metrics, trials.objectives))
    names = importance.names(best)
    rungs = len({trial.proposal.fidelity for trial in best}) > 1
    objective = trials.objectives[0].metric
    known = _by_trial([final for final in finals if objective in final.metrics])
    trained = {n: fmean(f.metrics[objective] for f in own) for n, own in known.items()}
    head = ["trial", *map(numbers.label, shown)]
    head += [f"final {numbers.label(objective)}"] if trained else []
    rows = [[*head, *(["fidelity"] if rungs else []), "effort", *names]]
    for trial in best:
        cells = [numbers.metric(n, trial.metrics[n]) if n in trial.metrics else "" for n in shown]
        if trained:
            mean = trained.get(trial.number)
            cells.append("" if mean is None else numbers.metric(objective, mean))
        cells += [numbers.plain(trial.proposal.fidelity)] if rungs else []
        cells.append(numbers.plain(trial.effort))
        own = trial.architecture.choices
        cells += [numbers.choice(own[name]) if name in own else "–" for name in names]
        rows.append([str(trial.number), *cells])
    return rows


def failures(failed: Sequence[Trial]) -> list[dict[str, Any]]:
    """By their message, the most frequent first: how many, which, and one traceback."""
    groups: dict[str, list[Trial]] = {}
    for trial in failed:
        lines = (trial.error or "no reason was given").splitlines()
        groups.setdefault(lines[0], []).append(trial)
    return [
        {
            "count": len(group),
            "message": message,
            "numbers": _numbers(group),
            "traceback": group[0].error or "",
        }
        for message, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _numbers(group: Sequence[Trial]) -> str:
    named = ", ".join(str(trial.number) for trial in group[:_NUMBERS])
    return named if len(group) <= _NUMBERS else f"{named}, …"
