"""Training from scratch: fidelity, seeds, and a test split that is read once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluators_helper import SPACE, context, data, evaluate, trial

from evonas.errors import RecipeError
from evonas.evaluators import train
from evonas.evaluators.train import Train
from evonas.testing import check_evaluator
from evonas.training.data import Split

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 20}


def test_it_keeps_the_contract() -> None:
    assert check_evaluator(Train(context(), **QUICK), trial().architecture) == []


def test_it_gives_what_it_promises() -> None:
    evaluator = Train(context(), **QUICK)
    metrics, curve = evaluate(evaluator, trial())
    assert set(metrics) == set(evaluator.metrics) == {"val_accuracy", "params", "flops"}
    counted = SPACE.costs(trial().architecture, data().task)
    assert {name: metrics[name] for name in counted} == counted
    assert curve[-1][1]["val_accuracy"] == metrics["val_accuracy"]


def test_it_learns() -> None:
    metrics, _ = evaluate(Train(context(), epochs=12, batch_size=20), trial())
    assert metrics["val_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("fidelity", "epochs"), [(1.0, 6), (0.5, 3), (1 / 3, 2), (0.01, 1), (2.0, 12)]
)
def test_fidelity_scales_the_epochs(fidelity: float, epochs: int) -> None:
    _, curve = evaluate(Train(context(), epochs=6), trial(fidelity=fidelity))
    assert [step for step, _ in curve] == list(range(1, epochs + 1))


def test_a_trial_is_trained_with_a_seed_of_its_own() -> None:
    evaluator = Train(context(), **QUICK)
    curves = [evaluate(evaluator, trial(number))[1] for number in (0, 0, 1)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]
    assert evaluate(Train(context(seed=1), **QUICK), trial(0))[1] != curves[0]


def test_what_was_trained_before_does_not_matter() -> None:
    fresh, used = Train(context(), **QUICK), Train(context(), **QUICK)
    evaluate(used, trial(5))
    used.retrain(trial(6), 0, lambda step, metrics: None)
    assert evaluate(used, trial(1)) == evaluate(fresh, trial(1))


class Counting(Split):
    """A split that counts how often it is taken to the device."""

    reads = 0

    def to(self, device: str) -> Split:
        type(self).reads += 1
        return super().to(device)


def test_the_search_never_reads_the_test_split_and_the_end_does_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Counting, "reads", 0)
    given = data()
    assert given.test is not None
    counted = replace(given, test=Counting(given.test.images, given.test.labels))
    evaluator = Train(context(data=counted), **QUICK)
    for number in range(3):
        evaluate(evaluator, trial(number))
    assert Counting.reads == 0
    final = evaluator.retrain(trial(), 0, lambda step, metrics: None)
    assert final is not None
    assert Counting.reads == 0
    assert evaluator.test(trial().architecture, final.network) != {}
    assert Counting.reads == 1


def test_the_end_is_trained_longer_and_tested() -> None:
    evaluator = Train(context(), epochs=1, final_epochs=10, batch_size=20)
    told: list[int] = []
    final = evaluator.retrain(trial(fidelity=0.1), 0, lambda step, metrics: told.append(step))
    assert final is not None
    tested = evaluator.test(trial().architecture, final.network)
    assert told == [step for step, _ in final.curve] == list(range(1, 11))
    assert set(final.metrics) == {"val_accuracy", "params", "flops", "seconds"}
    assert tested["test_accuracy"] > 0.7
    assert final.metrics["seconds"] > 0


def test_the_network_of_the_end_takes_images_as_they_are() -> None:
    given = data()
    assert given.test is not None
    evaluator = Train(context(data=given), **QUICK)
    final = evaluator.retrain(trial(), 0, lambda step, metrics: None)
    assert final is not None
    assert final.network is not None
    with torch.inference_mode():
        logits = final.network.eval()(given.test.images.permute(0, 3, 1, 2).float())
    right = (logits.argmax(1) == given.test.labels).sum().item()
    assert right / len(given.test) == pytest.approx(
        evaluator.test(trial().architecture, final.network)["test_accuracy"]
    )


def test_the_end_depends_on_its_seed_and_not_on_the_trials_number() -> None:
    evaluator = Train(context(), **QUICK)
    ends = [
        evaluator.retrain(trial(number), seed, lambda step, metrics: None)
        for number, seed in ((0, 0), (5, 0), (0, 1))
    ]
    curves = [end.curve for end in ends if end is not None]
    assert curves[0] == curves[1] != curves[2]


def test_without_a_test_split_it_evaluates_and_tests_nothing() -> None:
    evaluator = Train(context(data=replace(data(), test=None)), **QUICK)
    assert evaluate(evaluator, trial()) == evaluate(Train(context(), **QUICK), trial())
    final = evaluator.retrain(trial(), 0, lambda step, metrics: None)
    assert final is not None
    assert evaluator.test(trial().architecture, final.network) == {}


def test_without_data_it_is_refused_before_any_trial() -> None:
    with pytest.raises(RecipeError, match="needs a dataset section"):
        Train(context(data=None))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("final_epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("weight_decay", -0.1),
        ("label_smoothing", 1.0),
        ("ema", 1.0),
        ("mixup", -0.1),
        ("cutmix", -1.0),
        ("cutout", -1),
        ("cutout", 9),
        ("stage_decay", 0.0),
        ("freeze", -1),
        ("freeze", 1),
    ],
)
def test_impossible_options_are_refused(option: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"evaluation\.{option}: must be"):
        Train(context(), **{option: value})


def test_the_learning_rate_follows_the_optimizer() -> None:
    for optimizer, rate in train._LEARNING_RATES.items():
        implied = Train(context(), optimizer=optimizer, **QUICK)  # type: ignore[arg-type]
        named = Train(context(), optimizer=optimizer, learning_rate=rate, **QUICK)  # type: ignore[arg-type]
        assert evaluate(implied, trial()) == evaluate(named, trial())
