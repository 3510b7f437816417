"""AnyNets: how many there are, what a design shares and orders, and how groups fit widths."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from random import Random
from typing import Any

import pytest
import torch
from spaces_helper import IMAGENET, assert_counted

from evonas.architecture import Value
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.recipe.options import check
from evonas.spaces.anynet import AnyNet, Stage, fitted, least_group_width
from evonas.spaces.base import Task
from evonas.spaces.parts.layers import Added

DESIGNS: dict[str, AnyNet] = {design: AnyNet(design) for design in "ABCDE"}  # type: ignore[arg-type]
TASK = Task(channels=3, height=32, width=32, classes=10)
TASKS = (TASK, Task(1, 8, 8, 2), Task(3, 5, 9, 4), IMAGENET)
each_design = pytest.mark.parametrize("design", DESIGNS)


def values(choices: Any, kind: str) -> list[int]:
    return [choices[f"{kind}{i}"] for i in range(1, 5)]


def shape(space: AnyNet, choices: Any) -> tuple[Stage, ...]:
    """The stages as they are built."""
    kinds = {kind: kind if kind in space.domains else f"{kind}{{}}" for kind in Stage._fields}
    numbers = [[choices[name.format(i)] for name in kinds.values()] for i in range(1, 5)]
    return tuple(fitted(Stage(*each)) for each in numbers)


def test_the_domains_are_those_of_the_paper() -> None:
    a = DESIGNS["A"].domains
    assert len(a) == 16
    assert [a[name].size for name in ("depth1", "width1", "ratio1", "group_width1")] == [
        16,
        128,
        3,
        6,
    ]
    assert a["width4"].values()[-1] == 1024
    assert a["group_width3"].values() == (1, 2, 4, 8, 16, 32)
    assert [len(space.domains) for space in DESIGNS.values()] == [16, 13, 10, 10, 10]


def test_as_many_choices_as_the_paper_counts() -> None:
    sizes = [space.size() for space in DESIGNS.values()]
    assert [f"{size:.1e}" for size in sizes[:3]] == ["1.8e+18", "6.8e+16", "3.2e+14"]
    assert [f"{size:.2e}" for size in sizes[3:]] == ["1.38e+13", "8.17e+11"]


@each_design
def test_the_size_is_the_number_of_choices_that_keep_the_rules(design: Any) -> None:
    space = AnyNet(design, max_depth=2, max_width=16)
    ordered = {n: d for n, d in space.domains.items() if n.startswith(("depth", "width"))}
    rest = [d.size for n, d in space.domains.items() if n not in ordered]
    allowed = sum(
        all(rule(dict(zip(ordered, each, strict=True))) for rule in space.rules.values())
        for each in itertools.product(*(d.values() for d in ordered.values()))
    )
    assert space.size() == allowed * math.prod(rest)


@each_design
def test_points_have_the_published_parameters(design: str) -> None:
    space = DESIGNS[design]
    params = {n: space.costs(space.point(n), IMAGENET)["params"] for n in space.points}
    assert (
        params.items()
        <= {
            "regnetx_002": 2_684_792,
            "regnet_x_400mf": 5_495_976,
            "regnet_x_800mf": 7_259_656,
        }.items()
    )
    assert {"regnetx_002", "regnet_x_400mf"} <= params.keys()


def test_a_point_that_breaks_the_rules_of_a_design_is_none_of_it() -> None:
    assert "regnet_x_800mf" in DESIGNS["D"].points
    assert "regnet_x_800mf" not in DESIGNS["E"].points  # its last stage is shallower


@each_design
@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.height}x{t.width}")
def test_what_is_counted_is_what_is_built(design: Any, task: Task) -> None:
    space = AnyNet(design, max_depth=3)
    for seed in range(2):
        rng = Random(seed)
        drawn = space.sample(rng)
        for architecture in (drawn, space.mutate(drawn, rng)):
            assert_counted(space, architecture, task)


@each_design
def test_stages_ascend_where_the_design_says_so(design: str) -> None:
    space = DESIGNS[design]
    seen = []
    for seed in range(300):
        rng = Random(seed)
        a, b = space.sample(rng), space.sample(rng)
        for each in (a, space.mutate(a, rng), space.crossover(a, b, rng)):
            widths, depths = values(each.choices, "width"), values(each.choices, "depth")
            seen.append((widths == sorted(widths), depths == sorted(depths)))
    for ascend, designs in zip(zip(*seen, strict=True), ("DE", "E"), strict=True):
        assert all(ascend) == (design in designs)


def test_sampling_favours_small_numbers() -> None:
    drawn = [DESIGNS["A"].sample(Random(seed)).choices for seed in range(400)]
    assert sum(c["depth1"] <= 4 for c in drawn) > 200
    assert sum(c["width2"] <= 96 for c in drawn) > 160


def test_a_broken_order_is_refused() -> None:
    space = DESIGNS["E"]
    choices = space.point("regnet_x_400mf").choices
    with pytest.raises(InvalidArchitecture, match="narrower"):
        space.architecture({**choices, "width1": 512})
    with pytest.raises(InvalidArchitecture, match="shallower"):
        space.architecture({**choices, "depth2": 16})


@pytest.mark.parametrize(
    ("chosen", "built"),
    [
        ((64, 1, 16), (64, 16)),
        ((24, 1, 16), (32, 16)),  # rounded to the nearest multiple
        ((40, 1, 32), (64, 32)),  # but never to less than nine tenths
        ((24, 4, 32), (24, 6)),  # a group is no wider than what there is
        ((40, 4, 4), (48, 4)),
    ],
)
def test_groups_fit_widths(chosen: tuple[int, int, int], built: tuple[int, int]) -> None:
    width, ratio, group_width = chosen
    stage = fitted(Stage(1, width, ratio, group_width))
    assert (stage.width, stage.group_width) == built
    assert fitted(stage) == stage


def test_blocks_follow_the_choices() -> None:
    space = AnyNet("A", stem_width=16, stem_stride=1)
    choices: dict[str, Any] = {f"depth{i}": i for i in range(1, 5)}
    choices |= {f"width{i}": 32 * i for i in range(1, 5)}
    choices |= {f"ratio{i}": 2 for i in range(1, 5)}
    choices |= {f"group_width{i}": 8 for i in range(1, 5)}
    network = space.build(space.architecture(choices), TASK)
    blocks = {name: m for name, m in network.named_children() if isinstance(m, Added)}
    assert list(blocks)[:3] == ["stage1_block1", "stage2_block1", "stage2_block2"]
    spatial: list[Any] = [block.body.spatial[0] for block in blocks.values()]  # type: ignore[union-attr,index]
    assert [c.out_channels for c in spatial] == [16] + [32] * 2 + [48] * 3 + [64] * 4
    assert [c.out_channels // c.groups for c in spatial] == [8] * 10
    assert [c.stride[0] for c in spatial] == [2, 2, 1, 2, 1, 1, 2, 1, 1, 1]
    assert network.stem[0].stride == (1, 1)  # type: ignore[index,union-attr]


@each_design
@pytest.mark.parametrize("max_width", [40, 72, 200])
def test_equal_networks_are_one_architecture(design: Any, max_width: int) -> None:
    space = AnyNet(design, max_depth=1, max_width=max_width)
    ids = defaultdict(set)
    for seed in range(400):
        rng = Random(seed)
        drawn: dict[str, Value] = {name: d.sample(rng) for name, d in space.domains.items()}
        for kind in ("depth", "width"):  # in an order that every design allows
            numbers = sorted(values(drawn, kind))
            drawn |= {f"{kind}{i}": number for i, number in enumerate(numbers, start=1)}
        architecture = space.architecture(drawn)
        assert space.architecture(architecture.choices).id == architecture.id
        for choices in (drawn, architecture.choices):
            ids[shape(space, choices)].add(architecture.id)
    assert all(len(of_shape) == 1 for of_shape in ids.values())


def test_a_group_width_that_no_stage_can_use_is_cut() -> None:
    options = (1, 2, 4, 8, 16, 32)
    assert least_group_width(options, [Stage(1, 16, 1, 32), Stage(1, 8, 1, 32)]) == 16
    assert least_group_width(options, [Stage(1, 24, 4, 32)]) == 8
    assert least_group_width(options, [Stage(1, 64, 1, 16), Stage(1, 8, 1, 16)]) == 16


def test_scaling() -> None:
    space = DESIGNS["E"]
    scaled = space.scaled(space.point("regnet_x_400mf"), width=2.0, depth=1.5).choices
    assert values(scaled, "width") == [64, 128, 320, 800]
    assert values(scaled, "depth") == [2, 3, 11, 18]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"design": "F"}, r"space\.design: .*'F'"),
        ({"max_depth": 0}, r"space\.max_depth: .*not 0"),
        ({"max_width": 7}, r"space\.max_width: .*not 7"),
        ({"stem_width": 0}, r"space\.stem_width: .*not 0"),
        ({"stem_stride": 3}, r"space\.stem_stride: .*not 3"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(AnyNet, options, "space")


def test_possible_stems_are_not_refused() -> None:
    for stride in (1, 2):
        check(AnyNet, {"stem_width": 1, "stem_stride": stride}, "space")


@pytest.mark.parametrize("task", TASKS[1:3], ids=lambda t: f"{t.height}x{t.width}")
def test_it_trains_on_small_images(task: Task) -> None:
    space = AnyNet("D", max_depth=2, max_width=64)
    for seed in range(3):
        network = space.build(space.sample(Random(seed)), task).train()
        logits = network(torch.randn(2, *task.input_shape))
        assert logits.shape == (2, task.classes)
        logits.sum().backward()
