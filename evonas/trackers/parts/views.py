"""Links into MLflow's UI that show something at the first click.

Without them a fresh browser lands on a page about traces, trials bury the runs, and the table has
no result in it. A view that an experiment shares is a tag of it, ``mlflow.sharedViewState.NAME``:
JSON of the page's state. MLflow does not document it; where it was not taken, a link with filter
and order says the same, but for the columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from evonas.trackers.base import RunInfo
from evonas.trackers.parts.entries import metric_name

VIEW = "leaderboard"
TAG = f"mlflow.sharedViewState.{VIEW}"
RUNS = "tags.`evonas.kind` = 'run'"
_PARENTS = "tags.mlflow.parentRunId IS NULL"
_TEST = "metrics.`test_accuracy`"


def state(run: RunInfo) -> str:
    """The leaderboard as the tag's value; its columns: what was done, came out, and was spent."""
    done = ("strategy.name", "seed", "space.name", "dataset.name")
    best = f"best_{metric_name(run.objectives[0].metric)}"
    found = (best, "test_accuracy", "best_parameters", "search_seconds")
    columns = ["attributes.`Created`", "attributes.`Models`"]
    columns += [f"params.`{name}`" for name in done] + [f"metrics.`{name}`" for name in found]
    shown = {
        "searchFilter": RUNS if run.sweep else _PARENTS,
        "orderByKey": _TEST,
        "orderByAsc": False,
        "selectedColumns": columns,
    }
    return json.dumps(shown)


def leaderboard(server: str, experiment_id: str, kept: bool = True) -> str:
    """A link to the runs of an experiment, the best on the test split first.

    Args:
        server: Where the UI is, such as ``http://127.0.0.1:5000``.
        experiment_id: Of the experiment.
        kept: Whether the experiment has the view as its tag.
    """
    plain = {"searchFilter": _PARENTS, "orderByKey": _TEST, "orderByAsc": "false"}
    return _link(server, experiment_id, {"viewStateShareKey": VIEW} if kept else plain)


def trials(server: str, experiment_id: str, run_id: str, run: RunInfo) -> str:
    """A link to the trials of a run, the best first."""
    objective = run.objectives[0]
    asked = {
        "searchFilter": f"tags.mlflow.parentRunId = '{run_id}'",
        "orderByKey": f"metrics.`{metric_name(objective.metric)}`",
        "orderByAsc": "true" if objective.direction == "min" else "false",
    }
    return _link(server, experiment_id, asked)


def _link(server: str, experiment_id: str, asked: Mapping[str, str]) -> str:
    query = urlencode({"workflowType": "machine_learning", **asked}, quote_via=quote)
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"
