"""RegNets: built as in torchvision, four stages, one setting per network.

Published costs: tests/golden.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import Any

import pytest
import torch
from spaces_helper import IMAGENET, assert_counted
from torch import nn
from torchvision import models
from torchvision.models.regnet import BlockParams

from evonas.architecture import Value
from evonas.errors import InvalidArchitecture, RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.parts import cost
from evonas.spaces.parts.layers import Gated
from evonas.spaces.regnet import POINTS, RegNet, _is_regular, _stages, settings

SPACE = RegNet()
SMALL: dict[str, Any] = {"max_depth": 8, "max_width": 64, "stem_width": 8, "stem_stride": 1}
# About RegNetX-400MF.
ON_LATTICE: dict[str, Value] = {"depth": 22, "initial_width": 24, "slope": 2400, "multiplier": 254}
ON_LATTICE |= {"ratio": 1, "group_width": 16, "se": 0}
TASK = Task(channels=3, height=32, width=32, classes=10)
TASKS = (TASK, Task(1, 8, 8, 2), Task(3, 5, 9, 4), IMAGENET)


def drawn(space: RegNet, count: int) -> list[dict[str, Value]]:
    """Every choice from its own domain, whatever the rule."""
    return [
        {name: domain.sample(rng) for name, domain in space.domains.items()}
        for rng in map(Random, range(count))
    ]


def test_there_are_as_many_settings_as_in_the_paper() -> None:
    sizes = {name: domain.size for name, domain in SPACE.domains.items()}
    assert sizes.pop("se") == 1
    assert (sizes.pop("ratio"), sizes.pop("group_width")) == (3, 6)
    assert set(sizes.values()) == {64}
    assert SPACE.size() == 64**4 * 6 * 3
    assert RegNet("either").size() == 2 * SPACE.size()


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_x_1_6gf", "regnet_y_400mf"])
def test_points_are_the_networks_of_torchvision(name: str) -> None:
    theirs = models.get_model(name).to("meta")
    counted = SPACE.costs(SPACE.point(name), IMAGENET)
    assert counted["params"] == cost.params(theirs, IMAGENET)
    assert counted["flops"] == cost.flops(theirs, IMAGENET)


def test_a_network_of_published_parameters() -> None:
    """timm's regnetx_032, which is torchvision's regnet_x_3_2gf."""
    made = SPACE.reference(settings(d=25, w0=88, wa=26.31, wm=2.25, group_width=48))
    assert made == SPACE.point("regnet_x_3_2gf")
    half = SPACE.reference(settings(13, 24, 36.44, 2.49, 8, se=25, ratio=2))
    assert {stage.ratio for stage in _stages(half.choices)} == {2}


@pytest.mark.parametrize("name", POINTS)
def test_points_keep_their_published_settings(name: str) -> None:
    assert dict(SPACE.point(name).choices) == dict(POINTS[name])


def test_widths_are_quantised_as_in_torchvision() -> None:
    for choices in filter(_is_regular, drawn(SPACE, 400)):
        theirs = BlockParams.from_init_params(
            int(choices["depth"]),
            int(choices["initial_width"]),
            int(choices["slope"]) / 100,
            int(choices["multiplier"]) / 100,
            int(choices["group_width"]),
            1 / int(choices["ratio"]),
        )
        assert [stage.depth for stage in _stages(choices)] == theirs.depths
        assert [stage.width for stage in _stages(choices)] == theirs.widths
        assert [stage.group_width for stage in _stages(choices)] == theirs.group_widths


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.height}x{t.width}")
def test_what_is_counted_is_what_is_built(task: Task) -> None:
    space = RegNet(max_depth=14)
    for seed in range(5):
        rng = Random(seed)
        a = space.sample(rng)
        for architecture in (a, space.mutate(a, rng)):
            assert_counted(space, architecture, task)


@pytest.mark.parametrize(
    "options", [{}, SMALL, {"max_depth": 4, "max_width": 64}, {"max_depth": 16, "max_width": 160}]
)
def test_whatever_is_drawn_has_four_stages_of_growing_widths(options: dict[str, Any]) -> None:
    space = RegNet(**options)
    for seed in range(60):
        rng = Random(seed)
        a, b = space.sample(rng), space.sample(rng)
        for each in (a, space.mutate(a, rng), space.crossover(a, b, rng)):
            stages = _stages(each.choices)
            widths = [stage.width for stage in stages]
            assert len(stages) == 4
            assert widths == sorted(set(widths))
            assert widths[-1] <= options.get("max_width", 1024)
            assert sum(stage.depth for stage in stages) == each.choices["depth"]


def test_all_slopes_that_lead_to_four_stages_are_drawn() -> None:
    drawn_here = {int(SPACE.sample(Random(seed)).choices["slope"]) // 1000 for seed in range(600)}
    assert drawn_here == set(range(7))


def test_the_slope_follows_a_mutation_that_needs_it() -> None:
    space = RegNet("either")
    parent = space.architecture(ON_LATTICE)
    changed: dict[str, int] = defaultdict(int)
    for seed in range(300):
        child = space.mutate(parent, Random(seed))
        assert child.id != parent.id
        for name, value in child.choices.items():
            changed[name] += value != parent.choices[name]
    assert min(changed[name] for name in space.domains) > 15


def test_another_number_of_stages_is_refused() -> None:
    choices = SPACE.architecture(ON_LATTICE).choices
    for slope in (200, 6_400):
        with pytest.raises(InvalidArchitecture, match="four stages"):
            SPACE.architecture({**choices, "slope": slope})


def test_what_is_wider_than_searched_is_a_point_alone() -> None:
    wide = SPACE.point("regnet_x_8gf")
    assert _stages(wide.choices)[-1].width == 1920
    with pytest.raises(InvalidArchitecture, match="wider than 64"):
        RegNet(max_width=64).architecture(ON_LATTICE | {"initial_width": 32})


def test_a_step_is_not_skipped() -> None:
    """Of four widths, the paper's are the first four powers."""
    skips: dict[str, Value] = {"depth": 4, "initial_width": 8, "slope": 3000, "multiplier": 150}
    skips |= {"ratio": 1, "group_width": 8, "se": 0}
    assert len(_stages(skips)) == 4
    assert not _is_regular(skips)


@pytest.mark.parametrize("options", [SMALL, {"max_depth": 12, "max_width": 160}])
def test_equal_networks_are_one_architecture(options: dict[str, Any]) -> None:
    space = RegNet(**options)
    settings, regular = defaultdict(list), 0
    for choices in filter(_is_regular, drawn(space, 5000)):
        regular += 1
        settled = space.canonical(choices)
        assert space.canonical(settled) == settled
        assert all(domain.contains(settled[name]) for name, domain in space.domains.items())
        assert _stages(settled) == _stages(choices)
        if settled not in settings[_stages(choices)]:
            settings[_stages(choices)].append(settled)
    assert all(len(of_shape) == 1 for of_shape in settings.values())
    assert len(settings) < regular  # so that there was something to compare


def test_squeezing_makes_an_x_a_y() -> None:
    squeezed = SPACE.point("regnety_002")
    assert squeezed.choices == {**SPACE.point("regnetx_002").choices, "se": 25}
    with torch.device("meta"):
        network = SPACE.build(squeezed, TASK)
    gates = [m.gate for m in network.modules() if isinstance(m, Gated)]
    squeezes: list[Any] = [gate[1] for gate in gates]
    # A quarter of the block's input: of the stem's 32, of the stages' 24, 56 and so on.
    assert [s.out_channels for s in squeezes[:4]] == [8, 6, 14, 38]
    assert [s.in_channels for s in squeezes[:4]] == [24, 56, 152, 152]


@pytest.mark.parametrize(("squeeze", "per_cent"), [("no", {0}), ("yes", {25}), ("either", {0, 25})])
def test_squeezing_is_searched_as_asked(squeeze: Any, per_cent: set[int]) -> None:
    space = RegNet(squeeze)
    assert {space.sample(Random(seed)).choices["se"] for seed in range(20)} == per_cent


def test_a_wider_and_a_deeper_copy() -> None:
    point = SPACE.point("regnet_x_400mf")
    before = _stages(point.choices)
    wider = _stages(SPACE.scaled(point, width=2.0).choices)
    assert [stage.width for stage in wider] == [48, 128, 320, 784]  # from 32, 64, 160, 400
    assert [stage.depth for stage in wider] == [stage.depth for stage in before]
    deeper = _stages(SPACE.scaled(point, depth=2.0).choices)
    assert [stage.width for stage in deeper] == [stage.width for stage in before]
    assert sum(stage.depth for stage in deeper) == 44


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 3}, r"space\.max_depth: .*not 3"),
        ({"max_width": 63}, r"space\.max_width: .*not 63"),
        ({"stem_width": 0}, r"space\.stem_width: .*not 0"),
        ({"stem_stride": 0}, r"space\.stem_stride: .*not 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(RegNet, options, "space")


@pytest.mark.parametrize("task", TASKS[1:3], ids=lambda t: f"{t.height}x{t.width}")
def test_it_trains_on_small_images(task: Task) -> None:
    space = RegNet(**SMALL)
    for seed in range(3):
        network: nn.Module = space.build(space.sample(Random(seed)), task).train()
        logits = network(torch.randn(2, *task.input_shape))
        assert logits.shape == (2, task.classes)
        logits.sum().backward()
