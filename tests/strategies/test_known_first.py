"""Searches that begin with known networks: in what order, at which fidelities, and how wide."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest
from strategies_helper import VALUE, Grid, Run, cube, total

from evonas.architecture import Architecture, Categorical
from evonas.errors import RecipeError
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.cnn import CNN
from evonas.spaces.darts import DARTS
from evonas.spaces.plain_cnn import PlainCNN
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.base import Strategy
from evonas.strategies.guided_evolution import GuidedEvolution
from evonas.strategies.hyperband import Hyperband
from evonas.strategies.nsga2 import NSGA2
from evonas.strategies.parts.known_first import KnownFirst, known_networks, widest
from evonas.strategies.projected_ascent import ProjectedAscent
from evonas.strategies.random import RandomSearch
from evonas.strategies.successive_halving import SuccessiveHalving
from evonas.testing import check_strategy
from evonas.trial import Limit, Objective

SPACE = cube(4, 100)
TASK = Task(channels=3, height=32, width=32, classes=10)
# One asks a sampler that only its evaluation has; the other, a space with a limit.
OTHERS = {"hypernet", "projected_ascent"}


def corners(space: SearchSpace) -> dict[str, Architecture]:
    """The smallest and the largest point."""
    ends = (("small", 0), ("large", -1))
    choices = {
        name: {c: domain.values()[end] for c, domain in space.domains.items()} for name, end in ends
    }
    return {name: space.architecture(each) for name, each in choices.items()}


def known_first(strategy: Strategy) -> KnownFirst:
    return KnownFirst(strategy, corners(strategy.space))


def test_known_networks_are_tried_at_every_fidelity_before_anything_else() -> None:
    run = Run(known_first(SuccessiveHalving(SPACE, VALUE)))
    small, large = corners(SPACE).values()
    trials = [run.step() for _ in range(7)]
    assert [(t.architecture, round(9 * t.proposal.fidelity)) for t in trials[:6]] == [
        *((small, 1), (large, 1)),
        *((small, 3), (large, 3)),
        *((small, 9), (large, 9)),
    ]
    assert [t.proposal.resume_from for t in trials[:6]] == [None, None, 0, 1, 2, 3]
    assert trials[6].architecture not in (small, large)


def test_what_failed_is_not_gone_on_with_and_what_runs_is_not_waited_for() -> None:
    run = Run(known_first(SuccessiveHalving(SPACE, VALUE)))
    small, large = run.start(), run.start()
    another = run.start()
    assert another.architecture not in (small.architecture, large.architecture)
    run.fail(small)
    run.end(large, 1.0)
    upper = run.start()
    assert (upper.architecture, upper.proposal.resume_from) == (large.architecture, large.number)
    assert run.start().architecture != small.architecture


def test_the_other_strategy_takes_them_for_trials_of_its_own() -> None:
    evolution = AgingEvolution(SPACE, VALUE, population_size=2, tournament_size=2)
    run = Run(known_first(evolution))
    small, large = run.step(), run.step()
    assert total(small.architecture) < total(large.architecture)
    assert run.start().proposal.parents == (large.number,)
    guided = Run(known_first(GuidedEvolution(SPACE, VALUE, startup_trials=2, children=4)))
    for _ in range(2):
        guided.step()
    assert guided.start().proposal.parents in ((), (1,))


@pytest.mark.parametrize("name", sorted(set(Registry().origins("strategy")) - OTHERS))
def test_every_strategy_keeps_the_contract_behind_them(name: str) -> None:
    strategy = Registry().find("strategy", name)
    assert not list(check_strategy(lambda space: known_first(strategy(space, VALUE))))


def test_projected_ascent_climbs_from_the_first_of_them() -> None:
    space = PlainCNN().limited({"params": Limit(max=20_000)}, TASK)
    small = widest(space, space.point("small"))
    assert small is not None
    run = Run(KnownFirst(ProjectedAscent(space, VALUE), {"small": small}))
    trials = [run.step(1.0) for _ in range(3)]
    assert [(t.architecture, t.proposal.repeat) for t in trials] == [(small, n) for n in range(3)]


def test_rungs_of_hyperband_and_several_objectives_are_those_of_the_other_strategy() -> None:
    hyperband = Hyperband(SPACE, VALUE)
    assert known_first(hyperband).fidelities == hyperband.fidelities
    assert not known_first(hyperband).multi_objective
    two = (*VALUE, Objective("cost", "min"))
    run = Run(known_first(NSGA2(SPACE, two)))
    assert run.strategy.multi_objective
    run.end(run.start(), 1.0, 1.0)
    assert run.strategy.findings().lines == ()


def test_the_end_tells_what_was_known_beside_what_was_found() -> None:
    run = Run(known_first(RandomSearch(SPACE, VALUE)))
    assert run.strategy.findings().lines == ()
    run.step(0.5)
    assert run.strategy.findings().lines == ("known networks: small is the best of 2, value 0.5",)
    run.step(0.25)
    run.step(0.75)
    assert run.strategy.findings().lines == (
        "known networks: small is the best of 2, value 0.5; the best that was found has 0.75",
    )


@pytest.mark.parametrize("params", [20_000, 50_000, 400_000])
def test_a_reference_network_is_made_as_wide_as_the_limits_allow(params: int) -> None:
    space = CNN(width_step=1).limited({"params": Limit(max=params)}, TASK)
    architecture = widest(space, space.point("conv4"))
    assert architecture is not None
    cost = partial(space.costs, task=TASK)
    assert 0.8 * params < cost(architecture)["params"] <= params
    widths = {architecture.choices[f"width{i}"] for i in range(1, 5)}
    assert len(widths) == 1, "scaled together"
    others = {n: v for n, v in space.point("conv4").choices.items() if "width" not in n}
    assert {**architecture.choices, **others} == architecture.choices


def test_without_limits_it_stays_as_it_is_but_for_numbers_that_are_not_searched() -> None:
    space = CNN()
    assert widest(space, space.point("vgg")) == space.point("vgg")
    narrow = CNN(max_depth=1, max_width=32)
    architecture = widest(narrow, narrow.point("resnet"))
    assert architecture is not None
    assert [architecture.choices[f"width{i}"] for i in range(1, 5)] == [16, 16, 32, 32]
    assert {architecture.choices[f"depth{i}"] for i in range(1, 5)} == {1}


def test_a_network_without_widths_is_taken_if_it_is_within_the_limits() -> None:
    space = DARTS()
    point = space.point("darts_v2")
    params = space.costs(point, TASK)["params"]
    for limit, expected in ((params, point), (params - 1, None)):
        limited = space.limited({"params": Limit(max=limit)}, TASK)
        assert widest(limited, point) == expected


def test_none_where_no_width_is_within_the_limits() -> None:
    space = CNN().limited({"params": Limit(max=1000)}, TASK)
    assert known_networks(space, ["conv4"]) == {"conv4": None}
    below = CNN().limited({"params": Limit(min=10**9)}, TASK)
    assert known_networks(below, ["conv4"]) == {"conv4": None}


def test_all_choices_of_a_network_are_taken_as_they_are() -> None:
    space = CNN().limited({"params": Limit(max=50_000)}, TASK)
    drawn = space.sample(Random(0))
    assert known_networks(space, [drawn.choices]) == {drawn.id: drawn}


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        ("conv5", "conv4"),
        ({"depth1": 1}, "missing"),
        ({**CNN().points["conv4"], "width1": 12}, "width1"),
        ({**CNN().points["conv4"], "width1": 128}, "exceeds the limits"),
    ],
)
def test_what_cannot_be_proposed_is_refused(network: object, complaint: str) -> None:
    space = CNN().limited({"params": Limit(max=50_000)}, TASK)
    with pytest.raises(RecipeError, match=rf"start_with\.0: .*{complaint}"):
        known_networks(space, [network])  # type: ignore[list-item]


def test_a_reference_that_the_options_of_the_space_exclude_is_refused() -> None:
    space = Grid(kind=Categorical(("a", "b")))
    space.points = {"other": {"kind": "c"}}
    with pytest.raises(RecipeError, match=r"start_with\.0: choice 'kind': 'c'"):
        known_networks(space, ["other"])
