"""A recipe for a folder of pictures, and what is wrong with a machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from cli_helper import evonas
from PIL import Image
from torchvision import models

from evonas.commands import init
from evonas.recipe import reading

GOOD = "from evonas import Strategy\nclass Mine(Strategy):\n    def ask(self, rng): ...\n"


def pictures(folder: str = "my pets") -> None:
    for name, count in {"cat": 12, "dog": 20}.items():
        (Path(folder) / name).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (20 + n, 18), (9 * n, 0, 0)).save(f"{folder}/{name}/{n}.png")
    (Path(folder) / "cat" / "notes.txt").write_text("no picture")


@pytest.mark.usefixtures("hub")
def test_a_recipe_is_written_that_runs() -> None:
    pictures()
    done = evonas("init", "my pets", "--minutes", "2")
    assert done.exit_code == 0, done.output
    assert "32 train; 2 classes of 12 to 20 training pictures" in done.output
    assert "skipped 1 file: 1 no picture (cat/notes.txt)" in done.output
    given = reading.load(Path("my_pets.yaml"))
    assert given.budget.minutes == 2
    assert given.dataset is not None
    assert given.dataset.size == 16  # the largest multiple of four that every picture has
    assert "finished" in runs("my_pets.yaml")


def test_of_unequal_classes_each_counts_alike() -> None:
    pictures("pets")
    for n in range(12, 60):
        Image.new("RGB", (20, 18)).save(f"pets/cat/{n}.png")
    assert "The classes are unequal" in evonas("init", "pets").output
    assert reading.load(Path("pets.yaml")).objectives == {"val_balanced_accuracy": "max"}


def test_what_is_there_is_not_overwritten() -> None:
    pictures("pets")
    Path("pets.yaml").write_text("mine")
    refused = evonas("init", "pets")
    assert (refused.exit_code, refused.output) == (
        5,
        "evonas: pets.yaml: is there already; --output FILE\n",
    )
    assert Path("pets.yaml").read_text() == "mine"


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_without_classes(folder: str) -> None:
    Path("empty").mkdir()
    refused = evonas("init", folder)
    assert refused.exit_code == 2
    assert len(refused.output.splitlines()) == 1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps weights that it has fetched: a folder that is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def runs(recipe: str) -> str:
    short = ["budget.trials=1", "evaluation.epochs=1", "evaluation.final_epochs=1"]
    short += ["executor=serial", "tracking=console", "strategy=random"]
    return evonas("run", recipe, *(word for key in short for word in ("--set", key))).output


def test_weights_that_are_here_are_begun_with(hub: Path) -> None:
    weights = models.mobilenet_v3_small().state_dict()
    torch.save(weights, hub / "mobilenet_v3_small-047dcff4.pth")
    pictures("pets")
    said = evonas("init", "pets", "--minutes", "1").output
    assert "the weights of torchvision:mobilenet_v3_small, which are on this machine" in said
    given = reading.load(Path("pets.yaml"))
    assert (given.space.name, given.evaluation.name) == ("backbone", "train")
    assert given.dataset is not None
    assert given.dataset.size == 18  # the pictures' own: networks enlarge them
    done = runs("pets.yaml")
    assert "weights: networks begin with those of torchvision:mobilenet_v3_small" in done
    assert "finished" in done, done
    own = evonas("init", "pets", "--from-scratch", "--output", "own.yaml").output
    assert "--pretrained begins with weights of ImageNet, which are on this machine" in own
    assert reading.load(Path("own.yaml")).space.name == "cnn"


@pytest.mark.usefixtures("hub")
def test_without_any_weights_it_is_from_scratch_and_says_so() -> None:
    pictures("pets")
    said = evonas("init", "pets", "--minutes", "1").output
    assert "from scratch" in said
    assert "which the run would fetch and help most with as few as 12 pictures of a class" in said
    assert reading.load(Path("pets.yaml")).space.name == "cnn"
    done = runs("pets.yaml")
    assert "weights: from scratch; with 8 pictures of a class" in done
    asked = evonas("init", "pets", "--pretrained", "--output", "fetched.yaml").output
    assert "torchvision:mobilenet_v3_small, which the run will fetch" in asked
    assert reading.load(Path("fetched.yaml")).space.name == "backbone"


def found(pictures_: int) -> init.Found:
    return init.Found(
        Counter(a=pictures_ // 2, b=pictures_ // 2), Counter(train=pictures_), 100, ""
    )


def test_more_time_gives_larger_pictures_and_longer_trainings() -> None:
    step = 1e-4
    start = init.Start("", here=False, sides=init.sizes(100, on_cpu=True))
    plans = [init.plan(found(2000), minutes, 2, start, step) for minutes in (1, 30, 240)]
    assert [p.size for p in plans] == sorted(p.size for p in plans)
    assert plans[0].size < plans[-1].size
    assert plans[0].flops < plans[-1].flops
    for each in plans[1:]:
        assert each.trials >= 40
        assert each.epochs <= each.final_epochs <= 10 * each.epochs


def test_pictures_are_not_made_larger_than_they_are() -> None:
    assert init.sizes(30, on_cpu=True) == [28]
    assert init.sizes(50, on_cpu=True)[-1] == 48
    assert init.sizes(999, on_cpu=True)[-1] == 64
    assert init.sizes(999, on_cpu=False)[-1] == 128


def test_the_doctor_says_what_is_there() -> None:
    done = evonas("doctor")
    findings = {line[5:].split()[0]: line[:3] for line in done.output.splitlines()}
    # How much memory and disk are free is the machine's business.
    assert {findings.pop(what, "ok ") for what in ("memory", "disk")} <= {"ok ", "BAD"}
    names = ("python", "evonas", "torch", "devices", "mlflow", "plugins")
    assert findings == dict.fromkeys(names, "ok "), done.output
    assert done.exit_code == (6 if "BAD" in done.output else 0)
    assert not Path("mlruns").exists()


def test_the_doctor_finds_plugins_that_do_not_load() -> None:
    Path("plugins/strategies").mkdir(parents=True)
    Path("plugins/strategies/mine.py").write_text(GOOD)
    Path("plugins/strategies/sick.py").write_text("1 / 0")
    done = evonas("doctor")
    assert done.exit_code == 6
    assert "BAD  strategy sick " in done.output
    assert "ZeroDivisionError" in done.output
    assert "ok   plugins    1 load" in done.output


def test_the_doctor_finds_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("store.db").write_text("no database, but some text that is as long as a header would be")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///store.db")
    done = evonas("doctor")
    assert done.exit_code == 6
    assert "BAD  mlflow" in done.output
