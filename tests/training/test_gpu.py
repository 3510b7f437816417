"""What only a GPU can prove: `pytest -m gpu`; elsewhere these tests skip."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn
from training_helper import NORMALIZE, SETTINGS, network, separable

import evonas
from evonas.architecture import Architecture
from evonas.evaluators.base import Context
from evonas.evaluators.train import Train
from evonas.executors.base import run_trial
from evonas.executors.parts.gpus import Service
from evonas.spaces.base import Task
from evonas.spaces.cifar_resnet import CIFARResNet
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.data import Data
from evonas.training.latency import timings
from evonas.training.loop import fit
from evonas.trial import Proposal, Trial, TrialState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
LONG = {"epochs": 4, "batch_size": 16}  # sixty steps, long enough to be recorded


def train(built: nn.Module, images: int = 250, **changes: Any) -> list[Mapping[str, float]]:
    """The curve of a training on the GPU, with what ``fit`` returns at the end."""
    curve: list[Mapping[str, float]] = []
    settings = replace(SETTINGS, **{**LONG, **changes})
    splits = separable(images).to("cuda"), separable(90, seed=1).to("cuda")
    normalize = copy.deepcopy(NORMALIZE).to(torch.device("cuda"))

    def report(step: int, metrics: Mapping[str, float]) -> None:
        curve.append(metrics)

    return [*curve, fit(built.to("cuda"), *splits, normalize, settings, 0, report)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"optimizer": "muon", "ema": 0.9},
        {"clip_norm": 0.5, "cutout": 3},
        {"accumulation": 2},
    ],
)
def test_a_recorded_training_is_the_eager_one(changes: dict[str, Any]) -> None:
    recorded = train(network(), augmentation="none", **changes)
    eager = train(network(), augmentation="none", cuda_graph=False, **changes)
    assert recorded[-1]["cuda_graph"] == 1
    assert eager[-1]["cuda_graph"] == 0
    for found, expected in zip(recorded[:-1], eager[:-1], strict=True):
        assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=0.05)
        assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=0.1)


def test_every_replay_draws_anew() -> None:
    curve = train(nn.Sequential(nn.Dropout(0.2), network()), augmentation="v2", epochs=12)
    assert curve[-1]["cuda_graph"] == 1
    assert curve[-1]["val_accuracy"] > 0.8


def test_an_epoch_does_not_wait_for_the_device() -> None:
    def waits(images: int) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        torch.set_warn_always(True)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                train(network(), images)
            return sum("synchroniz" in str(warning.message) for warning in caught)
        finally:
            torch.set_warn_always(False)
            torch.cuda.set_sync_debug_mode("default")

    waits(240)  # libraries set themselves up
    assert waits(240) == waits(960), "as often with four times the steps"


class Waiting(nn.Module):
    """Asks the device for a number while it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) * (1.0 if images.mean().item() < 1e9 else 0.0)


@pytest.mark.parametrize(
    ("built", "changes"), [(Waiting, {}), (network, {"mixup": 0.2}), (network, {"epochs": 1})]
)
def test_what_cannot_be_recorded_is_trained_all_the_same(built: Any, changes: Any) -> None:
    curve = train(built(), **changes)
    assert curve[-1]["cuda_graph"] == 0


def world() -> tuple[Context, Architecture]:
    """Images of 64 pixels, and a network that needs some gigabytes for a batch of 1,024."""
    images = torch.randint(0, 255, (2048, 64, 64, 3), dtype=torch.uint8)
    split = replace(separable(2048), images=images)
    data = Data(split, replace(separable(64), images=images[:64]), None, ("a", "b", "c"), "")
    space = PlainCNN(1, 64)
    choices = {f"{kind}{i}": {"k": 1, "c": 64}[kind] for i in (1, 2, 3, 4) for kind in "kc"}
    return Context(space, data, "cuda", 0), space.architecture(choices)


@pytest.mark.faults("14: a GPU that is full: half a batch, then a trial that has failed")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_gpu_that_is_full() -> None:
    context, architecture = world()
    trial = Trial(0, Proposal(architecture))
    seen: set[str] = set()
    for gigabytes in (8.0, 4.0, 3.0, 2.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.4, 0.2):
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        hog = torch.empty(max(0, int(free - gigabytes * 1e9)), dtype=torch.uint8, device="cuda")
        before = torch.cuda.memory_allocated()
        ended = run_trial(Train(context, epochs=1, batch_size=1024), trial)
        gc.collect()
        if ended.state is TrialState.FAILED:
            assert ended.error is not None
            assert ended.error.startswith("OutOfMemory: out of memory, with half a batch")
            seen.add("failed")
        else:
            seen.add("halves" if "accumulation" in ended.metrics else "whole")
        left = torch.cuda.memory_allocated() - before
        assert left < 64e6, f"{left / 1e6:.0f} MB are left behind"
        del hog
        if seen == {"whole", "halves", "failed"}:
            return
    raise AssertionError(f"only {seen}")


def test_latency_is_in_the_order_of_flops() -> None:
    task = Task(channels=3, height=32, width=32, classes=10)
    space = CIFARResNet()
    points = [space.point(f"resnet{depth}") for depth in (20, 32, 56)]
    times = [median(timings(space.build(p, task), task, "cuda", batch_size=128)) for p in points]
    assert times == sorted(times)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


def test_nvidias_service_begins_and_ends(service: Service) -> None:
    if not service.start():
        pytest.skip("NVIDIA's MPS is not here, or may not start")


@pytest.mark.parametrize("per_device", [1, "auto"])
def test_a_run_on_the_gpu(per_device: Any, tmp_path: Path) -> None:
    sets = {
        "budget.trials": 6,
        "executor": {"name": "processes", "per_device": per_device, "device": "cuda"},
        "tracking.name": "console",
    }
    run = evonas.run("digits_evo", sets, run_dir=tmp_path / "run", show=False)
    assert (run.trials["state"] == "complete").all()
    assert run.best is not None
    assert (tmp_path / "run" / "incumbent" / "network.pt2").exists()
