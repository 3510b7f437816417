"""What strategies propose, pinned: three seeds over 240 events, recorded before the moves.

The second space is one with a limit. Guided evolution was recorded again when its surrogate began
to tell the best apart less finely. A proposal is its architecture's id, then its parents.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from evonas.architecture import Architecture
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.testing import _Grid
from evonas.trial import Limit, Objective, Trial, TrialState

RECORDED: dict[str, list[list[Any]]] = json.loads(
    (Path(__file__).parent / "proposals.json").read_text()
)
OPTIONS = {"aging_evolution": {"population_size": 20, "tournament_size": 5}}


def limited() -> SearchSpace:
    space: SearchSpace = Registry().find("space", "plain_cnn")()
    return space.limited({"params": Limit(max=50_000)}, Task(3, 32, 32, 10))


SPACES = {"grid": lambda: _Grid(6, 4), "limited": limited}


def value(space: SearchSpace, architecture: Architecture) -> float:
    choices = architecture.choices
    return sum(domain.index(choices[name]) / domain.size for name, domain in space.domains.items())


def ended(space: SearchSpace, trial: Trial) -> Trial:
    """One of seven fails, one is pruned: by the architecture's id, so no randomness is needed."""
    worth = value(space, trial.architecture)
    match int(trial.architecture.id, 16) % 7:
        case 0:
            return trial.failed("on purpose")
        case 1:
            half = {"value": worth / 2}
            return replace(trial, state=TrialState.PRUNED, metrics=half, curve=((1, half),))
        case _:
            return replace(trial, state=TrialState.COMPLETE, metrics={"value": worth})


@pytest.mark.parametrize("recorded", RECORDED)
def test_proposals_are_those_of_before(recorded: str) -> None:
    kind, name, seed = recorded.split("/")
    space = SPACES[kind]()
    make = Registry().find("strategy", name)
    strategy = make(space, (Objective("value"),), **OPTIONS.get(name, {}))
    proposals = []
    for number in range(120):
        proposal = strategy.ask(Random(f"{seed}/{number}"))
        proposals.append([proposal.architecture.id, *proposal.parents])
        trial = Trial(number, proposal)
        strategy.tell(trial)
        strategy.tell(ended(space, trial))
    assert proposals == RECORDED[recorded]
