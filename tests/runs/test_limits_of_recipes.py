"""A recipe's ``constraints``: what the space counts is the space's, the rest the trials'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from sessions_helper import trials

from evonas.errors import RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs.assemble import Assembly, assemble
from evonas.runs.run import resume, start
from evonas.trial import Limit, TrialState

PLUGIN = '''
from evonas.spaces.plain_cnn import PlainCNN

class Warm(PlainCNN):
    """What a network heats is a cost of this space's own."""

    counted = (*PlainCNN.counted, "joules")

    def costs(self, architecture, task):
        return {**super().costs(architecture, task), "joules": float(architecture.choices["c1"])}
'''
Assemble = Callable[..., Assembly]


@pytest.fixture
def assembled(images: Callable[..., Path], tmp_path: Path) -> Assemble:
    folder = tmp_path / "plugins" / "spaces"
    folder.mkdir(parents=True)
    (folder / "warm.py").write_text(PLUGIN)

    def make(space: str, **limits: dict[str, float]) -> Assembly:
        content = {
            "name": "limits",
            "dataset": {"name": "npz", "path": str(images())},
            "space": space,
            "strategy": "random",
            "evaluation": {"name": "train", "epochs": 1},
            "constraints": limits,
            "budget": {"trials": 1},
            "executor": {"device": "cpu"},
            "tracking": "console",
        }
        registry = Registry((tmp_path / "plugins",))
        return assemble(reading.validate(content, "recipe"), registry, tmp_path / "run")

    return make


def test_a_cost_of_the_spaces_own_is_a_hard_limit(assembled: Assemble) -> None:
    assembly = assembled("warm", joules={"max": 8}, params={"max": 1e6})
    assert assembly.space.limits is not None
    assert set(assembly.space.limits.bounds) == {"joules", "params"}
    assert all(int(assembly.space.sample(Random(n)).choices["c1"]) <= 8 for n in range(20))
    assert assembly.space.limits.accepted == 20


def test_a_metric_is_limited_where_it_is_measured(assembled: Assemble) -> None:
    assembly = assembled("plain_cnn", val_accuracy={"min": 0.5})
    assert assembly.space.limits is None
    assert assembly.evaluator.context.limits == {"val_accuracy": Limit(min=0.5)}


@pytest.mark.slow
def test_the_share_of_accepted_draws_is_that_of_all_sessions(tmp_path: Path) -> None:
    """Once a resumed run said 100 %: of the few that its last session had drawn."""
    content = {
        **{"name": "r", "dataset": "digits", "space": "plain_cnn", "strategy": "random"},
        **{"constraints": {"params": {"max": 20_000}}, "tracking": "console"},
        "evaluation": {"name": "train", "epochs": 1, "final_epochs": 1},
    }
    shares = []
    for folder, budgets in (("whole", [30]), ("parts", [15, 30]), ("killed", [15, 30])):
        given = reading.validate({**content, "budget": {"trials": budgets[0]}}, "recipe")
        outcome = start(given, Registry(), tmp_path / folder)
        if folder == "killed":  # what kill -9 leaves: no report, and all else
            (tmp_path / folder / "report.json").unlink()
        for budget in budgets[1:]:
            outcome = resume(tmp_path / folder, [f"budget.trials={budget}"])
        shares.append(outcome.report.acceptance)
    assert shares[0] is not None
    assert shares[0] == shares[1] == shares[2] < 0.8


def test_what_neither_gives_is_refused(assembled: Assemble) -> None:
    for name in ("joules", "juoles"):
        with pytest.raises(RecipeError, match=f"^constraints.{name}: .* counts no such cost"):
            assembled("plain_cnn", **{name: {"max": 8}})
    with pytest.raises(
        RecipeError, match=r"Did you mean 'joules'\? Known: params, flops, peak_memory, jou"
    ):
        assembled("warm", juoles={"max": 8})


HOT = '''
from evonas import Evaluator

class Hot(Evaluator):
    """Knows nothing of limits."""

    metrics = ("val_accuracy", "latency")

    def evaluate(self, trial, report):
        return {"val_accuracy": 0.5, "latency": 50.0 if trial.number % 2 else 5.0}
'''


def test_limits_hold_for_an_evaluator_that_knows_nothing_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "evaluators"
    folder.mkdir(parents=True)
    (folder / "hot.py").write_text(HOT)
    content = {
        "name": "limits",
        "space": "plain_cnn",
        "strategy": "random",
        "evaluation": "hot",
        "constraints": {"latency": {"max": 5}},
        "budget": {"trials": 6},
        "tracking": "console",
    }
    registry = Registry((tmp_path / "plugins",))
    outcome = start(reading.validate(content, "recipe"), registry, tmp_path / "run")
    ended = trials(tmp_path / "run")
    assert [str(trial.state) for trial in ended] == ["complete", "pruned"] * 3
    assert {t.metrics["violation"] for t in ended if t.state is TrialState.PRUNED} == {9.0}
    assert outcome.report.incumbent is not None
    assert outcome.report.incumbent.metrics["latency"] == 5.0
