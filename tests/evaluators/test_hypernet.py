"""The hypernet evaluator: trained once, killed and resumed; what it samples and scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import evaluators_helper as helper
import pytest
import torch

from evonas.errors import RecipeError, TooManyFailures
from evonas.evaluators.base import Context, ability
from evonas.evaluators.hypernet import Hypernet
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.train import Train
from evonas.spaces.darts import DARTS
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Proposal, Trial

SPACE = DARTS(2)
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 20, "calibration_batches": 1}
SOME = [(1 / 3, 1 / 3, 1 / 3), (0.15, 0.15, 0.7), (0.7, 0.15, 0.15), (0.0, 0.0, 1.0)]


def make(run_dir: Path | None = None, **changes: Any) -> Hypernet:
    """Of the smallest cells; ``changes`` of the context, or else options."""
    of_context = {name: changes.pop(name) for name in ("seed", "data", "space") if name in changes}
    world = helper.context(**{"space": SPACE, **of_context}, run_dir=run_dir)
    return Hypernet(world, lambda c: Train(c, epochs=1), **{**OPTIONS, **changes})


def sampled(evaluator: Hypernet) -> list[str]:
    return [evaluator.sampler()(complexity).id for complexity in SOME]


def test_it_scores_what_it_samples() -> None:
    evaluator = make(epochs=1)
    for number, complexity in enumerate(SOME[:2]):
        architecture = evaluator.sampler()(complexity)
        metrics, _ = helper.evaluate(evaluator, Trial(number, Proposal(architecture)))
        assert set(metrics) == set(evaluator.metrics)
        assert metrics["pooling"] + metrics["identity"] + metrics["convolution"] == 28
        counted = SPACE.costs(architecture, helper.data().task)
        assert {name: metrics[name] for name in counted} == counted


def test_fidelity_has_no_effect() -> None:
    evaluator = make(epochs=1)
    architecture = SPACE.sample(Random(0))
    one, other = (
        helper.evaluate(evaluator, Trial(0, Proposal(architecture, fidelity)))[0]
        for fidelity in (1.0, 0.1)
    )
    assert one == other
    assert evaluator.effort(0.1) == evaluator.effort(1.0)


def stop_after(epochs: int) -> Callable[[], bool]:
    asked = iter([False] * epochs + [True])
    return lambda: next(asked)


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_training_that_was_stopped_goes_on(epochs: int, tmp_path: Path) -> None:
    notes: list[str] = []
    whole = make()
    assert whole.prepare(notes.append, lambda: False)
    assert [note[:22] for note in notes] == [f"hypernet: epoch {n} of 3" for n in (1, 2, 3)]
    assert not make(tmp_path).prepare(notes.append, stop_after(epochs))
    resumed = make(tmp_path)
    assert sampled(resumed) == sampled(whole)
    pairs = zip(whole._trained.parameters(), resumed._trained.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    path = tmp_path / "weights" / "hypernet.safetensors"
    before = path.stat()
    loaded = make(tmp_path)
    assert loaded.prepare(notes.append, lambda: True)  # nothing is left to train
    assert sampled(loaded) == sampled(whole)
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_weights_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    make(tmp_path, epochs=1).prepare(print, lambda: False)
    for changes in ({"kappa": 1.0}, {"seed": 1}, {"temperature": 2.0}, {"epochs": 2}):
        with pytest.warns(RuntimeWarning, match="other settings"):
            assert not make(tmp_path, **{"epochs": 1, **changes}).prepare(print, lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(tmp_path, epochs=1, calibration_batches=2).prepare(print, lambda: True)


def test_prices_may_be_milliseconds_which_are_measured_once(tmp_path: Path) -> None:
    first = make(tmp_path, prices="latency", epochs=1)
    assert first._costs.shape == (28, 7)
    assert (first._costs > 0).all()
    assert first._costs.std() > 0
    again = make(tmp_path, prices="latency", epochs=1)
    assert torch.equal(again._costs, first._costs)
    assert first.prepare(lambda note: None, lambda: False)
    assert again.prepare(lambda note: None, lambda: True)  # nothing is left to train
    assert sampled(again) == sampled(first)


def test_the_task_and_the_cost_both_teach() -> None:
    """A third of the labels is chance; with a high price convolutions are not worth it."""
    evaluator = make(epochs=20, hypernet_rate=0.03)
    dear, cheap = (evaluator.sampler()(s) for s in ((0.1, 0.1, 0.8), (0.45, 0.45, 0.1)))
    few, many = (
        helper.evaluate(evaluator, Trial(0, Proposal(architecture)))[0]
        for architecture in (dear, cheap)
    )
    assert few["convolution"] + 5 < many["convolution"]
    assert few["params"] < many["params"]
    assert many["val_accuracy"] > 0.5


def test_it_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    sampled(make(epochs=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_smaller_world_is_where_it_is_learnt() -> None:
    reduced = Reduced(
        helper.context(SPACE), lambda c: Hypernet(c, lambda d: Train(d, epochs=1), **OPTIONS), 0.8
    )
    assert not reduced.prepare(print, lambda: True)
    assert reduced.prepare(print, lambda: False)
    source = ability(reduced, Hypernet)
    assert source is not None
    sampler = source.sampler()
    metrics, _ = helper.evaluate(reduced, Trial(0, Proposal(sampler(SOME[0]))))
    assert metrics["pooling"] > 0


def test_a_training_that_diverges_ends_the_run() -> None:
    with pytest.raises(TooManyFailures, match=r"hypernetwork failed: .*loss is nan"):
        make(learning_rate=1e30).prepare(print, lambda: False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"evaluation\.epochs: .*not 0"),
        ({"batch_size": 0}, r"evaluation\.batch_size: .*not 0"),
        ({"calibration_batches": 0}, r"evaluation\.calibration_batches: .*not 0"),
        ({"learning_rate": 0.0}, r"evaluation\.learning_rate: .*not 0"),
        ({"hypernet_rate": -1.0}, r"evaluation\.hypernet_rate: .*not -1"),
        ({"kappa": 0.0}, r"evaluation\.kappa: .*not 0"),
        ({"final_temperature": 0.0}, r"evaluation\.final_temperature: .*not 0"),
        ({"weight_decay": 1.0}, r"evaluation\.weight_decay: .*not 1"),
        ({"space": PlainCNN(1, 8)}, r"evaluation\.name: .*darts"),
    ],
)
def test_mistakes_are_refused_before_any_training(options: dict[str, Any], message: str) -> None:
    space = options.pop("space", SPACE)
    with pytest.raises(RecipeError, match=message):
        helper.make(
            Hypernet, helper.context(space), lambda c: Train(c, epochs=1), **OPTIONS | options
        )


def test_it_needs_data() -> None:
    world = Context(SPACE, None, "cpu", 0)
    with pytest.raises(RecipeError, match="needs a dataset"):
        Hypernet(world, lambda c: Train(helper.context(SPACE), epochs=1))
