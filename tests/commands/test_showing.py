"""One thing that has a name, shown to a person."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from evonas.commands import catalogue, showing
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


@pytest.mark.parametrize(
    ("reference", "parameters"),
    [
        ("mbconv/model4", "50,548"),
        ("mbconv/model8", "1,068,740"),
        ("plain_cnn/small", "9,636"),
    ],
)
def test_show_prints_the_parameters(reference: str, parameters: str) -> None:
    shown = showing.show(REGISTRY, reference, None, "3x32x32", 100).splitlines()
    assert f"parameters {parameters}" in shown
    assert any(line.startswith("FLOPs      ") for line in shown)


def test_show_tells_the_receptive_field() -> None:
    shown = showing.show(REGISTRY, "resnet/resnet18", None, "3x224x224", 1000)
    assert shown.endswith("receptive field 435 pixels")


def test_show_tells_conditions_and_rules() -> None:
    shown = showing.show(REGISTRY, "backbone", None, "3x32x32", 10).splitlines()
    assert [line.split()[0] for line in shown if line.endswith(", conditional")] == ["hidden"]
    assert "rule: no more stages are frozen than kept" in shown


def test_show_lists_every_layer_with_its_size() -> None:
    shown = showing.show(REGISTRY, "plain_cnn/small", None, "1x28x28", 10).splitlines()
    convolutions = [line.split() for line in shown if "Conv2d" in line]
    assert [line[2] for line in convolutions] == ["4×28×28", "8×14×14", "16×7×7", "32×3×3"]
    assert [line[3] for line in convolutions] == ["40", "296", "1,168", "4,640"]
    assert "k1=1" in shown[0]
    rows = [line for line in shown if line.startswith(("stage", "pool", "flatten", "classifier"))]
    total = sum(int(line.split()[-1].replace(",", "")) for line in rows)
    assert f"parameters {total:,}" in shown


def test_show_of_a_space_describes_it() -> None:
    shown = showing.show(REGISTRY, "mbconv", None, "3x32x32", 100)
    assert "stages of MBConv blocks" in shown
    assert "choices: " in shown
    for choice in ("stem", "depth1", "channels4", "expansion2"):
        assert choice in shown
    assert "points: model4, model5, model6, model7, model8" in shown
    assert "points: none" in showing.show(REGISTRY, "nasbench201", None, "3x32x32", 100)


def test_show_takes_layers_that_give_no_tensor() -> None:
    Path("plugins/spaces").mkdir(parents=True)
    Path("plugins/spaces/rows.py").write_text(LSTM)
    rows = Registry((Path("plugins"),))
    shown = showing.show(rows, "rows/one", None, "3x8x8", 4)
    assert "LSTM" in shown


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mbconw", "unknown component 'mbconw'.* Did you mean 'mbconv'"),
        ("mbconw/model4", "unknown space 'mbconw'.* Did you mean 'mbconv'"),
        ("mbconv/model9", "unknown network of mbconv 'model9'.* Did you mean 'model8'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(reference: str, message: str) -> None:
    with pytest.raises(UnknownComponent, match=message):
        showing.show(REGISTRY, reference, None, "3x32x32", 100)


@pytest.mark.parametrize("shape", ["32x32", "3x32", "3,32,32", "axbxc", "", "3x32x32x1", "3x0x32"])
def test_a_shape_that_is_none_is_refused(shape: str) -> None:
    with pytest.raises(RecipeError, match="CHANNELSxHEIGHTxWIDTH"):
        showing.show(REGISTRY, "mbconv/model4", None, shape, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_listed_can_be_shown(kind: str) -> None:
    for row in catalogue.components(REGISTRY, kind):
        shown = showing.show(REGISTRY, kind, row.name, "3x32x32", 10)
        assert shown.startswith(f"{kind} {row.name}: ")
        assert "options" in shown
        assert "``" not in shown
        assert "Args:" not in shown


def test_options_are_shown_with_range_default_and_meaning() -> None:
    lines = showing.show(REGISTRY, "strategy", "tpe", "3x32x32", 10).splitlines()
    place = lines.index("  startup_trials: whole number, at least 1; default 10")
    assert lines[place + 1] == "      Random trials before the model is used."
    assert any("Algorithms for hyper-parameter optimization, NeurIPS 2011" in x for x in lines)
    train = showing.show(REGISTRY, "train", None, "3x32x32", 10)
    assert "  optimizer: sgd | adamw | muon\n" in train
    assert "  weight_decay: number, at least 0, less than 1; default 0.0005\n" in train
    assert "  compile: true or false; default false\n" in train
    inner = showing.show(REGISTRY, "inherit", None, "3x32x32", 10)
    assert "  of: a component's name, or name with options; must be given\n" in inner


def test_a_name_of_two_kinds_is_shown_twice() -> None:
    shown = showing.show(REGISTRY, "hypernet", None, "3x32x32", 10)
    assert "strategy hypernet: " in shown
    assert "evaluator hypernet: " in shown


def test_every_option_of_every_component_says_what_it_means() -> None:
    lacking = []
    for kind in KINDS:
        for row in catalogue.components(REGISTRY, kind):
            lines = showing.show(REGISTRY, kind, row.name, "3x32x32", 10).splitlines()
            rows = lines[lines.index("options:") + 1 :] if "options:" in lines else []
            rows = rows[: rows.index("")] if "" in rows else rows
            for option, following in itertools.pairwise((*rows, "")):
                if not option.startswith("   ") and not following.startswith("      "):
                    lacking.append(f"{kind} {row.name}: {option}")
    assert lacking == []


def test_a_recipe_is_shown() -> None:
    assert "name: digits_evo" in showing.show(REGISTRY, "recipe", "digits_evo", "3x32x32", 10)
    with pytest.raises(RecipeError, match="Did you mean 'digits_evo'"):
        showing.show(REGISTRY, "recipe", "digits_eva", "3x32x32", 10)
