"""Every recipe of the folder runs two tiny trials, through the same code as the command line."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_SPACES, all_spaces
from PIL import Image
from torchvision import models

from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run, sweep
from evonas.spaces.nasbench201 import NASBench201

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TINY = ("budget.trials=2", "executor.name=serial", "tracking.name=console")
TINY_OPTIONS = {
    "train": ("epochs=1", "final_epochs=1"),
    "supernet": ("epochs=1",),
    "hypernet": ("epochs=1",),
}


def overrides(path: Path, images: Callable[..., Path], folder: Path) -> list[str]:
    """What makes a recipe tiny: its own components, on data made here."""
    given = reading.load(path)
    sets = [*TINY, "sweep={}"]  # the sweep's members differ in what is made tiny here
    sets += [f"space.{k}={v}" for k, v in TINY_SPACES.get(given.space.name, {}).items()]
    if given.evaluation.name == "tabular":
        return [*TINY, f"evaluation.path={table(folder)}"]
    section, prefix = given.dump()["evaluation"], "evaluation."
    rungs = "min_fidelity" in given.strategy.options  # they need their epochs
    while section is not None:
        tiny = TINY_OPTIONS.get(section["name"], ())
        sets += [prefix + option for option in tiny if not (rungs and option == "epochs=1")]
        if "init" in section:  # as if the published weights had been downloaded
            sets.append(f"{prefix}init={published(str(given.space.options['network']), folder)}")
        section, prefix = section.get("of"), f"{prefix}of."
    if given.dataset is not None and given.dataset.name == "image_folder":
        sets += [f"dataset.path={image_folder(folder)}", "dataset.size=8"]
    elif given.dataset is not None and given.dataset.name != "digits":
        sets.append(f"dataset.path={images()}")
    return sets


def published(network: str, folder: Path) -> Path:
    """Random weights of a network of torchvision, in a file."""
    path = folder / "weights.pth"
    torch.save(models.get_model(network.partition(":")[2]).state_dict(), path)
    return path


def table(folder: Path) -> Path:
    """A table with the columns of the NAS-Bench-201 file and a row for every cell."""
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "valid_12ep", "test_200ep", "params_M"])
        for a, b, c, d, e, f in itertools.product(NASBench201.operations, repeat=6):
            key = f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
            writer.writerow([key, len(key), len(key) + 1, 0.5])
    return path


def image_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, n in itertools.product(("cat", "dog"), range(20)):
        (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / name / f"{n}.png")
    return folder / "pictures"


def test_there_is_a_recipe_for_every_space() -> None:
    searched = {reading.load(path).space.name for path in RECIPES}
    without = set(Registry().origins("space")) - searched
    assert not without, f"write recipes/NAME.yaml that searches {', '.join(without)}"


def test_the_members_of_sweeps_are_recipes() -> None:
    swept = [given for path in RECIPES if (given := reading.load(path)).sweep]
    sizes = {given.name: len(sweep.members(given)) for given in swept}
    assert sizes == {"params_curve": 7, "spaces": 3, "strategies": 12}


@pytest.mark.parametrize("strategy", ["own", "random"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_two_tiny_trials(
    path: Path, strategy: str, images: Callable[..., Path], tmp_path: Path
) -> None:
    others = [] if strategy == "own" else [f"strategy.name={strategy}"]
    given = reading.load(path, overrides(path, images, tmp_path) + others)
    outcome = run.start(given, Registry(), tmp_path / "run")
    assert outcome.report.trials == {"complete": 2}
    assert outcome.report.incumbent is not None
    assert "test_accuracy" in outcome.report.final
    for name in ("recipe.yaml", "history.jsonl", "environment.txt", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    trained = given.evaluation.name != "tabular"
    assert (tmp_path / "run" / "incumbent" / "network.pt2").exists() == trained


@pytest.mark.parametrize("space", sorted(set(all_spaces()) - Registry().origins("space").keys()))
def test_two_tiny_trials_of_a_plugin(
    space: str, images: Callable[..., Path], tmp_path: Path
) -> None:
    path = ROOT / "recipes" / "digits_evo.yaml"
    sets = [*TINY, f"space={space}", "evaluation.epochs=1", "evaluation.final_epochs=1"]
    given = reading.load(path, [*sets, "constraints.params.max=1000000"])
    outcome = run.start(given, Registry((ROOT / "plugins",)), tmp_path / "run")
    assert outcome.report.trials == {"complete": 2}
    assert (tmp_path / "run" / "incumbent" / "network.pt2").exists()


def test_the_resolved_recipe_runs_the_same(images: Callable[..., Path], tmp_path: Path) -> None:
    path = ROOT / "recipes" / "digits_evo.yaml"
    given = reading.load(path, overrides(path, images, tmp_path))
    one = run.start(given, Registry(), tmp_path / "one")
    again = run.start(reading.load(tmp_path / "one" / "recipe.yaml"), Registry(), tmp_path / "two")
    assert one.report.incumbent is not None
    assert again.report.incumbent is not None
    assert one.report.incumbent.metrics == again.report.incumbent.metrics
    assert one.report.final["test_accuracy"] == again.report.final["test_accuracy"]
