from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from sessions_helper import timeless
from torch import nn

from evonas.architecture import Architecture, Categorical
from evonas.errors import TooManyFailures
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.executors.serial import Serial
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace, Task
from evonas.strategies.aging_evolution import AgingEvolution
from evonas.strategies.base import Strategy
from evonas.strategies.random import RandomSearch
from evonas.strategies.tpe import TPE
from evonas.trial import Objective, Trial, TrialState

OBJECTIVES = (Objective("value"),)


class Bits(SearchSpace):
    def __init__(self, count: int = 12) -> None:
        self.domains = {f"b{i}": Categorical((0, 1)) for i in range(count)}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


class Ones(Evaluator):
    metrics = ("value",)

    def __init__(self, result: object = None) -> None:
        super().__init__(Context(Bits(), None, "cpu", seed=0))
        self.result = result

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        if isinstance(self.result, Exception):
            raise self.result
        if self.result is not None:
            return self.result  # type: ignore[return-value]
        return {"value": float(sum(int(v) for v in trial.architecture.choices.values()))}


def run(
    strategy: Strategy,
    budget: Budget,
    history: list[Trial] | tuple[Trial, ...] = (),
    evaluator: Evaluator | None = None,
    seed: int = 0,
) -> list[Trial]:
    with Serial(lambda device: evaluator or Ones(), ("cpu",), isolate=False) as executor:
        return list(Search(strategy, executor, budget, seed, history))


STRATEGIES = {
    "random": lambda: RandomSearch(Bits(), OBJECTIVES),
    "aging": lambda: AgingEvolution(Bits(), OBJECTIVES, 8, 3),
    "tpe": lambda: TPE(Bits(), OBJECTIVES, startup_trials=5),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_killed_anywhere_and_resumed_it_is_the_same_run(name: str) -> None:
    whole = run(STRATEGIES[name](), Budget(30))
    for cut in Random(0).sample(range(1, len(whole)), 12):
        rest = run(STRATEGIES[name](), Budget(30), whole[:cut])
        assert timeless([*whole[:cut], *rest]) == timeless(whole)


def test_every_trial_is_announced_before_it_ends() -> None:
    events = run(RandomSearch(Bits(), OBJECTIVES), Budget(10))
    for number in range(10):
        states = [e.state for e in events if e.number == number]
        assert states == [TrialState.RUNNING, TrialState.COMPLETE]
    assert [e.elapsed for e in events] == sorted(e.elapsed for e in events)


def test_another_seed_is_another_run() -> None:
    one, two = (run(RandomSearch(Bits(), OBJECTIVES), Budget(5), seed=s) for s in (1, 2))
    assert timeless(one) != timeless(two)


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_exhausted_space_ends_the_run(name: str) -> None:
    strategy = {
        "random": lambda: RandomSearch(Bits(3), OBJECTIVES),
        "aging": lambda: AgingEvolution(Bits(3), OBJECTIVES, 4, 2),
        "tpe": lambda: TPE(Bits(3), OBJECTIVES),
    }[name]()
    events = run(strategy, Budget(100))
    assert len({e.architecture.id for e in events}) == 8
    assert len(events) == 16


def test_time_is_a_budget_over_all_sessions() -> None:
    events = run(RandomSearch(Bits(), OBJECTIVES), Budget(seconds=0.05))
    assert events
    events[-1] = replace(events[-1], elapsed=0.05)  # the rest of it passed while nobody looked
    assert run(RandomSearch(Bits(), OBJECTIVES), Budget(seconds=0.05), events) == []


def test_a_trial_that_outlasts_the_time_by_a_tenth_is_pruned_at_its_next_report() -> None:
    class Endless(Ones):
        def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
            step = 0
            while True:
                report(step := step + 1, {"value": 1.0})

    _, ended = run(RandomSearch(Bits(), OBJECTIVES), Budget(seconds=0.05), evaluator=Endless())
    assert ended.state is TrialState.PRUNED
    assert ended.elapsed >= 1.1 * 0.05
    assert ended.metrics == {"value": 1.0}


def test_effort_is_a_budget_over_all_sessions() -> None:
    events = run(RandomSearch(Bits(), OBJECTIVES), Budget(effort=5))
    assert len(events) == 2 * 5, "where nobody counts what is trained, a trial is its fidelity"
    assert run(RandomSearch(Bits(), OBJECTIVES), Budget(effort=5), events) == []
    tenths = [replace(event, effort=event.effort / 10) for event in events]
    more = run(RandomSearch(Bits(), OBJECTIVES), Budget(effort=2.5), tenths)
    assert len(more) == 2 * 2
    ten = [*tenths, *(replace(event, number=event.number + 5) for event in tenths)]
    assert run(RandomSearch(Bits(), OBJECTIVES), Budget(effort=1), ten) == [], "rounded"


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_what_was_prepared_is_effort_once(cut: int) -> None:
    def search(events: list[Trial]) -> list[Trial]:
        evaluator = Ones({"value": 1.0})
        with Serial(lambda device: evaluator, ("cpu",), isolate=False) as executor:
            strategy = RandomSearch(Bits(), OBJECTIVES)
            return list(Search(strategy, executor, Budget(effort=4), 0, events, prepared=1.5))

    whole = search([])
    before = whole[:cut]
    efforts = [e.effort for e in (*before, *search(before)) if e.state is TrialState.COMPLETE]
    assert efforts == [2.5, 1, 1]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        ({"value": float("nan")}, "not a finite number: value = nan"),
        ({"value": float("inf")}, "not a finite number"),
        ({"other": 1.0}, "did not return the metrics value"),
        (7, "returned int"),
    ],
)
def test_a_bad_trial_is_data_and_many_in_a_row_end_the_run(result: object, reason: str) -> None:
    with pytest.raises(TooManyFailures, match="3 trials in a row"):
        run(RandomSearch(Bits(), OBJECTIVES), Budget(9, max_failures=3), evaluator=Ones(result))
    _, ended = run(RandomSearch(Bits(), OBJECTIVES), Budget(1), evaluator=Ones(result))
    assert ended.state is TrialState.FAILED
    assert reason in str(ended.error)
    assert not ended.metrics


def test_stopping_finishes_what_runs_and_asks_no_more() -> None:
    events: list[Trial] = []
    with Serial(lambda device: Ones(), ("cpu",), isolate=False) as executor:
        for event in Search(
            RandomSearch(Bits(), OBJECTIVES), executor, Budget(50), 0, (), lambda: len(events) >= 7
        ):
            events.append(event)
    assert [e.state for e in events if e.number == events[-1].number][-1] is TrialState.COMPLETE
    assert len(events) == 8
