"""What there is, shown to a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from evonas.commands import catalogue
from evonas.errors import RecipeError, UnknownComponent
from evonas.recipe.registry import KINDS, Registry

REGISTRY = Registry()

LSTM = '''
"""Reads the image as a sequence of rows."""
from torch import nn
from evonas.architecture import Categorical
from evonas.spaces.base import SearchSpace

class Rows(SearchSpace):
    """Recurrent, with a layer that gives a tuple."""

    points = {"one": {"units": 8}}

    def __init__(self):
        self.domains = {"units": Categorical((8, 16))}

    def build(self, architecture, task):
        units = architecture.choices["units"]
        return nn.Sequential(
            nn.Flatten(2), nn.LSTM(task.height * task.width, units, batch_first=True),
            Last(), nn.Linear(units, task.classes),
        )

class Last(nn.Module):
    def forward(self, out):
        return out[0][:, -1]
'''
BROKEN = {
    "raises_on_import": "1 / 0",
    "raises_when_made": (
        "from evonas.spaces.base import SearchSpace\n"
        "class Broken(SearchSpace):\n"
        "    def __init__(self): 1 / 0\n"
        "    def build(self, architecture, task): ...\n"
    ),
    "without_domains": (
        "from evonas.spaces.base import SearchSpace\n"
        "class Broken(SearchSpace):\n"
        "    def build(self, architecture, task): ...\n"
    ),
}


def plugins(**files: str) -> Registry:
    folder = Path("plugins/spaces")
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return Registry((folder.parent,))


@pytest.mark.parametrize(
    ("reference", "parameters"),
    [
        ("mbconv/model4", "50,548"),
        ("mbconv/model8", "1,068,740"),
        ("plain_cnn/small", "9,636"),
    ],
)
def test_show_prints_the_parameters(reference: str, parameters: str) -> None:
    shown = catalogue.show(REGISTRY, reference, "3x32x32", 100).splitlines()
    assert f"parameters {parameters}" in shown
    assert any(line.startswith("FLOPs      ") for line in shown)


def test_show_tells_the_receptive_field() -> None:
    shown = catalogue.show(REGISTRY, "resnet/resnet18", "3x224x224", 1000)
    assert shown.endswith("receptive field 435 pixels")


def test_show_tells_conditions_and_rules() -> None:
    shown = catalogue.show(REGISTRY, "backbone", "3x32x32", 10).splitlines()
    assert [line.split()[0] for line in shown if line.endswith(", conditional")] == ["hidden"]
    assert "rule: no more stages are frozen than kept" in shown


def test_show_lists_every_layer_with_its_size() -> None:
    shown = catalogue.show(REGISTRY, "plain_cnn/small", "1x28x28", 10).splitlines()
    convolutions = [line.split() for line in shown if "Conv2d" in line]
    assert [line[2] for line in convolutions] == ["4×28×28", "8×14×14", "16×7×7", "32×3×3"]
    assert [line[3] for line in convolutions] == ["40", "296", "1,168", "4,640"]
    assert "k1=1" in shown[0]
    rows = [line for line in shown if line.startswith(("stage", "pool", "flatten", "classifier"))]
    total = sum(int(line.split()[-1].replace(",", "")) for line in rows)
    assert f"parameters {total:,}" in shown


def test_show_of_a_space_describes_it() -> None:
    shown = catalogue.show(REGISTRY, "mbconv", "3x32x32", 100)
    assert "stages of MBConv blocks" in shown
    assert "size " in shown
    for choice in ("stem", "depth1", "channels4", "expansion2"):
        assert choice in shown
    assert "points: model4, model5, model6, model7, model8" in shown
    assert "points: none" in catalogue.show(REGISTRY, "nasbench201", "3x32x32", 100)


def test_show_takes_layers_that_give_no_tensor() -> None:
    shown = catalogue.show(plugins(rows=LSTM), "rows/one", "3x8x8", 4)
    assert "LSTM" in shown


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mbconw", "unknown space 'mbconw'.* Did you mean 'mbconv'"),
        ("mbconw/model4", "unknown space 'mbconw'.* Did you mean 'mbconv'"),
        ("mbconv/model9", "unknown point of mbconv 'model9'.* Did you mean 'model8'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(reference: str, message: str) -> None:
    with pytest.raises(UnknownComponent, match=message):
        catalogue.show(REGISTRY, reference, "3x32x32", 100)


@pytest.mark.parametrize("shape", ["32x32", "3x32", "3,32,32", "axbxc", "", "3x32x32x1", "3x0x32"])
def test_a_shape_that_is_none_is_refused(shape: str) -> None:
    with pytest.raises(RecipeError, match="CHANNELSxHEIGHTxWIDTH"):
        catalogue.show(REGISTRY, "mbconv/model4", shape, 100)


def test_every_kind_is_listed() -> None:
    listed = catalogue.components(REGISTRY, None)
    assert list(listed) == [kind.folder for kind in KINDS.values()]
    assert {"mbconv", "nasbench201", "plain_cnn", "resnet"} < {row.name for row in listed["spaces"]}
    for row in (row for rows in listed.values() for row in rows):
        assert row.origin == "built-in"
        assert row.summary.endswith(".")
        assert "does not load" not in row.summary
    sizes = {row.name: row.size for row in listed["spaces"]}
    assert sizes["nasbench201"] == 15_625
    assert all(row.size is None for row in listed["strategies"])


@pytest.mark.parametrize("kind", ["space", "spaces"])
def test_one_kind_is_listed(kind: str) -> None:
    assert list(catalogue.components(REGISTRY, kind)) == ["spaces"]


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownComponent, match=r"unknown kind 'spase'\. Did you mean 'space'"):
        catalogue.components(REGISTRY, "spase")


def test_a_broken_plugin_hides_no_other() -> None:
    rows = {row.name: row for row in catalogue.components(plugins(**BROKEN), "space")["spaces"]}
    assert rows["mbconv"].size is not None
    for name in BROKEN:
        assert rows[name].summary.startswith("does not load: ")
        assert rows[name].origin.endswith(f"{name}.py")


def test_a_name_taken_twice_is_listed_twice() -> None:
    rows = catalogue.components(plugins(mbconv=LSTM), "space")["spaces"]
    twice = [row for row in rows if row.name == "mbconv"]
    assert len(twice) == 2
    assert all("is there twice" in row.summary for row in twice)
