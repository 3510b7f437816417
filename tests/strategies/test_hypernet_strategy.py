"""The hypernet strategy: a grid of complexities, each architecture once, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from conftest import bounded
from strategies_helper import refused

from evonas.architecture import Architecture
from evonas.errors import OptionError
from evonas.spaces.base import SearchSpace
from evonas.spaces.darts import DARTS, OPERATIONS_BY_KIND
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.strategies.hypernet import ComplexityGrid, grid
from evonas.testing import sampler_of
from evonas.trial import Limit, Objective, Proposal, Trial, TrialState

OBJECTIVES = (Objective("val_accuracy"),)
SPACE = DARTS(4)


def by_largest(complexity: Sequence[float]) -> Architecture:
    """All of the cheapest kind."""
    kind = ("pooling", "identity", "convolution")[complexity.index(min(complexity))]
    return SPACE.architecture(dict.fromkeys(SPACE.domains, OPERATIONS_BY_KIND[kind][0]))


def exhaust(strategy: ComplexityGrid, state: TrialState = TrialState.COMPLETE) -> list[Trial]:
    """Ask until there is nothing more, two trials at once, the later one ending first."""
    events: list[Trial] = []
    running: list[Trial] = []
    while True:
        proposal = strategy.ask(Random(0))
        if proposal is not None:
            number = sum(event.state is TrialState.RUNNING for event in events)
            running.append(Trial(number, proposal))
            events.append(running[-1])
            strategy.tell(running[-1])
        if len(running) == 2 or proposal is None:
            if not running:
                return events
            ended = running.pop()
            done = Trial(ended.number, ended.proposal, state, {"val_accuracy": 0.5})
            events.append(done)
            strategy.tell(done)


def test_the_grid_is_even_and_holds_the_published_points() -> None:
    points = grid(9, 7 / 120)
    assert len(points) == len(set(points)) == 55
    for point in points:
        assert sum(point) == pytest.approx(1)
        assert min(point) >= 7 / 120 - 1e-9
    for wanted in ((1 / 3, 1 / 3, 1 / 3), (0.15, 0.15, 0.7), (0.7, 0.15, 0.15)):
        assert any(point == pytest.approx(wanted) for point in points)


@pytest.mark.parametrize("space", [SPACE, PlainCNN(2, 16), NASBench201()], ids=lambda s: s.name)
def test_every_architecture_of_the_grid_once(space: SearchSpace) -> None:
    sampler = sampler_of(space)
    events = exhaust(ComplexityGrid(space, OBJECTIVES, sampler, steps=4))
    proposed = [e.architecture.id for e in events if e.state is TrialState.RUNNING]
    assert len(proposed) == len(set(proposed))
    assert set(proposed) == {sampler(point).id for point in grid(4, 7 / 120)}


def test_equal_architectures_are_proposed_once_and_stand_in_every_row() -> None:
    strategy = ComplexityGrid(SPACE, OBJECTIVES, by_largest, steps=6, least=0.0)
    events = exhaust(strategy)
    assert sum(e.state is TrialState.RUNNING for e in events) == 3
    table = strategy.findings().rows
    assert len(table) == 28
    assert list(table[0]) == ["S_pooling", "S_identity", "S_convolution", "trial", "val_accuracy"]


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.PRUNED])
def test_what_did_not_complete_is_not_tried_again_and_in_no_row(state: TrialState) -> None:
    strategy = ComplexityGrid(SPACE, OBJECTIVES, by_largest, steps=3)
    assert len(exhaust(strategy, state)) == 6
    assert strategy.findings().rows == ()


def test_told_its_history_it_goes_on_where_it_was() -> None:
    sampler = sampler_of(SPACE)
    events = exhaust(ComplexityGrid(SPACE, OBJECTIVES, sampler, steps=3))
    for cut in range(0, len(events), 3):
        strategy = ComplexityGrid(SPACE, OBJECTIVES, sampler, steps=3)
        for event in events[:cut]:
            strategy.tell(event)
        following = next((e for e in events[cut:] if e.state is TrialState.RUNNING), None)
        assert strategy.ask(Random(cut)) == (following and following.proposal)


def test_what_exceeds_the_limits_is_left_out() -> None:
    space = PlainCNN(2, 16)
    limited = bounded(space, {"c1": Limit(max=8)}, lambda a: {"c1": float(a.choices["c1"])})
    sampler = sampler_of(space)
    proposed = {e.architecture.id for e in exhaust(ComplexityGrid(limited, OBJECTIVES, sampler))}
    drawn = [sampler(point) for point in grid(9, 7 / 120)]
    assert proposed == {a.id for a in drawn if int(a.choices["c1"]) <= 8}
    assert len(proposed) < len({a.id for a in drawn})


def test_it_asks_the_sampler_for_nothing_before_it_is_asked() -> None:
    def never(complexity: Sequence[float]) -> Architecture:
        raise AssertionError("the training is not to begin here")

    strategy = ComplexityGrid(SPACE, OBJECTIVES, never)
    strategy.tell(Trial(0, Proposal(SPACE.sample(Random(0)))))
    assert strategy.findings().rows == ()


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("least", 0.4), ("least", -0.1)])
def test_mistakes_are_refused(option: str, value: float) -> None:
    told = refused(ComplexityGrid, **{option: value})
    assert told.startswith(f"strategy.{option}: Input should be")
    assert told.endswith(f"not {value}")


def test_without_a_sampler_it_is_refused() -> None:
    with pytest.raises(OptionError, match="name: hypernet must be the run's own"):
        ComplexityGrid(SPACE, OBJECTIVES)
