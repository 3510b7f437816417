"""What runs and trials are called in MLflow, and the links to them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow.tracking import MlflowClient

from evonas.architecture import Architecture
from evonas.errors import RecipeError
from evonas.recipe.options import bind
from evonas.recipe.registry import Registry
from evonas.recipe.schema import TrackingSection
from evonas.trackers.base import Report, RunInfo
from evonas.trackers.mlflow import MLflow
from evonas.trackers.parts import entries, machine, store, views
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

RECIPE = {
    "name": "pets",
    "seed": 3,
    "space": {"name": "mbconv"},
    "strategy": {"name": "tpe"},
    "dataset": {"name": "npz", "path": "a.npz"},
    "constraints": {"params": {"max": 20000.0}},
}
OBJECTIVES = (Objective("val_accuracy"), Objective("params", "min"))
RUN = RunInfo("pets", Path("somewhere"), RECIPE, OBJECTIVES, {}, 1e9, data="ab12")


def trial(number: int, accuracy: float, state: TrialState = TrialState.COMPLETE) -> Trial:
    proposal = Proposal(Architecture("mbconv", {"a|b": number}), parents=(0,) * number)
    curve = tuple((step, {"val_accuracy": accuracy * step / 2, "loss": 1.0}) for step in (1, 2))
    metrics = {"params": 1000.0 + number, "val_accuracy": accuracy}
    return Trial(number, proposal, state, metrics, curve, 2.0, effort=0.25)


def test_runs_of_one_recipe_can_be_told_apart() -> None:
    assert entries.run_name(RUN) == "pets · tpe · seed 3"
    tags = entries.trial_tags(trial(1, 0.5), RUN, "mine", "0" * 32)
    assert tags["mlflow.runName"] == "trial-0001 · tpe · seed 3"
    assert (tags["evonas.run"], tags["evonas.strategy"]) == ("mine", "tpe")


def test_a_first_trial_has_no_empty_tag() -> None:
    assert "evonas.ancestors" not in entries.trial_tags(trial(0, 0.5), RUN, "mine", "0" * 32)


def test_rungs() -> None:
    run = replace(RUN, fidelities=(1 / 9, 1 / 3, 1.0))
    low = trial(1, 0.5)
    low = replace(low, proposal=replace(low.proposal, fidelity=1 / 3))
    tags = entries.trial_tags(low, run, "mine", "0" * 32)
    assert (tags["evonas.rung"], tags["evonas.fidelity"]) == ("1", "0.3333")
    assert "evonas.rung" not in entries.trial_tags(trial(1, 0.5), RUN, "mine", "0" * 32)


def test_the_objectives_come_first_and_single_numbers_stand_at_step_0() -> None:
    points = entries.trial_metrics(trial(1, 0.8), OBJECTIVES, 1000, 4000)
    assert [(p.key, p.step) for p in points] == [
        *(("val_accuracy", 1), ("val_accuracy", 2), ("val_accuracy", 2), ("parameters", 0)),
        *(("loss", 1), ("loss", 2), ("seconds", 0), ("effort", 0)),
    ]
    assert [p.value for p in points[:3]] == [0.4, 0.8, 0.8]
    assert all(1000 < p.timestamp <= 4000 for p in points)


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAILED])
def test_what_was_cut_short_is_no_result(state: TrialState) -> None:
    points = entries.trial_metrics(trial(1, 0.8, state), OBJECTIVES, 0, 10)
    assert {p.key for p in points} == {
        *("unfinished/val_accuracy", "unfinished/loss", "parameters", "seconds", "effort")
    }


def test_a_pruned_trial_is_no_red_cross() -> None:
    assert entries.STATUS["pruned"] == "FINISHED"
    tags = entries.trial_tags(trial(1, 0.8, TrialState.PRUNED), RUN, "mine", "0" * 32)
    assert tags["evonas.state"] == "pruned"


def test_a_runs_curves() -> None:
    trials = Trials(OBJECTIVES, [trial(1, 0.8), trial(0, 0.7, TrialState.PRUNED)])
    assert entries.progress(trials) == {
        **{"best_val_accuracy": 0.8, "best_parameters": 1001.0},
        **{"ended_trials": 2, "failed_trials": 0, "pruned_trials": 1, "effort": 0.5},
    }
    assert entries.progress(Trials(OBJECTIVES))["ended_trials"] == 0


def test_parameters_are_whole_numbers_where_they_are() -> None:
    params = {p.key: p.value for p in entries.run_params(RUN)}
    assert params["constraints.params.max"] == "20000"
    assert params["seed"] == "3"


def test_the_description_is_markdown() -> None:
    front = (trial(2, 0.9), trial(1, 0.8))
    report = Report("finished", "done", {}, 9.0, front[0], front, {"test_accuracy": 0.875})
    text = entries.description(RUN, replace(report, verdict="It can be trusted.", remarks=("x",)))
    for line in (
        *("**finished**: done.", "Test accuracy **87.50%**, measured once, after the search."),
        *("### The winner: trial 2", "| a\\|b | 2 |", "### Pareto front of 2", "- x"),
        *("| trial | val_accuracy | params |", "| 1 | 0.8 | 1,001 |", "It can be trusted."),
    ):
        assert line in text.splitlines(), line


def test_links_say_what_to_show() -> None:
    link = views.trials("http://h:5/", "7", "f" * 32, RUN)
    page, _, query = urlsplit(link).fragment.partition("?")
    assert (link[:10], page) == ("http://h:5", "/experiments/7/runs")
    assert parse_qs(query) == {
        "workflowType": ["machine_learning"],
        "searchFilter": [f"tags.mlflow.parentRunId = '{'f' * 32}'"],
        "orderByKey": ["metrics.`val_accuracy`"],
        "orderByAsc": ["false"],
    }
    assert "viewStateShareKey=leaderboard" in views.leaderboard("http://h", "7")
    assert "parentRunId%20IS%20NULL" in views.leaderboard("http://h", "7", kept=False)


def test_the_leaderboard_is_a_tag_of_the_experiment(tmp_path: Path) -> None:
    run = replace(RUN, run_dir=tmp_path, started=time.time())
    tracker = MLflow(f"sqlite:///{tmp_path}/mlflow.db")
    tracker.sync(run, (trial(0, 0.5),))
    ((number, name, kept),) = tracker.experiments()
    assert (name, kept) == ("pets", True)
    client = MlflowClient(tracker.uri)
    view = json.loads(client.get_experiment(number).tags[views.TAG])
    assert view["searchFilter"] == "tags.mlflow.parentRunId IS NULL"
    (parent,) = client.search_runs([number], view["searchFilter"])
    known = {f"params.`{key}`" for key in parent.data.params}
    assert {c for c in view["selectedColumns"] if c.startswith("params")} <= known
    (images,) = parent.inputs.dataset_inputs
    assert (images.dataset.name, images.dataset.digest) == ("npz", "ab12")


def test_the_best_and_the_front_are_tagged_and_no_longer_when_others_are(tmp_path: Path) -> None:
    run = replace(RUN, run_dir=tmp_path, started=time.time())
    tracker = MLflow(f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(tracker.uri)
    events = [trial(0, 0.5), trial(1, 0.6)]
    for more, best, front in (
        ([], {1}, {0, 1}),
        ([replace(trial(2, 0.7), metrics={"params": 1.0, "val_accuracy": 0.7})], {2}, set[int]()),
    ):
        events += more
        trials = Trials(OBJECTIVES, events)
        report = Report("finished", "done", trials.counts(), 1.0, trials.best, trials.front())
        tracker.sync(run, events, report)
        logged = client.search_runs([tracker.experiments()[0][0]])
        for tag, numbers in (("evonas.best", best), ("evonas.front", front)):
            tagged = {int(r.data.tags["evonas.trial"]) for r in logged if tag in r.data.tags}
            assert tagged == numbers, tag


def test_a_run_is_called_and_tagged_as_its_user_likes(tmp_path: Path) -> None:
    run = replace(RUN, run_dir=tmp_path, started=time.time())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MLflow(uri, "all", "mine", {"team": "a", "mlflow.user": "b"}).sync(run, ())
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("all").experiment_id])
    assert found.info.run_name == "mine"
    assert (found.data.tags["team"], found.data.tags["mlflow.user"]) == ("a", "b")
    assert found.data.tags["evonas.reason"] == "cut off; evonas resume goes on"


def test_who_and_how(tmp_path: Path) -> None:
    source = {"command": "evonas run pets", "user": "ada", "commit": "f00"}
    tags = entries.run_tags(replace(RUN, source=source), "mine", {})
    assert tags["mlflow.source.name"] == "evonas run pets"
    assert (tags["mlflow.user"], tags["mlflow.source.git.commit"]) == ("ada", "f00")


def test_a_gpu_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psutil", reason="needs the extra gpu")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = store.client_of(uri)
    for devices, expected in (("cuda:0", True), ("cpu", False)):
        run_id = client.create_run("0").info.run_id
        with machine.watched(replace(RUN, environment={"devices": devices}), uri, run_id):
            time.sleep(0.5)
        metrics = client.get_run(run_id).data.metrics
        assert any(name.startswith("system/cpu") for name in metrics) is expected


def test_tags_that_mlflow_would_refuse_are_refused_first() -> None:
    section = TrackingSection.model_validate({"name": "mlflow", "tags": {"a:b": "1"}})
    with pytest.raises(RecipeError, match="tags"):
        bind(Registry(), "tracker", section, "tracking")()
