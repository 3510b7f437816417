from __future__ import annotations

from collections import Counter
from random import Random

from conftest import bounded
from strategies_helper import VALUE, Run, cube, total

from evonas.spaces.base import SearchSpace
from evonas.strategies.random import RandomSearch
from evonas.trial import Limit

CHI_SQUARE = {7: 24.3, 8: 26.1, 5: 20.5}  # by degrees of freedom, p = .001


def is_uniform(space: SearchSpace, points: int, draws: int = 3000) -> bool:
    strategy = RandomSearch(space, VALUE)
    proposals = (strategy.ask(Random(f"uniform/{n}")) for n in range(draws))
    drawn = Counter(proposal.architecture for proposal in proposals if proposal)
    expected = draws / points
    statistic = sum((n - expected) ** 2 / expected for n in drawn.values())
    return len(drawn) == points and statistic < CHI_SQUARE[points - 1]


def test_it_is_uniform_over_the_space() -> None:
    assert is_uniform(cube(2, 3), points=9)


def test_it_is_uniform_over_what_meets_the_limits() -> None:
    limits = {"total": Limit(max=2)}
    space = bounded(cube(2, 3), limits, lambda a: {"total": total(a)})
    assert is_uniform(space, points=6)


def test_it_is_uniform_over_what_is_left() -> None:
    strategy = RandomSearch(cube(2, 3), VALUE)
    first = Run(strategy).step().architecture
    drawn = Counter(
        proposal.architecture
        for n in range(3000)
        if (proposal := strategy.ask(Random(f"left/{n}"))) is not None
    )
    assert first not in drawn
    assert sum((n - 375) ** 2 / 375 for n in drawn.values()) < CHI_SQUARE[7]


def test_every_point_comes_once_and_then_nothing() -> None:
    space = cube(3, 5)
    run = Run(RandomSearch(space, VALUE))
    proposed = []
    while (trial := run.try_start()) is not None:
        proposed.append(trial.architecture)
    assert len(proposed) == 125
    assert set(proposed) == set(space.enumerate())


def test_rare_points_are_all_found() -> None:
    limits = {"total": Limit(max=1)}
    space = bounded(cube(3, 12), limits, lambda a: {"total": total(a)})
    run = Run(RandomSearch(space, VALUE))
    assert {run.start().architecture for _ in range(4)} == set(space.enumerate())
    assert run.try_start() is None


def test_results_do_not_matter() -> None:
    def proposed(value: float) -> list[str]:
        run = Run(RandomSearch(cube(3, 5), VALUE))
        return [run.step(value * n).architecture.id for n in range(30)]

    assert proposed(1) == proposed(-1)
