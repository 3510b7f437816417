"""Latency beside other metrics, and as a limit that ends trials before they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from evaluators_helper import SPACE, Untrained, context, data, evaluate, final, make, trial

from evonas.__main__ import main
from evonas.errors import RecipeError
from evonas.evaluators.base import Context, Infeasible, Reporter, hold
from evonas.evaluators.extrapolate import Extrapolate
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.latency import Latency
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.tabular import Tabular
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ZeroCost
from evonas.executors.base import run_trial
from evonas.runs.journal import read_journal
from evonas.runs.pruning.base import Pruner
from evonas.runs.pruning.median import Median
from evonas.trial import Limit, Objective, Trial, TrialState
from evonas.trials import Trials

QUICK = partial(Train, epochs=1, batch_size=30)
MEASURED = partial(Latency, of=QUICK, runs=2, warmup=0)
NEVER = {"latency": Limit(max=1e-9)}  # milliseconds
ALWAYS = {"latency": Limit(max=1e9)}
COSTS = SPACE.costs(trial().architecture, data().task)
TIMES = ("latency", "latency_q1", "latency_q3")


def test_it_stands_beside_the_metrics_of_the_training_and_changes_none() -> None:
    evaluator = MEASURED(context())
    metrics, curve = evaluate(evaluator, trial())
    alone, alone_curve = evaluate(QUICK(context()), trial())
    assert set(metrics) == set(evaluator.metrics) == {*alone, *COSTS, *TIMES}
    assert {name: metrics[name] for name in alone} == alone
    assert curve == alone_curve
    assert 0 < metrics["latency_q1"] <= metrics["latency"] <= metrics["latency_q3"] < 10_000


def test_the_batch_and_the_runs_are_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    build = SPACE.build

    def watched(*arguments: Any) -> torch.nn.Module:
        network = build(*arguments)
        network.register_forward_pre_hook(lambda _, images: shapes.append(tuple(images[0].shape)))
        return network

    space = type(SPACE)(1, 8)
    monkeypatch.setattr(space, "build", watched)
    options = {"batch_size": 5, "runs": 4, "warmup": 3}
    evaluate(Latency(context(space), of=Untrained, **options), final())
    assert shapes == [(5, 3, 8, 8)] * 7


def test_the_winner_is_measured_too_whatever_the_limit() -> None:
    evaluator = Latency(context(limits=NEVER), of=Untrained, runs=1)
    ended = run_trial(evaluator, final(repeat=3))
    assert ended.state is TrialState.COMPLETE
    assert ended.metrics["val_accuracy"] == 3
    assert ended.metrics["latency"] > 0


def test_what_has_no_finals_has_none_when_it_is_measured() -> None:
    assert not Latency(context(), of=Untrained).finals
    assert MEASURED(context()).finals


def test_a_trial_over_the_limit_ends_before_it_is_trained() -> None:
    ended = run_trial(Latency(context(limits=NEVER), of=Untrained, runs=1), trial())
    assert ended.state is TrialState.PRUNED
    assert list(ended.metrics) == [*TIMES, *COSTS, "violation"]
    assert {name: ended.metrics[name] for name in COSTS} == COSTS
    assert ended.metrics["violation"] == NEVER["latency"].violation(ended.metrics["latency"])
    assert ended.curve == ()
    assert ended.error is None
    assert Trial.from_json(ended.to_json()) == ended


def test_a_trial_within_the_limit_is_trained() -> None:
    ended = run_trial(MEASURED(context(limits=ALWAYS)), trial())
    assert ended.state is TrialState.COMPLETE
    assert "violation" not in ended.metrics


@pytest.mark.parametrize(
    "wrapper",
    [
        partial(Extrapolate, share=0.5),
        Inherit,
        partial(ZeroCost, proxies=("naswot",), batch_size=8),
    ],
    ids=["extrapolate", "inherit", "zero_cost"],
)
def test_it_ends_through_other_wrappers(wrapper: Any, tmp_path: Path) -> None:
    world = context(limits=NEVER, run_dir=tmp_path)
    assert run_trial(wrapper(world, of=MEASURED), trial()).state is TrialState.PRUNED
    assert run_trial(Latency(world, of=partial(wrapper, of=QUICK)), trial()).state is (
        TrialState.PRUNED
    )


def test_round_reduced_it_measures_the_whole_network_and_within_it_is_refused() -> None:
    whole = Latency(context(limits=NEVER), of=partial(Reduced, of=Untrained, width=0.5), runs=1)
    assert run_trial(whole, trial()).metrics["params"] == COSTS["params"]
    with pytest.raises(RecipeError, match=r"name: latency, of: \{name: reduced"):
        Reduced(context(), of=MEASURED, width=0.5)


def test_a_table_holds_its_own_latencies() -> None:
    Path("t.csv").write_text("architecture,acc,ms\n8,50,4.0\n4,40,2.0\n")
    columns = {"val_accuracy": "acc", "latency": "ms"}
    world = Context(SPACE, None, "cpu", 0, limits={"latency": Limit(max=2.5)})
    ended = {}
    for width in (4, 8):
        point = SPACE.architecture({**SPACE.sample(Random(0)).choices, "c1": width})
        given = Trial(width, type(trial().proposal)(point))
        ended[width] = run_trial(Tabular(world, Path("t.csv"), "{c1}", columns), given)
    assert ended[4].state is TrialState.COMPLETE
    assert ended[8].state is TrialState.PRUNED
    assert ended[8].metrics == {"val_accuracy": 50, "latency": 4.0, "violation": 0.6000000000000001}


def test_violations_add_up_and_the_least_latency_counts_too() -> None:
    limits = {"a": Limit(max=2), "b": Limit(min=4), "absent": Limit(max=1)}
    hold(limits, {"a": 2, "b": 4})
    with pytest.raises(Infeasible) as caught:
        hold(limits, {"a": 3, "b": 2, "c": 7})
    assert caught.value.metrics == {"a": 3, "b": 2, "c": 7, "violation": 1.5}


def test_what_is_not_finite_is_left_out_of_the_metrics() -> None:
    class Odd(Untrained):
        def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
            report(1, {"val_accuracy": 0.5})
            raise Infeasible({"violation": 1, "latency": float("nan")})

    ended = run_trial(Odd(context()), trial())
    assert (ended.state, dict(ended.metrics)) == (TrialState.PRUNED, {"violation": 1.0})
    assert ended.curve == ((1, {"val_accuracy": 0.5}),)


@pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("runs", 0), ("warmup", -1)])
def test_senseless_settings_are_refused(option: str, value: int) -> None:
    with pytest.raises(RecipeError, match=rf"evaluation\.{option}: Input should be greater"):
        make(Latency, context(), Untrained, **{option: value})


def test_a_pruner_takes_it_for_a_trial_that_said_nothing() -> None:
    pruner = Pruner((Objective("val_accuracy"),), Median(startup_trials=1))
    evaluator = Latency(context(limits=NEVER), of=Untrained, runs=1)
    for number in range(3):
        pruner.tell(trial(number))
        pruner.tell(run_trial(evaluator, trial(number), partial(pruner.should_stop, number)))


# --- whole runs, where a network is too slow if a table says so -----------------------------------

TABLE = "architecture,acc,ms\n" + "".join(f"{c},{c % 7},{c}\n" for c in range(4, 65, 4))
RECIPE: dict[str, Any] = {
    "name": "limited",
    "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 64},
    "strategy": {"name": "random"},
    "evaluation": {
        "name": "tabular",
        "path": "t.csv",
        "template": "{c1}",
        "columns": {"val_accuracy": "acc", "latency": "ms"},
    },
    "constraints": {"latency": {"max": 20}},
    "objectives": {"val_accuracy": "max", "latency": "min"},
    "budget": {"trials": 24},
    "executor": {"name": "serial", "device": "cpu"},
    "tracking": {"name": "console"},
}


def run(**changes: Any) -> str:
    Path("t.csv").write_text(TABLE)
    Path("r.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False))
    result = CliRunner().invoke(main, ["run", "r.yaml", "--run-dir", "run"])
    assert result.exit_code == 0, result.output
    return result.output


def by_state(state: TrialState) -> list[Trial]:
    return [event for event in read_journal(Path("run"))[1] if event.state is state]


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "random"},
        {"name": "tpe", "startup_trials": 4},
        {"name": "nsga2", "population_size": 6},
    ],
    ids=lambda strategy: strategy["name"],
)
def test_a_run_with_a_limit_ends_with_a_front_within_it(strategy: dict[str, Any]) -> None:
    said = run(strategy=strategy)
    pruned, complete = by_state(TrialState.PRUNED), by_state(TrialState.COMPLETE)
    assert len(pruned) + len(complete) == 24
    assert all(t.metrics["violation"] == t.metrics["latency"] / 20 - 1 for t in pruned)
    assert all(t.metrics["latency"] <= 20 for t in complete)
    assert min(len(pruned), len(complete)) >= 2
    objectives = (Objective("val_accuracy"), Objective("latency", "min"))
    front = Trials(objectives, complete).front()
    assert (f"Pareto front of {len(front)} trials" in said) == (len(front) > 1)
    page = Path("run/report.html").read_text()
    assert ("The Pareto front" in page) == (len(front) > 1)
    assert ('data-chart="volumes"' in page) == (len(complete) >= 10)


def test_one_objective_and_a_limit_go_together() -> None:
    run(
        strategy={"name": "aging_evolution", "population_size": 4, "tournament_size": 2},
        objectives={"val_accuracy": "max"},
    )
    best = max(by_state(TrialState.COMPLETE), key=lambda t: t.metrics["val_accuracy"])
    assert best.metrics["latency"] <= 20
    parents = {number for t in by_state(TrialState.RUNNING) for number in t.proposal.parents}
    assert parents
    assert not parents & {t.number for t in by_state(TrialState.PRUNED)}


def test_any_metric_may_be_limited() -> None:
    run(constraints={"val_accuracy": {"min": 3}})
    pruned, complete = by_state(TrialState.PRUNED), by_state(TrialState.COMPLETE)
    assert {t.metrics["val_accuracy"] >= 3 for t in complete} == {True}
    assert {t.metrics["val_accuracy"] >= 3 for t in pruned} == {False}
