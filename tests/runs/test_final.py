"""The winner that a user takes away: loadable without evonas, and measured once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sessions_helper import finals, session, trained, writes
from sessions_helper import trial as as_told
from torch import nn

from evonas.architecture import Architecture
from evonas.errors import StorageError
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.train import Train
from evonas.recipe.schema import FinalSection
from evonas.runs import final
from evonas.runs.journal import read_journal
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.checkpoints import Checkpoints, Continued
from evonas.training.data import Arrays, Data, Images, Labels, split
from evonas.training.loop import Mirrored, Normalize
from evonas.trial import Proposal, Trial, TrialState


def data() -> Data:
    def part(count: int) -> tuple[Images, Labels]:
        rng = np.random.default_rng(count)
        return rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), np.arange(count) % 3

    return split(Arrays(part(40), part(9)), validation=0.25, seed=0, source="made up")


class Once(Evaluator):
    """Trains, and counts how often."""

    metrics = ("val_accuracy", "params", "flops")
    finals = True

    def __init__(self, space: SearchSpace, folder: Path, flip: bool = False) -> None:
        weights = Continued(Checkpoints(folder / "weights", 1.0))
        super().__init__(Context(space, data(), "cpu", seed=0, weights=weights, flip=flip))
        self.inner, self.trained, self.tested = Train(self.context, epochs=1, batch_size=10), 0, 0

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        self.trained += 1
        return self.inner.evaluate(trial, report)

    def test(self, trial: Trial) -> Mapping[str, float]:
        self.tested += 1
        return self.inner.test(trial)


def trial(space: SearchSpace, number: int = 3) -> Trial:
    return Trial(number, Proposal(space.sample(Random(number))), TrialState.COMPLETE)


def conclude(
    evaluator: Evaluator,
    folder: Path,
    *trials: Trial,
    told: Callable[[str], None] = lambda message: None,
    retry: bool = False,
    **terms: Any,
) -> dict[str, float]:
    """Conclude a search with these trials, the best first."""
    ranking = trials or (trial(evaluator.context.space),)
    with session(folder, lambda device: evaluator, tell=told) as run:
        number, metrics = final.conclude(run, ranking, FinalSection(**terms), retry)
    assert number in [t.number for t in ranking]
    return metrics


@pytest.mark.parametrize(
    "space", [PlainCNN(1, 8), MBConv(1, 8), NASBench201(2, 1)], ids=lambda s: s.name
)
def test_a_network_comes_back_with_its_weights(tmp_path: Path, space: SearchSpace) -> None:
    evaluator, folder = Once(space, tmp_path), tmp_path / "incumbent"
    conclude(evaluator, tmp_path)
    assert evaluator.context.weights is not None
    trained = space.build(trial(space).architecture, data().task)
    kept = evaluator.context.weights.checkpoints.read(0, stage="final")
    trained.load_state_dict(dict(kept.weights))
    network = nn.Sequential(Normalize(*data().channel_statistics()), trained).eval()
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
    evaluator, told = Once(PlainCNN(1, 8), tmp_path), list[str]()
    winner = trial(evaluator.context.space)
    first = conclude(evaluator, tmp_path, winner, told=told.append)
    said = len(told)
    assert said > 0
    assert conclude(evaluator, tmp_path, winner, told=told.append) == first
    stored = final.stored(tmp_path)
    assert stored is not None
    assert (stored.trial, stored.metrics) == (winner.number, first)
    assert (evaluator.trained, evaluator.tested) == (1, 1)
    assert len(told) == said
    assert "test_accuracy" in first


def test_another_winner_is_measured_anew(tmp_path: Path) -> None:
    evaluator = Once(PlainCNN(1, 8), tmp_path)
    (tmp_path / "incumbent").mkdir()
    for number in (3, 4):
        (tmp_path / "incumbent" / "network.onnx").touch()  # as a user exported it
        conclude(evaluator, tmp_path, trial(evaluator.context.space, number))
        assert not (tmp_path / "incumbent" / "network.onnx").exists()
    assert evaluator.trained == 2
    described = json.loads((tmp_path / "incumbent" / "architecture.json").read_text())
    assert described["trial"] == 4


def test_metrics_and_curve_are_kept(tmp_path: Path) -> None:
    evaluator = Once(PlainCNN(1, 8), tmp_path)
    metrics = conclude(evaluator, tmp_path)
    record = json.loads((tmp_path / "final.json").read_text())
    assert record["metrics"] == metrics
    _, events = read_journal(tmp_path)
    ((step, point),) = events[-1].curve
    assert step == 1
    assert point["val_accuracy"] == metrics["val_accuracy"]
    assert not list(tmp_path.rglob("*.tmp"))


class Nothing(Once):
    finals = False

    def test(self, trial: Trial) -> Mapping[str, float]:
        return {}


class TableOnly(Once):
    finals = False

    def test(self, trial: Trial) -> Mapping[str, float]:
        assert trial.proposal.stage == "search"
        return {"test_accuracy": 0.5}


class NumbersOnly(Once):
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        self.trained += 1
        return {"val_accuracy": 0.75}

    def test(self, trial: Trial) -> Mapping[str, float]:
        return {"test_accuracy": 0.5}


def test_an_evaluator_without_an_end_leaves_nothing(tmp_path: Path) -> None:
    assert conclude(Nothing(PlainCNN(1, 8), tmp_path), tmp_path) == {}
    assert not (tmp_path / "final.json").exists()
    assert not (tmp_path / "incumbent").exists()


def test_without_fuller_trainings_the_best_of_the_search_is_tested(tmp_path: Path) -> None:
    evaluator = TableOnly(PlainCNN(1, 8), tmp_path)
    assert conclude(evaluator, tmp_path, top=3, seeds=2) == {"test_accuracy": 0.5}
    assert evaluator.trained == 0


def test_an_end_without_a_network_leaves_its_numbers(tmp_path: Path) -> None:
    metrics = conclude(NumbersOnly(PlainCNN(1, 8), tmp_path), tmp_path)
    assert metrics.pop("seconds") >= 0
    assert metrics == {"val_accuracy": 0.75, "test_accuracy": 0.5}
    assert [path.name for path in (tmp_path / "incumbent").iterdir()] == ["architecture.json"]


class Scripted(Once):
    """Validation scores by trial and seed; the test score is ten times the number of the trial."""

    scores: ClassVar = {1: (0.5, 0.9), 2: (0.8, 0.8), 3: (0.1, 0.99)}

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        self.trained += 1
        (number,) = trial.proposal.parents
        if number == 4:
            raise RuntimeError("diverged")
        return {"val_accuracy": self.scores[number][trial.proposal.repeat]}

    def test(self, trial: Trial) -> Mapping[str, float]:
        self.tested += 1
        return {"test_accuracy": self.tested / 10}


def ranked(evaluator: Evaluator, *numbers: int) -> list[Trial]:
    return [trial(evaluator.context.space, number) for number in numbers]


def test_the_best_mean_over_the_seeds_wins_and_it_alone_is_tested(tmp_path: Path) -> None:
    evaluator = Scripted(PlainCNN(3, 64), tmp_path)
    metrics = conclude(evaluator, tmp_path, *ranked(evaluator, 3, 1, 4, 2), top=4, seeds=2)
    stored = final.stored(tmp_path)
    assert stored is not None
    assert stored.trial == 2
    assert evaluator.tested == 2
    assert metrics["val_accuracy"] == pytest.approx(0.8)
    assert metrics["val_accuracy_std"] == pytest.approx(0.0)
    assert metrics["test_accuracy"] == pytest.approx(0.15)
    assert metrics["test_accuracy_std"] == pytest.approx(0.05 * 2**0.5)


def test_only_the_top_is_trained(tmp_path: Path) -> None:
    evaluator = Scripted(PlainCNN(3, 64), tmp_path)
    conclude(evaluator, tmp_path, *ranked(evaluator, 3, 1, 2), top=2)
    assert evaluator.trained == 2
    stored = final.stored(tmp_path)
    assert stored is not None
    assert stored.trial == 1


def test_if_nothing_can_be_trained_the_reason_is_told(tmp_path: Path) -> None:
    evaluator = Scripted(PlainCNN(3, 64), tmp_path)
    for retry, count in ((False, 1), (False, 1), (True, 2)):
        with pytest.raises(final.AllFailed, match="diverged"):
            conclude(evaluator, tmp_path, *ranked(evaluator, 4), retry=retry)
        assert evaluator.trained == count
    assert final.stored(tmp_path) is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
    ],
    ids=["lost", "empty", "torn", "flipped"],
)
def test_lost_weights_of_the_winner_are_trained_again(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    said: list[str] = []
    with session(tmp_path, writes(tmp_path)) as run:
        run.train(finals([as_told(5), as_told(2)], 2))
    harm(tmp_path / "weights" / "final_0.safetensors")
    with session(tmp_path, writes(tmp_path), tell=said.append) as run:
        number, metrics = final.conclude(
            run, [as_told(5), as_told(2)], FinalSection(top=2, seeds=2)
        )
    assert (number, metrics["test_accuracy"]) == (5, 5.0)
    assert trained(tmp_path) == ["5/0", "5/1", "2/0", "2/1", "5/0"]
    assert any("training it again" in message for message in said)


def test_the_mirror_image_counts_as_much_as_the_image() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    images = torch.rand(5, 3, 8, 8)
    mirrored = Mirrored(network)
    assert torch.allclose(mirrored(images), mirrored(images.flip(3)))
    both = (network(images) + network(images.flip(3))) / 2
    assert torch.allclose(mirrored(images), both)


def test_with_flip_the_network_kept_is_the_plain_one(tmp_path: Path) -> None:
    for flip in (False, True):
        folder = tmp_path / str(flip)
        folder.mkdir()
        conclude(Once(PlainCNN(1, 8), folder, flip), folder, flip=flip)
    plain, flipped = (
        load_file(tmp_path / str(flip) / "incumbent" / "weights.safetensors")
        for flip in (False, True)
    )
    assert plain.keys() == flipped.keys()
    assert all(torch.equal(plain[name], flipped[name]) for name in plain)


NORMALIZATION = 2  # tensors: mean and standard deviation


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


def keep(build: Callable[[], nn.Module], folder: Path) -> list[str]:
    class Odd(PlainCNN):
        def build(self, architecture: Architecture, task: Task) -> nn.Module:
            return build()

        def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
            return {"params": 1.0, "flops": 1.0}

    told: list[str] = []
    conclude(Once(Odd(1, 8), folder), folder, told=told.append)
    return told


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    keep(Tied, tmp_path)
    assert len(load_file(tmp_path / "incumbent" / "weights.safetensors")) == 4 + NORMALIZATION
    torch.export.load(tmp_path / "incumbent" / "network.pt2")


def test_a_network_that_cannot_be_exported_keeps_its_weights(tmp_path: Path) -> None:
    told = keep(Moody, tmp_path)
    assert any(message.startswith("no network.pt2, ") for message in told)
    assert not (tmp_path / "incumbent" / "network.pt2").exists()
    assert len(load_file(tmp_path / "incumbent" / "weights.safetensors")) == 2 + NORMALIZATION
    stored = final.stored(tmp_path)
    assert stored is not None
    assert "test_accuracy" in stored.metrics


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "incumbent").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="evonas resume does it again"):
        conclude(NumbersOnly(PlainCNN(1, 8), tmp_path), tmp_path)
