"""Cells of pairwise combinations: published sizes, one id per network, AmoebaNet's mutations."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from random import Random

import pytest
import torch
from spaces_helper import assert_counted
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer
from evonas.errors import RecipeError
from evonas.recipe.options import check
from evonas.spaces.base import Task
from evonas.spaces.nasnet import Element, NASNet, Pair, _cell, _ordered, _places, _read, _spelled
from evonas.spaces.parts.cell_operations import OPERATIONS, FactorizedReduction, described
from evonas.spaces.parts.cells import Cells, Place

SPACE = NASNet(max_repeats=2, max_filters=8)
CIFAR = Task(channels=3, height=32, width=32, classes=10)
CELLS = ("normal", "reduction")
TASKS = (
    CIFAR,
    Task(channels=1, height=8, width=8, classes=2),
    Task(channels=1, height=28, width=28, classes=10),
    Task(channels=3, height=5, width=9, classes=4),
    Task(channels=1, height=1, width=1, classes=3),
    Task(channels=3, height=224, width=224, classes=10),
)
E = Element
Description = tuple[tuple[Pair, ...], str]


def on_meta(architecture: Architecture, task: Task) -> nn.Module:
    with torch.device("meta"):
        return SPACE.build(architecture, task)


def cell_of(*pairs: Pair, output: tuple[int, ...], stride: int = 1) -> nn.Module:
    """A cell of two filters whose inputs come in as they are."""
    place = Place("cell", _cell(pairs, output), 2, stride)
    built = Cells(2, [place]).build().get_submodule("cell")
    for name in entries_of(built):
        entries_of(built)[name] = nn.Identity()
    return built.eval()


def entries_of(cell: nn.Module) -> nn.ModuleDict:
    found = cell.get_submodule("entries")
    assert isinstance(found, nn.ModuleDict)
    return found


@pytest.mark.parametrize(
    ("name", "params", "published"),
    [
        ("nasnet_a", 3_328_234, 3.3),
        ("amoebanet_a", 2_558_858, 2.6),
        ("amoebanet_a_36", 3_207_106, 3.2),
        ("pnasnet5", 3_176_602, 3.2),
        ("darts_v2", 3_349_342, 3.3),
    ],
)
def test_points_have_the_published_size(name: str, params: int, published: float) -> None:
    assert SPACE.costs(SPACE.point(name), CIFAR)["params"] == params
    assert_counted(SPACE, SPACE.point(name), CIFAR)
    assert round(params / 1e6, 1) == published


def test_nasnet_a_ends_in_768_channels() -> None:
    head = on_meta(SPACE.point("nasnet_a"), CIFAR).get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    assert head.in_features == 768


@pytest.mark.parametrize("seed", range(10))
def test_the_count_is_that_of_the_network(seed: int) -> None:
    rng, task = Random(seed), TASKS[seed % len(TASKS)]
    drawn = SPACE.sample(rng)
    for architecture in (drawn, SPACE.mutate(drawn, rng)):
        assert_counted(SPACE, architecture, task)


@pytest.mark.parametrize("task", TASKS[:5], ids=lambda t: "x".join(map(str, t.input_shape)))
def test_networks_train_on_maps_of_any_size(task: Task) -> None:
    for seed in range(3):
        built = SPACE.build(SPACE.sample(Random(seed)), task)
        logits = built(torch.randn(2, *task.input_shape))
        assert logits.shape == (2, task.classes)
        logits.sum().backward()


def test_the_domains() -> None:
    domains = NASNet().domains
    assert domains["repeats2"] == Integer(1, 6, role="depth")
    assert domains["filters"] == Integer(4, 48, step=4, log=True, role="width")
    assert domains["normal_2_left_input"] == Categorical((0, 1))
    assert domains["reduction_6_right_input"] == Categorical(range(6))
    assert domains["reduction_6_right_op"] == Categorical(tuple(OPERATIONS))
    assert len(domains) == 2 + 3 + 2 * (5 * 4 + 1)


def test_the_size_is_the_product_of_the_choices() -> None:
    cell = math.prod(state**2 * 14**2 for state in range(2, 7)) * 8
    assert NASNet().size() == 2 * 12 * 6**3 * cell**2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_repeats": 0}, r"space\.max_repeats: .*greater than or equal to 1, not 0"),
        ({"max_filters": 3}, r"space\.max_filters: .*greater than or equal to 4, not 3"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(NASNet, options, "space")


# One id per network.


def relabelled(description: Description, rng: Random) -> Description:
    """The same cell, its combinations in another order that is possible, sides swapped at will."""
    pairs, output = description
    numbers, done = {0: 0, 1: 1}, list[Pair]()
    while len(done) < len(pairs):
        ready = [
            (old, pair)
            for old, pair in enumerate(pairs, start=2)
            if old not in numbers and all(e.state in numbers for e in pair)
        ]
        old, pair = rng.choice(ready)
        left, right = (E(numbers[e.state], e.operation) for e in pair)
        done.append((left, right) if rng.random() < 0.5 else (right, left))
        numbers[old] = len(done) + 1
    base, plus, state = output.partition("+")
    return tuple(done), f"{base}+{numbers[int(state)]}" if plus else output


def all_labellings(description: Description) -> set[Description]:
    """By brute force."""
    pairs, output = description
    found = set()
    for order in itertools.permutations(range(len(pairs))):
        numbers = {0: 0, 1: 1} | {old + 2: new + 2 for new, old in enumerate(order)}
        moved = [tuple(E(numbers[e.state], e.operation) for e in pairs[old]) for old in order]
        if any(e.state >= made for made, pair in enumerate(moved, start=2) for e in pair):
            continue
        base, plus, state = output.partition("+")
        renamed = f"{base}+{numbers[int(state)]}" if plus else output
        found.add((tuple(tuple(sorted(pair)) for pair in moved), renamed))
    return found  # type: ignore[return-value]


def test_relabelled_cells_are_one_architecture() -> None:
    for seed in range(200):
        rng = Random(seed)
        drawn = SPACE.sample(rng)
        choices = dict(drawn.choices)
        for cell in CELLS:
            pairs, output = _read(cell, choices)
            choices |= _spelled(cell, *relabelled((tuple(pairs), output), rng))
        raw = Architecture(SPACE.name, choices)
        assert SPACE.architecture(choices).id == drawn.id
        counted, others = SPACE.costs(raw, CIFAR), SPACE.costs(drawn, CIFAR)
        # Another order of computing keeps other states waiting.
        assert (counted["params"], counted["flops"]) == (others["params"], others["flops"])
        assert SPACE.canonical(drawn.choices) == drawn.choices


def test_cells_share_a_form_exactly_if_a_relabelling_makes_them_equal() -> None:
    """Against brute force, on cells so small that many of them are equal."""

    def drawn(rng: Random) -> Description:
        operations = ("identity", "conv_1x1")
        pairs = tuple(
            (E(rng.randrange(s), rng.choice(operations)), E(rng.randrange(s), "identity"))
            for s in range(2, 5)
        )
        return pairs, "all"

    cells = [drawn(Random(seed)) for seed in range(400)]
    forms = [(tuple(pairs), out) for pairs, out in (_ordered(*cell) for cell in cells)]
    classes = [
        min(all_labellings((cell[0], form[1]))) for cell, form in zip(cells, forms, strict=True)
    ]
    equal = 0
    described = zip(forms, classes, strict=True)
    for (form, one), (other_form, other) in itertools.combinations(described, 2):
        assert (form == other_form) == (one == other)
        equal += form == other_form
    assert equal > 20


def test_states_of_one_description_may_still_differ_in_what_is_made_of_them() -> None:
    """Two equal combinations taken once each are not one combination taken twice."""
    twin = (E(0, "conv_1x1"), E(1, "conv_1x1"))
    once_each = (twin, twin, (E(2, "identity"), E(3, "identity")))
    twice = (twin, twin, (E(2, "identity"), E(2, "identity")))
    assert _ordered(once_each, "all") != _ordered(twice, "all")


@pytest.mark.parametrize(
    ("outputs", "equal"),
    [
        (("unused", "unused+4"), True),  # state 4 is unused anyway
        (("unused", "unused+3"), False),
        (("all", "unused+2"), False),
        (("unused", "all"), False),
        (("unused+0", "unused+1"), False),
    ],
)
def test_outputs_that_mean_the_same_states_are_equal(outputs: tuple[str, str], equal: bool) -> None:
    pairs = (
        (E(0, "conv_1x1"), E(1, "identity")),
        (E(2, "conv_1x1"), E(1, "identity")),
        (E(3, "conv_1x1"), E(2, "identity")),
    )
    first, second = (_ordered(pairs, output) for output in outputs)
    assert (first == second) == equal


def test_all_is_unused_where_no_state_is_taken() -> None:
    pairs = ((E(0, "conv_1x1"), E(1, "identity")), (E(0, "identity"), E(1, "identity")))
    assert _ordered(pairs, "all") == _ordered(pairs, "unused")


def test_a_fifth_combination_that_is_not_there_has_no_effect() -> None:
    drawn = next(
        a for a in map(SPACE.sample, map(Random, range(99))) if a.choices["combinations"] == 4
    )
    changed = {**drawn.choices, "normal_6_left_op": "conv_3x3", "reduction_6_right_input": 5}
    assert SPACE.architecture(changed).id == drawn.id
    assert "normal_6_left_op" not in SPACE.active(drawn.choices)


# Mutation.


def contents(architecture: Architecture, cell: str) -> Counter[str]:
    return Counter(e.operation for pair in _read(cell, architecture.choices)[0] for e in pair)


def test_a_mutation_changes_a_state_or_an_operation_or_seldom_something_else() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(400):
        rng = Random(seed)
        parent = SPACE.sample(rng)
        child = SPACE.mutate(parent, rng)
        assert child.id != parent.id
        around = [n for n in parent.choices if "_op" not in n and "_input" not in n]
        outside = [n for n in around if parent.choices[n] != child.choices[n] and "output" not in n]
        changed = [c for c in CELLS if _read(c, parent.choices) != _read(c, child.choices)]
        moved = sum((contents(child, c) - contents(parent, c)).total() for c in CELLS)
        if outside:
            kinds["around"] += 1
            assert len(outside) == 1
        else:
            assert len(changed) == 1  # either the normal or the reduction cell
            assert moved <= 1
            kinds["operation" if moved else "state"] += 1
    assert 140 < kinds["operation"] < 220
    assert 140 < kinds["state"] < 240  # a changed output is among them
    assert 10 < kinds["around"] < 60


def test_a_state_may_be_rewired_to_any_that_is_not_made_of_it() -> None:
    halves = ["identity", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3"]
    flat = [(E(0, operation), E(0, "conv_1x1")) for operation in halves]
    choices = {
        **SPACE.sample(Random(0)).choices,
        "combinations": 5,
        **_spelled("normal", flat, "all"),
    }
    parent = SPACE.architecture({**choices, "reduction_6_left_op": "identity"})
    read = set()
    for seed in range(1500):
        pairs, _ = _read("normal", SPACE.mutate(parent, Random(seed)).choices)
        for pair in pairs:
            if any(e.operation == "identity" for e in pair):
                source = max(e.state for e in pair)
                if source >= 2:
                    read.add(
                        min(e.operation for e in pairs[source - 2] if e.operation != "conv_1x1")
                    )
    assert read == set(halves[1:])  # the first of the canonical order, fed by each of the others


def test_relatives_share_the_names_of_what_they_have_in_common() -> None:
    choices = dict(SPACE.sample(Random(1)).choices)
    few, many = (SPACE.build(SPACE.architecture({**choices, "repeats1": n}), CIFAR) for n in (1, 2))
    new = set(many.state_dict()) - set(few.state_dict())
    assert set(few.state_dict()) < set(many.state_dict())
    assert {name.split(".")[1] for name in new} == {"stage1_cell2"}


# What is built.


def test_a_cell_of_identities_adds_and_concatenates() -> None:
    one, other = torch.randn(2, 3, 2, 4, 4).unbind(0)
    pairs = ((E(0, "identity"), E(1, "identity")), (E(2, "identity"), E(1, "identity")))
    out = cell_of(*pairs, output=(0, 2, 3))(one, other)
    assert torch.allclose(out, torch.cat([one, one + other, one + 2 * other], dim=1))


def test_an_input_that_nothing_takes_is_not_prepared() -> None:
    pair = (E(1, "identity"), E(1, "max_pool_3x3"))
    assert list(entries_of(cell_of(pair, output=(2,)))) == ["1"]
    assert list(entries_of(cell_of(pair, output=(0, 2)))) == ["0", "1"]


def test_average_pooling_ignores_the_padding() -> None:
    pooled = cell_of((E(0, "avg_pool_3x3"), E(1, "identity")), output=(2,))
    ones = torch.ones(1, 2, 4, 4)
    assert torch.allclose(pooled(ones, ones), 2 * ones)


def test_a_reduction_strides_only_where_inputs_come_in() -> None:
    pairs = ((E(0, "max_pool_3x3"), E(1, "identity")), (E(2, "max_pool_3x3"), E(1, "conv_3x3")))
    x = torch.randn(2, 2, 7, 8)
    assert cell_of(*pairs, output=(1, 2, 3), stride=2)(x, x).shape == (2, 6, 4, 4)


def test_a_factorized_reduction_sees_every_pixel_of_the_diagonals() -> None:
    reduction = FactorizedReduction(1, 2).eval()
    for convolution in (reduction.even, reduction.odd):
        nn.init.ones_(convolution.weight)
    x = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    out = reduction(x)
    assert torch.allclose(out[0, 0], x[0, 0, ::2, ::2], rtol=1e-4)
    assert torch.allclose(out[0, 1], x[0, 0, 1::2, 1::2], rtol=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_keep_the_channels_and_divide_the_size(operation: str, stride: int) -> None:
    for height, width in ((1, 1), (5, 8)):
        layer = described(OPERATIONS[operation], 6, 6, stride)
        out = layer.build()(torch.randn(2, 6, height, width))
        assert out.shape == (2, 6, -(-height // stride), -(-width // stride))


def test_stages_double_the_filters_and_halve_the_size() -> None:
    chain: list[Pair] = [(E(state, "identity"), E(1, "identity")) for state in (0, 2, 3, 4)]
    choices = {
        **SPACE.sample(Random(0)).choices,
        **{"combinations": 4, "filters": 4, "repeats1": 2, "repeats2": 1, "repeats3": 1},
        **_spelled("normal", chain, "unused"),
        **_spelled("reduction", chain, "unused+2"),
    }
    built, sizes = SPACE.build(SPACE.architecture(choices), CIFAR), []
    for module in built.get_submodule("cells").children():
        module.register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape[1:])))
    built(torch.randn(2, 3, 32, 32))
    normal = [(4, 32, 32)] * 2, [(8, 16, 16)], [(16, 8, 8)]
    assert sizes == [*normal[0], (16, 16, 16), *normal[1], (32, 8, 8), *normal[2]]
    names = ["stage1_cell1", "stage1_cell2", "reduction1", "stage2_cell1", "reduction2"]
    assert [place.name for place in _places(choices)] == [*names, "stage3_cell1"]
