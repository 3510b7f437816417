"""What a run and its trials are in MLflow: names, tags, parameters, metrics, descriptions.

MLflow draws a line through the points of a metric and a bar if there is one at step 0; a name with
a slash gets a section of its own; what is logged first is what its plots begin with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.entities import Metric, Param

from evonas.recipe import reading
from evonas.trackers.base import Report, RunInfo
from evonas.trial import Objective, Trial, TrialState, figure
from evonas.trials import Trials

PARENT = "mlflow.parentRunId"
KIND = "evonas.kind"  # sweep, run or trial
STAGE = "evonas.stage"
TRIAL = "evonas.trial"  # a number within the stage
RUN_DIR = "evonas.run_dir"
SWEEP = "evonas.sweep"
BEST, FRONT = "evonas.best", "evonas.front"
NOTE = "mlflow.note.content"  # Markdown, shown as the description
# A pruned trial is no fault and ends as planned; its tag says what it is.
STATUS = {"complete": "FINISHED", "failed": "FAILED", "pruned": "FINISHED"}
STATUS |= {"finished": "FINISHED", "interrupted": "KILLED"}  # of the run
_LONGEST_TAG = 5000  # characters; MLflow's own limit is 8,000
_LONGEST_PARAM = 6000  # characters, likewise


def run_name(run: RunInfo) -> str:
    """RECIPE · STRATEGY · seed N: runs of one recipe can be told apart."""
    return " · ".join((run.name, *_short(run)))


def _short(run: RunInfo) -> tuple[str, str]:
    strategy = run.recipe.get("strategy", {}).get("name", "?")
    return strategy, f"seed {run.recipe.get('seed', 0)}"


def trial_name(trial: Trial) -> str:
    """Its stage and number."""
    stage = trial.proposal.stage
    return f"{'trial' if stage == 'search' else stage}-{trial.number:04d}"


def metric_name(name: str) -> str:
    """The metric's name in MLflow, where "params" are settings, and "best params" the best of them.

    Costs keep their names but for that one.
    """
    return "parameters" if name == "params" else name


def run_tags(run: RunInfo, name: str, more: Mapping[str, str]) -> dict[str, str]:
    """The tags that a run begins with; a user's own are the last word."""
    tags = {
        "mlflow.runName": name,
        "mlflow.user": run.source.get("user"),
        "mlflow.source.name": run.source.get("command", "evonas"),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": run.source.get("commit"),
        KIND: "run",
        RUN_DIR: str(run.run_dir.absolute()),
        SWEEP: run.sweep or None,
        **more,
    }
    return short_tags(tags)


def trial_tags(trial: Trial, run: RunInfo, name: str, parent: str) -> dict[str, str]:
    """A trial's tags: whose it is, what it is, how it ended."""
    rungs, fidelity = run.fidelities, trial.proposal.fidelity
    failed = trial.error if trial.state is TrialState.FAILED else None
    tags = {
        PARENT: parent,
        "mlflow.runName": f"{trial_name(trial)} · {' · '.join(_short(run))}",
        "mlflow.user": run.source.get("user"),
        "mlflow.source.name": run.source.get("command", "evonas"),
        "mlflow.source.type": "LOCAL",
        KIND: "trial",
        "evonas.run": name,
        "evonas.strategy": _short(run)[0],
        STAGE: trial.proposal.stage,
        TRIAL: trial.number,
        "evonas.state": trial.state,
        "evonas.rung": rungs.index(fidelity) if fidelity in rungs and len(rungs) > 1 else None,
        "evonas.fidelity": None if fidelity == 1 else f"{fidelity:.4g}",
        "evonas.architecture": trial.architecture.id,
        "evonas.ancestors": ", ".join(map(str, trial.proposal.parents)) or None,
        "evonas.resume_from": trial.proposal.resume_from,
        "evonas.origin": trial.origin,
        "evonas.error": trial.error and trial.error.splitlines()[0],
        NOTE: failed and _fenced(failed),
    }
    return short_tags(tags)


def having(tags: Mapping[str, str]) -> str:
    """MLflow's filter for runs with these tags."""
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())


def short_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow accepts them; those without a value are left out."""
    return {key: _text(value)[:_LONGEST_TAG] for key, value in tags.items() if value is not None}


def _text(value: Any) -> str:
    """A value as text in UTF-8, which names of files need not be."""
    return str(value).encode(errors="backslashreplace").decode()


def _fenced(text: str) -> str:
    """A traceback as a block, its end being what says most."""
    return f"```\n{text[-_LONGEST_TAG + 10 :]}\n```"


def run_params(run: RunInfo) -> list[Param]:
    """The recipe, key by key."""
    return entries(reading.flat(run.recipe))


def trial_params(trial: Trial) -> list[Param]:
    """The choices, and whether the training was a repeated one."""
    repeat = {"repeat": trial.proposal.repeat} if trial.proposal.repeat else {}
    return entries([*trial.architecture.choices.items(), *repeat.items()])


def trial_metrics(
    trial: Trial, objectives: Iterable[Objective], begin: int, end: int
) -> list[Metric]:
    """The objectives first; the curve, spread over the trial's time; single numbers at step 0.

    What a trial reported that was cut short is no result: it is called ``unfinished/…``, and is in
    no plot or mean of those of trials that came to their end.

    Args:
        trial: A trial that ended.
        objectives: Of the run.
        begin: Its beginning, in ms.
        end: Its end.
    """
    curve, points = trial.curve, []
    for i, (step, values) in enumerate(curve, start=1):
        at = min(begin + (end - begin) * i // (len(curve) + 1), end - 1)
        points += [(name, value, at, step) for name, value in values.items()]
    reported = {name for name, *_ in points}
    last = curve[-1][0] if curve else 0
    results = {**trial.metrics, "seconds": trial.seconds, "effort": trial.effort}
    for name, value in results.items():
        points.append((name, value, end, last if name in reported else 0))
    order = {objective.metric: i for i, objective in enumerate(objectives)}
    points.sort(key=lambda point: order.get(point[0], len(order)))  # stable

    def key(name: str) -> str:
        if name not in reported:
            return metric_name(name)
        return name if trial.state is TrialState.COMPLETE else f"unfinished/{name}"

    return [Metric(safe(key(name)), value, at, step) for name, value, at, step in points]


def progress(trials: Trials) -> dict[str, float]:
    """A run's curves after one more trial ended: the best so far, how many ended how, the effort.

    ``effort`` is in full trainings; a chart of MLflow's takes any metric as its axis.
    """
    values: dict[str, float] = {}
    if best := trials.best:
        shown = {*(objective.metric for objective in trials.objectives), "params", "flops"}
        values = {f"best_{metric_name(k)}": v for k, v in best.metrics.items() if k in shown}
    if (volume := trials.hypervolume) is not None:
        values["hypervolume"] = volume
    ended, pruned = len(trials.ended), len(trials.pruned)
    failed = ended - pruned - len(trials.complete)
    values |= {"ended_trials": ended, "failed_trials": failed, "pruned_trials": pruned}
    values["effort"] = trials.effort
    return values


def results(report: Report) -> dict[str, float]:
    """A run's single numbers: bars that compare runs."""
    values = {
        k if k.startswith("test_") else f"final_{metric_name(k)}": v
        for k, v in report.final.items()
    }
    values |= {"search_seconds": report.seconds}
    values |= {} if report.acceptance is None else {"acceptance": report.acceptance}
    return values | {f"audit/{name}": value for name, value in report.audit.items()}


def points(values: Mapping[str, float], at: int, step: int) -> list[Metric]:
    """One point of each metric, at a time in ms."""
    return [Metric(safe(name), value, at, step) for name, value in values.items()]


def description(run: RunInfo, report: Report) -> str:
    """The run in Markdown: what came out, the winner, the front, the audit, how to go on."""
    parts = [f"**{report.status}**: {report.reason}."]
    best = report.incumbent
    if accuracy := report.final.get("test_accuracy"):
        shown = f"{accuracy:.2%}" if accuracy <= 1 else f"{accuracy:.2f}"  # a table's, in per cent
        parts.append(f"Test accuracy **{shown}**, measured once, after the search.")
    if best is not None:
        found = {**best.metrics, **report.final}
        parts.append(f"### The winner: trial {best.number}")
        parts.append(_table(("metric", "value"), [(k, figure(v)) for k, v in found.items()]))
        parts.append(_table(("choice", "value"), best.architecture.choices.items()))
    if len(report.front) > 1:
        names = [objective.metric for objective in run.objectives]
        rows = [(t.number, *(figure(t.metrics[n]) for n in names)) for t in report.front]
        parts += [f"### Pareto front of {len(rows)}", _table(("trial", *names), rows)]
    parts += [f"### Audit\n\n{report.verdict}"] if report.verdict else []
    parts += [f"- {remark}" for remark in report.remarks]
    folder = run.run_dir
    parts.append(f"Run folder `{folder}`: `evonas resume {folder}`, `evonas report {folder}`.")
    return "\n\n".join(parts)[:_LONGEST_TAG]


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(map(str, row)) for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def entries(pairs: Iterable[tuple[str, Any]]) -> list[Param]:
    """Values by keys that MLflow accepts, none of which hides another."""
    values: dict[str, str] = {}
    for name, value in pairs:
        key = safe(name)
        while key in values:
            key = f"{key}_"
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        values[key] = _text(int(value) if whole else value)[:_LONGEST_PARAM]
    return [Param(key, value) for key, value in values.items()]


def safe(name: str) -> str:
    """A key that MLflow accepts: it reads one as a relative path without detours."""
    parts = re.sub(r"[^\w\-./ ]", "_", name)[:240].split("/")
    key = "/".join(part for part in parts if part not in ("", ".", ".."))
    return f"_{key}" if key.startswith("..") or not key else key
