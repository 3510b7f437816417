"""Hard limits: nothing outside them is ever handed out, and an impossible one says so."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from random import Random

import pytest
from conftest import ROOT, TINY_SPACES, all_spaces, bounded
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.errors import InfeasibleConstraints, InvalidArchitecture, RecipeError
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.parts.limits import TRIES
from evonas.spaces.plain_cnn import PlainCNN
from evonas.spaces.sequential import Sequential
from evonas.testing import check_space
from evonas.trial import Limit

TASK = Task(channels=3, height=16, width=16, classes=10)
SPACE = PlainCNN(max_depth=2, max_width=64)


def formula(architecture: Architecture) -> Mapping[str, float]:
    """Parameters and multiply-adds of a plain CNN, as a formula: faster than counting."""
    channels, params, flops, pixels = 3, 0, 0, 256
    for i in range(1, 5):
        for _ in range(int(architecture.choices[f"k{i}"])):
            outputs = int(architecture.choices[f"c{i}"])
            params += 9 * channels * outputs + 3 * outputs
            flops += 2 * 9 * channels * outputs * pixels
            channels = outputs
        pixels //= 4
    return {
        "params": params + (channels + 1) * TASK.classes,
        "flops": flops + 2 * channels * TASK.classes,
    }


def limited(space: SearchSpace = SPACE, **limits: tuple[float, float]) -> SearchSpace:
    return bounded(space, {name: Limit(*bounds) for name, bounds in limits.items()}, formula)


def test_the_formula_counts_as_cost_does() -> None:
    for seed in range(10):
        architecture = SPACE.sample(Random(seed))
        counted = SPACE.costs(architecture, TASK)
        assert formula(architecture) == {name: counted[name] for name in formula(architecture)}


LIMITS = {
    "at most": {"params": (-math.inf, 20_000.0)},
    "at least": {"params": (50_000.0, math.inf)},
    "between": {"params": (10_000.0, 12_000.0)},
    "both costs": {"params": (-math.inf, 30_000.0), "flops": (1e6, 2e6)},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_limits_hold_for_everything_handed_out(limits: dict[str, tuple[float, float]]) -> None:
    space = limited(SPACE, **limits)

    children = 0

    def drawn() -> Iterator[Architecture]:
        nonlocal children
        for seed in range(200):
            rng = Random(seed)
            a, b = space.sample(rng), space.sample(rng)
            yield from (a, b, *space.neighbours(a))
            for draw in (partial(space.mutate, a), partial(space.crossover, a, b)):
                if child := child_of(partial(draw, rng)):
                    children += 1
                    yield child

    for architecture in drawn():
        for name, (low, high) in limits.items():
            assert low <= formula(architecture)[name] <= high
        assert space.architecture(architecture.choices) == architecture
    assert children > 300


def child_of(draw: Callable[[], Architecture]) -> Architecture | None:
    """None where no child of the parents is within the limits."""
    try:
        return draw()
    except InfeasibleConstraints:
        return None


def test_limits_hold_for_costs_that_are_counted() -> None:
    space = SPACE.limited({"params": Limit(max=10_000)}, TASK)
    assert check_space(space, TASK, points=4) == []
    for seed in range(10):
        network = space.build(space.sample(Random(seed)), TASK)
        assert sum(p.numel() for p in network.parameters()) <= 10_000


def test_enumerate_leaves_out_what_exceeds_the_limits() -> None:
    small = PlainCNN(max_depth=1, max_width=8)
    everything = list(small.enumerate())
    costs = sorted(formula(a)["params"] for a in everything)
    space = limited(small, params=(-math.inf, costs[5]))
    allowed = list(space.enumerate())
    assert allowed == [a for a in everything if formula(a)["params"] <= costs[5]]
    assert 6 <= len(allowed) < len(everything) == space.size()


def test_what_exceeds_the_limits_is_invalid() -> None:
    space = limited(params=(-math.inf, 20_000.0))
    large = SPACE.architecture(
        {f"k{i}": 2 for i in range(1, 5)} | {f"c{i}": 64 for i in range(1, 5)}
    )
    with pytest.raises(InvalidArchitecture, match="exceeds the limits"):
        space.architecture(large.choices)
    assert space.point("small").choices == SPACE.point("small").choices


def test_the_acceptance_rate_is_that_of_the_space() -> None:
    space = limited(params=(-math.inf, 20_000.0))
    assert space.limits is not None
    for seed in range(300):
        space.sample(Random(seed))
    rate = sum(
        formula(SPACE.sample(Random(f"other {seed}")))["params"] <= 20_000 for seed in range(1000)
    )
    drawn, accepted = space.limits.drawn, space.limits.accepted
    assert accepted == 300
    assert accepted / drawn == pytest.approx(rate / 1000, abs=0.08)
    assert 0.05 < rate / 1000 < 0.95


def test_a_tight_limit_is_repaired() -> None:
    """A band so narrow that random architectures miss it."""
    space = limited(params=(100_000.0, 100_400.0))
    for seed in range(5):
        assert 100_000 <= formula(space.sample(Random(seed)))["params"] <= 100_400
    assert space.limits is not None
    assert space.limits.drawn >= 50
    drawn, accepted = space.limits.drawn, space.limits.accepted
    assert accepted / drawn < 0.02


def test_the_smallest_networks_are_found() -> None:
    least = formula(
        SPACE.architecture({f"{c}{i}": v for c, v in (("k", 1), ("c", 4)) for i in range(1, 5)})
    )
    space = limited(params=(-math.inf, 1.2 * least["params"]))
    assert formula(space.sample(Random(0)))["params"] <= 1.2 * least["params"]


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"params": (-math.inf, 100.0)}, r"params at most 100 \(nearest found: ([\d,]+)\)"),
        ({"params": (1e9, math.inf)}, r"params at least 1,000,000,000 \(nearest found: ([\d,]+)\)"),
        (
            {"params": (-math.inf, 1000.0), "flops": (1e8, 2e8)},
            r"params at most 1,000 .*flops at least 100,000,000 and at most 200,000,000 "
            r"\(nearest found: ([\d,]+)\)",
        ),
    ],
)
def test_an_impossible_limit_names_the_nearest(
    limits: dict[str, tuple[float, float]], sentence: str
) -> None:
    with pytest.raises(InfeasibleConstraints, match="found nothing in space 'plain_cnn'") as error:
        limited(SPACE, **limits).sample(Random(0))
    assert re.search(sentence, str(error.value))


def test_the_nearest_is_near() -> None:
    least = formula(
        SPACE.architecture({f"{c}{i}": v for c, v in (("k", 1), ("c", 4)) for i in range(1, 5)})
    )
    with pytest.raises(InfeasibleConstraints) as error:
        limited(params=(-math.inf, 1.0)).sample(Random(0))
    found = re.search(r"nearest found: ([\d,]+)", str(error.value))
    assert found is not None
    assert least["params"] <= float(found[1].replace(",", "")) <= 1.5 * least["params"]


@pytest.mark.parametrize("limits", [LIMITS["at most"], {"params": (100_000.0, 101_000.0)}])
def test_what_is_drawn_depends_on_the_generator_alone(
    limits: dict[str, tuple[float, float]],
) -> None:
    used = limited(SPACE, **limits)
    parent = used.sample(Random("parent"))
    for seed in range(20):
        fresh, one, two = limited(SPACE, **limits), Random(seed), Random(seed)
        assert used.sample(one) == fresh.sample(two)
        child = child_of(partial(used.mutate, parent, one))
        assert child == child_of(partial(fresh.mutate, parent, two))
        assert one.getstate() == two.getstate()


def test_a_mutant_of_a_constrained_space_is_near_its_parent() -> None:
    space = limited(params=(-math.inf, 20_000.0))
    for seed in range(100):
        rng = Random(seed)
        parent = space.sample(rng)
        child = space.mutate(parent, rng)
        assert sum(child.choices[n] != parent.choices[n] for n in space.domains) == 1


def test_it_stands_in_for_the_space() -> None:
    space = limited(params=(-math.inf, 20_000.0))
    assert space.name == SPACE.name == space.sample(Random(0)).space
    assert space.domains == SPACE.domains
    assert space.size() == SPACE.size()
    point = space.point("small")
    assert space.scaled(point, 0.5) == SPACE.scaled(point, 0.5)


def test_spaces_without_an_order_are_repaired_too() -> None:
    cells, task = NASBench201(channels=2, cells=1), Task(1, 8, 8, 2)

    def measure(architecture: Architecture) -> Mapping[str, float]:
        operations = list(architecture.choices.values())
        return {"convolutions": sum(str(op).startswith("nor_conv") for op in operations)}

    space = bounded(cells, {"convolutions": Limit(6, 6)}, measure)
    architecture = space.sample(Random(0))
    assert measure(architecture) == {"convolutions": 6}
    assert cells.costs(architecture, task)["params"] > 0


@pytest.mark.parametrize(
    ("limit", "value", "violation"),
    [
        (Limit(max=10), 10, 0),
        (Limit(max=10), 15, 0.5),
        (Limit(min=10), 10, 0),
        (Limit(min=10), 5, 1),
        (Limit(min=10), 0, 1),
        (Limit(5, 10), 7, 0),
        (Limit(max=0), 3, math.inf),
        (Limit(), 1e12, 0),
    ],
)
def test_violation_is_relative_to_the_bound(limit: Limit, value: float, violation: float) -> None:
    assert limit.violation(value) == violation


def test_violation_grows_with_the_distance() -> None:
    limit = Limit(100, 200)
    below = [limit.violation(v) for v in (99, 50, 10, 1)]
    above = [limit.violation(v) for v in (201, 300, 1000)]
    assert below == sorted(below)
    assert above == sorted(above)
    assert min(below + above) > 0


def test_limits_read_as_a_person_would_say_them() -> None:
    assert str(Limit(max=50_000)) == "at most 50,000"
    assert str(Limit(1000, 2000)) == "at least 1,000 and at most 2,000"


def test_points_and_relatives_are_the_spaces_own() -> None:
    """A point may exceed the limits: it is to be built, not searched."""
    space = Sequential(max_layers=6, max_width=16)
    small = space.limited({"params": Limit(max=1000)}, TASK)
    assert small.point("small") == space.point("small")
    parent = small.sample(Random(0))
    child = space.mutate(parent, Random(1))
    assert small.relatives(child, parent) == space.relatives(child, parent)
    assert small.costs(child, TASK) == space.costs(child, TASK)


def test_limits_are_a_copys_and_replace_those_it_has() -> None:
    small = SPACE.limited({"params": Limit(max=10_000)}, TASK)
    assert SPACE.limits is None
    assert SPACE.unlimited is small.unlimited is SPACE
    assert type(small) is PlainCNN
    large = small.limited({"flops": Limit(min=1e6)}, TASK)
    assert large.unlimited is SPACE
    assert large.limits is not None
    assert set(large.limits.bounds) == {"flops"}
    drawn = large.sample(Random(0))
    with pytest.raises(InvalidArchitecture, match="exceeds the limits"):
        small.architecture(drawn.choices)
    assert small.reference(drawn.choices) == drawn


def test_what_a_space_does_not_count_is_not_limited() -> None:
    sentence = (
        r"^constraints\.parms: space 'plain_cnn' counts no such cost\. "
        r"Did you mean 'params'\? Known: params, flops, peak_memory$"
    )
    with pytest.raises(RecipeError, match=sentence):
        SPACE.limited({"parms": Limit(max=1)}, TASK)


def test_an_architecture_is_measured_once() -> None:
    measured: list[str] = []

    def measure(architecture: Architecture) -> Mapping[str, float]:
        measured.append(architecture.id)
        return formula(architecture)

    space = bounded(SPACE, {"params": Limit(100_000.0, 101_000.0)}, measure)
    parent = space.sample(Random(0))
    with pytest.raises(InfeasibleConstraints):
        space.mutate(parent, Random(0))
    space.architecture(parent.choices)
    assert len(measured) == len(set(measured)) > 1


class Number(SearchSpace):
    """Two digits; the number is what they cost."""

    counted = ("number",)

    def __init__(self) -> None:
        self.domains = {"tens": Integer(0, 9), "ones": Integer(0, 9)}
        self.yielded = 0

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        return {"number": float("{tens}{ones}".format(**architecture.choices))}

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        for choices in super().mutants(parent, rng):
            self.yielded += 1
            yield choices

    def crossovers(
        self, a: Architecture, b: Architecture, rng: Random
    ) -> Iterator[Mapping[str, Value]]:
        while True:
            self.yielded += 1
            yield {"tens": a.choices["tens"], "ones": b.choices["ones"]}


def test_a_child_is_a_mutant_or_a_crossover_or_there_is_none() -> None:
    """39 and 40 have no digit in common."""
    space = Number().limited({"number": Limit(39, 40)}, TASK)
    parents = list(space.enumerate())
    assert [dict(parent.choices) for parent in parents] == [
        {"tens": 3, "ones": 9},
        {"tens": 4, "ones": 0},
    ]
    for parent in parents:
        space.yielded = 0
        with pytest.raises(InfeasibleConstraints, match="found nothing in space 'test_limits'"):
            space.mutate(parent, Random(0))
        assert space.yielded == TRIES
    space.yielded = 0
    with pytest.raises(InfeasibleConstraints, match=r"number at least 39 .*\(nearest found: 30\)"):
        space.crossover(parents[0], parents[1], Random(0))
    assert space.yielded == TRIES
    assert space.crossover(parents[0], parents[0], Random(0)) == parents[0]


class FewMutants(Number):
    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        yield from ({**parent.choices, "ones": ones} for ones in range(4))


def test_mutants_may_come_to_an_end() -> None:
    space = FewMutants().limited({"number": Limit(12, 25)}, TASK)
    parent = space.architecture({"tens": 1, "ones": 2})
    assert space.mutate(parent, Random(0)).choices == {"tens": 1, "ones": 3}
    tight = space.limited({"number": Limit(14, 25)}, TASK)
    with pytest.raises(InfeasibleConstraints):
        tight.mutate(tight.architecture({"tens": 1, "ones": 4}), Random(0))


def test_a_single_point_mutates_into_itself_under_limits_too() -> None:
    space = Number()
    space.domains = {"tens": Categorical((1,)), "ones": Categorical((2,))}
    limited = space.limited({"number": Limit(12, 12)}, TASK)
    only = limited.sample(Random(0))
    assert limited.mutate(only, Random(0)) == only


@pytest.mark.parametrize("name", all_spaces())
def test_every_space_keeps_a_tight_limit(name: str) -> None:
    """Whatever it overrides: nothing it hands out is larger than the smallest of ten points."""
    space = Registry((ROOT / "plugins",)).find("space", name)(**TINY_SPACES.get(name, {}))
    points = [space.sample(Random(seed)) for seed in range(10)]
    most = min(space.costs(point, TASK)["params"] for point in points)
    tight = space.limited({"params": Limit(max=most)}, TASK)
    for seed in range(5):
        rng = Random(seed)
        a, b = tight.sample(rng), tight.sample(rng)
        drawn = [a, b, *itertools.islice(tight.neighbours(a), 5)]
        with suppress(InfeasibleConstraints):
            drawn.append(tight.mutate(a, rng))
            drawn.append(tight.crossover(a, b, rng))
        assert all(space.costs(each, TASK)["params"] <= most for each in drawn)
