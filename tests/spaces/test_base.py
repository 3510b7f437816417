"""What every space inherits, on small spaces with and without rules and canonical forms."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from random import Random
from typing import ClassVar

import pytest
from torch import nn

from evonas.architecture import Architecture, Categorical, Domain, Integer, Value
from evonas.errors import InvalidArchitecture, UnknownComponent
from evonas.spaces.base import SearchSpace, Task, divisible


class Free(SearchSpace):
    """Any combination is a network of its own."""

    points: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "small": {"width": 8, "depth": 1, "act": "relu", "skip": False, "one": 1}
    }

    def __init__(self) -> None:
        self.domains: Mapping[str, Domain] = {
            "width": Integer(8, 32, step=8, role="width"),
            "depth": Integer(1, 4, log=True, role="depth"),
            "act": Categorical(("relu", "gelu", "silu")),
            "skip": Categorical((False, True)),
            "one": Categorical((1,)),
        }

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


class Layers(Free):
    """The kernels of layers beyond ``depth`` have no effect, and the kernels must ascend."""

    def __init__(self) -> None:
        self.domains = {
            "depth": Integer(1, 3),
            **{f"kernel_{i}": Categorical((3, 5, 7)) for i in range(1, 4)},
        }

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        dead = {f"kernel_{i}": 3 for i in range(int(choices["depth"]) + 1, 4)}
        return {**choices, **dead}

    def validate(self, architecture: Architecture) -> None:
        kernels = self.kernels(architecture)
        if kernels != sorted(kernels):
            raise InvalidArchitecture(f"kernels must ascend, not {kernels}")

    @staticmethod
    def kernels(architecture: Architecture) -> list[int]:
        depth = int(architecture.choices["depth"])
        return [int(architecture.choices[f"kernel_{i}"]) for i in range(1, depth + 1)]


class Impossible(Free):
    def validate(self, architecture: Architecture) -> None:
        raise InvalidArchitecture("nothing is good enough")


SPACES = {"free": Free(), "layers": Layers()}
each_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
SEEDS = range(100)


def changed(a: Architecture, b: Architecture) -> list[str]:
    return [name for name in a.choices if a.choices[name] != b.choices[name]]


@each_space
def test_whatever_is_drawn_is_valid_and_canonical(space: SearchSpace) -> None:
    for seed in SEEDS:
        rng = Random(seed)
        a, b = space.sample(rng), space.sample(rng)
        near = list(space.neighbours(a))
        for drawn in (a, b, space.mutate(a, rng), space.crossover(a, b, rng), *near):
            assert space.architecture(drawn.choices) == drawn
            assert tuple(drawn.choices) == tuple(space.domains)


@each_space
def test_the_same_generator_draws_the_same(space: SearchSpace) -> None:
    for seed in SEEDS:
        one, two = Random(seed), Random(seed)
        parent = space.sample(one)
        assert parent == space.sample(two)
        assert space.mutate(parent, one) == space.mutate(parent, two)
        other = space.sample(one)
        assert space.crossover(parent, other, one) == space.crossover(
            parent, space.sample(two), two
        )
        assert one.getstate() == two.getstate()


def test_a_mutant_differs_in_exactly_one_choice() -> None:
    space, seen = Free(), set()
    for seed in SEEDS:
        rng = Random(seed)
        parent = space.sample(rng)
        seen |= set(names := changed(parent, space.mutate(parent, rng)))
        assert len(names) == 1
    assert seen == {"width", "depth", "act", "skip"}


def test_every_choice_mutates_equally_often() -> None:
    space, rng = Free(), Random(0)
    parent = space.sample(rng)
    names = [changed(parent, space.mutate(parent, rng))[0] for _ in range(2000)]
    for name in ("width", "depth", "act", "skip"):
        assert 420 < names.count(name) < 580  # 500 ± 4 standard deviations


def test_a_mutant_is_another_network_though_a_dead_choice_was_drawn() -> None:
    space = Layers()
    for seed in SEEDS:
        rng = Random(seed)
        parent = space.sample(rng)
        assert space.mutate(parent, rng).id != parent.id


def test_a_single_point_mutates_into_itself() -> None:
    space = Free()
    space.domains = {"one": Categorical((1,))}
    only = space.sample(Random(0))
    assert space.mutate(only, Random(0)) == only
    assert space.crossover(only, only, Random(0)) == only
    assert list(space.neighbours(only)) == []
    assert list(space.enumerate()) == [only]


def test_crossover_takes_values_of_either_parent_and_of_both() -> None:
    space, mixed = Free(), 0
    for seed in SEEDS:
        rng = Random(seed)
        a, b = space.sample(rng), space.sample(rng)
        child = space.crossover(a, b, rng)
        assert all(child.choices[n] in (a.choices[n], b.choices[n]) for n in space.domains)
        mixed += bool(changed(child, a)) and bool(changed(child, b))
    assert mixed > 30


def test_enumerate_gives_every_point_of_a_free_space_once() -> None:
    points = list(Free().enumerate())
    assert len(points) == len(set(points)) == Free().size() == 4 * 4 * 3 * 2


def test_enumerate_leaves_out_what_breaks_a_rule_and_merges_equal_networks() -> None:
    space = Layers()
    points = list(space.enumerate())
    ascending = sum(
        len(list(itertools.combinations_with_replacement((3, 5, 7), depth))) for depth in (1, 2, 3)
    )
    assert len(points) == len({p.id for p in points}) == ascending
    assert space.size() == 81  # an upper bound
    rng = Random(0)
    assert {space.sample(rng) for _ in range(2000)} == set(points)


def test_equal_networks_share_an_id() -> None:
    space = Layers()
    one = space.architecture({"depth": 1, "kernel_1": 5, "kernel_2": 7, "kernel_3": 3})
    two = space.architecture({"depth": 1, "kernel_1": 5, "kernel_2": 3, "kernel_3": 7})
    assert one.id == two.id


@each_space
def test_neighbours_differ_from_their_centre_and_from_each_other(space: SearchSpace) -> None:
    for centre in itertools.islice(space.enumerate(), 40):
        near = list(space.neighbours(centre))
        assert len({n.id for n in near} | {centre.id}) == len(near) + 1


def test_neighbours_take_one_step_along_an_ordered_choice() -> None:
    space = Free()
    small = space.point("small")
    near = list(space.neighbours(small))
    assert {n.choices["width"] for n in near} == {8, 16}
    assert len(near) == 1 + 1 + 2 + 1


def test_rules_hold() -> None:
    with pytest.raises(InvalidArchitecture, match="must ascend"):
        Layers().architecture({"depth": 2, "kernel_1": 5, "kernel_2": 3, "kernel_3": 3})
    with pytest.raises(InvalidArchitecture, match=r"1000 candidates in a row.*good enough"):
        Impossible().sample(Random(0))


def test_a_choice_outside_its_domain_is_refused() -> None:
    choices = dict(Free.points["small"])
    for name, value in (("width", 9), ("width", 8.0), ("depth", 5), ("act", "tanh"), ("skip", 0)):
        with pytest.raises(InvalidArchitecture, match=name):
            Free().architecture({**choices, name: value})


def test_scaled_changes_the_widths_alone() -> None:
    space = Free()
    wide = space.architecture({**Free.points["small"], "width": 32})
    for factor, width in ((0.5, 16), (1, 32), (2, 64), (0.3, 16), (0.25, 8), (0.01, 8)):
        scaled = space.scaled(wide, factor)
        assert scaled.choices["width"] == width
        assert set(changed(wide, scaled)) <= {"width"}
    assert space.scaled(wide) == wide
    with pytest.raises(InvalidArchitecture, match="no choice with role 'width'"):
        Layers().scaled(Layers().sample(Random(0)), 0.5)


def test_scaled_changes_the_depths_alone() -> None:
    space = Free()
    for depth, factor, scaled in ((4, 0.5, 2), (3, 0.4, 1), (1, 0.5, 1), (4, 0.01, 1), (2, 2, 4)):
        deep = space.architecture({**Free.points["small"], "depth": depth})
        assert space.scaled(deep, depth=factor).choices["depth"] == scaled
        assert set(changed(deep, space.scaled(deep, depth=factor))) <= {"depth"}
    both = space.scaled(deep, 2, 3)
    assert (both.choices["width"], both.choices["depth"]) == (16, 6)
    with pytest.raises(InvalidArchitecture, match="no choice with role 'depth'"):
        Layers().scaled(Layers().sample(Random(0)), depth=0.5)


def test_what_is_absent_stays_absent_when_scaled() -> None:
    space = Free()
    space.domains = {"depth": Integer(0, 4, role="depth"), "width": Integer(3, 9, 4, role="width")}
    least = space.architecture({"depth": 0, "width": 3})
    assert dict(space.scaled(least, 0.5, 0.5).choices) == {"depth": 0, "width": 3}
    most = space.architecture({"depth": 4, "width": 7})
    assert dict(space.scaled(most, 0.5, 0.5).choices) == {"depth": 2, "width": 4}


@each_space
def test_json_round_trip(space: SearchSpace) -> None:
    for architecture in itertools.islice(space.enumerate(), 50):
        data = json.loads(json.dumps(architecture.to_json()))
        assert Architecture.from_json(data) == architecture


def test_a_space_is_called_like_its_file() -> None:
    assert Free.name == __name__.rpartition(".")[2]
    assert Free().sample(Random(0)).space == Free.name


def test_points_are_looked_up_by_name() -> None:
    assert dict(Free().point("small").choices) == Free.points["small"]
    with pytest.raises(UnknownComponent, match=r"unknown network of .* 'large'"):
        Free().point("large")


class Tree(Free):
    """Conditional choices on two levels, an ordered one, and a rule."""

    def __init__(self) -> None:
        self.domains = {
            "depth": Integer(1, 3, role="depth"),
            **{f"type{i}": Categorical(("conv", "pool")) for i in (1, 2, 3)},
            **{f"kernel{i}": Categorical((3, 5, 7, 11), ordered=True) for i in (1, 2, 3)},
        }
        self.conditions = {
            **{f"type{i}": lambda c, i=i: c["depth"] >= i for i in (1, 2, 3)},
            **{
                f"kernel{i}": lambda c, i=i: c["depth"] >= i and c[f"type{i}"] == "conv"
                for i in (1, 2, 3)
            },
        }
        self.rules = {"the first layer is a convolution": lambda c: c["type1"] == "conv"}


TREE = Tree()
ONE_CONV = {"depth": 1, **dict.fromkeys(("type1", "type2", "type3"), "conv")}
ONE_CONV |= dict.fromkeys(("kernel1", "kernel2", "kernel3"), 3)


def test_choices_without_effect_are_fixed() -> None:
    with_rest = ONE_CONV | {"type2": "pool", "kernel3": 7}
    assert TREE.architecture(with_rest) == TREE.architecture(ONE_CONV)
    assert TREE.active(ONE_CONV) == ["depth", "type1", "kernel1"]
    pool = ONE_CONV | {"depth": 2, "type2": "pool", "kernel2": 7}
    assert TREE.architecture(pool).choices["kernel2"] == 3


def test_a_broken_rule_is_said_by_its_sentence() -> None:
    with pytest.raises(InvalidArchitecture, match="must hold that the first layer is a convolu"):
        TREE.architecture(ONE_CONV | {"type1": "pool"})


def test_conditions_and_rules_hold_in_whatever_is_drawn() -> None:
    for seed in range(300):
        rng = Random(seed)
        a, b = TREE.sample(rng), TREE.sample(rng)
        child = TREE.mutate(a, rng)
        assert child != a
        for drawn in (a, child, TREE.crossover(a, b, rng), *TREE.neighbours(a)):
            assert drawn.choices["type1"] == "conv"
            for name in TREE.domains.keys() - set(TREE.active(drawn.choices)):
                assert drawn.choices[name] == TREE.domains[name].values()[0]


def test_a_mutation_changes_one_choice_that_has_an_effect() -> None:
    for seed in range(200):
        parent = TREE.sample(Random(seed))
        child = TREE.mutate(parent, Random(seed))
        both = set(TREE.active(parent.choices)) & set(TREE.active(child.choices))
        changed = [name for name in both if parent.choices[name] != child.choices[name]]
        assert len(changed) == 1


def test_choices_that_gain_an_effect_are_drawn() -> None:
    parent, kernels = TREE.architecture(ONE_CONV), set()
    for seed in range(300):
        child = TREE.mutate(parent, Random(seed))
        if child.choices["depth"] == 2 and child.choices["type2"] == "conv":
            kernels.add(child.choices["kernel2"])
    assert kernels == {3, 5, 7, 11}


def test_crossover_takes_a_choice_from_the_parent_where_it_has_an_effect() -> None:
    deep = TREE.architecture({**ONE_CONV, "depth": 3, "kernel2": 7, "kernel3": 11})
    shallow = TREE.architecture(ONE_CONV)
    for seed in range(50):
        child = TREE.crossover(shallow, deep, Random(seed))
        if child.choices["depth"] == 3:
            assert (child.choices["kernel2"], child.choices["kernel3"]) == (7, 11)


def test_neighbours_of_an_ordered_choice_are_beside_it() -> None:
    parent = TREE.architecture(ONE_CONV | {"kernel1": 7})
    kernels = {n.choices["kernel1"] for n in TREE.neighbours(parent)}
    assert kernels == {5, 7, 11}


def test_enumeration_counts_equal_networks_once() -> None:
    conv, any_layer = 4, 4 + 1
    assert len(list(TREE.enumerate())) == conv * (1 + any_layer + any_layer**2)


@pytest.mark.parametrize(
    ("value", "divisor", "rounded"),
    [(32, 8, 32), (35.2, 8, 32), (36, 8, 40), (18, 8, 24), (3, 8, 8), (17.6, 8, 16), (10, 4, 12)],
)
def test_widths_are_rounded_to_no_less_than_nine_tenths(
    value: float, divisor: int, rounded: int
) -> None:
    assert divisible(value, divisor) == rounded
    assert rounded >= 0.9 * value


def test_depth_is_rounded_up_when_it_grows() -> None:
    space = Free()
    small = space.architecture(space.points["small"])
    assert space.scaled(small, depth=1.1).choices["depth"] == 2
    assert space.scaled(small, depth=0.5).choices["depth"] == 1
    assert space.scaled(space.scaled(small, depth=3.0), depth=0.5).choices["depth"] == 2
