"""Every built-in strategy on real spaces, where trials fail, are pruned or break a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest

from evonas.architecture import Architecture
from evonas.recipe.registry import Registry
from evonas.spaces.anynet import AnyNet
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.darts import DARTS
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.spaces.resnet import ResNet
from evonas.strategies.base import Strategy
from evonas.strategies.random import RandomSearch
from evonas.testing import sampler_of
from evonas.trial import Limit, Objective, Trial, TrialState

TASK = Task(3, 16, 16, 10)
VALUE = (Objective("value"),)
SPACES: dict[str, SearchSpace] = {
    "plain_cnn": PlainCNN(max_depth=2, max_width=32),
    "resnet": ResNet(),
    "darts": DARTS(cells=3, channels=4),
    "mbconv": MBConv(max_depth=1, max_width=16),
    "nasbench201": NASBench201(channels=4, cells=1),
    "anynet": AnyNet(),
}
USUAL = ("plain_cnn", "resnet", "darts")
SUITED = {  # others have too many points, or no ordered choice
    "grid": ("plain_cnn", "mbconv", "nasbench201"),
    "projected_ascent": ("plain_cnn", "resnet", "anynet"),
}
STRATEGIES = sorted(Registry().origins("strategy"))
OPTIONS: dict[str, dict[str, Any]] = {
    "aging_evolution": {"population_size": 6, "tournament_size": 2},
    "evolution": {"population_size": 5},
    "guided_evolution": {"startup_trials": 5, "children": 25},
    "nsga2": {"population_size": 6},
    "reinforce": {"batch_size": 4},
    "successive_halving": {"eta": 2, "min_fidelity": 0.25, "of": RandomSearch},
    "hyperband": {"eta": 2, "min_fidelity": 0.25, "of": RandomSearch},
    "projected_ascent": {"repeats": 2, "tolerance": 0.5},
}
CASES = [(name, space) for name in STRATEGIES for space in SUITED.get(name, USUAL)]


@cache
def limited(name: str) -> SearchSpace:
    """A space without the networks that have more parameters than most."""
    space = SPACES[name]
    counts = sorted(params(space, space.sample(Random(seed))) for seed in range(10))
    return space.limited({"params": Limit(max=counts[6])}, TASK)


def params(space: SearchSpace, architecture: Architecture) -> float:
    return space.costs(architecture, TASK)["params"]


def made(name: str, space: SearchSpace) -> Strategy:
    strategy = Registry().find("strategy", name)
    sampler = {"sampler": sampler_of(space)} if name == "hypernet" else {}
    found: Strategy = strategy(space, VALUE, **sampler, **OPTIONS.get(name, {}))
    return found


def ended(trial: Trial) -> Trial:
    """One in four fails, is pruned on the way, or is over a measured limit before it began."""
    kind = int(trial.architecture.id, 16) % 12
    value = sum(map(len, map(str, trial.architecture.choices.values()))) + kind / 12
    if kind == 0:
        return trial.failed("out of memory")
    if kind == 1:
        over = {"latency": 9.0, "violation": 0.8, "params": 1e5}
        return replace(trial, state=TrialState.PRUNED, metrics=over)
    if kind == 2:
        curve = ((1, {"value": value / 2}),)
        return replace(trial, state=TrialState.PRUNED, metrics={"value": value / 2}, curve=curve)
    metrics = {"value": value, "params": 1e5}
    return replace(trial, state=TrialState.COMPLETE, metrics=metrics, curve=((1, metrics),))


def searched(strategy: Strategy, workers: int, trials: int, told: list[Trial]) -> Iterator[Trial]:
    """Events after those told; which of the running ends first follows from how many there were."""
    running: dict[int, Trial] = {}
    events = len(told)
    for event in told:
        strategy.tell(event)
        if event.state is TrialState.RUNNING:
            running[event.number] = event
        else:
            del running[event.number]
    count = len({event.number for event in told})
    while True:
        rng = Random(f"order/{events}")
        proposal = None
        if len(running) < workers and count < trials:
            proposal = strategy.ask(Random(f"seed/{count}"))
        if proposal is not None:
            event = running[count] = Trial(count, proposal)
            count += 1
        elif running:
            event = ended(running.pop(rng.choice(sorted(running))))
        else:
            return
        strategy.tell(event)
        events += 1
        yield event


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize(("name", "space"), CASES, ids=str)
def test_it_searches_to_the_end_and_from_any_middle(name: str, space: str, workers: int) -> None:
    feasible, trials = limited(space), 18
    whole = list(searched(made(name, feasible), workers, trials, []))
    proposals = [event.proposal for event in whole if event.state is TrialState.RUNNING]
    assert len({proposal.key for proposal in proposals}) == len(proposals)
    assert len(proposals) == trials or name == "hypernet"  # its grid is all that it asks for
    assert feasible.limits is not None
    limit = feasible.limits.bounds["params"].max
    beyond = [p for p in proposals if params(SPACES[space], p.architecture) > limit]
    assert not beyond
    for cut in (len(whole) // 2, len(whole) - 5):
        rest = list(searched(made(name, feasible), workers, trials, whole[:cut]))
        assert rest == whole[cut:]
