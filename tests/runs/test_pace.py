"""What a run keeps of its minutes for its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from evonas.architecture import Architecture
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run
from evonas.runs.assemble import assemble
from evonas.runs.journal import read_journal
from evonas.runs.pace import Reserve
from evonas.runs.run import Interruption
from evonas.runs.search import Budget
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


LOOK_UP = """
from evonas import Evaluator

class LookUp(Evaluator):
    metrics = ("val_accuracy",)

    def evaluate(self, trial, report):
        return {"val_accuracy": 1.0}
"""


def trials(*seconds: float, effort: float = 0.1) -> Trials:
    known = Trials()
    for number, length in enumerate(seconds):
        proposal = Proposal(Architecture("s", {"c": number}))
        trial = Trial(number, proposal, TrialState.COMPLETE, {"value": 1.0}, seconds=length)
        known.add(replace(trial, effort=effort))
    return known


def test_the_final_training_is_kept_as_trials_tell() -> None:
    assert Reserve(1000, trainings=1, workers=1)(trials(5.0, 5.0)) == 50.0
    assert Reserve(1000, trainings=3, workers=2)(trials(5.0)) == 100.0
    assert Reserve(1000, 1, 1)(trials(5.0, effort=0.05)) == 100.0  # half as much, so slow


def test_the_slower_trials_count_and_the_last() -> None:
    many = [1.0] * 30 + [2.0] * 17 + [4.0] * 3
    assert Reserve(1000, 1, 1)(trials(*many)) == 40.0
    assert Reserve(1000, 1, 1)(trials(*[9.0] * 30, *[1.0] * 20)) == 10.0


def test_where_trials_tell_nothing_a_third_is_kept() -> None:
    assert Reserve(900, 1, 1)(trials(0.1, effort=0.0)) == 300.0
    assert Reserve(900, 1, 1)(trials()) == 0.0, "the first trial begins in any case"
    supernet = trials(0.1, 0.1, effort=0.0)
    supernet.add(replace(supernet.latest[0], number=2, effort=3.0))  # its own training
    assert Reserve(900, 1, 1)(supernet) == 300.0


def test_short_trials_say_nothing_where_there_are_longer_ones() -> None:
    known = trials(*[5.0] * 100, effort=0.01)
    known.add(replace(known.latest[0], number=100, seconds=20.0, effort=0.1))
    assert Reserve(1000, 1, 1)(known) == 200.0
    for number in range(101, 301):  # and what was long ago is forgotten
        known.add(replace(known.latest[0], number=number))
    assert Reserve(1000, 1, 1)(known) == 500.0


def test_a_third_is_left_to_the_search() -> None:
    assert Reserve(900, trainings=9, workers=1)(trials(50.0)) == 600.0


def test_a_trial_is_not_begun_that_would_overrun_by_more_than_a_tenth() -> None:
    reserve = Reserve(100, 0, 1)
    assert reserve(trials(8.0)) == 0.0
    assert reserve(trials(30.0)) == 20.0
    budget, known = Budget(seconds=100, reserve=reserve), trials(30.0)
    assert not budget.spent(1, 79.0, known)
    assert budget.spent(1, 80.0, known)


def test_trials_of_other_runs_tell_nothing() -> None:
    known = trials(5.0)
    taken = replace(known.latest[0], number=1, origin="other#0", seconds=500.0)
    known.add(taken)
    assert Reserve(1000, 1, 1)(known) == 50.0


EVALUATIONS = [
    ({"name": "train", "epochs": 2, "final_epochs": 20}, True),
    ({"name": "extrapolate", "of": {"name": "train", "epochs": 8, "final_epochs": 20}}, True),
    ({"name": "reduced", "data": 0.5, "of": {"name": "train", "final_epochs": 20}}, True),
    ({"name": "zero_cost", "of": {"name": "train", "epochs": 2}}, True),
    ({"name": "zero_cost", "training": False, "of": {"name": "train"}}, False),
    ({"name": "supernet", "epochs": 1, "of": {"name": "train"}}, False),
]


@pytest.mark.parametrize(
    ("evaluation", "trains"), EVALUATIONS, ids=lambda value: str(value)[:60].replace("'", "")
)
def test_every_evaluation_tells_by_its_trials(
    evaluation: Mapping[str, object], trains: bool, tmp_path: Path
) -> None:
    given = reading.validate({**RECIPE, "evaluation": evaluation}, "recipe")
    if evaluation["name"] == "zero_cost":
        given = given.model_copy(update={"objectives": {"naswot": "max"}})
    given = given.model_copy(update={"budget": given.budget.model_copy(update={"trials": 5})})
    outcome = run.start(given, Registry(), tmp_path / "run")
    known = Trials((), read_journal(outcome.run_dir)[1])
    final = Trials((), read_journal(outcome.run_dir)[1], "final").complete[0]
    needed = Reserve(1e9, 1, 1)(known)
    assert (needed < 1e8) is trains
    if trains:
        assert final.effort == pytest.approx(1)
        assert 0.1 * final.seconds < needed < 10 * final.seconds


def test_a_look_up_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "evaluators").mkdir()
    (tmp_path / "evaluators" / "look_up.py").write_text(LOOK_UP)
    given = reading.validate({**RECIPE, "evaluation": "look_up"}, "recipe")
    budget = assemble(given, Registry((tmp_path,)), tmp_path / "run").budget
    assert budget.reserve(trials(30.0)) == 0.0


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
