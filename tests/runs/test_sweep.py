"""Sweeps: every combination once, checked before anything runs, and resumable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from evonas.errors import EvonasError, HistoryError, RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.recipe.schema import Recipe
from evonas.runs import run as runs
from evonas.runs import sweep
from evonas.runs.journal import read_journal

CONTENT: dict[str, Any] = {
    **{"name": "s", "dataset": "digits", "space": "plain_cnn", "budget": {"trials": 3}},
    "strategy": {"name": "tpe", "startup_trials": 5},
    "evaluation": {"name": "train", "epochs": 1, "final_epochs": 1},
    "constraints": {"params": {"max": 20_000}},
    "tracking": "console",
    "sweep": {"strategy": ["random", "tpe"], "seed": [0, 1]},
}


def recipe(**more: Any) -> Recipe:
    return reading.validate({**CONTENT, **more}, "recipe")


def test_every_combination_is_a_member() -> None:
    found = sweep.members(recipe())
    assert [member.label for member in found] == [
        *("random · seed 0", "random · seed 1", "tpe · seed 0", "tpe · seed 1")
    ]
    assert [member.folder for member in found[:2]] == ["random-seed_0", "random-seed_1"]
    assert {member.recipe.seed for member in found} == {0, 1}
    # Another component drops the options of the one it replaces.
    assert found[0].recipe.strategy.options == {}
    assert found[2].recipe.strategy.options == {"startup_trials": 5}
    assert not any(member.recipe.sweep for member in found)


def test_values_may_be_sections_numbers_and_have_labels() -> None:
    values = {
        "space": {"small": {"name": "plain_cnn", "max_width": 8}, "large": "plain_cnn"},
        "evaluation.epochs": [1, 2],
    }
    found = sweep.members(recipe(sweep=values))
    assert [member.label for member in found][:2] == ["small · epochs 1", "small · epochs 2"]
    assert found[0].recipe.space.options == {"max_width": 8}
    assert found[3].recipe.evaluation.options["epochs"] == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "has no sweep"),
        ({"seed": []}, "sweep.seed"),
        ({"seed": [1, 1]}, "is there twice"),
        ({"seed": 3}, "sweep.seed"),
        ({"sede": [1, 2]}, "sede: unknown key. Did you mean 'seed'?"),
        ({"seed": [0, "x"]}, "sweep, x: seed: "),
        ({"strategy": ["random", "rendom"]}, "rendom: .*random"),
        ({"strategy": ["tpe", {"name": "tpe", "startup_trials": 3}]}, "give their values labels"),
        ({"evaluation.epochs": [1, 0]}, "epochs 0: .*epochs"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(EvonasError, match=message) as raised:
        sweep.begin(recipe(sweep=values), Registry(), tmp_path / "sweep")
    assert raised.value.exit_code == 2
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "sweep").exists()


def test_run_refuses_a_recipe_with_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="evonas sweep"):
        runs.start(recipe(), Registry(), tmp_path / "run")


def test_a_sweep_runs_once_and_is_nested_in_mlflow(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    given = recipe(tracking={"name": "mlflow", "uri": uri}, sweep={"seed": [0, 1]})
    found = sweep.begin(given, Registry(), tmp_path / "sweep")
    with pytest.raises(HistoryError, match="holds a sweep already"):
        sweep.begin(given, Registry(), tmp_path / "sweep")
    assert sweep.run(found) == {"seed 0": "finished", "seed 1": "finished"}
    before = [(folder / "history.jsonl").read_bytes() for folder in found.run_dirs()]
    assert sweep.run(sweep.read(tmp_path / "sweep")) == {"seed 0": "finished", "seed 1": "finished"}
    assert [(folder / "history.jsonl").read_bytes() for folder in found.run_dirs()] == before
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    logged = client.search_runs([experiment.experiment_id])
    kinds = {
        kind: [r for r in logged if r.data.tags["evonas.kind"] == kind]
        for kind in ("sweep", "run", "trial")
    }
    assert [len(kinds[kind]) for kind in ("sweep", "run", "trial")] == [1, 2, 8]
    (parent,) = kinds["sweep"]
    assert {r.data.tags["mlflow.parentRunId"] for r in kinds["run"]} == {parent.info.run_id}
    assert {r.info.run_name for r in kinds["run"]} == {"s · seed 0", "s · seed 1"}
    assert parent.info.status == "FINISHED"
    view = json.loads(experiment.tags["mlflow.sharedViewState.leaderboard"])
    assert view["searchFilter"] == "tags.`evonas.kind` = 'run'"


def test_a_member_that_fails_is_a_result(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    (plugins / "evaluators").mkdir(parents=True)
    (plugins / "evaluators" / "sick.py").write_text(
        "from evonas import Evaluator\n\n\nclass Sick(Evaluator):\n"
        "    metrics = ('val_accuracy',)\n\n    def __init__(self, context):\n"
        "        super().__init__(context)\n\n    def evaluate(self, trial, report):\n"
        "        raise ValueError('no')\n"
    )
    given = recipe(
        sweep={"evaluation": ["sick", "train"]},
        evaluation={"name": "train", "epochs": 1, "final_epochs": 1},
        budget={"trials": 3, "max_failures": 2},
    )
    found = sweep.begin(given, Registry((plugins,)), tmp_path / "sweep")
    assert sweep.run(found) == {"sick": "failed", "train": "finished"}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    content = {**CONTENT, "budget": {"trials": 6}}
    path.write_text(json.dumps(content))
    whole = sweep.begin(reading.load(path), Registry(), tmp_path / "whole")
    sweep.run(whole)
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "evonas", "sweep", str(path), "--sweep-dir", str(killed)]
    for attempt in range(20):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        command = [sys.executable, "-m", "evonas", "sweep", str(killed)]
        journal = killed / whole.members[min(attempt, 3)].folder / "history.jsonl"
        while process.poll() is None:
            if journal.exists() and journal.stat().st_size > 3000 and attempt < 4:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        if process.wait() == 0:
            break

    def told(folder: Path) -> list[Any]:
        return [
            (t.number, t.proposal, t.state, dict(t.metrics))
            for t in read_journal(folder)[1]
            if t.state != "running"
        ]

    again = sweep.read(killed)
    for one, two in zip(whole.run_dirs(), again.run_dirs(), strict=True):
        assert {x[0]: x[1:3] for x in told(one)} == {x[0]: x[1:3] for x in told(two)}
    assert (killed / "comparison.html").exists()
