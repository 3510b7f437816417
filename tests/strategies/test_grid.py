"""Everything once, and then nothing."""

from __future__ import annotations

from random import Random

import pytest
from conftest import bounded
from strategies_helper import VALUE, Run, cube

from evonas.errors import OptionError
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.strategies.grid import Grid
from evonas.trial import Limit


def test_every_architecture_comes_once_in_order() -> None:
    space = cube(3, 4)
    run = Run(Grid(space, VALUE))
    proposed = [run.step().architecture for _ in range(64)]
    assert proposed == list(space.enumerate())
    assert run.strategy.ask(Random(0)) is None


def test_what_was_asked_and_never_told_is_asked_again() -> None:
    strategy = Grid(cube(2, 3), VALUE)
    assert strategy.ask(Random(0)) == strategy.ask(Random(1))


def test_limits_are_kept() -> None:
    space = bounded(
        cube(2, 3),
        {"sum": Limit(max=1)},
        lambda a: {"sum": float(sum(int(v) for v in a.choices.values()))},
    )
    run = Run(Grid(space, VALUE))
    assert [sum(map(int, run.step().architecture.choices.values())) for _ in range(3)] == [0, 1, 1]
    assert run.strategy.ask(Random(0)) is None


def test_a_space_that_is_too_large_is_refused() -> None:
    assert Grid(NASBench201(), VALUE)
    with pytest.raises(
        OptionError, match=r"^name: .*at most 1,000,000 points; plain_cnn has 8\.49e"
    ):
        Grid(PlainCNN(), VALUE)
