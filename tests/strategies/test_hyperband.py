"""Brackets: equal effort for each, rungs of their own, and no architecture in two of them."""

from __future__ import annotations

from random import Random

import pytest
from strategies_helper import VALUE, Run, cube, haphazard, total

from evonas.errors import OptionError
from evonas.recipe.registry import Registry
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.hyperband import Hyperband
from evonas.strategies.random import RandomSearch
from evonas.strategies.successive_halving import SuccessiveHalving
from evonas.testing import check_strategy
from evonas.trial import Trial, TrialState

LARGE = cube(8, 1000)


def brackets(events: list[Trial]) -> dict[int, float]:
    """Number of every trial → fidelity at which its training began."""
    found: dict[int, float] = {}
    for event in events:
        below = event.proposal.resume_from
        found[event.number] = event.proposal.fidelity if below is None else found[below]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_brackets_get_equal_effort(seed: int) -> None:
    run = Run(Hyperband(LARGE, VALUE), seed)
    events = haphazard(run, 300)
    of, proposals = brackets(events), {e.number: e.proposal for e in events}
    spent = dict.fromkeys(run.strategy.fidelities, 0.0)
    for number, proposal in proposals.items():
        below = proposal.resume_from
        done = 0.0 if below is None else proposals[below].fidelity
        spent[of[number]] += proposal.fidelity - done
    assert max(spent.values()) - min(spent.values()) <= 1.0 + 1e-9
    begun = [sum(of[n] == f for n in of if proposals[n].fidelity == f) for f in spent]
    assert begun == sorted(begun, reverse=True), "short trials are many"


@pytest.mark.parametrize("seed", range(4))
def test_every_bracket_is_successive_halving_by_itself(seed: int) -> None:
    run = Run(Hyperband(LARGE, VALUE), seed)
    events = haphazard(run, 200)
    of = brackets(events)
    for lowest in run.strategy.fidelities:
        alone = SuccessiveHalving(LARGE, VALUE, min_fidelity=lowest)
        for event in events:
            if of[event.number] != lowest:
                continue
            if event.state is TrialState.RUNNING:
                expected = alone.ask(Random(f"{seed}/{event.number}"))
                assert expected == event.proposal
            alone.tell(event)


def test_no_architecture_is_in_two_brackets() -> None:
    run = Run(Hyperband(cube(3, 4), VALUE))
    while (trial := run.try_start()) is not None:
        run.end(trial, total(trial.architecture))
    of = brackets(run.events)
    homes: dict[str, set[float]] = {}
    for event in run.events:
        homes.setdefault(event.architecture.id, set()).add(of[event.number])
    assert len(homes) == 64
    assert all(len(home) == 1 for home in homes.values())


def test_sources_learn_from_their_own_bracket_alone() -> None:
    def source(space: object, objectives: object) -> AgingEvolution:
        return AgingEvolution(LARGE, VALUE, 4, 2)

    events = haphazard(Run(Hyperband(LARGE, VALUE, of=source)), 250)
    of = brackets(events)
    children = [e for e in events if e.proposal.parents]
    assert {of[child.number] for child in children} == {1 / 9, 1 / 3, 1.0}
    assert all(of[parent] == of[c.number] for c in children for parent in c.proposal.parents)


def test_told_any_beginning_it_asks_for_what_it_asked_for() -> None:
    events = haphazard(Run(Hyperband(cube(5, 4), VALUE)), 60)
    for cut, event in enumerate(events):
        if event.state is TrialState.RUNNING:
            resumed = Hyperband(cube(5, 4), VALUE)
            for told in events[:cut]:
                resumed.tell(told)
            assert resumed.ask(Random(f"0/{event.number}")) == event.proposal


@pytest.mark.parametrize("name", ["aging_evolution", "evolution", "grid", "local_search", "tpe"])
def test_any_strategy_is_a_source(name: str) -> None:
    source = Registry().find("strategy", name)
    assert check_strategy(lambda space: Hyperband(space, VALUE, of=source), 30) == []


def test_hyperband_in_hyperband_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^of: must propose at full effort"):
        Hyperband(LARGE, VALUE, of=Hyperband)
    assert Hyperband(LARGE, VALUE, of=RandomSearch, min_fidelity=1.0).fidelities == (1.0,)
