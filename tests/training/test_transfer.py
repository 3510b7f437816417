"""Transfer learning: weights from elsewhere, frozen stages, a learning rate for each stage."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from evonas.errors import DataError, RecipeError
from evonas.evaluators.base import Context
from evonas.evaluators.train import Train
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training import transfer
from evonas.training.checkpoints import Checkpoints, Continued, write_weights
from evonas.training.data import Arrays, Data, Images, Labels, split
from evonas.training.loop import Normalize, Settings, fit, parameter_groups
from evonas.trial import Proposal, Trial

SPACE = PlainCNN(1, 16)
TRIAL = Trial(0, Proposal(SPACE.architecture({f"k{i}": 1 for i in range(1, 5)} | {
    f"c{i}": 16 for i in range(1, 5)
})))  # fmt: skip
FINAL = replace(TRIAL, proposal=replace(TRIAL.proposal, stage="final"))


def half(upper: bool, count: int = 240) -> Data:
    """Three of six made-up classes: stripes of six directions and widths, under noise."""

    def part(count: int, seed: int) -> tuple[Images, Labels]:
        rng = np.random.default_rng(seed)
        labels = np.arange(count) % 3
        kinds = labels + 3 * upper
        across, down = np.meshgrid(np.arange(8), np.arange(8))
        phase = rng.integers(0, 8, count)[:, None, None]
        waves = {
            0: across, 1: down, 2: across + down,
            3: 2 * across, 4: 2 * down, 5: across - down,
        }  # fmt: skip
        angles = np.stack([waves[int(kind)] for kind in kinds]) + phase
        images = (
            128 + 60 * np.sin(angles * np.pi / 4)[..., None] + rng.normal(0, 40, (count, 8, 8, 3))
        )
        return images.clip(0, 255).astype(np.uint8), labels

    arrays = Arrays(part(count, 0), part(60, 1))
    return split(arrays, validation=0.5, seed=0, source="made up")


def trained(data: Data, **options: object) -> tuple[Train, nn.Module, float]:
    weights = Continued(Checkpoints(Path("weights"), 1.0))
    world = Context(SPACE, data, "cpu", 0, weights=weights)
    evaluator = Train(world, batch_size=20, **options)  # type: ignore[arg-type]
    metrics = evaluator.evaluate(FINAL, lambda step, metrics: None)
    network = SPACE.build(FINAL.architecture, data.task)
    network.load_state_dict(dict(weights.checkpoints.read(0, stage="final").weights))
    return evaluator, network, metrics["val_accuracy"]


def as_a_run_keeps_it(network: nn.Module, data: Data, path: Path) -> None:
    whole = nn.Sequential(Normalize(*data.channel_statistics()), network)
    write_weights(path, whole.state_dict(), {})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Weights of a network trained on one half of the classes, as a run keeps them."""
    data = half(upper=False)
    _, network, _ = trained(data, epochs=8)
    as_a_run_keeps_it(network, data, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_frozen_stages_stay_as_the_source_left_them(source: Path) -> None:
    _, network, _ = trained(half(upper=True), init=str(source), freeze=2, epochs=2)
    weights = transfer.read(str(source))
    parts = transfer.stages(network)
    names = {name: part for name, part in network.named_children() if part in parts}
    for place, name in enumerate(names):
        same = [
            torch.equal(tensor, weights[f"{name}.{key}"])
            for key, tensor in names[name].state_dict().items()
        ]
        assert all(same) == (place < 2), name


def test_the_other_half_is_learned_sooner(source: Path) -> None:
    data = half(upper=True)
    options = {"epochs": 1, "learning_rate": 0.02}
    scratch = trained(data, **options)[2]
    moved = trained(data, init=str(source), **options)[2]
    assert moved > scratch


def test_trials_begin_with_the_weights_too(source: Path) -> None:
    data = half(upper=True)
    context = Context(SPACE, data, "cpu", 0)
    scores = []
    for init in (None, str(source)):
        evaluator = Train(context, epochs=1, batch_size=20, init=init)
        scores.append(evaluator.evaluate(TRIAL, lambda step, metrics: None))
    assert scores[0] != scores[1]


def test_the_classifier_begins_anew() -> None:
    data = half(upper=False)
    one, two = (SPACE.build(TRIAL.architecture, data.task) for _ in range(2))
    fresh = {name: tensor.clone() for name, tensor in two.state_dict().items()}
    share = transfer.begin(two, one.state_dict())
    assert 0.9 < share < 1
    for name, tensor in two.state_dict().items():
        given = fresh if name.startswith("classifier") else one.state_dict()
        assert torch.equal(tensor, given[name])


def test_the_classifiers_statistics_begin_anew_too() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))

    source = {name: torch.full_like(t, 7) for name, t in network().state_dict().items()}
    began = network()
    assert transfer.begin(began, source) == 6 / 16
    assert all((tensor == 7).all() for tensor in began[0].parameters())  # type: ignore[index]
    assert not any((tensor == 7).any() for tensor in began[1].state_dict().values())  # type: ignore[index]


def test_torchvisions_networks_begin_with_its_weights(tmp_path: Path) -> None:
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    weights, network = transfer.read(str(tmp_path / "resnet18.pth")), models.resnet18(num_classes=5)
    names = {part: name for name, part in network.named_children()}
    blocks = [f"layer{i}" for i in range(1, 5)]
    assert [names[stage] for stage in transfer.stages(network)] == ["conv1", "bn1", *blocks, "fc"]
    assert transfer.begin(network, weights) > 0.99
    for name, tensor in network.state_dict().items():
        assert name.startswith("fc.") or torch.equal(tensor, weights[name])


def test_networks_of_any_size_begin_with_what_overlaps() -> None:
    rng, task = Random(0), half(upper=False).task
    for _ in range(10):
        one, two = (SPACE.build(SPACE.sample(rng), task) for _ in range(2))
        assert 0 < transfer.begin(two, one.state_dict()) <= 1
        kept, first = two.state_dict()["stage1_block1.conv.bias"], one.state_dict()
        size = min(len(kept), len(first["stage1_block1.conv.bias"]))
        assert torch.equal(kept[:size], first["stage1_block1.conv.bias"][:size])


def test_nothing_that_fits_is_an_error() -> None:
    network = SPACE.build(TRIAL.architecture, half(upper=False).task)
    with pytest.raises(ValueError, match="has no tensor of a name"):
        transfer.begin(network, {"elsewhere": torch.ones(3)})


def test_a_stage_must_be_left_to_train() -> None:
    network = SPACE.build(TRIAL.architecture, half(upper=False).task)
    count = len(transfer.stages(network))
    transfer.freeze(network, count - 1)
    assert any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ValueError, match="leave none to train"):
        transfer.freeze(network, count)


def settings(**changes: object) -> Settings:
    return replace(Settings(1, 20, "sgd", 0.1, 5e-4, 0.0, "none"), **changes)  # type: ignore[arg-type]


def test_every_stage_has_its_learning_rate() -> None:
    network = SPACE.build(TRIAL.architecture, half(upper=False).task)
    groups = parameter_groups(network, settings(stage_decay=0.5))
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert len(scales) == len(list(network.parameters()))
    for behind, stage in enumerate(reversed(transfer.stages(network))):
        assert {scales[id(p)] for p in stage.parameters()} == {0.5**behind}
    assert {group["scale"] for group in parameter_groups(network, settings())} == {1.0}


def test_parameters_outside_of_stages_are_trained() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(8 * 8 * 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ self.weight

    data, network = half(upper=False), Bare()
    evaluator = Train(Context(SPACE, data, "cpu", 0))
    fit(
        network,
        data.train,
        data.val,
        evaluator._on_device.normalize,
        settings(stage_decay=0.5),
        0,
        lambda *_: None,
    )
    assert network.weight.abs().sum() > 0


def broken(folder: Path) -> Mapping[str, tuple[str, type[Exception], str]]:
    write_weights(folder / "whole.safetensors", {"weight": torch.ones(9)}, {})
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-9])
    (folder / "flipped.safetensors").write_bytes(whole[:-9] + b"!" + whole[-8:])
    (folder / "text.pt").write_text("no weights")
    (folder / "empty.pt").touch()
    torch.save([1, 2], folder / "list.pt")
    torch.save(nn.Linear(1, 1), folder / "code.pt")
    return {
        "missing": (str(folder / "no.safetensors"), DataError, "cannot be read"),
        "folder": (str(folder), DataError, "is no file"),
        "cut": (str(folder / "cut.safetensors"), DataError, "cannot be read"),
        "flipped": (str(folder / "flipped.safetensors"), DataError, "is damaged"),
        "text": (str(folder / "text.pt"), DataError, "cannot be read"),
        "empty": (str(folder / "empty.pt"), DataError, "cannot be read"),
        "list": (str(folder / "list.pt"), DataError, "holds no state_dict"),
        "code": (str(folder / "code.pt"), DataError, "it is damaged, or more than a state_dict"),
        "model": ("torchvision:resnet81", RecipeError, "Did you mean 'resnet"),
    }


CASES = ("missing", "folder", "cut", "flipped", "text", "empty", "list", "code", "model")


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_had_is_told_in_a_line_before_any_work(tmp_path: Path, case: str) -> None:
    init, kind, sentence = broken(tmp_path)[case]
    with pytest.raises(kind, match=sentence) as caught:
        Train(Context(SPACE, half(upper=False), "cpu", 0), init=init)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "pickle", "safetensors"])
def test_no_damage_is_more_than_a_line(tmp_path: Path, form: str) -> None:
    """Bytes changed or cut off anywhere: readable all the same, or a DataError."""
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    tensors = {f"part{i}.weight": torch.ones(4, 3) for i in range(3)}
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    whole, rng = path.read_bytes(), Random(0)
    told: list[str] = []
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(min(len(whole), 600))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(whole), rng.randrange(len(whole))])])
        try:
            transfer.read(str(path))
        except DataError as error:
            told.append(str(error))
    assert len(told) > 50
    assert not any("\n" in sentence for sentence in told)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing can be fetched: the way out is a proxy that is not there. Torchvision's folder."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_without_a_network_torchvisions_weights_are_a_data_error(offline: Path) -> None:
    with pytest.raises(DataError) as caught:
        transfer.read("torchvision:resnet18")
    said = str(caught.value)
    assert said.startswith(f"evaluation.init: {offline / 'resnet18-f37072fd.pth'} is not there")
    assert said.endswith("; give the path of a file instead")
    assert "\n" not in said


def test_a_damaged_file_in_torchvisions_folder_is_told(offline: Path) -> None:
    offline.mkdir(parents=True)
    (offline / "resnet18-f37072fd.pth").touch()
    with pytest.raises(DataError, match=r"resnet18-f37072fd\.pth cannot be read"):
        transfer.read("torchvision:resnet18")


def test_without_timm_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"pip install 'evonas\[timm\]'"):
        transfer.read("timm:resnet18")


@pytest.mark.parametrize("name", ["resnet81", "resnet18.nowhere"])
def test_a_wrong_name_for_timm_is_told(name: str) -> None:
    pytest.importorskip("timm", reason="needs the extra timm")
    with pytest.raises(RecipeError, match=r"timm has no weights of .* Did you mean 'resnet"):
        transfer.read(f"timm:{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
@pytest.mark.usefixtures("offline")
def test_without_a_network_timms_weights_are_a_data_error(name: str) -> None:
    pytest.importorskip("timm", reason="needs the extra timm")
    with pytest.raises(DataError, match=rf"timm cannot fetch {name}: .*; give the path") as caught:
        transfer.read(f"timm:{name}")
    assert "\n" not in str(caught.value)


def test_torchvisions_weights_are_read_from_its_folder(offline: Path) -> None:
    offline.mkdir(parents=True)
    torch.save({"conv1.weight": torch.ones(2)}, offline / "resnet18-f37072fd.pth")
    assert transfer.read("torchvision:resnet18")["conv1.weight"].sum() == 2


def test_what_is_here_is_found_without_fetching(offline: Path) -> None:
    assert transfer.here("torchvision:resnet18") is None
    offline.mkdir(parents=True)
    torch.save({"conv1.weight": torch.ones(2)}, offline / "resnet18-f37072fd.pth")
    assert transfer.here("torchvision:resnet18") == offline / "resnet18-f37072fd.pth"


def test_timms_weights_are_found_in_the_cache_of_their_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm", reason="needs the extra timm")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert transfer.here("timm:resnet18") is None
    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    assert transfer.here("timm:resnet18") == snapshot / "model.safetensors"


def cifar(shared_data: Path, classes: range, each: int) -> Data:
    """Images of some classes at 16×16, those classes numbered from 0."""
    with np.load(shared_data / "cifar10.webp.npz", allow_pickle=False) as file:
        sizes, labels = file["webp_train_bytes"], file["y_train"]
        sheets = np.split(file["webp_train"], sizes.cumsum()[:-1])
    chosen = np.concatenate([np.flatnonzero(labels == c)[: each + 100] for c in classes])

    @functools.cache
    def decoded(sheet: int) -> Images:
        image = Image.open(io.BytesIO(sheets[sheet].tobytes()))  # 500 of them, one above the other
        small = image.resize((16, image.height // 2), Image.Resampling.BOX)
        return np.asarray(small).reshape(-1, 16, 16, 3)

    images = np.stack([decoded(n // 500)[n % 500] for n in chosen])
    arrays = Arrays(
        (images, labels[chosen].astype(np.int64) - classes[0]), (images[:5], np.arange(5))
    )
    return split(arrays, validation=100 / (each + 100), seed=0, source="CIFAR-10")


@pytest.mark.slow
def test_half_of_cifar10_helps_with_the_other_half(shared_data: Path, tmp_path: Path) -> None:
    """From 2,500 images of each of the classes 0–4 to 250 of each of the others; two seeds."""
    space = PlainCNN(1, 64)
    widths = {f"k{i}": 1 for i in range(1, 5)} | {f"c{i}": 16 * i for i in range(1, 5)}
    trial = Trial(0, Proposal(space.architecture(widths)))
    first, second = cifar(shared_data, range(5), 2500), cifar(shared_data, range(5, 10), 250)
    weights = Continued(Checkpoints(tmp_path / "weights", 1.0))
    source = Train(Context(space, first, "cpu", 0, weights=weights), epochs=10, batch_size=64)
    source.evaluate(replace(trial, proposal=replace(trial.proposal, stage="final")), print)
    network = space.build(trial.architecture, first.task)
    network.load_state_dict(dict(weights.checkpoints.read(0, stage="final").weights))
    as_a_run_keeps_it(network, first, tmp_path / "weights.safetensors")
    scores: dict[str | None, list[float]] = {}
    for seed in range(2):
        for init in (None, str(tmp_path / "weights.safetensors")):
            evaluator = Train(
                Context(space, second, "cpu", seed), epochs=5, batch_size=32, init=init
            )
            metrics = evaluator.evaluate(trial, lambda step, metrics: None)
            scores.setdefault(init, []).append(metrics["val_accuracy"])
    scratch, moved = (fmean(values) for values in scores.values())
    print(f"from scratch {scratch:.3f}, transferred {moved:.3f}")
    assert moved > scratch + 0.03
