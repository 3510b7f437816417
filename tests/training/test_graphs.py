"""Recording and replaying: on a CPU what a GPU records is run again; the rest is the same code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from training_helper import train

from evonas.training import loop
from evonas.training.graphs import Replayed, Tensors, on_device, recorder, tensor_float32


class Tape:
    """Records as a GPU does: nothing is computed until the replay, which writes into what it gave.

    Attributes:
        replays: Of each function.
    """

    def __init__(self) -> None:
        self.replays: dict[str, int] = {}

    def record(
        self, function: Callable[..., Tensors], inputs: Tensors
    ) -> tuple[Tensors, Callable[[], None]]:
        name = function.__name__
        # A step changes the network, and returns nothing; all else only returns.
        returned = () if name == "step" else tuple(t.clone() for t in function(*inputs))
        self.replays[name] = 0

        def replay() -> None:
            self.replays[name] += 1
            for tensor, computed in zip(returned, function(*inputs), strict=True):
                tensor.copy_(computed)

        return returned, replay


def test_it_is_recorded_once_and_what_it_returns_is_the_callers() -> None:
    tape, constant = Tape(), torch.tensor([10.0])

    def added(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor]:
        return (one + other,)

    replayed = Replayed(added, tape.record)
    found = [replayed(constant, torch.tensor([float(n)]))[0] for n in range(6)]
    assert [tensor.item() for tensor in found] == [10, 11, 12, 13, 14, 15]
    assert tape.replays == {"added": 3}
    assert constant.item() == 10


@pytest.mark.parametrize(
    ("one", "other", "sum_"),
    [(torch.tensor([1.0]), torch.tensor([2.0]), [3]), (None, torch.tensor([2.0, 3.0]), [12, 13])],
    ids=["another constant", "another shape"],
)
def test_what_was_not_recorded_is_run(
    one: torch.Tensor | None, other: torch.Tensor, sum_: list[float]
) -> None:
    tape, constant = Tape(), torch.tensor([10.0])
    replayed = Replayed(lambda one, other: (one + other,), tape.record)
    for n in range(4):
        replayed(constant, torch.tensor([float(n)]))
    assert replayed(constant if one is None else one, other)[0].tolist() == sum_
    assert sum(tape.replays.values()) == 1
    assert constant.item() == 10, "nothing is copied into a constant"


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    """Have the training loop record on this CPU, whatever the network."""
    tape = Tape()
    monkeypatch.setattr(loop, "recorder", lambda device, *generators: tape.record)
    monkeypatch.setattr(loop, "replayable", lambda network, images: True)
    return tape


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"optimizer": "muon", "ema": 0.9, "cutout": 3},
        {"clip_norm": 0.5, "augmentation": "v2"},
        {"accumulation": 2},
    ],
)
def test_a_training_that_is_replayed_is_the_same(
    changes: dict[str, Any], tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"epochs": 9, "images": 100, **changes}
    _, _, curve = train(**changes)
    # Of validation, the batches of one shape are recorded: half the size, one of them is smaller.
    infers = 9 - 2 if "accumulation" in changes else 9 - 3
    assert tape.replays == {"step": 9 * 6 - 3, "infer": infers}
    monkeypatch.undo()
    _, _, expected = train(**changes)
    for (_, found), (_, wanted) in zip(curve, expected, strict=True):
        assert found["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "changes", [{"cuda_graph": False}, {"mixup": 0.2}, {"cutmix": 1.0}, {"epochs": 8}]
)
def test_what_the_host_decides_and_what_is_short_is_not_recorded(
    changes: dict[str, Any], tape: Tape
) -> None:
    train(**{"epochs": 9, "images": 100, **changes})
    assert tape.replays == {}


def test_a_network_that_waits_for_the_device_is_not_recorded(
    tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.Size] = []

    def never(network: nn.Module, images: torch.Tensor) -> bool:
        asked.append(images.shape)
        return False

    monkeypatch.setattr(loop, "replayable", never)
    train(epochs=9, images=100)
    assert tape.replays == {}
    assert asked == [(16, 3, 8, 8)]


def test_a_cpu_records_nothing_and_keeps_its_precision() -> None:
    assert recorder(torch.device("cpu")) is None
    before = torch.get_float32_matmul_precision()
    with tensor_float32(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    with tensor_float32(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    assert on_device([(1.0, 2.0)], torch.device("cpu")).tolist() == [[1, 2]]
