"""Training from scratch: fidelity, seeds, and a test split that is read once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from evaluators_helper import SPACE, context, data, evaluate, final, kept, make, trial
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import RecipeError
from evonas.evaluators import train
from evonas.evaluators.base import Context
from evonas.evaluators.train import Train
from evonas.executors.base import run_trial
from evonas.spaces.base import Task
from evonas.spaces.parts.tuned import Tuned, domain
from evonas.spaces.plain_cnn import PlainCNN
from evonas.testing import check_evaluator
from evonas.training.checkpoints import BadWeights
from evonas.training.data import Arrays, Split, split
from evonas.training.graphs import CaptureFailed
from evonas.training.loop import Diverged, Normalize, Settings, score_names
from evonas.trial import Proposal, Reporter, Trial, TrialState

SCORES = tuple(f"val_{name}" for name in score_names(3))
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 20}


def test_it_keeps_the_contract() -> None:
    assert check_evaluator(partial(Train, **QUICK)) == []


def test_it_gives_what_it_promises() -> None:
    evaluator = Train(context(), **QUICK)
    metrics, curve = evaluate(evaluator, trial())
    assert set(metrics) == set(evaluator.metrics) == {*SCORES, *SPACE.counted}
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
    evaluate(used, final(6))
    assert evaluate(used, trial(1)) == evaluate(fresh, trial(1))


class Counting(Split):
    """A split that counts how often it is taken to the device."""

    reads = 0

    def to(self, device: str) -> Split:
        type(self).reads += 1
        return super().to(device)


def test_the_search_never_reads_the_test_split_and_the_end_does_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Counting, "reads", 0)
    given = data()
    assert given.test is not None
    counted = replace(given, test=Counting(given.test.images, given.test.labels))
    evaluator = Train(context(data=counted, weights=kept(tmp_path)), **QUICK)
    for number in range(3):
        evaluate(evaluator, trial(number))
    assert Counting.reads == 0
    evaluate(evaluator, final())
    assert Counting.reads == 0
    assert evaluator.test(final()) != {}
    assert Counting.reads == 1


def test_the_end_is_trained_longer_and_tested(tmp_path: Path) -> None:
    world = context(weights=kept(tmp_path))
    evaluator = Train(world, epochs=1, final_epochs=10, batch_size=20)
    metrics, curve = evaluate(evaluator, final())
    tested = evaluator.test(final())
    assert [step for step, _ in curve] == list(range(1, 11))
    assert set(metrics) == set(evaluator.metrics)
    assert tested["test_accuracy"] > 0.7


def test_the_network_of_the_end_is_the_one_that_is_tested(tmp_path: Path) -> None:
    given, weights = data(), kept(tmp_path)
    assert given.test is not None
    evaluator = Train(context(data=given, weights=weights), **QUICK)
    evaluate(evaluator, final())
    network = SPACE.build(final().architecture, given.task)
    network.load_state_dict(dict(weights.checkpoints.read(0, stage="final").weights))
    normalize = Normalize(*given.channel_statistics())
    with torch.inference_mode():
        logits = network.eval()(normalize(given.test.images.permute(0, 3, 1, 2)))
        mirrored = network(normalize(given.test.images.permute(0, 3, 1, 2)).flip(3))
    for flip, scores in ((False, logits), (True, logits + mirrored)):
        tested = replace(evaluator.context, flip=flip)
        right = (scores.argmax(1) == given.test.labels).sum().item() / len(given.test)
        assert Train(tested, **QUICK).test(final())["test_accuracy"] == pytest.approx(right)


def test_the_end_depends_on_its_repeat_and_not_on_the_trials_number() -> None:
    evaluator = Train(context(), **QUICK)
    ends = [evaluate(evaluator, final(*which)) for which in ((0, 0), (5, 0), (0, 1))]
    assert ends[0] == ends[1]
    assert ends[1][1] != ends[2][1]


def test_an_audit_trains_as_the_end_does_and_leaves_no_weights(tmp_path: Path) -> None:
    evaluator = Train(context(weights=kept(tmp_path)), **QUICK)
    audited = replace(final(), proposal=replace(final().proposal, stage="audit"))
    assert evaluate(evaluator, audited) == evaluate(Train(context(), **QUICK), final())
    assert not (tmp_path / "weights").exists()


def test_lost_weights_of_the_end_are_told(tmp_path: Path) -> None:
    for weights in (None, kept(tmp_path)):
        with pytest.raises(BadWeights):
            Train(context(weights=weights), **QUICK).test(final())


def test_without_a_test_split_it_evaluates_and_tests_nothing() -> None:
    evaluator = Train(context(data=replace(data(), test=None)), **QUICK)
    assert evaluate(evaluator, trial()) == evaluate(Train(context(), **QUICK), trial())
    assert evaluator.test(final()) == {}


def test_of_many_classes_the_five_best_guesses_count_too(tmp_path: Path) -> None:
    few = Train(context(), **QUICK)
    assert "val_top5_accuracy" not in few.metrics
    labels = np.arange(100) % 25
    images = np.repeat((labels * 10).astype(np.uint8), 8 * 8 * 3).reshape(100, 8, 8, 3)
    many = split(Arrays((images, labels), (images, labels)), 0.25, 0, "made up")
    evaluator = Train(context(data=many, weights=kept(tmp_path)), epochs=4, batch_size=25)
    metrics, curve = evaluate(evaluator, final())
    assert set(evaluator.metrics) == set(metrics)
    assert set(evaluator.reports) == set(curve[-1][1])
    tested = evaluator.test(final())
    assert set(tested) == {f"test_{name}" for name in score_names(25)}
    assert tested["test_accuracy"] < tested["test_top5_accuracy"] <= 1
    assert metrics["val_accuracy"] <= metrics["val_top5_accuracy"]


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
    with pytest.raises(RecipeError, match=rf"evaluation\.{option}: (must be|Input should be)"):
        make(Train, context(), **{option: value})


def test_the_learning_rate_follows_the_optimizer() -> None:
    for optimizer, rate in train._LEARNING_RATES.items():
        implied = Train(context(), optimizer=optimizer, **QUICK)  # type: ignore[arg-type]
        named = Train(context(), optimizer=optimizer, learning_rate=rate, **QUICK)  # type: ignore[arg-type]
        assert evaluate(implied, trial()) == evaluate(named, trial())


@pytest.mark.parametrize(
    ("optimizer", "batch_size", "rate"),
    [
        ("muon", 16, 0.1),
        ("muon", 128, 0.1),
        ("muon", 256, 0.2),
        ("sgd", 512, 0.4),
        ("sgd", 4096, 0.4),
        ("adamw", 512, 0.001),
    ],
)
def test_larger_batches_make_longer_steps(optimizer: str, batch_size: int, rate: float) -> None:
    options = {"optimizer": optimizer, "batch_size": batch_size, "init": None, "epochs": 1}
    assert Train.derived(options)["learning_rate"] == pytest.approx(rate)


def test_a_training_that_diverges_is_begun_again_once_at_a_third_of_the_rate() -> None:
    rates: list[float] = []

    class Noted(Train):
        def _train(self, trial: Trial, report: Reporter, settings: Settings) -> dict[str, float]:
            rates.append(settings.learning_rate)
            report(1, {"train_loss": len(rates)})
            if len(rates) == 1:
                raise Diverged("the training loss is nan after epoch 2")
            report(2, {"train_loss": len(rates)})
            return super()._train(trial, report, settings)

    with pytest.warns(UserWarning, match=r"trial 0: the training loss is nan .* rate of 0\.0667"):
        metrics, curve = evaluate(Noted(context(), **QUICK, learning_rate=0.2), trial())
    assert rates == pytest.approx([0.2, 0.2 / 3])
    assert metrics["learning_rate"] == pytest.approx(0.2 / 3)
    assert [step for step, _ in curve] == [1, 2], "what was reported before is not again"
    slower, _ = evaluate(Train(context(), **QUICK, learning_rate=0.2 / 3), trial())
    assert {name: metrics[name] for name in slower} == slower


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_who_diverges_twice_is_told_what_to_try() -> None:
    with pytest.raises(
        Diverged, match=r"nan after epoch 1, .* a smaller evaluation\.learning_rate"
    ):
        evaluate(Train(context(), **QUICK, learning_rate=1e30, clip_norm=0.0), trial())


def test_balanced_weights_make_the_classes_count_alike() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    images = np.zeros((100, 8, 8, 3), np.uint8)
    unequal = split(Arrays((images, labels), (images, labels)), 0.2, 0, "made up")
    evaluator = Train(context(data=unequal), **QUICK, class_weights="balanced")
    weights = evaluator._settings.class_weights
    assert [w * n for w, n in zip(weights, (48, 24, 8), strict=True)] == pytest.approx([80 / 3] * 3)
    assert evaluate(evaluator, trial())[0]["val_balanced_accuracy"] > 0


def test_a_trial_is_trained_as_its_choices_say() -> None:
    rates: list[float] = []

    class Noted(Train):
        def _train(self, trial: Trial, report: Any, settings: Any) -> dict[str, float]:
            rates.append(settings.learning_rate)
            return super()._train(trial, report, settings)

    space = Tuned(SPACE, {"learning_rate": domain([0.01, 0.03])})
    evaluator = Noted(context(space=space), epochs=1, batch_size=20)
    for rate in (0.01, 0.03):
        choices = {**space.sample(Random(0)).choices, "training.learning_rate": rate}
        proposal = Proposal(space.architecture(choices))
        evaluator.evaluate(Trial(0, proposal), lambda step, metrics: None)
    assert rates == [0.01, 0.03]


class Greedy(PlainCNN):
    """Its networks need the memory of a device for more than so many images at a time."""

    most = 0
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        network = super().build(architecture, task)

        def refuse(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if module.training and len(inputs[0]) > self.most:
                raise self.error

        network.register_forward_pre_hook(refuse)
        return network


def greedy(most: int) -> Context:
    space = Greedy(1, 8)
    space.most = most
    return replace(context(), space=space)


@pytest.mark.faults("14: a GPU without memory for a batch trains with halves of it")
@pytest.mark.parametrize("text", ["", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_half_a_batch_at_a_time_where_memory_does_not_suffice(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text:
        monkeypatch.setattr(Greedy, "error", RuntimeError(text))
    with pytest.warns(UserWarning, match="trial 0: out of memory; .* with half a batch"):
        metrics, curve = evaluate(Train(greedy(10), **QUICK), trial())
    assert metrics["accumulation"] == 2
    assert [step for step, _ in curve] == list(range(1, len(curve) + 1))
    whole, _ = evaluate(Train(context(), **QUICK), trial())
    assert metrics["val_loss"] == pytest.approx(whole["val_loss"], rel=0.2)
    assert "accumulation" not in whole


@pytest.mark.faults("14: a GPU without memory for half a batch fails the trial, with a reason")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_where_half_a_batch_does_not_fit_the_trial_has_failed() -> None:
    ended = run_trial(Train(greedy(9), **QUICK), trial())
    assert ended.state is TrialState.FAILED
    assert ended.error.startswith("OutOfMemory: out of memory, with half a batch at a time as well")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_recorded_after_all_is_trained_without() -> None:
    tried: list[bool] = []

    class Unrecorded(Train):
        def _train(self, trial: Trial, report: Reporter, settings: Settings) -> dict[str, float]:
            tried.append(settings.cuda_graph)
            if settings.cuda_graph:
                raise CaptureFailed("not recorded as a CUDA graph: operation not permitted")
            return super()._train(trial, report, settings)

    metrics, _ = evaluate(Unrecorded(context(), **QUICK), trial())
    assert tried == [True, False]
    assert metrics == evaluate(Train(context(), **QUICK), trial())[0]


def test_only_the_winner_is_compiled() -> None:
    compiled: dict[str, bool] = {}

    class Noted(Train):
        def _train(self, trial: Trial, report: Reporter, settings: Settings) -> dict[str, float]:
            compiled[trial.proposal.stage] = settings.compile
            return super()._train(trial, report, replace(settings, compile=False))

    evaluator = Noted(context(), **QUICK, compile=True)
    for stage in ("search", "final"):
        evaluate(evaluator, replace(trial(), proposal=replace(trial().proposal, stage=stage)))
    assert compiled == {"search": False, "final": True}
