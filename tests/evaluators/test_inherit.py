"""Weight reuse through real trainings: who starts from whom, for how long, and what if not."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from evaluators_helper import SPACE, context, evaluate, final, trial
from evaluators_helper import make as made_as_in_a_recipe
from torch import nn

from evonas.errors import RecipeError
from evonas.evaluators.base import Context, Evaluator
from evonas.evaluators.extrapolate import Extrapolate
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.train import Train
from evonas.spaces.plain_cnn import PlainCNN
from evonas.spaces.sequential import Sequential
from evonas.testing import check_evaluator
from evonas.training.checkpoints import Checkpoints, Continued
from evonas.trial import Proposal, Trial

TRAIN = partial(Train, epochs=6, batch_size=20)


def make(folder: Path, epochs: float = 0.5, **options: Any) -> Inherit:
    return Inherit(context(run_dir=folder), of=TRAIN, epochs=epochs, **options)


def child(number: int = 1, parents: tuple[int, ...] = (0,), **changes: Any) -> Trial:
    """A mutant of trial 0."""
    mutant = SPACE.mutate(trial().architecture, Random(1))
    return Trial(number, Proposal(mutant, parents=parents, **changes))


def steps(curve: list[tuple[int, Mapping[str, float]]]) -> list[int]:
    return [step for step, _ in curve]


def file(folder: Path, number: int = 0) -> Path:
    return folder / "weights" / f"trial_{number}.safetensors"


def test_a_child_starts_from_its_parent_and_trains_for_a_share(tmp_path: Path) -> None:
    evaluator = make(tmp_path)
    first, whole = evaluate(evaluator, trial())
    second, short = evaluate(evaluator, child())
    assert (first["inherited"], steps(whole)) == (0.0, [1, 2, 3, 4, 5, 6])
    assert 0 < second["inherited"] < 1
    assert steps(short) == [4, 5, 6], "counted as if the first half had been its own"
    assert set(evaluator.metrics) <= set(first) & set(second)
    assert file(tmp_path, 0).exists()
    assert file(tmp_path, 1).exists()


def test_a_childs_weights_are_its_parents(tmp_path: Path) -> None:
    """Seen by an evaluator that trains nothing."""
    started: list[dict[str, torch.Tensor]] = []

    class Looks(Evaluator):
        metrics = ("val_accuracy",)
        takes = frozenset({"weights"})

        def evaluate(self, trial: Trial, report: object) -> Mapping[str, float]:
            assert self.context.weights is not None
            network = nn.Linear(3, 2)
            left = self.context.weights.start(network, trial, 9)
            started.append(copy.deepcopy(network.state_dict()))
            self.context.weights.end(network, trial, 9)
            return {"val_accuracy": 0.5, "left": left}

    evaluator = Inherit(context(run_dir=tmp_path), of=Looks)
    lefts = [evaluate(evaluator, given)[0]["left"] for given in (trial(), child(), child(2, (1,)))]
    assert lefts == [9, 3, 3], "a third, whatever the parent trained"
    assert all(torch.equal(w["weight"], started[0]["weight"]) for w in started)


def test_layers_that_moved_keep_their_weights(tmp_path: Path) -> None:
    """In a space whose parts are named by a place that changes."""
    space = Sequential(max_layers=4, max_width=8)
    chain = {"depth": 2, **{f"width{i}": 8 for i in range(1, 5)}}
    chain |= {f"kernel{i}": 3 for i in range(1, 5)} | {f"type{i}": "conv" for i in range(1, 5)}
    parent = space.architecture(chain | {"type2": "residual"})
    longer = space.architecture(chain | {"depth": 3, "type2": "separable", "type3": "residual"})
    evaluator = Inherit(context(space, run_dir=tmp_path), of=TRAIN)
    evaluate(evaluator, Trial(0, Proposal(parent)))
    metrics, _ = evaluate(evaluator, Trial(1, Proposal(longer, parents=(0,))))
    added = 8 * 9 + 2 * 8 + 8 * 8 + 2 * 8  # parameters of the separable convolution
    assert metrics["inherited"] == pytest.approx(1 - added / metrics["params"])


def test_only_the_first_parent_gives_weights(tmp_path: Path) -> None:
    evaluator = make(tmp_path)
    evaluate(evaluator, trial(0))
    both, _ = evaluate(evaluator, child(1, parents=(0, 77)))  # no warning about trial 77
    assert both["inherited"] > 0


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: shutil.rmtree(folder / "weights"),
        lambda folder: file(folder).unlink(),
        lambda folder: file(folder).write_bytes(file(folder).read_bytes()[:-9]),
        lambda folder: file(folder).write_bytes(b""),
        lambda folder: file(folder, 5).replace(file(folder)),
    ],
    ids=["no folder", "lost", "torn", "empty", "another trial's"],
)
def test_without_the_parents_weights_training_is_whole(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    evaluator = make(tmp_path)
    evaluate(evaluator, trial())
    evaluate(evaluator, trial(5))
    harm(tmp_path)
    with pytest.warns(RuntimeWarning, match="training from scratch"):
        metrics, curve = evaluate(evaluator, child())
    assert metrics["inherited"] == 0
    assert steps(curve) == [1, 2, 3, 4, 5, 6]
    scratch, _ = evaluate(TRAIN(context()), child())
    assert metrics == {**scratch, "inherited": 0.0}


def test_a_parent_of_another_shape_gives_what_it_has(tmp_path: Path) -> None:
    spaces = PlainCNN(1, 8), PlainCNN(3, 24)
    evaluator = Inherit(context(spaces[1], run_dir=tmp_path), of=TRAIN, epochs=0.5)
    for number in range(3):
        given = Trial(
            number, Proposal(spaces[1].sample(Random(number)), parents=(number - 1,) * (number > 0))
        )
        metrics, _ = evaluate(evaluator, given)
    assert 0 < metrics["inherited"] < 1


def test_the_same_trial_gives_the_same_result_as_long_as_the_parent_is_there(
    tmp_path: Path,
) -> None:
    evaluator = make(tmp_path)
    evaluate(evaluator, trial())
    first = evaluate(evaluator, child())
    assert evaluate(evaluator, child()) == first
    assert evaluate(make(tmp_path), child()) == first, "another process does not matter"


def test_the_final_training_inherits_nothing(tmp_path: Path) -> None:
    evaluator = make(tmp_path)
    evaluate(evaluator, trial())
    assert evaluate(evaluator, child(stage="final")) == evaluate(
        TRAIN(context()), child(stage="final")
    )
    assert not file(tmp_path, 1).exists()


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    evaluator = make(tmp_path)
    for number in range(3):
        evaluate(evaluator, trial(number))
    assert [file(tmp_path, n).exists() for n in range(3)] == [True] * 3
    room = 2.5 * file(tmp_path).stat().st_size / 1e9
    tight = make(tmp_path, keep_gb=room)
    metrics, _ = evaluate(tight, child(3))
    assert metrics["inherited"] > 0
    assert [file(tmp_path, n).exists() for n in range(4)] == [True, False, True, True]
    with pytest.warns(RuntimeWarning, match="is not there; training from scratch"):
        assert evaluate(tight, child(4, parents=(1,)))[0]["inherited"] == 0


# In company with other wrappers.


def nested(name: str) -> Callable[[Context], Evaluator]:
    half = {"epochs": 0.5}
    small = {"data": 0.5, "resolution": 4, "width": 0.5}
    return {
        "inherit(train)": partial(Inherit, of=TRAIN, **half),
        "reduced(inherit(train))": partial(Reduced, of=partial(Inherit, of=TRAIN, **half), **small),
        "inherit(reduced(train))": partial(Inherit, of=partial(Reduced, of=TRAIN, **small), **half),
        "extrapolate(inherit(train))": partial(
            Extrapolate, of=partial(Inherit, of=TRAIN, **half), share=0.5
        ),
        "inherit(extrapolate(train))": partial(
            Inherit, of=partial(Extrapolate, of=TRAIN, share=0.5), **half
        ),
    }[name]


NESTED = {
    "inherit(train)": ([1, 2, 3, 4, 5, 6], [4, 5, 6]),
    "reduced(inherit(train))": ([1, 2, 3, 4, 5, 6], [4, 5, 6]),
    "inherit(reduced(train))": ([1, 2, 3, 4, 5, 6], [4, 5, 6]),
    "extrapolate(inherit(train))": ([1, 2, 3], [4, 5]),
    "inherit(extrapolate(train))": ([1, 2, 3], [4, 5]),
}


@pytest.mark.parametrize("name", NESTED)
def test_wrappers_may_be_nested_either_way(tmp_path: Path, name: str) -> None:
    evaluator = nested(name)(context(run_dir=tmp_path))
    results = [evaluate(evaluator, given) for given in (trial(), child())]
    assert [steps(curve) for _, curve in results] == list(NESTED[name])
    assert [metrics["inherited"] > 0 for metrics, _ in results] == [False, True]
    assert all(set(evaluator.metrics) <= set(metrics) for metrics, _ in results)
    assert [file(tmp_path, n).exists() for n in range(2)] == [True, True]
    _, curve = evaluate(evaluator, final())
    assert len(curve) == 6, "neither shortened nor reduced"
    assert "val_accuracy" in evaluator.reports


@pytest.mark.parametrize("name", NESTED)
def test_every_nesting_keeps_the_contract(name: str) -> None:
    assert check_evaluator(nested(name)) == []


# Rungs.


def rungs(weights: Continued | None, folder: Path) -> Train:
    return Train(context(run_dir=folder, weights=weights), epochs=8, batch_size=20)


def continued(number: int, fidelity: float, resume_from: int | None) -> Trial:
    return Trial(number, Proposal(trial().architecture, fidelity, resume_from=resume_from))


def test_a_rung_counts_on_and_leaves_weights_below_full_fidelity_alone(tmp_path: Path) -> None:
    evaluator = rungs(Continued(Checkpoints(tmp_path / "weights", 1.0)), tmp_path)
    ladder = [continued(0, 0.25, None), continued(1, 0.5, 0), continued(2, 1.0, 1)]
    curves = [evaluate(evaluator, rung)[1] for rung in ladder]
    assert [steps(curve) for curve in curves] == [[1, 2], [3, 4], [5, 6, 7, 8]]
    assert [file(tmp_path, n).exists() for n in range(3)] == [True, True, False]


def test_a_lost_rung_is_trained_whole(tmp_path: Path) -> None:
    evaluator = rungs(Continued(Checkpoints(tmp_path / "weights", 1.0)), tmp_path)
    with pytest.warns(RuntimeWarning, match="is not there; training from scratch"):
        _, curve = evaluate(evaluator, continued(1, 1.0, 0))
    assert steps(curve) == list(range(1, 9))
    assert curve == evaluate(rungs(None, tmp_path), continued(1, 1.0, None))[1]


def test_inheritance_and_rungs_together(tmp_path: Path) -> None:
    """A promoted child goes on from itself, not from its parent, and has not inherited twice."""
    evaluator = Inherit(
        context(run_dir=tmp_path), of=partial(Train, epochs=8, batch_size=20), epochs=0.5
    )
    evaluate(evaluator, trial(0))
    _, lower = evaluate(evaluator, child(1, fidelity=0.5))
    promoted, higher = evaluate(evaluator, child(2, resume_from=1))
    assert (steps(lower), steps(higher)) == ([3, 4], [5, 6, 7, 8])
    assert promoted["inherited"] == 0


# Recipes that say something else.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0.0}, r"evaluation\.epochs: Input should be greater than 0, not 0\.0"),
        ({"epochs": 1.5}, r"evaluation\.epochs: Input should be less than or equal to 1, not 1\.5"),
        ({"epochs": float("nan")}, r"evaluation\.epochs: Input should be a finite number, not nan"),
        ({"keep_gb": 0.0}, r"evaluation\.keep_gb: Input should be greater than 0, not 0\.0"),
        ({"keep_gb": -1.0}, r"evaluation\.keep_gb: Input should be greater than 0"),
        ({"keep_gb": float("nan")}, r"evaluation\.keep_gb: Input should be a finite"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    tmp_path: Path, options: dict[str, float], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        made_as_in_a_recipe(Inherit, context(run_dir=tmp_path), TRAIN, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "weights").exists(), "nothing is written before a trial"


def test_a_run_folder_and_data_are_needed(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="inherit needs a run folder"):
        Inherit(context(), of=TRAIN)
    with pytest.raises(RecipeError, match="train needs a dataset"):
        Inherit(context(run_dir=tmp_path, data=None), of=TRAIN)
