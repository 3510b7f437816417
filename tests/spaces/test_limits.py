"""Hard limits: nothing outside them is ever handed out, and an impossible one says so."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from random import Random

import pytest

from evonas.architecture import Architecture
from evonas.errors import InfeasibleConstraints, InvalidArchitecture
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.parts import cost
from evonas.spaces.parts.feasible import Feasible
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


def feasible(space: SearchSpace = SPACE, **limits: tuple[float, float]) -> Feasible:
    return Feasible(space, {name: Limit(*bounds) for name, bounds in limits.items()}, formula)


def test_the_formula_counts_as_cost_does() -> None:
    for seed in range(10):
        architecture = SPACE.sample(Random(seed))
        assert formula(architecture) == SPACE.costs(architecture, TASK)


LIMITS = {
    "at most": {"params": (-math.inf, 20_000.0)},
    "at least": {"params": (50_000.0, math.inf)},
    "between": {"params": (10_000.0, 12_000.0)},
    "both costs": {"params": (-math.inf, 30_000.0), "flops": (1e6, 2e6)},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_limits_hold_for_everything_handed_out(limits: dict[str, tuple[float, float]]) -> None:
    space = feasible(SPACE, **limits)

    def drawn() -> Iterator[Architecture]:
        for seed in range(200):
            rng = Random(seed)
            a, b = space.sample(rng), space.sample(rng)
            yield from (a, b, space.mutate(a, rng), space.crossover(a, b, rng))
            yield from space.neighbours(a)

    for architecture in drawn():
        for name, (low, high) in limits.items():
            assert low <= formula(architecture)[name] <= high
        assert space.architecture(architecture.choices) == architecture


def test_limits_hold_for_costs_that_are_counted() -> None:
    def measure(architecture: Architecture) -> Mapping[str, float]:
        return SPACE.costs(architecture, TASK)

    space = Feasible(SPACE, {"params": Limit(max=10_000)}, measure)
    assert check_space(space, TASK, points=4) == []
    for seed in range(10):
        network = space.build(space.sample(Random(seed)), TASK)
        assert sum(p.numel() for p in network.parameters()) <= 10_000


def test_enumerate_leaves_out_what_exceeds_the_limits() -> None:
    small = PlainCNN(max_depth=1, max_width=8)
    everything = list(small.enumerate())
    costs = sorted(formula(a)["params"] for a in everything)
    space = feasible(small, params=(-math.inf, costs[5]))
    allowed = list(space.enumerate())
    assert allowed == [a for a in everything if formula(a)["params"] <= costs[5]]
    assert 6 <= len(allowed) < len(everything) == space.size()


def test_what_exceeds_the_limits_is_invalid() -> None:
    space = feasible(params=(-math.inf, 20_000.0))
    large = SPACE.architecture(
        {f"k{i}": 2 for i in range(1, 5)} | {f"c{i}": 64 for i in range(1, 5)}
    )
    with pytest.raises(InvalidArchitecture, match="exceeds the limits"):
        space.architecture(large.choices)
    assert space.point("small").choices == SPACE.point("small").choices


def test_the_acceptance_rate_is_that_of_the_space() -> None:
    space = feasible(params=(-math.inf, 20_000.0))
    assert space.acceptance is None
    for seed in range(300):
        space.sample(Random(seed))
    rate = sum(
        formula(SPACE.sample(Random(f"other {seed}")))["params"] <= 20_000 for seed in range(1000)
    )
    assert space.acceptance == pytest.approx(rate / 1000, abs=0.08)
    assert 0.05 < rate / 1000 < 0.95


def test_a_tight_limit_is_repaired() -> None:
    """A band so narrow that random architectures miss it."""
    space = feasible(params=(100_000.0, 100_400.0))
    for seed in range(5):
        assert 100_000 <= formula(space.sample(Random(seed)))["params"] <= 100_400
    assert space.drawn >= 50
    assert space.acceptance is not None
    assert space.acceptance < 0.02


def test_the_smallest_networks_are_found() -> None:
    least = formula(
        SPACE.architecture({f"{c}{i}": v for c, v in (("k", 1), ("c", 4)) for i in range(1, 5)})
    )
    space = feasible(params=(-math.inf, 1.2 * least["params"]))
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
        feasible(SPACE, **limits).sample(Random(0))
    assert re.search(sentence, str(error.value))


def test_the_nearest_is_near() -> None:
    least = formula(
        SPACE.architecture({f"{c}{i}": v for c, v in (("k", 1), ("c", 4)) for i in range(1, 5)})
    )
    with pytest.raises(InfeasibleConstraints) as error:
        feasible(params=(-math.inf, 1.0)).sample(Random(0))
    found = re.search(r"nearest found: ([\d,]+)", str(error.value))
    assert found is not None
    assert least["params"] <= float(found[1].replace(",", "")) <= 1.5 * least["params"]


@pytest.mark.parametrize("limits", [LIMITS["at most"], {"params": (100_000.0, 101_000.0)}])
def test_what_is_drawn_depends_on_the_generator_alone(
    limits: dict[str, tuple[float, float]],
) -> None:
    used = feasible(SPACE, **limits)
    parent = used.sample(Random("parent"))
    for seed in range(20):
        fresh, one, two = feasible(SPACE, **limits), Random(seed), Random(seed)
        assert used.sample(one) == fresh.sample(two)
        assert used.mutate(parent, one) == fresh.mutate(parent, two)
        assert one.getstate() == two.getstate()


def test_a_mutant_of_a_constrained_space_is_near_its_parent() -> None:
    space = feasible(params=(-math.inf, 20_000.0))
    for seed in range(100):
        rng = Random(seed)
        parent = space.sample(rng)
        child = space.mutate(parent, rng)
        assert sum(child.choices[n] != parent.choices[n] for n in space.domains) == 1


def test_it_stands_in_for_the_space() -> None:
    space = feasible(params=(-math.inf, 20_000.0))
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

    space = Feasible(cells, {"convolutions": Limit(6, 6)}, measure)
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
    small = Feasible(space, {"params": Limit(max=1000)}, lambda a: space.costs(a, TASK))
    assert small.point("small") == space.point("small")
    parent = small.sample(Random(0))
    child = space.mutate(parent, Random(1))
    assert small.relatives(child, parent) == space.relatives(child, parent)
    assert small.costs(child, TASK) == space.costs(child, TASK)
