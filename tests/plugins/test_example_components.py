"""The worked examples of other kinds than spaces."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from evonas.commands import catalogue
from evonas.datasets.base import load
from evonas.errors import DataError, OptionError
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
ImageList = REGISTRY.find("dataset", "image_list")
Robust = REGISTRY.find("evaluator", "robust")
QUICK = partial(Train, epochs=3, batch_size=32)


def write(splits: str = "", header: tuple[str, ...] = ("image", "label", "split")) -> Path:
    """A list of 24 noisy images of cats and dogs in a folder, with its splits in turn."""
    folder, noise = Path("pictures"), np.random.default_rng(0)
    (folder / "files").mkdir(parents=True)
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for number in range(24):
            image = noise.integers(0, 200, (9, 9, 3), np.uint8)
            label = ("dog", "cat")[number // 12]
            image[0, 0, 0] = 255 if label == "dog" else 0
            name = f"files/{number}.png"
            Image.fromarray(image).save(folder / name)
            split = splits.split(",")[number % len(splits.split(","))]
            rows.writerow((name, label, split)[: len(header)])
    return (folder / "list.csv").absolute()


def read(**keys: object) -> Data:
    section = DatasetSection.model_validate({"name": "image_list", "validation": 0.25, **keys})
    return load(section, bind(REGISTRY, "dataset", section, "dataset"))


def test_the_list_keeps_the_contract() -> None:
    path = write()
    assert check_dataset(partial(ImageList, path)) == []
    assert catalogue.check(REGISTRY, "dataset", "image_list", (f"path={path}", "size=6")) == []


def test_labels_belong_to_their_images() -> None:
    data = read(path=write())
    assert data.classes == ("cat", "dog")
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [14, 5, 5]
    for part in (data.train, data.val, data.test):
        assert (part.images[:, 0, 0, 0] == 255 * part.labels).all()


def test_the_list_may_say_the_splits() -> None:
    data = read(path=write("train,train,val,test"))
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [12, 6, 6]


def test_columns_may_have_other_names() -> None:
    path = write(header=("file", "kind"))
    assert read(path=path, image="file", label="kind", size=8).task.input_shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"dataset image_list: .*list\.csv: has no column 'image'"):
        read(path=path)


def test_a_list_without_images_to_train_on() -> None:
    with pytest.raises(DataError, match="no row is of the split 'train'"):
        read(path=write("val"))


def test_lists_that_will_not_do() -> None:
    with pytest.raises(DataError, match=r"no file .*absent\.csv; --set dataset\.path=FILE"):
        read(path="absent.csv")
    with pytest.raises(DataError, match="split 'tests' is none of train, val, test"):
        read(path=write("train,tests"))


def world(folder: Path) -> Context:
    data, weights = load(DatasetSection(name="digits")), Continued(Checkpoints(folder, 1))
    return Context(PlainCNN(2, 16), data, "cpu", 0, folder, weights)


def test_robust_keeps_the_contract() -> None:
    assert check_evaluator(partial(Robust, of=partial(Train, epochs=2))) == []
    assert catalogue.check(REGISTRY, "evaluator", "robust") == []


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
