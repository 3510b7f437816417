"""The training loop on tiny networks: it learns, it repeats itself, it never waits in an epoch."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_helper import NORMALIZE, SETTINGS, TASK, network, separable, train

from evonas.training.augmentation import Augmentation
from evonas.training.data import Split
from evonas.training.loop import (
    Average,
    Diverged,
    Normalize,
    ScheduleName,
    autocast,
    evaluate,
    fit,
    parameter_groups,
    schedule,
    seeded,
)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.1), ("adamw", 0.01), ("muon", 0.1)])
def test_it_learns(optimizer: str, rate: float) -> None:
    accuracy, _, curve = train(epochs=8, images=200, optimizer=optimizer, learning_rate=rate)
    assert accuracy > 0.9
    assert [step for step, _ in curve] == list(range(1, 9))
    assert curve[-1][1]["val_accuracy"] == accuracy
    assert curve[-1][1]["train_loss"] < 0.7 * curve[0][1]["train_loss"]


EXTRAS: list[dict[str, Any]] = [
    {"cutout": 3},
    {"mixup": 0.2},
    {"cutmix": 1.0},
    {"mixup": 0.2, "cutmix": 1.0, "cutout": 3, "augmentation": "v2"},
    {"ema": 0.99},
    {"optimizer": "muon"},
    {"schedule": "step"},
    {"schedule": "one_cycle"},
]


@pytest.mark.parametrize(
    "changes", [*({"augmentation": name} for name in get_args(Augmentation)), *EXTRAS]
)
def test_one_seed_gives_one_result_to_the_bit(changes: dict[str, Any]) -> None:
    (one, first, curve), (two, second, again) = (train(**changes) for _ in range(2))
    assert one == two
    assert curve == again
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("changes", EXTRAS)
def test_it_learns_with_every_extra(changes: dict[str, Any]) -> None:
    accuracy, built, curve = train(epochs=6, images=100, **changes)
    assert accuracy > 0.6
    assert curve[-1][1]["val_accuracy"] == accuracy
    assert evaluate(built, separable(30, seed=1), NORMALIZE)["accuracy"] == accuracy
    assert train(epochs=6, images=100)[2] != curve  # the extra does something


@pytest.mark.parametrize("augmentation", ["none", "standard", "v2"])
def test_streaming_changes_nothing_to_the_bit(augmentation: Any) -> None:
    curves = []
    for streamed in (False, True):
        built = nn.Sequential(nn.Dropout(0.5), network())
        torch.manual_seed(0)
        curves.append(train(built, streamed=streamed, augmentation=augmentation)[2])
    assert curves[0] == curves[1]


def test_another_seed_gives_another_result() -> None:
    (_, first, curve), (_, second, other) = train(seed=0), train(seed=1)
    assert curve != other
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_the_seed_decides_order_and_augmentation_too() -> None:
    (_, _, curve), (_, _, other) = (train(network(), seed) for seed in (0, 1))
    assert curve != other


def test_the_global_generator_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    train()
    assert torch.equal(state, torch.random.get_rng_state())
    with seeded(3, "cpu"):
        first = torch.rand(3)
    assert torch.equal(state, torch.random.get_rng_state())
    with seeded(3, "cpu"):
        assert torch.equal(first, torch.rand(3))
    with pytest.raises(ZeroDivisionError), seeded(3, "cpu"):
        torch.rand(1 // 0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_huge_learning_rate_diverges() -> None:
    with pytest.raises(Diverged, match=r"training loss is .* after epoch 1"):
        train(learning_rate=1e30)


def test_a_network_that_gives_nan_diverges() -> None:
    built = network()
    with torch.no_grad():
        next(built.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="training loss is nan after epoch 1"):
        train(built)


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    rates = [schedule(step / 1000) for step in range(1001)]
    assert 0 < rates[0] < 0.2
    assert max(rates) == rates[100] == 1
    assert rates[-1] == pytest.approx(0)
    assert all(a < b for a, b in itertools.pairwise(rates[:101]))
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.02
    assert schedule(0.55) == pytest.approx(0.5)


def test_steps_fall_to_a_tenth_and_a_hundredth() -> None:
    rates = [schedule(step / 1000, "step") for step in range(1001)]
    assert rates[:100] == [schedule(step / 1000) for step in range(100)]
    assert rates[100:500] == [1.0] * 400
    assert rates[500:750] == pytest.approx([0.1] * 250)
    assert rates[750:] == pytest.approx([0.01] * 251)


def test_one_cycle_rises_from_a_25th_and_falls_to_zero() -> None:
    rates = [schedule(step / 1000, "one_cycle") for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[300] == 1
    assert rates[150] == pytest.approx((1 + 1 / 25) / 2)
    assert rates[650] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0)
    assert all(a < b for a, b in itertools.pairwise(rates[:301]))
    assert all(a > b for a, b in itertools.pairwise(rates[300:]))


@pytest.mark.parametrize("name", ["cosine", "step", "one_cycle"])
def test_the_optimizer_follows_the_schedule(name: ScheduleName) -> None:
    """The weight of a loss that is linear in it shows the sum of the rates."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(TASK.classes))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(x), -1)

    built, moves = Constant(), []
    before = built.bias.detach().clone()

    def report(step: int, metrics: Mapping[str, float]) -> None:
        moves.append(float((built.bias.detach() - before).abs().sum()))
        before.copy_(built.bias.detach())

    data = Split(separable(20).images, torch.zeros(20, dtype=torch.int64))
    settings = replace(
        SETTINGS, optimizer="adamw", epochs=10, batch_size=20, learning_rate=1e-4, schedule=name
    )
    fit(built, data, data, NORMALIZE, settings, 0, report)
    rates = [schedule(epoch / 10, name) for epoch in range(10)]
    assert moves == pytest.approx([3e-4 * rate for rate in rates], rel=0.01)


def test_bias_and_normalisation_do_not_decay() -> None:
    built = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 2))
    weights, others = parameter_groups(built, SETTINGS)
    assert [p.shape for p in weights["params"]] == [(4, 3, 3, 3), (2, 8)]
    assert [p.shape for p in others["params"]] == [(4,), (4,), (4,), (2,)]
    assert (weights["weight_decay"], others["weight_decay"]) == (SETTINGS.weight_decay, 0)
    assert weights["scale"] == others["scale"] == 1
    assert len(parameter_groups(nn.Linear(3, 2, bias=False), SETTINGS)) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parameters_stay(optimizer: str) -> None:
    built = network()
    first = next(built.parameters())
    first.requires_grad_(False)
    before = first.clone()
    train(built, optimizer=optimizer)
    assert torch.equal(first, before)


def test_the_average_follows_slowly_but_forgets_the_start() -> None:
    built = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    weight, norm = built[0].weight, built[1]
    with torch.no_grad():
        weight.fill_(1.0)
        average = Average(built, 0.2)
        expected = 1.0
        for update, value in enumerate((2.0, 5.0, 3.0)):
            weight.fill_(value)
            norm.running_mean.fill_(value)
            norm.num_batches_tracked.fill_(update)
            decay = min(0.2, (1 + update) / (10 + update))
            assert average.decay(update) == decay
            average.update(decay)
            expected = decay * expected + (1 - decay) * value
    state = average.network.state_dict()
    assert state["0.weight"].item() == pytest.approx(expected)
    # Its mean started at 0, not 1, of which 0.1 * 2/11 * 0.2 is left.
    assert state["1.running_mean"].item() == pytest.approx(expected - 0.1 * 2 / 11 * 0.2)
    assert state["1.num_batches_tracked"] == 2
    assert weight.item() == 3


def test_the_average_is_scored_and_kept() -> None:
    _, raw, _ = train()
    accuracy, built, curve = train(ema=0.9)
    assert not built.training
    assert evaluate(built, separable(30, seed=1), NORMALIZE)["accuracy"] == accuracy
    assert curve[-1][1]["val_accuracy"] == accuracy
    assert curve[-1][1]["train_loss"] == train()[2][-1][1]["train_loss"]  # training is the same
    pairs = zip(built.parameters(), raw.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same_and_keeps_its_names() -> None:
    _, plain, curve = train()
    _, built, compiled = train(compile=True)
    assert list(built.state_dict()) == list(plain.state_dict())
    for (_, expected), (_, reported) in zip(curve, compiled, strict=True):
        assert reported["train_loss"] == pytest.approx(expected["train_loss"], rel=0.01)


def test_where_bfloat16_is_only_emulated_float16_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    for major, dtype in ((7, torch.float16), (8, torch.bfloat16)):
        properties = SimpleNamespace(major=major)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, p=properties: p)
        precision, scaler = autocast(torch.device("cuda"))
        assert precision().fast_dtype is dtype
        assert scaler.is_enabled() == (dtype is torch.float16)


class Batches(nn.Module):
    """Remembers the batches that it is shown while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, TASK.classes)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x)
        out: torch.Tensor = self.linear(x.flatten(1))
        return out


def shown(images: int, **changes: Any) -> list[torch.Tensor]:
    built = Batches()
    train(built, images=images, augmentation="none", **changes)
    return built.seen


def test_an_incomplete_last_batch_is_left_out() -> None:
    assert [len(batch) for batch in shown(50)] == [16, 16, 16] * 2


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    assert [len(batch) for batch in shown(10)] == [10, 10]


def test_a_single_image_can_be_trained_on() -> None:
    assert [len(batch) for batch in shown(1)] == [1, 1]


def test_every_image_is_shown_once_an_epoch_in_another_order() -> None:
    batches = shown(48)
    epochs = [torch.cat(batches[:3]), torch.cat(batches[3:])]
    everything = NORMALIZE(separable(48).images.permute(0, 3, 1, 2))
    in_order = [sorted(image.flatten().tolist() for image in e) for e in (*epochs, everything)]
    assert in_order[0] == in_order[1] == in_order[2]
    assert not torch.equal(epochs[0], epochs[1])


def test_batches_and_weights_are_channels_last() -> None:
    for batch in shown(48):
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert batch.dtype == torch.float32
    _, built, _ = train()
    for parameter in built.parameters():
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)


def test_the_network_is_scored_in_evaluation_mode() -> None:
    built = nn.Sequential(nn.Flatten(), nn.Dropout(0.999), nn.Linear(192, TASK.classes))
    part = separable(60)
    built.train()
    assert len({evaluate(built, part, NORMALIZE)["accuracy"] for _ in range(3)}) == 1
    assert not built.training


@pytest.mark.parametrize("count", [1, 30, 255, 256, 257, 1100])
def test_evaluate_counts_what_is_right(count: int) -> None:
    built, part = network().eval(), separable(count)
    with torch.no_grad():
        logits = built(NORMALIZE(part.images.permute(0, 3, 1, 2)))
    labels, guesses = part.labels.numpy(), logits.argmax(1).numpy()
    known = sorted(set(labels.tolist()))
    with warnings.catch_warnings():  # of guesses that are no image's class
        warnings.simplefilter("ignore", UserWarning)
        expected = {
            "accuracy": metrics.accuracy_score(labels, guesses),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, guesses),
            "macro_f1": metrics.f1_score(
                labels, guesses, labels=known, average="macro", zero_division=0
            ),
            "loss": metrics.log_loss(labels, logits.softmax(1).numpy(), labels=[0, 1, 2]),
        }
    assert evaluate(built, part, NORMALIZE) == pytest.approx(expected, rel=1e-5)


def test_the_size_of_batches_changes_no_score() -> None:
    built, part = network(), separable(100)
    one, other = (evaluate(built, part, NORMALIZE, size) for size in (7, 100))
    assert one == pytest.approx(other, rel=1e-5)


def test_long_gradients_are_cut() -> None:
    """At a rate that makes the loss explode; short gradients are left as they are."""
    settings = {"epochs": 2, "learning_rate": 30.0}
    free, cut = (train(clip_norm=norm, **settings)[2] for norm in (0.0, 0.1))
    assert cut[0][1]["train_loss"] < free[0][1]["train_loss"] / 3
    assert train(clip_norm=1e6)[2] == train(clip_norm=0.0)[2]


def test_classes_may_weigh_unequally() -> None:
    """With all weight on one class the network guesses nothing else."""
    _, built, _ = train(epochs=8, images=200, class_weights=(0.0, 0.0, 1.0))
    part = separable(60)
    with torch.no_grad():
        guesses = built(NORMALIZE(part.images.permute(0, 3, 1, 2))).argmax(1)
    assert guesses.tolist() == [2] * 60
    assert train(class_weights=(1.0, 1.0, 1.0))[2] == train()[2]


def test_normalize_gives_zero_mean_and_unit_variance() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8)).to(torch.uint8)
    std, mean = torch.std_mean(images.float(), dim=(0, 2, 3), correction=0)
    out = Normalize(mean, std)(images)
    assert out.dtype == torch.float32
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(out.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_spread_normalize_gives_the_same_to_the_bit(channels: int) -> None:
    images = torch.randint(0, 256, (4, 6, 5, channels)).to(torch.uint8).permute(0, 3, 1, 2)
    normalize = Normalize(torch.arange(100.0, 100 + channels), torch.full((channels,), 33.3))
    out = normalize.spread(6, 5)(images)
    assert torch.equal(out, normalize(images))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_normalize_leaves_its_input_alone() -> None:
    images = torch.rand(2, 3, 4, 4)
    before = images.clone()
    NORMALIZE(images)
    assert torch.equal(images, before)


class Operations(TorchDispatchMode):
    """Counts the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


# What makes the host wait for the device: reading a number, or a result of unknown size.
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal")


@pytest.mark.parametrize("images", [32, 160])
@pytest.mark.parametrize(
    "changes", [*({"augmentation": name} for name in get_args(Augmentation)), *EXTRAS]
)
def test_nothing_waits_for_the_device_within_an_epoch(images: int, changes: dict[str, Any]) -> None:
    built, data, val = network(), separable(images), separable(30)
    settings = replace(SETTINGS, **changes)
    with Operations() as operations:
        fit(built, data, val, NORMALIZE, settings, 0, lambda step, metrics: None)
    waits = {name: operations.count[name] for name in WAITING if operations.count[name]}
    assert waits == {"aten._local_scalar_dense": SETTINGS.epochs}  # the loss; scores are one copy
