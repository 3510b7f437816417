"""What a trial trained, in full trainings of the recipe, whatever evaluates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
from evaluators_helper import SPACE, context, final, kept, trial

from evonas.evaluators.base import Context, Evaluator
from evonas.evaluators.extrapolate import Extrapolate
from evonas.evaluators.hypernet import Hypernet
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.latency import Latency
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.supernet import SinglePathOneShot
from evonas.evaluators.tabular import Tabular
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ZeroCost
from evonas.executors.base import Watch, run_trial
from evonas.spaces.darts import DARTS
from evonas.trial import Limit, Proposal, Trial, TrialState

TRAIN = partial(Train, epochs=4, final_epochs=8, batch_size=20)
Make = Callable[[Context], Evaluator]


def effort(evaluator: Evaluator, given: Trial, watch: Watch | None = None) -> float:
    return run_trial(evaluator, given, watch).effort


def test_a_full_training_is_a_final_one() -> None:
    evaluator = TRAIN(context())
    assert effort(evaluator, trial()) == 0.5
    assert effort(evaluator, trial(1, fidelity=0.5)) == 0.25
    assert effort(evaluator, final()) == 1


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partial(Reduced, of=TRAIN, data=0.5), 0.25),
        (partial(Reduced, of=TRAIN, resolution=4), 0.125),
        (partial(Reduced, of=TRAIN, width=0.5), 0.5),
        (partial(Reduced, of=partial(Reduced, of=TRAIN, data=0.5), resolution=4), 0.0625),
        (partial(Extrapolate, of=TRAIN, share=0.5), 0.25),
        (partial(Extrapolate, of=partial(Reduced, of=TRAIN, data=0.5), share=0.5), 0.125),
        (partial(Latency, of=TRAIN, runs=1), 0.5),
        (partial(ZeroCost, of=TRAIN, proxies=("naswot",), batch_size=8), 0.5),
        (partial(ZeroCost, of=TRAIN, proxies=("naswot",), batch_size=8, training=False), 0.0),
    ],
)
def test_what_a_wrapper_saves_is_no_effort(make: Make, expected: float) -> None:
    evaluator = make(context())
    ended = run_trial(evaluator, trial())
    assert (ended.state, ended.effort) == (TrialState.COMPLETE, expected)
    assert effort(evaluator, trial(1)) == expected
    assert effort(evaluator, final()) == 1, "a final training is a full one"


def test_a_child_is_the_epochs_that_it_trains(tmp_path: Path) -> None:
    evaluator = Inherit(context(run_dir=tmp_path), of=TRAIN, epochs=0.5)
    assert effort(evaluator, trial()) == 0.5
    child = Proposal(SPACE.sample(Random(1)), parents=(0,))
    assert effort(evaluator, Trial(1, child)) == 0.25


def test_a_promoted_trial_is_the_epochs_that_it_adds(tmp_path: Path) -> None:
    evaluator = TRAIN(context(weights=kept(tmp_path)))
    assert effort(evaluator, trial(fidelity=0.25)) == 0.125
    promoted = replace(trial(1), proposal=replace(trial().proposal, resume_from=0))
    assert effort(evaluator, promoted) == 0.375


def test_a_pruned_trial_is_the_epochs_that_it_came_to() -> None:
    ended = run_trial(TRAIN(context()), trial(), lambda step, metrics: step == 3)
    assert (ended.state, ended.effort) == (TrialState.PRUNED, 0.375)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_diverged_and_was_begun_again_was_trained() -> None:
    ended = run_trial(TRAIN(context(), learning_rate=1e30, clip_norm=0.0), trial())
    assert (ended.state, ended.effort) == (TrialState.FAILED, 0.25), "an epoch each time"


def test_a_trial_over_the_limit_of_latency_trains_nothing() -> None:
    limits = {"latency": Limit(max=1e-9)}
    ended = run_trial(Latency(context(limits=limits), of=TRAIN, runs=1), trial())
    assert (ended.state, ended.effort) == (TrialState.PRUNED, 0)


def test_a_supernet_is_the_effort_of_the_trial_that_had_it_trained(tmp_path: Path) -> None:
    make = partial(SinglePathOneShot, of=TRAIN, epochs=2, batch_size=20, calibration_batches=1)
    world = context(run_dir=tmp_path)
    evaluator = make(world)
    assert [effort(evaluator, trial(number)) for number in range(2)] == [0.25, 0]
    assert effort(make(context(run_dir=tmp_path)), trial(2)) == 0, "loaded"


def test_what_is_trained_before_the_first_trial_is_told_apart() -> None:
    space = DARTS(2)
    evaluator = Hypernet(context(space), of=TRAIN, epochs=2, batch_size=20, calibration_batches=1)
    assert evaluator.prepare(lambda message: None, lambda: False)
    assert evaluator.context.work.pixels == 2 * 60 * 8 * 8
    assert effort(evaluator, trial(space=space)) == 0


def test_where_nobody_counts_it_is_the_fidelity(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    choices = trial().architecture.choices
    key = "-".join(str(value) for value in choices.values())
    table.write_text(f"architecture,acc\n{key},50\n")
    template = "-".join(f"{{{name}}}" for name in choices)
    evaluator = Tabular(context(data=None), table, template, {"val_accuracy": "acc"})
    assert effort(evaluator, trial(fidelity=0.5)) == 0.5
    lost = Tabular(context(data=None), table, "x" + template, {"val_accuracy": "acc"})
    ended = run_trial(lost, trial(fidelity=0.5))
    assert (ended.state, ended.effort) == (TrialState.FAILED, 0.5)
