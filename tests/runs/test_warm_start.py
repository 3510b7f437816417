"""Runs that begin with the trials of other runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sessions_helper import trials

from evonas.errors import EvonasError, RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run
from evonas.runs.journal import JOURNAL
from evonas.trial import TrialState

TOTAL = '''
from evonas.evaluators.base import Evaluator

class Total(Evaluator):
    """The sum of the channels; every fifth architecture fails."""
    metrics = ("value",)

    def __init__(self, context, scale: float = 1.0):
        super().__init__(context)
        self.scale = scale

    def evaluate(self, trial, report):
        if int(trial.architecture.id, 16) % 5 == 0:
            raise RuntimeError("on purpose")
        return {"value": self.scale * sum(trial.architecture.choices.values())}
'''
GIVEN = {
    "name": "total",
    "space": {"name": "plain_cnn", "max_depth": 2, "max_width": 16},
    "strategy": {"name": "aging_evolution", "population_size": 4, "tournament_size": 2},
    "evaluation": "total",
    "objectives": {"value": "max"},
    "budget": {"trials": 10},
    "tracking": "console",
}
Start = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run the recipe above with other sections; returns the run folder."""
    (tmp_path / "plugins" / "evaluators").mkdir(parents=True)
    (tmp_path / "plugins" / "evaluators" / "total.py").write_text(TOTAL)
    registry = Registry((tmp_path / "plugins",))

    def begin(name: str, **sections: Any) -> Path:
        given = reading.validate({**GIVEN, **sections}, "test")
        return run.start(given, registry, tmp_path / name).run_dir

    return begin


def test_the_trials_of_other_runs_come_first_and_cost_no_budget(start: Start) -> None:
    folders = [start(f"earlier{seed}", seed=seed) for seed in range(2)]
    earlier = [t for f in folders for t in trials(f) if t.state is TrialState.COMPLETE]
    new = trials(start("new", seed=7, start_from=[str(f) for f in folders]))
    taken = [t for t in new if t.origin is not None]
    expected = {t.architecture.id: t.metrics for t in reversed(earlier)}
    assert {t.architecture.id: t.metrics for t in taken} == expected
    assert new[: len(taken)] == taken
    assert len(new) == len(taken) + 10
    assert len({t.proposal.key for t in new}) == len(new)
    for trial in taken:
        assert all(parent < trial.number for parent in trial.proposal.parents)


def test_a_strategy_makes_use_of_them(start: Start) -> None:
    """No random architectures are drawn once there is a population."""
    folder = start("earlier", budget={"trials": 20})
    new = trials(start("new", start_from=[str(folder)]))
    assert all(t.proposal.parents for t in new if t.origin is None)
    best = max(t.metrics["value"] for t in trials(folder) if t.metrics)
    assert max(t.metrics["value"] for t in new if t.metrics) >= best


# The others need an evaluation or a limit of their own.
STRATEGIES = set(Registry().origins("strategy")) - {
    "hypernet",
    "projected_ascent",
    "hyperband",
    "successive_halving",
}


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_can_be_told(start: Start, strategy: str) -> None:
    folder = start("earlier", strategy="random")
    new = trials(start("new", strategy=strategy, start_from=[str(folder)], budget={"trials": 5}))
    assert sum(t.origin is None for t in new) == 5


def test_killed_anywhere_it_goes_on_as_it_would_have(start: Start, tmp_path: Path) -> None:
    source = str(start("earlier"))
    whole = start("whole", start_from=[source])
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    expected = [(t.number, t.proposal, t.state, t.metrics, t.origin) for t in trials(whole)]
    for cut in (1, 2, 4, 17, 23, len(lines) - 2):
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("lock", "report*"))
        (folder / JOURNAL).write_bytes(b"".join(lines[:cut]))
        run.resume(folder)
        told = [(t.number, t.proposal, t.state, t.metrics, t.origin) for t in trials(folder)]
        assert told == expected, cut


def test_it_resumes_without_the_other_run(start: Start) -> None:
    source = start("earlier")
    new = start("new", start_from=[str(source)])
    shutil.rmtree(source)
    report = run.resume(new, ["budget.trials=12"]).report
    assert sum(t.origin is None for t in trials(new)) == 12
    assert report.status == "finished"


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"space": {"name": "plain_cnn", "max_depth": 3, "max_width": 16}}, "its space.max_depth"),
        ({"evaluation": {"name": "total", "scale": 2.0}}, "its evaluation.scale is 1.0, not 2.0"),
        ({"start_from": ["nowhere"]}, "nowhere is no run folder"),
        ({"start_from": ["."]}, "holds no run"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_written(
    start: Start, tmp_path: Path, sections: dict[str, Any], complaint: str
) -> None:
    source = start("earlier")
    with pytest.raises(RecipeError, match=complaint) as caught:
        start("new", **{"start_from": [str(source)], **sections})
    assert isinstance(caught.value, EvonasError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_run_is_found_by_its_id_in_mlflow(start: Start, tmp_path: Path) -> None:
    tracking = {"name": "mlflow", "uri": f"sqlite:///{tmp_path}/mlflow.db"}
    source = start("earlier", tracking=tracking)
    state = yaml.safe_load((source / "mlflow.json").read_text())
    new = start("new", tracking=tracking, start_from=[state["run_id"]])
    assert any(t.origin == f"{state['run_id']}#0" for t in trials(new))
    with pytest.raises(RecipeError, match="no run of the tracker"):
        start("newer", tracking=tracking, start_from=["0" * 32])
