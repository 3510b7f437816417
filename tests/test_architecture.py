from __future__ import annotations

import copy
import json
import math
import pickle
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from evonas.architecture import Architecture, Categorical, Domain, Integer, check_choices, same
from evonas.errors import InvalidArchitecture

DOMAINS: tuple[Domain, ...] = (
    Categorical(("relu", "gelu")),
    Categorical((True, 1, 1.0, "1")),
    Categorical((3,)),
    Integer(0, 7),
    Integer(-3, 9, step=4),
    Integer(1, 10, step=4),  # 10 is off the lattice
    Integer(5, 5),
    Integer(1, 1024, log=True),
    Integer(8, 64, step=8, log=True),
    Integer(1, 1_000_001, step=1_000_000, log=True),
)
each_domain = pytest.mark.parametrize("domain", DOMAINS, ids=str)


@each_domain
def test_samples_are_values_and_mutants_are_other_values(domain: Domain) -> None:
    for seed in range(200):
        rng = Random(seed)
        value = domain.sample(rng)
        assert domain.contains(value)
        mutant = domain.mutate(value, rng)
        assert domain.contains(mutant)
        assert same(mutant, value) == (domain.size == 1)


@each_domain
def test_size_counts_the_values(domain: Domain) -> None:
    assert len(domain.values()) == domain.size
    assert all(domain.contains(value) for value in domain.values())


@each_domain
def test_neighbours_are_values_and_neighbourhood_is_mutual(domain: Domain) -> None:
    for value in domain.values()[:50]:
        for neighbour in domain.neighbours(value):
            assert domain.contains(neighbour)
            assert not same(neighbour, value)
            assert any(same(value, back) for back in domain.neighbours(neighbour))


@pytest.mark.parametrize("domain", [d for d in DOMAINS if d.size <= 10], ids=str)
def test_every_value_is_sampled_both_ends_included(domain: Domain) -> None:
    rng = Random(0)
    drawn = {(type(v), v) for v in (domain.sample(rng) for _ in range(2000))}
    assert drawn == {(type(v), v) for v in domain.values()}


def test_log_sampling_gives_every_octave_its_share() -> None:
    domain, rng = Integer(1, 1024, log=True), Random(0)
    drawn = Counter(round(math.log2(domain.sample(rng))) for _ in range(10_000))
    inner = [drawn[octave] for octave in range(3, 10)]  # of more than a few values each
    assert min(inner) > 0.75 * max(inner)
    assert drawn[0] > 1000  # the lower end keeps its share: ln 3 / ln 2049 of the draws
    assert drawn[10] > 300


def test_uniform_sampling_is_uniform() -> None:
    rng = Random(0)
    drawn = Counter(Integer(0, 9).sample(rng) for _ in range(10_000))
    assert sum((n - 1000) ** 2 / 1000 for n in drawn.values()) < 28  # chi-square, 9 d.f., p = .001


def test_contains_asks_for_the_type() -> None:
    integer = Integer(0, 4, step=2)
    for value, inside in ((2, True), (1, False), (6, False), (-2, False)):
        assert integer.contains(value) is inside
    for other in (2.0, True, "2", None, math.nan, [2]):
        assert not integer.contains(other)
    assert not Categorical((0, 1)).contains(True)
    assert not Categorical((0, 1)).contains(1.0)
    assert not Categorical((False, True)).contains(1)
    assert not Categorical(("a",)).contains(["a"])


def test_nearest_stays_on_the_lattice() -> None:
    domain = Integer(8, 64, step=8)
    for value, nearest in ((-5, 8), (8, 8), (11.9, 8), (12.1, 16), (63, 64), (1e9, 64)):
        assert domain.nearest(value) == nearest


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Categorical(()), "at least one option"),
        (lambda: Categorical(("a", "b", "a")), "twice"),
        (lambda: Categorical(((1, 2), (3, 4))), "of type tuple: name it"),
        (lambda: Categorical((None, 1)), "of type NoneType"),
        (lambda: Categorical((np.int64(1), np.int64(2))), "of type int64"),
        (lambda: Categorical((np.float64(1),)), "of type float64"),
        (lambda: Categorical((np.bool_(True),)), "of type bool"),
        (lambda: Integer(2, 1), "greater than high"),
        (lambda: Integer(0, 4, step=0), "step must be"),
        (lambda: Integer(0, 4, log=True), "log needs low"),
    ],
)
def test_senseless_domains_are_refused(make: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()  # type: ignore[operator]


@pytest.mark.faults("14: True, 1 and 1.0 are three choices, before and after a resume")
def test_one_and_true_and_one_point_zero_are_three_choices() -> None:
    assert same(1, 1)
    assert not same(1, True)
    assert not same(1, 1.0)
    architectures = {Architecture("s", {"a": value}) for value in (1, True, 1.0, "1")}
    assert len(architectures) == 4
    assert len({a.id for a in architectures}) == 4
    assert Architecture("s", {"a": 1}) != Architecture("s", {"a": True})


def test_the_id_is_of_the_content_and_never_changes() -> None:
    architecture = Architecture("plain_cnn", {"depth": 3, "act": "relu", "norm": True, "drop": 0.5})
    assert architecture.id == "5e9eaa1ff2a2"  # journals and MLflow runs refer to it
    reordered = dict(reversed(architecture.choices.items()))
    assert Architecture("plain_cnn", reordered).id == architecture.id
    assert Architecture("plain_cnn", reordered) == architecture
    assert Architecture("mbconv", architecture.choices).id != architecture.id
    assert Architecture("mbconv", architecture.choices) != architecture
    assert architecture != "an architecture"


def test_it_cannot_be_changed_from_outside() -> None:
    choices = {"depth": 3}
    architecture = Architecture("s", choices)
    choices["depth"] = 4
    assert architecture.choices["depth"] == 3
    with pytest.raises(TypeError):
        architecture.choices["depth"] = 4  # type: ignore[index]


@pytest.mark.parametrize("seed", range(20))
def test_json_pickle_and_copy_keep_it(seed: int) -> None:
    rng = Random(seed)
    choices = {f"x{i}": domain.sample(rng) for i, domain in enumerate(DOMAINS)}
    architecture = Architecture("s", choices)
    through_json = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    through_pickle = pickle.loads(pickle.dumps(architecture))
    for again in (through_json, through_pickle, copy.deepcopy(architecture)):
        assert again == architecture
        assert again.id == architecture.id
        assert hash(again) == hash(architecture)
        assert all(same(again.choices[name], value) for name, value in choices.items())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (None, "should be a dictionary"),
        ([], "should be a dictionary"),
        ({}, "space: Field required"),
        ({"space": "s"}, "choices: Field required"),
        ({"space": 1, "choices": {}}, "space: "),
        ({"space": "s", "choices": [1]}, "choices: "),
        ({"space": "s", "choices": {"x": None}}, r"choices\.x"),
        ({"space": "s", "choices": {"x": {"y": 1}}}, r"choices\.x"),
        ({"space": "s", "choices": {"x": float("nan")}}, r"choices\.x"),
    ],
)
def test_json_of_something_else_is_refused(data: Any, complaint: str) -> None:
    with pytest.raises(InvalidArchitecture, match=complaint):
        Architecture.from_json(data)


@each_domain
def test_domains_pickle(domain: Domain) -> None:
    assert pickle.loads(pickle.dumps(domain)) == domain


def test_check_choices_names_what_is_wrong() -> None:
    domains: dict[str, Domain] = {"depth": Integer(1, 3), "act": Categorical(("relu",))}
    check_choices(domains, {"depth": 1, "act": "relu"})
    for choices, reason in (
        ({"depth": 1}, "choice 'act' is missing"),
        ({"depth": 1, "act": "relu", "width": 2}, "choice 'width' is not declared"),
        ({"depth": 4, "act": "relu"}, "choice 'depth': 4 is outside"),
        ({"depth": True, "act": "relu"}, "choice 'depth': True is outside"),
    ):
        with pytest.raises(InvalidArchitecture, match=reason):
            check_choices(domains, choices)


def test_ordered_options_have_neighbours_beside_them() -> None:
    widths = Categorical((1, 2, 4, 8), ordered=True)
    assert widths.neighbours(1) == (2,)
    assert widths.neighbours(4) == (2, 8)
    assert widths.neighbours(8) == (4,)
    assert {widths.mutate(4, Random(seed)) for seed in range(50)} == {1, 2, 8}
    assert widths != Categorical((1, 2, 4, 8))


def test_what_is_only_built_may_exceed_its_bounds() -> None:
    domains = {"width": Integer(8, 32, step=8), "kind": Categorical(("a", "b"))}
    check_choices(domains, {"width": 100, "kind": "a"}, searched=False)
    for wrong in ({"width": -8, "kind": "a"}, {"width": 8.0, "kind": "a"}, {"width": 8, "kind": 1}):
        with pytest.raises(InvalidArchitecture):
            check_choices(domains, wrong, searched=False)
    with pytest.raises(InvalidArchitecture, match="100"):
        check_choices(domains, {"width": 100, "kind": "a"})
    with pytest.raises(InvalidArchitecture, match="1000000"):  # nobody means that
        check_choices(domains, {"width": 1_000_000, "kind": "a"}, searched=False)
