from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pruning_helper import STEPS, Climb, quality
from torch import nn

from evonas.architecture import Architecture, Categorical
from evonas.errors import RecipeError, UnknownComponent
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.executors.processes import Processes
from evonas.executors.serial import Serial
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.recipe.schema import Recipe
from evonas.runs.assemble import assemble
from evonas.runs.pruning.base import Pruner
from evonas.runs.pruning.median import Median
from evonas.runs.pruning.successive_halving import Halving
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace, Task
from evonas.strategies.base import Strategy
from evonas.strategies.random import RandomSearch
from evonas.strategies.tpe import TPE
from evonas.training.loop import score_names
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

VALUE = (Objective("value"),)
QUICK = {"name": "train", "epochs": 4, "batch_size": 16}


class Digits(SearchSpace):
    def __init__(self) -> None:
        self.domains = {f"d{i}": Categorical(range(10)) for i in range(3)}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


POINT = Proposal(Digits().sample(Random(0)))


def random_search() -> Strategy:
    return RandomSearch(Digits(), VALUE)


def tpe() -> Strategy:
    return TPE(Digits(), VALUE, startup_trials=5)


def median() -> Pruner:
    return Pruner(VALUE, Median(startup_trials=3, warmup_steps=2))


def halving() -> Pruner:
    return Pruner(VALUE, Halving())


PRUNERS = {"median": median, "successive_halving": halving}
STRATEGIES = {"random": random_search, "tpe": tpe}


def run(
    pruner: Pruner | None,
    history: Sequence[Trial] = (),
    strategy: Strategy | None = None,
    evaluator: Evaluator | None = None,
    trials: int = 40,
) -> list[Trial]:
    with Serial(lambda device: evaluator or Climb(), ("cpu",), isolate=False) as executor:
        chosen = strategy or random_search()
        return list(Search(chosen, executor, Budget(trials), 0, history, watcher=pruner))


def timeless(events: Sequence[Trial]) -> list[Trial]:
    """With neither time nor process, nor the traceback, which has line numbers."""
    return [
        replace(
            event,
            seconds=0.0,
            elapsed=0.0,
            error=str(event.error)[:20],
            metrics={n: v for n, v in event.metrics.items() if n != "pid"},
        )
        for event in events
    ]


def pruned(events: Sequence[Trial]) -> list[Trial]:
    return [t for t in Trials((), events).latest.values() if t.state is TrialState.PRUNED]


@pytest.mark.parametrize("name", PRUNERS)
def test_hopeless_trials_end_early_and_the_best_do_not(name: str) -> None:
    events = run(PRUNERS[name]())
    stopped, best = pruned(events), Trials(VALUE, events).ranking()[0]
    assert len(Trials((), events).latest) == 40
    assert len(stopped) > 10
    for trial in stopped:
        step, last = trial.curve[-1]
        assert 1 <= step < STEPS
        assert [s for s, _ in trial.curve] == list(range(1, step + 1))
        assert trial.metrics == last == {"value": quality(trial.architecture) * step / STEPS}
        assert trial.error is None
    rest = [t for t in Trials((), events).latest.values() if t.state is not TrialState.FAILED]
    assert quality(best.architecture) == max(quality(t.architecture) for t in rest)


def test_the_median_leaves_alone_who_is_above_it_and_waits_as_told() -> None:
    events = run(median())
    complete: list[float] = []
    for trial in (event for event in events if event.state is not TrialState.RUNNING):
        value = quality(trial.architecture)
        below = len(complete) >= 3 and value < sorted(complete)[len(complete) // 2]
        if trial.state is TrialState.PRUNED:
            assert len(complete) >= 3
            assert value < sorted(complete)[len(complete) // 2]
            assert trial.curve[-1][0] == 2, "judged at the first step after the warm-up"
        elif trial.state is TrialState.COMPLETE:
            assert not below or len(complete) % 2 == 0  # an even median lies between two
            complete.append(value)


def test_successive_halving_stops_at_rungs() -> None:
    steps = [trial.curve[-1][0] for trial in pruned(run(halving()))]
    assert set(steps) == {1, 3}
    assert steps.count(1) > steps.count(3)


def test_what_is_minimised_is_judged_the_other_way_round() -> None:
    class Sink(Climb):
        def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
            metrics = super().evaluate(trial, lambda s, m: report(s, {"value": -m["value"]}))
            return {**metrics, "value": -metrics["value"]}

    objectives = (Objective("value", "min"),)
    sinking = run(Pruner(objectives, Median(3, 2)), evaluator=Sink())
    climbing = run(median())
    assert [t.number for t in pruned(sinking)] == [t.number for t in pruned(climbing)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", PRUNERS)
def test_killed_anywhere_and_resumed_it_prunes_the_same(name: str, strategy: str) -> None:
    whole = run(PRUNERS[name](), strategy=STRATEGIES[strategy]())
    assert {event.state for event in whole} == set(TrialState)
    for cut in Random(1).sample(range(1, len(whole)), 8):
        # Through JSON, as the journal does it.
        told = [Trial.from_json(event.to_json()) for event in whole[:cut]]
        rest = run(PRUNERS[name](), told, STRATEGIES[strategy]())
        assert timeless([*told, *rest]) == timeless(whole)


@pytest.mark.parametrize("name", PRUNERS)
def test_one_worker_process_prunes_as_this_process_does(name: str) -> None:
    with Processes(Climb, ("cpu",), workers=1) as executor:
        events = list(Search(random_search(), executor, Budget(40), 0, watcher=PRUNERS[name]()))
    assert timeless(events) == timeless(run(PRUNERS[name]()))
    assert (
        len({t.metrics["pid"] for t in Trials((), events).latest.values() if "pid" in t.metrics})
        == 1
    )


def test_worker_processes_are_watched_all_at_once() -> None:
    with Processes(Climb, ("cpu",), workers=2) as executor:
        events = list(Search(tpe(), executor, Budget(30), 0, watcher=halving()))
    assert len(Trials((), events).latest) == 30
    assert len(pruned(events)) > 10
    assert {trial.curve[-1][0] for trial in pruned(events)} == {1, 3}


def test_pruned_trials_are_no_failures_in_a_row() -> None:
    """The first one is the best, and all others are pruned."""

    class Falling(Evaluator):
        metrics = ("value",)

        def __init__(self) -> None:
            super().__init__(Context(Digits(), None, "cpu", seed=0))

        def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
            report(1, {"value": -float(trial.number)})
            report(2, {"value": 0.0})
            return {"value": 0.0}

    rule = Median(startup_trials=1)
    events = run(Pruner(VALUE, rule), evaluator=Falling(), trials=25)
    assert len(pruned(events)) == 24


def test_no_trial_is_stopped_where_completed_ones_ended() -> None:
    pruner, space = Pruner(VALUE, Median(startup_trials=1)), Digits()
    done, late = (Trial(n, Proposal(space.sample(Random(n)))) for n in range(2))
    pruner.tell(done)
    curve = tuple((step, {"value": 5.0 if step > 1 else 0.0}) for step in (1, 2, 3))
    pruner.tell(replace(done, state=TrialState.COMPLETE, metrics={"value": 5.0}, curve=curve))
    pruner.tell(late)
    stops = [pruner.should_stop(1, step, {"value": 1.0}) for step in (1, 2, 3)]
    assert stops == [False, True, False]


def test_curves_of_another_fidelity_are_not_compared() -> None:
    pruner = Pruner(VALUE, Median(startup_trials=1))
    space = Digits()
    for number, (fidelity, value) in enumerate([(1.0, 9.0), (0.5, 1.0), (1.0, 1.0), (0.5, 0.5)]):
        trial = Trial(number, Proposal(space.sample(Random(number)), fidelity))
        pruner.tell(trial)
        stop = pruner.should_stop(number, 1, {"value": value})
        assert stop is (number > 1)
        curve = ((1, {"value": value}), (2, {"value": value}))
        if not stop:
            done = replace(trial, state=TrialState.COMPLETE, metrics={"value": value}, curve=curve)
            pruner.tell(done)


def test_odd_reports_stop_nothing() -> None:
    pruner = Pruner(VALUE, Median(startup_trials=1))
    done, odd = (Trial(n, Proposal(Digits().sample(Random(n)))) for n in range(2))
    pruner.tell(done)
    curve = tuple((step, {"value": 5.0}) for step in range(4))
    pruner.tell(replace(done, state=TrialState.COMPLETE, metrics={"value": 5.0}, curve=curve))
    pruner.tell(odd)
    assert not pruner.should_stop(1, 0, {"loss": 9.0})
    assert not pruner.should_stop(1, -1, {"value": 0.0})
    assert not pruner.should_stop(1, 0, {"value": 6.0})
    assert not pruner.should_stop(1, 0, {"value": 0.0}), "a step is judged once"
    assert not pruner.should_stop(1, 1, {"value": 0.0}), "its best so far is what counts"


def test_without_the_metric_on_the_curve_nothing_is_pruned() -> None:
    """Recipes of this kind are refused; who searches by hand loses nothing but time."""
    objectives = (Objective("pid"),)
    assert not pruned(run(Pruner(objectives, Median(startup_trials=1)), trials=9))


# Rules of one's own.

RULE = """
from evonas import Count, Rule

class Patience(Rule):
    '''Stop a trial that has not become better for some steps.'''

    def __init__(self, steps: Count = 2):
        self.steps = steps

    def prune(self, study, trial):
        curve = trial.intermediate_values
        return trial.last_step - max(curve, key=curve.get) >= self.steps
"""


def test_a_rule_is_a_plugin_like_others(images: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "pruning"
    folder.mkdir(parents=True)
    (folder / "patience.py").write_text(RULE)
    registry = Registry((tmp_path / "plugins",))
    assembly = assemble(given(images, pruning="patience"), registry, Path())
    assert assembly.recipe.dump()["pruning"] == {"name": "patience", "steps": 2}
    pruner, trial = Pruner(VALUE, registry.find("pruning", "patience")(steps=2)), Trial(0, POINT)
    pruner.tell(trial)
    values = enumerate((1.0, 3.0, 2.0, 2.5, 4.0), 1)
    stops = [pruner.should_stop(0, step, {"value": value}) for step, value in values]
    assert stops == [False, False, False, True, False]
    with pytest.raises(RecipeError, match=r"pruning\.step: unknown key. Did you mean 'steps'"):
        assemble(given(images, pruning={"name": "patience", "step": 3}), registry, Path())
    with pytest.raises(UnknownComponent, match="unknown pruning rule 'patience'"):
        assemble(given(images, pruning="patience"), Registry(), Path())


# Recipes, and real trainings.


def given(images: Callable[..., Path], **changes: Any) -> Recipe:
    content = {
        "name": "tiny",
        "dataset": {"name": "npz", "path": str(images(train=150)), "validation": 0.4},
        "space": "plain_cnn",
        "strategy": "random",
        "evaluation": QUICK,
        "budget": {"trials": 8},
        "executor": {"name": "serial", "device": "cpu"},
        "tracking": "console",
        **changes,
    }
    return reading.validate(content, "here")


def test_a_recipe_says_how_and_its_defaults_are_filled_in(images: Callable[..., Path]) -> None:
    plain = assemble(given(images), Registry(), Path())
    assert plain.pruner() is None
    assert "pruning" not in plain.recipe.dump()
    short = assemble(given(images, pruning="median"), Registry(), Path())
    defaults = {"name": "median", "startup_trials": 5, "warmup_steps": 0, "interval_steps": 1}
    assert short.recipe.dump()["pruning"] == defaults
    assert short.recipe.digest != plain.recipe.digest
    assert short.pruner() is not short.pruner(), "every search has a fresh one"
    assert assemble(short.recipe, Registry(), Path()).recipe.digest == short.recipe.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning": "medain"}, r"unknown pruning rule 'medain'. Did you mean 'median'\? Known: "),
        (
            {"pruning": {"name": "median", "warmup_step": 1}},
            r"pruning.warmup_step: unknown key. Did you mean 'warmup_steps'\?",
        ),
        ({"pruning": {"name": "median", "startup_trials": -1}}, r"startup_trials: .* to 0, not -1"),
        ({"pruning": {"name": "median", "startup_trials": True}}, "must not be true"),
        ({"pruning": {"name": "median", "interval_steps": 0}}, r"interval_steps: .* to 1, not 0"),
        ({"pruning": {"name": "successive_halving", "min_steps": 0}}, r"min_steps: .* to 1"),
        (
            {"pruning": {"name": "successive_halving", "reduction_factor": 1}},
            r"pruning.reduction_factor: .* greater than or equal to 2, not 1",
        ),
        ({"pruning": {"startup_trials": 3}}, "pruning.name: is missing"),
        (
            {
                "pruning": "median",
                "strategy": "tpe",
                "objectives": {"val_accuracy": "max", "params": "min"},
            },
            "pruning: takes one objective, not 2",
        ),
        (
            {"pruning": "median", "objectives": {"params": "min"}},
            r"pruning: evaluation 'train' reports no 'params' on the way, only train_loss, val_acc",
        ),
        (
            {
                "pruning": "median",
                "evaluation": {"name": "extrapolate", "of": QUICK},
                "objectives": {"val_accuracy_extrapolated": "max"},
            },
            "pruning: evaluation 'extrapolate' reports no 'val_accuracy_extrapolated' on the way",
        ),
        (
            {"pruning": "median", "evaluation": {"name": "supernet", "of": QUICK}},
            "pruning: evaluation 'supernet' reports no 'val_accuracy' on the way, only nothing",
        ),
        (
            {
                "pruning": "median",
                "evaluation": {"name": "zero_cost", "training": False, "of": QUICK},
                "objectives": {"naswot": "max"},
            },
            "pruning: evaluation 'zero_cost' reports no 'naswot' on the way, only nothing",
        ),
    ],
)
def test_bad_recipes_are_refused_in_one_line(
    images: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((RecipeError, UnknownComponent), match=message) as caught:
        assemble(given(images, **changes), Registry(), Path())
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "evaluation",
    [
        {"name": "reduced", "data": 0.5, "of": QUICK},
        {"name": "inherit", "of": QUICK},
        {"name": "zero_cost", "proxies": ["naswot"], "of": QUICK},
        {"name": "extrapolate", "share": 0.5, "of": {"name": "inherit", "of": QUICK}},
    ],
    ids=lambda e: e["name"],
)
def test_wrappers_that_pass_reports_on_may_be_pruned(
    images: Callable[..., Path], evaluation: dict[str, Any]
) -> None:
    assembly = assemble(given(images, pruning="median", evaluation=evaluation), Registry(), Path())
    assert assembly.pruner() is not None


def test_real_trainings_are_pruned(images: Callable[..., Path]) -> None:
    pruning = {"name": "successive_halving", "reduction_factor": 2}
    evaluation = {**QUICK, "optimizer": "sgd"}  # by which tiny networks differ soonest
    changes = {"pruning": pruning, "evaluation": evaluation, "budget": {"trials": 12}}
    assembly = assemble(given(images, **changes), Registry(), Path())
    with assembly.executor() as executor:
        events = list(
            Search(assembly.strategy(), executor, assembly.budget, 0, watcher=assembly.pruner())
        )
    states = {trial.number: trial.state for trial in Trials((), events).latest.values()}
    assert set(states.values()) == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in pruned(events):
        assert set(trial.metrics) == {"train_loss", *(f"val_{name}" for name in score_names(2))}
        assert 1 <= len(trial.curve) < 4
