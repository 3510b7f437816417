"""What a run keeps of its minutes for its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from evonas.architecture import Architecture
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs.assemble import assemble
from evonas.runs.pace import Reserve
from evonas.runs.run import Interruption
from evonas.runs.search import Budget
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Proposal, Trial, TrialState
from evonas.trials import Trials

RECIPE = {
    "name": "tiny",
    "dataset": {"name": "digits", "validation": 0.2},
    "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 8},
    "strategy": "random",
    "evaluation": {"name": "train", "epochs": 2, "final_epochs": 20},
    "budget": {"minutes": 10},
    "executor": {"name": "serial", "device": "cpu"},
    "tracking": "console",
}


class Epochs(Evaluator):
    """Ten epochs a trial; a hundred for the final training, if trials tell anything of it."""

    metrics = ("value",)
    finals = True

    def __init__(self, final: float | None = 100.0) -> None:
        super().__init__(Context(PlainCNN(), None, "cpu", seed=0))
        self._final = final

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        return {"value": 1.0}

    def effort(self, fidelity: float) -> float:
        return 10 * fidelity

    def final_effort(self) -> float | None:
        return self._final


def trials(*seconds: float, **changes: object) -> Trials:
    known = Trials()
    for number, length in enumerate(seconds):
        proposal = Proposal(Architecture("s", {"c": number}), **changes)  # type: ignore[arg-type]
        known.add(Trial(number, proposal, TrialState.COMPLETE, {"value": 1.0}, seconds=length))
    return known


def test_the_final_training_is_kept_as_trials_tell() -> None:
    assert Reserve(1000, Epochs(), trainings=1, workers=1)(trials(5.0, 5.0)) == 50.0
    assert Reserve(1000, Epochs(), trainings=3, workers=2)(trials(5.0)) == 100.0
    assert Reserve(1000, Epochs(), 1, 1)(trials(5.0, fidelity=0.5)) == 100.0  # half, so slow


def test_the_slower_trials_count_and_the_last() -> None:
    many = [1.0] * 30 + [2.0] * 17 + [4.0] * 3
    assert Reserve(1000, Epochs(), 1, 1)(trials(*many)) == 40.0
    assert Reserve(1000, Epochs(), 1, 1)(trials(*[9.0] * 30, *[1.0] * 20)) == 10.0


def test_where_trials_tell_nothing_a_third_is_kept() -> None:
    assert Reserve(900, Epochs(None), 1, 1)(trials(0.1)) == 300.0
    assert Reserve(900, Epochs(), 1, 1)(trials()) == 0.0, "the first trial begins in any case"


def test_a_trial_is_not_begun_that_would_overrun_by_more_than_a_tenth() -> None:
    reserve = Reserve(100, Epochs(0.0), 1, 1)
    assert reserve(trials(8.0)) == 0.0
    assert reserve(trials(30.0)) == 20.0
    budget, known = Budget(seconds=100, reserve=reserve), trials(30.0)
    assert not budget.spent(1, 79.0, known)
    assert budget.spent(1, 80.0, known)


def test_where_there_are_no_finals_nothing_is_kept() -> None:
    evaluator = Epochs()
    evaluator.finals = False
    assert Reserve(100, evaluator, 1, 1)(trials(30.0)) == 0.0


def test_trials_of_other_runs_tell_nothing() -> None:
    known = trials(5.0)
    taken = replace(known.latest[0], number=1, origin="other#0", seconds=500.0)
    known.add(taken)
    assert Reserve(1000, Epochs(), 1, 1)(known) == 50.0


@pytest.mark.parametrize(
    ("evaluation", "effort"),
    [
        ({"name": "train", "epochs": 2, "final_epochs": 20}, 20),
        ({"name": "train", "epochs": 2}, 2),
        ({"name": "extrapolate", "of": {"name": "train", "epochs": 8, "final_epochs": 20}}, 20),
        ({"name": "latency", "of": {"name": "train", "final_epochs": 20}}, 20),
        ({"name": "reduced", "data": 0.5, "of": {"name": "train", "final_epochs": 20}}, None),
        ({"name": "zero_cost", "of": {"name": "train", "final_epochs": 9}}, 9),
        ({"name": "zero_cost", "training": False, "of": {"name": "train"}}, None),
        ({"name": "supernet", "of": {"name": "train"}}, None),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
def test_evaluations_say_what_a_final_training_costs(
    evaluation: Mapping[str, object], effort: float | None
) -> None:
    given = reading.validate({**RECIPE, "evaluation": evaluation}, "recipe")
    if evaluation["name"] == "zero_cost" and evaluation.get("training") is False:
        given = given.model_copy(update={"objectives": {"naswot": "max"}})
    assembly = assemble(given, Registry(), Path("run"))
    assert assembly.evaluator.final_effort() == effort
    reserve = assembly.budget.reserve
    assert isinstance(reserve, Reserve)
    assert (reserve.seconds, reserve.trainings, reserve.workers) == (600, 1, 1)


def test_audits_and_several_finals_count() -> None:
    more = {**RECIPE, "final": {"top": 2, "seeds": 3}, "audit": {"trials": 12}}
    reserve = assemble(reading.validate(more, "recipe"), Registry(), Path("run")).budget.reserve
    assert isinstance(reserve, Reserve)
    assert reserve.trainings == 18


def test_the_first_signal_is_announced_the_second_stops() -> None:
    said: list[str] = []
    interruption = Interruption(lambda: said.append("finishing"))
    with interruption.watching():
        os.kill(os.getpid(), signal.SIGINT)
        assert (said, interruption()) == (["finishing"], True)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert said == ["finishing"]
