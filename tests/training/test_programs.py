"""Networks of every space as files: they compute the same, of any batch, of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, TINY_SPACES, all_spaces
from torch import nn

from evonas.errors import DataError, PluginError
from evonas.recipe.registry import Registry
from evonas.spaces.base import Task
from evonas.training import programs
from evonas.training.loop import Normalize

REGISTRY = Registry((ROOT / "plugins",))
TASK = Task(3, 32, 32, 5)
QUICK = {"plain_cnn", "tiny_mlp", "residual_chain"}  # The others take two seconds and more each.
EACH_SPACE = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in all_spaces()
]
ABOUT: dict[str, Any] = {"task": vars(TASK), "classes": ["ä", "b", "c", "d", "e"]}


def network(name: str = "plain_cnn", seed: int = 1) -> nn.Sequential:
    space = REGISTRY.find("space", name)(**TINY_SPACES.get(name, {}))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = space.build(space.sample(Random(seed)), TASK)
        normalize = Normalize(100 * torch.rand(3), 10 + 50 * torch.rand(3))
    return nn.Sequential(normalize, built).eval()


def images(count: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, *TASK.input_shape), dtype=torch.uint8, generator=rng)


def write(path: Path, whole: nn.Sequential | None = None, about: Any = ABOUT) -> Path:
    form = path.suffix.removeprefix(".")
    path.write_bytes(programs.program(whole or network(), TASK, about, form))
    return path


@pytest.mark.parametrize("form", programs.FORMATS)
@pytest.mark.parametrize("name", EACH_SPACE)
def test_every_space_gives_the_same_logits(name: str, form: str, tmp_path: Path) -> None:
    whole = network(name)
    program, about = programs.read(write(tmp_path / f"a.{form}", whole))
    assert about["classes"] == ABOUT["classes"]
    with torch.inference_mode():
        for count in (100, 1):
            given = images(count)
            assert torch.allclose(program(given), whole(given), atol=1e-4)


def test_a_torch_program_takes_bytes_and_floats_alike(tmp_path: Path) -> None:
    program = torch.export.load(write(tmp_path / "a.pt2")).module()
    given = images(3)
    assert torch.equal(program(given), program(given.float()))


def test_an_exported_network_is_as_it_was(tmp_path: Path) -> None:
    whole = network()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    write(tmp_path / "a.pt2", whole)
    assert whole.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())


def test_an_onnx_file_is_sound_and_says_what_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("images", "tensor(uint8)", [3, 32, 32])
    assert (given.name, given.shape[1:]) == ("logits", [5])
    assert json.loads(session.get_modelmeta().custom_metadata_map["evonas.json"]) == ABOUT


def test_the_description_may_lie_beside(tmp_path: Path) -> None:
    program = torch.export.export(network(), (images(2),))
    torch.export.save(program, tmp_path / "old.pt2")
    with pytest.raises(DataError, match=r"no class names inside, nor beside it in old\.json"):
        programs.read(tmp_path / "old.pt2")
    for name in ("architecture.json", "old.json"):
        (tmp_path / name).write_text(json.dumps(ABOUT))
        _, about = programs.read(tmp_path / "old.pt2")
        assert about["preprocessing"] == programs.preprocessing(TASK)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "about",
    [
        *("{", "[]", '{"task": 3, "classes": []}', '{"task": null, "classes": []}'),
        json.dumps({**ABOUT, "classes": ["one"]}),
    ],
)
def test_a_description_that_makes_no_sense(about: str, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(network(), (images(2),)), tmp_path / "a.pt2")
    (tmp_path / "a.json").write_text(about)
    with pytest.raises(DataError, match="its description cannot be read"):
        programs.read(tmp_path / "a.pt2")


def harmed(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    return {
        "cut": content[:middle],
        "changed": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "empty": b"",
        "text": b"hello",
    }[how]


@pytest.mark.parametrize("how", ["cut", "changed", "empty", "text"])
def test_a_damaged_torch_program(how: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt2")
    path.write_bytes(harmed(path.read_bytes(), how))
    with pytest.raises(DataError, match=r"a\.pt2: is damaged, or no network of torch\.export$"):
        programs.read(path)


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
def test_a_damaged_onnx_file(how: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    path.write_bytes(harmed(path.read_bytes(), how))
    with pytest.raises(DataError, match=r"a\.onnx: is damaged, or no network in ONNX"):
        programs.read(path)


def test_other_files(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt2")
    with pytest.raises(DataError, match=r"weights\.pt2: no network of torch\.export"):
        programs.read(tmp_path / "weights.pt2")
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="neither a run folder nor a file"):
        programs.read(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file"):
        programs.read(tmp_path / "b.onnx")
    given = torch.onnx.export(nn.ReLU(), (torch.zeros(2),), dynamo=True, verbose=False)
    assert given is not None
    given.save(tmp_path / "relu.onnx")
    with pytest.raises(DataError, match=r"relu\.onnx: takes tensor\(float\), not images of uint8"):
        programs.read(tmp_path / "relu.onnx")


class Moody(nn.Module):
    """What torch.export cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :5] if x.sum() > 0 else x.flatten(1)[:, 5:10]


@pytest.mark.parametrize("form", programs.FORMATS)
def test_a_network_that_cannot_be_exported(form: str) -> None:
    whole = nn.Sequential(Normalize(torch.zeros(3), torch.ones(3)), Moody()).eval()
    with pytest.raises(programs.Refused, match="refuses the network") as caught:
        programs.program(whole, TASK, ABOUT, form)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_packages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(PluginError, match=r"pip install 'evonas\[onnx\]'"):
        programs.need("onnx")
    programs.need("pt2")
