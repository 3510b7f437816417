"""The winner that a user takes away: loadable without evonas, and measured once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from evonas import incumbents
from evonas.architecture import Architecture
from evonas.errors import StorageError
from evonas.evaluators.base import Context, Evaluator, Final, Reporter
from evonas.evaluators.train import Train
from evonas.spaces.base import SearchSpace
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.data import Arrays, Data, Images, Labels, split
from evonas.training.loop import Normalize
from evonas.trial import Proposal, Trial


def data() -> Data:
    def part(count: int) -> tuple[Images, Labels]:
        rng = np.random.default_rng(count)
        return rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), np.arange(count) % 3

    return split(Arrays(part(40), part(9)), validation=0.25, seed=0, source="made up")


class Once(Evaluator):
    """Trains, and counts how often the winner was; keeps its network."""

    metrics = Train.metrics

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(Context(space, data(), "cpu", seed=0))
        self.inner, self.finished = Train(self.context, epochs=1, batch_size=10), 0
        self.network: nn.Module | None = None

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return self.inner.evaluate(trial, report)

    def finish(self, trial: Trial, report: Reporter) -> Final | None:
        self.finished += 1
        final = self.inner.finish(trial, report)
        assert final is not None
        self.network = final.network
        return final


def trial(space: SearchSpace, number: int = 3) -> Trial:
    return Trial(number, Proposal(space.sample(Random(0))))


def quiet(message: str) -> None:
    pass


@pytest.mark.parametrize(
    "space", [PlainCNN(1, 8), MBConv(1, 8), NASBench201(2, 1)], ids=lambda s: s.name
)
def test_a_network_comes_back_with_its_weights(tmp_path: Path, space: SearchSpace) -> None:
    evaluator = Once(space)
    incumbents.conclude(evaluator, trial(space), tmp_path, quiet)
    network, folder = evaluator.network, tmp_path / "incumbent"
    assert network is not None
    described = json.loads((folder / "architecture.json").read_text())
    architecture = space.architecture(Architecture.from_json(described).choices)
    assert architecture == trial(space).architecture
    rebuilt = nn.Sequential(
        Normalize(torch.zeros(3), torch.ones(3)), space.build(architecture, data().task)
    ).eval()
    rebuilt.load_state_dict(load_file(folder / "weights.safetensors"))
    program = torch.export.load(folder / "network.pt2").module()
    for batch in (1, 5):
        images = 255 * torch.rand(batch, 3, 8, 8)
        with torch.inference_mode():
            logits = network(images)
            assert logits.shape == (batch, 3)
            assert torch.allclose(program(images), logits, atol=1e-6)
            assert torch.allclose(rebuilt(images), logits, atol=1e-6)


def test_the_winner_is_measured_once(tmp_path: Path) -> None:
    evaluator, told = Once(PlainCNN(1, 8)), list[str]()
    winner = trial(evaluator.context.space)
    first = incumbents.conclude(evaluator, winner, tmp_path, told.append)
    said = len(told)
    assert said > 0
    assert incumbents.conclude(evaluator, winner, tmp_path, told.append) == first
    assert incumbents.stored(tmp_path, winner.number) == first
    assert evaluator.finished == 1
    assert len(told) == said
    assert "test_accuracy" in first


def test_another_winner_is_measured_anew(tmp_path: Path) -> None:
    evaluator = Once(PlainCNN(1, 8))
    incumbents.conclude(evaluator, trial(evaluator.context.space, 3), tmp_path, quiet)
    assert incumbents.stored(tmp_path, 4) is None
    incumbents.conclude(evaluator, trial(evaluator.context.space, 4), tmp_path, quiet)
    assert evaluator.finished == 2
    assert incumbents.stored(tmp_path, 3) is None
    described = json.loads((tmp_path / "incumbent" / "architecture.json").read_text())
    assert described["trial"] == 4


def test_metrics_and_curve_are_kept(tmp_path: Path) -> None:
    evaluator = Once(PlainCNN(1, 8))
    metrics = incumbents.conclude(evaluator, trial(evaluator.context.space), tmp_path, quiet)
    record = json.loads((tmp_path / "final.json").read_text())
    assert record["metrics"] == metrics
    ((step, point),) = record["curve"]
    assert step == 1
    assert point["val_accuracy"] == metrics["val_accuracy"]
    assert not list(tmp_path.rglob("*.tmp"))


class Nothing(Once):
    def finish(self, trial: Trial, report: Reporter) -> Final | None:
        return None


class NumbersOnly(Once):
    def finish(self, trial: Trial, report: Reporter) -> Final | None:
        return Final({"test_accuracy": 0.5})


def test_an_evaluator_without_an_end_leaves_nothing(tmp_path: Path) -> None:
    evaluator = Nothing(PlainCNN(1, 8))
    assert incumbents.conclude(evaluator, trial(evaluator.context.space), tmp_path, quiet) == {}
    assert list(tmp_path.iterdir()) == []


def test_an_end_without_a_network_leaves_its_numbers(tmp_path: Path) -> None:
    evaluator = NumbersOnly(PlainCNN(1, 8))
    metrics = incumbents.conclude(evaluator, trial(evaluator.context.space), tmp_path, quiet)
    assert metrics == {"test_accuracy": 0.5}
    assert [path.name for path in (tmp_path / "incumbent").iterdir()] == ["architecture.json"]


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 3)
        self.second = nn.Linear(192, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.first(x.flatten(1)) + self.second(x.flatten(1))
        return out


class Moody(nn.Module):
    """What it computes depends on what it sees, which torch.export refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x.flatten(1))
        return out if out.sum().item() > 0 else -out


def keep(network: nn.Module, folder: Path) -> list[str]:
    class Given(Once):
        def finish(self, trial: Trial, report: Reporter) -> Final | None:
            return Final({"test_accuracy": 0.5}, (), network)

    evaluator, told = Given(PlainCNN(1, 8)), list[str]()
    incumbents.conclude(evaluator, trial(evaluator.context.space), folder, told.append)
    return told


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    keep(Tied(), tmp_path)
    assert len(load_file(tmp_path / "incumbent" / "weights.safetensors")) == 4
    torch.export.load(tmp_path / "incumbent" / "network.pt2")


def test_a_network_that_cannot_be_exported_keeps_its_weights(tmp_path: Path) -> None:
    told = keep(Moody(), tmp_path)
    assert any(message.startswith("no network.pt2, ") for message in told)
    assert not (tmp_path / "incumbent" / "network.pt2").exists()
    assert len(load_file(tmp_path / "incumbent" / "weights.safetensors")) == 2
    assert incumbents.stored(tmp_path, 3) == {"test_accuracy": 0.5}


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "incumbent").write_text("a file where the folder should be")
    evaluator = NumbersOnly(PlainCNN(1, 8))
    with pytest.raises(StorageError, match="evonas resume does it again"):
        incumbents.conclude(evaluator, trial(evaluator.context.space), tmp_path, quiet)
