"""The winner that a user takes away: loadable without evonas, and measured once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import StorageError
from evonas.evaluators.base import Context, Evaluator, Reporter, Retrained
from evonas.evaluators.train import Train
from evonas.executors.serial import Serial
from evonas.runs import incumbents
from evonas.runs.retraining import Retraining
from evonas.spaces.base import SearchSpace
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.data import Arrays, Data, Images, Labels, split
from evonas.training.loop import Normalize
from evonas.trial import Objective, Proposal, Trial, TrialState


def data() -> Data:
    def part(count: int) -> tuple[Images, Labels]:
        rng = np.random.default_rng(count)
        return rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), np.arange(count) % 3

    return split(Arrays(part(40), part(9)), validation=0.25, seed=0, source="made up")


class Once(Evaluator):
    """Trains, and counts how often; keeps its last network."""

    metrics = Train.metrics

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(Context(space, data(), "cpu", seed=0))
        self.inner, self.trained, self.tested = Train(self.context, epochs=1, batch_size=10), 0, 0
        self.last: nn.Module | None = None

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return self.inner.evaluate(trial, report)

    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        self.trained += 1
        done = self.inner.retrain(trial, seed, report)
        assert done is not None
        self.last = done.network
        return done

    def network(self, architecture: Architecture) -> nn.Module | None:
        return self.inner.network(architecture)

    def test(self, architecture: Architecture, network: nn.Module | None) -> Mapping[str, float]:
        self.tested += 1
        return self.inner.test(architecture, network)


def trial(space: SearchSpace, number: int = 3) -> Trial:
    return Trial(number, Proposal(space.sample(Random(number))), TrialState.COMPLETE)


def conclude(
    evaluator: Evaluator,
    folder: Path,
    *trials: Trial,
    told: Callable[[str], None] = lambda message: None,
    **terms: Any,
) -> dict[str, float]:
    """Conclude a search with these trials, the best first."""
    retraining = Retraining(
        folder,
        lambda make, count: Serial(make, ("cpu",)),
        lambda device: evaluator,
        told,
        lambda: False,
    )
    ranking = trials or (trial(evaluator.context.space),)
    objectives = (Objective("val_accuracy"),)
    given = incumbents.Terms(**terms)
    number, metrics = incumbents.conclude(
        evaluator, objectives, ranking, retraining, given, folder, told
    )
    assert number in [t.number for t in ranking]
    return metrics


@pytest.mark.parametrize(
    "space", [PlainCNN(1, 8), MBConv(1, 8), NASBench201(2, 1)], ids=lambda s: s.name
)
def test_a_network_comes_back_with_its_weights(tmp_path: Path, space: SearchSpace) -> None:
    evaluator = Once(space)
    conclude(evaluator, tmp_path)
    network, folder = evaluator.last, tmp_path / "incumbent"
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
    first = conclude(evaluator, tmp_path, winner, told=told.append)
    said = len(told)
    assert said > 0
    assert conclude(evaluator, tmp_path, winner, told=told.append) == first
    stored = incumbents.stored(tmp_path)
    assert stored is not None
    assert (stored["trial"], stored["metrics"]) == (winner.number, first)
    assert (evaluator.trained, evaluator.tested) == (1, 1)
    assert len(told) == said
    assert "test_accuracy" in first


def test_another_winner_is_measured_anew(tmp_path: Path) -> None:
    evaluator = Once(PlainCNN(1, 8))
    for number in (3, 4):
        conclude(evaluator, tmp_path, trial(evaluator.context.space, number))
    assert evaluator.trained == 2
    described = json.loads((tmp_path / "incumbent" / "architecture.json").read_text())
    assert described["trial"] == 4


def test_metrics_and_curve_are_kept(tmp_path: Path) -> None:
    evaluator = Once(PlainCNN(1, 8))
    metrics = conclude(evaluator, tmp_path)
    record = json.loads((tmp_path / "final.json").read_text())
    assert record["metrics"] == metrics
    kept = json.loads((tmp_path / "retrained" / "trial_3_seed_0.json").read_text())
    ((step, point),) = kept["curve"]
    assert step == 1
    assert point["val_accuracy"] == metrics["val_accuracy"]
    assert not list(tmp_path.rglob("*.tmp"))


class Nothing(Once):
    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        return None


class NumbersOnly(Once):
    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        return Retrained({"val_accuracy": 0.75})

    def test(self, architecture: Architecture, network: nn.Module | None) -> Mapping[str, float]:
        assert network is None
        return {"test_accuracy": 0.5}


def test_an_evaluator_without_an_end_leaves_nothing(tmp_path: Path) -> None:
    assert conclude(Nothing(PlainCNN(1, 8)), tmp_path) == {}
    assert not (tmp_path / "final.json").exists()
    assert not (tmp_path / "incumbent").exists()


def test_an_end_without_a_network_leaves_its_numbers(tmp_path: Path) -> None:
    metrics = conclude(NumbersOnly(PlainCNN(1, 8)), tmp_path)
    assert metrics == {"val_accuracy": 0.75, "test_accuracy": 0.5}
    assert [path.name for path in (tmp_path / "incumbent").iterdir()] == ["architecture.json"]


class Scripted(Once):
    """Validation scores by trial and seed; the test score is ten times the number of the trial."""

    scores: ClassVar = {1: (0.5, 0.9), 2: (0.8, 0.8), 3: (0.1, 0.99)}

    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        self.trained += 1
        if trial.number == 4:
            raise RuntimeError("diverged")
        return Retrained({"val_accuracy": self.scores[trial.number][seed]})

    def test(self, architecture: Architecture, network: nn.Module | None) -> Mapping[str, float]:
        self.tested += 1
        return {"test_accuracy": self.tested / 10}


def ranked(evaluator: Evaluator, *numbers: int) -> list[Trial]:
    return [trial(evaluator.context.space, number) for number in numbers]


def test_the_best_mean_over_the_seeds_wins_and_it_alone_is_tested(tmp_path: Path) -> None:
    evaluator = Scripted(PlainCNN(1, 8))
    metrics = conclude(evaluator, tmp_path, *ranked(evaluator, 3, 1, 4, 2), top=4, seeds=2)
    stored = incumbents.stored(tmp_path)
    assert stored is not None
    assert stored["trial"] == 2
    assert evaluator.tested == 2
    assert metrics["val_accuracy"] == pytest.approx(0.8)
    assert metrics["val_accuracy_std"] == pytest.approx(0.0)
    assert metrics["test_accuracy"] == pytest.approx(0.15)
    assert metrics["test_accuracy_std"] == pytest.approx(0.05 * 2**0.5)


def test_only_the_top_is_trained(tmp_path: Path) -> None:
    evaluator = Scripted(PlainCNN(1, 8))
    conclude(evaluator, tmp_path, *ranked(evaluator, 3, 1, 2), top=2)
    assert evaluator.trained == 2
    stored = incumbents.stored(tmp_path)
    assert stored is not None
    assert stored["trial"] == 1


def test_if_nothing_can_be_trained_the_reason_is_told(tmp_path: Path) -> None:
    evaluator = Scripted(PlainCNN(1, 8))
    with pytest.raises(incumbents.AllFailed, match="diverged"):
        conclude(evaluator, tmp_path, *ranked(evaluator, 4))
    assert incumbents.stored(tmp_path) is None


def test_the_mirror_image_counts_as_much_as_the_image() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    images = torch.rand(5, 3, 8, 8)
    mirrored = incumbents.Mirrored(network)
    assert torch.allclose(mirrored(images), mirrored(images.flip(3)))
    both = (network(images) + network(images.flip(3))) / 2
    assert torch.allclose(mirrored(images), both)


def test_with_flip_the_network_kept_is_the_plain_one(tmp_path: Path) -> None:
    evaluator = Once(PlainCNN(1, 8))
    conclude(evaluator, tmp_path, flip=True)
    assert evaluator.last is not None
    stored = load_file(tmp_path / "incumbent" / "weights.safetensors")
    assert stored.keys() == evaluator.last.state_dict().keys()


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
    class Given(NumbersOnly):
        def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
            return Retrained({"val_accuracy": 0.75}, (), network)

        def network(self, architecture: Architecture) -> nn.Module | None:
            return copy.deepcopy(network)

        def test(self, *_: object) -> Mapping[str, float]:
            return {"test_accuracy": 0.5}

    told: list[str] = []
    conclude(Given(PlainCNN(1, 8)), folder, told=told.append)
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
    stored = incumbents.stored(tmp_path)
    assert stored is not None
    assert stored["metrics"]["test_accuracy"] == 0.5


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "incumbent").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="evonas resume does it again"):
        conclude(NumbersOnly(PlainCNN(1, 8)), tmp_path)
