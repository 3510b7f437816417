"""Pinned parameters, FLOPs and peak memory: a network that differs by one parameter is another."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from evonas.architecture import Architecture
from evonas.recipe.registry import Registry
from evonas.spaces.base import Task
from evonas.spaces.nasbench201 import EDGES, NASBench201

COSTS = json.loads((Path(__file__).parent / "costs.json").read_text())
POINTS, CELLS, PUBLISHED = COSTS["points"], COSTS["nasbench201"], COSTS["published"]
SMALL_IMAGES = COSTS["small_images"]
IMAGENET = Task(channels=3, height=224, width=224, classes=1000)
TASK = Task(channels=3, height=32, width=32, classes=100)
# The table's multiply-adds are those of a head of 10 classes, whatever the data set.
OF_90_CLASSES = 64 * 90


def cell(text: str) -> Architecture:
    """The architecture of a string such as ``|none~0|+|none~0|none~1|+|…``."""
    operations = re.findall(r"(\w+)~(\d)", text)
    by_target = sorted(EDGES, key=lambda edge: (edge[1], edge[0]))
    assert [int(source) for _, source in operations] == [i for i, _ in by_target]
    choices = {f"edge_{i}_{j}": op for (i, j), (op, _) in zip(by_target, operations, strict=True)}
    return NASBench201().architecture(choices)


def check_cell(text: str, params_m: float, macs_m: float) -> None:
    counted = NASBench201().costs(cell(text), TASK)
    assert counted["params"] / 1e6 == params_m
    assert counted["flops"] / 2e6 == pytest.approx(macs_m, rel=1e-3)
    assert counted["flops"] / 2 - OF_90_CLASSES == pytest.approx(macs_m * 1e6, abs=1)


@pytest.mark.parametrize("reference", POINTS)
def test_named_points_cost_what_they_always_did(reference: str) -> None:
    space_name, point = reference.split("/")
    space = Registry().find("space", space_name)()
    assert space.costs(space.point(point), TASK) == POINTS[reference]


@pytest.mark.parametrize("reference", PUBLISHED)
def test_named_points_cost_what_is_published(reference: str) -> None:
    """Parameters that torchvision states or timm's network has, and torchvision's operations."""
    space_name, point = reference.split("/")
    space, published = Registry().find("space", space_name)(), PUBLISHED[reference]
    counted = space.costs(space.point(point), IMAGENET)
    assert counted["params"] == published["params"]
    if "giga_macs" in published:
        assert counted["flops"] / 2e9 == pytest.approx(published["giga_macs"], abs=6e-4)


@pytest.mark.parametrize("reference", SMALL_IMAGES)
def test_networks_for_small_images_cost_what_is_published(reference: str) -> None:
    """With the classes of the data set that they are known by, at 32×32 pixels."""
    space_name, point = reference.split("/")
    space, published = Registry().find("space", space_name)(), SMALL_IMAGES[reference]
    counted = space.costs(space.point(point), replace(TASK, classes=published["classes"]))
    assert counted["params"] == published["params"]
    if "mega_macs" in published:
        assert counted["flops"] / 2e6 == pytest.approx(published["mega_macs"], abs=5e-3)


def test_every_named_point_is_pinned() -> None:
    registry = Registry()
    spaces = [registry.find("space", name)() for name in registry.origins("space")]
    assert {f"{space.name}/{point}" for space in spaces for point in space.points} == set(POINTS)


@pytest.mark.parametrize("text", CELLS)
def test_cells_cost_what_the_benchmark_says(text: str) -> None:
    check_cell(text, CELLS[text]["params_M"], CELLS[text]["macs_M"])


def test_random_rows_of_the_benchmark(shared_data: Path) -> None:
    with (shared_data / "nasbench201_cifar100.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in Random(0).sample(rows, 20):
        check_cell(row["architecture"], float(row["params_M"]), float(row["macs_M"]))
