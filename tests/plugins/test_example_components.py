"""The worked examples of other kinds than spaces."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

import pytest
from conftest import ROOT

from evonas.commands import checking
from evonas.datasets.base import load
from evonas.errors import OptionError, RecipeError
from evonas.evaluators.base import Context
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.tabular import Tabular
from evonas.evaluators.train import Train
from evonas.executors.base import run_trial
from evonas.recipe.options import bind
from evonas.recipe.registry import Registry
from evonas.recipe.schema import DatasetSection
from evonas.spaces.plain_cnn import PlainCNN
from evonas.testing import check_dataset, check_evaluator
from evonas.training.checkpoints import Checkpoints, Continued
from evonas.training.data import Data
from evonas.trial import Proposal, Trial

REGISTRY = Registry((ROOT / "plugins",))
Shapes = REGISTRY.find("dataset", "shapes")
Robust = REGISTRY.find("evaluator", "robust")
QUICK = partial(Train, epochs=3, batch_size=32)


def read(**keys: object) -> Data:
    section = DatasetSection.model_validate({"name": "shapes", "validation": 0.25, **keys})
    return load(section, bind(REGISTRY, "dataset", section, "dataset"))


def test_shapes_keep_the_contract() -> None:
    assert check_dataset(partial(Shapes, images=80)) == []
    assert checking.check(REGISTRY, "dataset", "shapes", ("images=80", "size=12")) == []


def test_shapes_are_drawn_as_asked_for() -> None:
    data = read(images=200, size=12, seed=3)
    assert data.classes == ("disc", "square", "cross", "ring")
    assert data.task.input_shape == (1, 12, 12)
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [150, 50, 50]
    assert read(images=200, size=12, seed=4).fingerprint != data.fingerprint


def test_shapes_differ_by_class_and_not_by_brightness_alone() -> None:
    data = read(images=200, noise=0)
    bright = data.train.images.flatten(1) > 60
    areas = [bright[data.train.labels == label].float().mean() for label in range(4)]
    assert min(areas) > 0.05
    with pytest.raises(RecipeError, match=r"dataset\.noise: .*greater than or equal to 0"):
        read(noise=-1)


def world(folder: Path) -> Context:
    data, weights = load(DatasetSection(name="digits")), Continued(Checkpoints(folder, 1))
    return Context(PlainCNN(2, 16), data, "cpu", 0, folder, weights)


def test_robust_keeps_the_contract() -> None:
    assert check_evaluator(partial(Robust, of=partial(Train, epochs=2))) == []
    assert checking.check(REGISTRY, "evaluator", "robust") == []


def test_noise_costs_accuracy_and_no_noise_costs_nothing(tmp_path: Path) -> None:
    trial = Trial(0, Proposal(PlainCNN(2, 16).sample(Random(0))))
    kept = []
    for noise in (1e-3, 60.0, 1e4):
        metrics = run_trial(Robust(world(tmp_path), QUICK, noise), trial).metrics
        assert metrics["val_accuracy"] > 0.5
        kept.append(metrics["noisy_accuracy"] / metrics["val_accuracy"])
    assert kept[0] == 1
    assert kept[0] > kept[1] > kept[2]


def test_robust_refuses_who_would_ignore_its_weights(tmp_path: Path) -> None:
    Path("table.csv").write_text("architecture,valid\n4,0.5\n")
    table = partial(
        Tabular, path=Path("table.csv"), template="{c1}", columns={"val_accuracy": "valid"}
    )
    for inner in (table, partial(Inherit, of=QUICK)):
        with pytest.raises(OptionError, match="ignores the weights"):
            Robust(world(tmp_path), inner)
    with pytest.raises(OptionError, match="name: robust needs"):
        Robust(Context(PlainCNN(1, 8), None, "cpu", 0), QUICK)
