"""Whole runs of successive halving: promoted trials train on, and what they left is cleared up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from conftest import TINY_SPACES
from sessions_helper import trials
from test_run_evaluations import Crash, Crashes

from evonas.__main__ import main
from evonas.commands import checking
from evonas.errors import EvonasError, RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import assemble, audit
from evonas.runs import run as runs
from evonas.runs.search import Search
from evonas.trial import Trial, TrialState
from evonas.trials import Trials

EPOCHS = 9
TRAIN = {"name": "train", "epochs": EPOCHS, "final_epochs": 1, "batch_size": 24}
EVALUATIONS: Mapping[str, Mapping[str, Any]] = {
    "train": TRAIN,
    "reduced": {"name": "reduced", "data": 0.5, "of": TRAIN},
    "inherit": {"name": "inherit", "of": TRAIN},
    "zero_cost": {"name": "zero_cost", "proxies": ["naswot"], "batch_size": 8, "of": TRAIN},
    "extrapolate": {"name": "extrapolate", "share": 0.5, "of": {**TRAIN, "epochs": 18}},
}
EVOLUTION = {"name": "aging_evolution", "population_size": 4, "tournament_size": 2}
HALVING = {"name": "successive_halving", "min_fidelity": 0.111, "of": EVOLUTION}


@pytest.fixture
def content(images: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    """Make a tiny recipe."""
    path = str(images())

    def make(space: str = "plain_cnn", **changes: Any) -> dict[str, Any]:
        return {
            "name": "tiny",
            "dataset": {"name": "npz", "path": path, "validation": 0.2},
            "space": {"name": space, **TINY_SPACES[space]},
            "strategy": HALVING,
            "evaluation": TRAIN,
            "budget": {"trials": 16},
            "executor": {"name": "serial", "device": "cpu"},
            "tracking": "console",
            **changes,
        }

    return make


def searched(given: Mapping[str, Any]) -> list[Trial]:
    """What a recipe's search finds, without final training and report."""
    made = assemble.assemble(reading.validate(given, "test"), Registry(), Path("run").absolute())
    with made.executor() as executor:
        events = Search(made.strategy(), executor, made.budget, 0, watcher=made.pruner())
        return list(Trials((), events).latest.values())


def start(given: Mapping[str, Any], folder: str, listeners: Sequence[Crashes] = ()) -> list[Trial]:
    """Run a recipe; the last event of every trial."""
    runs.start(reading.validate(given, "test"), Registry(), Path(folder), listeners)
    return trials(Path(folder))


def kept(folder: str) -> set[int]:
    """Numbers of the trials whose weights are there."""
    return {int(p.stem.removeprefix("trial_")) for p in Path(folder, "weights").glob("trial_*")}


def check_rungs(done: Sequence[Trial], fidelities: Sequence[float]) -> None:
    """Every promotion trains the epochs that are missing, and only those."""
    promoted = [t for t in done if t.proposal.resume_from is not None]
    assert {t.proposal.fidelity for t in promoted} == set(fidelities[1:])
    for trial in done:
        below, end = trial.proposal.resume_from, round(EPOCHS * trial.proposal.fidelity)
        begin = 0 if below is None else round(EPOCHS * done[below].proposal.fidelity)
        assert [step for step, _ in trial.curve] == list(range(begin + 1, end + 1))


@pytest.mark.parametrize("space", ["sequential", "nasbench201"])
def test_promoted_trials_train_on(space: str, content: Callable[..., dict[str, Any]]) -> None:
    done = searched(content(space))
    assert {trial.state for trial in done} == {TrialState.COMPLETE}
    check_rungs(done, (0.111, 0.333, 1.0))


def test_a_run_does_not_mix_fidelities(content: Callable[..., dict[str, Any]]) -> None:
    done = start(content(audit={"trials": 4}), "run")
    check_rungs(done, (0.111, 0.333, 1.0))
    examined = audit.stored(Path("run"))
    assert examined is not None
    assert len({done[row.trial].proposal.fidelity for row in examined.rows}) == 1
    tables = re.findall(r"<table.*?</table>", Path("run", "report.html").read_text(), re.DOTALL)
    (leaders,) = (table for table in tables if "<th>fidelity</th>" in table)
    column = re.findall(r"<th>(.*?)</th>", leaders).index("fidelity")
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in leaders.split("<tr>")[2:]]
    fidelities = [float(row[column]) for row in rows]
    assert fidelities == sorted(fidelities, reverse=True)
    assert set(fidelities) == {1, 0.333, 0.111}


def test_weights_stay_for_what_may_be_promoted(content: Callable[..., dict[str, Any]]) -> None:
    """And a killed run, resumed, is the same."""

    def timeless(done: Sequence[Trial]) -> list[object]:
        return [(t.number, t.proposal, t.metrics, t.curve) for t in done]

    given = content(strategy={**HALVING, "of": "random"})
    whole = start(given, "whole")
    promoted = {trial.proposal.resume_from for trial in whole}
    waiting = {trial.number for trial in whole if trial.proposal.fidelity < 1} - promoted
    assert waiting <= kept("whole")
    with pytest.raises(Crash):
        start(given, "killed", (Crashes(events=9),))
    runs.resume(Path("killed"))
    assert timeless(trials(Path("killed"))) == timeless(whole)
    assert kept("killed") == kept("whole")


@pytest.mark.parametrize("name", ["reduced", "inherit", "zero_cost", "extrapolate"])
def test_every_evaluation_with_epochs_has_rungs(
    name: str, content: Callable[..., dict[str, Any]]
) -> None:
    done = searched(content(evaluation=EVALUATIONS[name]))
    assert {trial.state for trial in done} == {TrialState.COMPLETE}
    assert {trial.proposal.fidelity for trial in done} == {0.111, 0.333, 1.0}
    for trial in done:
        if (below := trial.proposal.resume_from) is not None:
            assert trial.curve[0][0] == done[below].curve[-1][0] + 1


def test_what_was_pruned_is_not_promoted(content: Callable[..., dict[str, Any]]) -> None:
    # So that there is something to stop: by sgd tiny networks differ soonest.
    longer = {**TRAIN, "epochs": 3 * EPOCHS, "optimizer": "sgd"}
    rule = {"name": "median", "startup_trials": 1}
    done = searched(content(evaluation=longer, pruning=rule, budget={"trials": 12}))
    pruned = {trial.number for trial in done if trial.state is TrialState.PRUNED}
    assert pruned
    assert not pruned & {trial.proposal.resume_from for trial in done}


@pytest.mark.slow
def test_workers_promote_what_other_workers_trained(
    content: Callable[..., dict[str, Any]],
) -> None:
    two = {"name": "processes", "workers": 2, "device": "cpu"}
    strategy = {"name": "hyperband", "min_fidelity": 0.111}
    done = searched(content(strategy=strategy, executor=two, budget={"trials": 20}))
    assert {trial.state for trial in done} == {TrialState.COMPLETE}
    check_rungs(done, (0.111, 0.333, 1.0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strategy": {**HALVING, "etaa": 3}}, "strategy.etaa: unknown key. Did you mean 'eta'?"),
        (
            {"strategy": {**HALVING, "eta": 1}},
            "strategy.eta: Input should be greater than or equal to 2",
        ),
        (
            {"strategy": {**HALVING, "of": {**EVOLUTION, "size": 3}}},
            "strategy.of.size: unknown key",
        ),
        (
            {"strategy": {**HALVING, "of": {**EVOLUTION, "population_size": 1}}},
            "strategy.of.population_size: 1 is smaller than tournament_size 2",
        ),
        ({"strategy": {**HALVING, "of": "radnom"}}, "unknown strategy 'radnom'. Did you mean"),
        ({"strategy": {**HALVING, "of": HALVING}}, "strategy.of: must propose at full effort"),
        ({"strategy": {"name": "hyperband", "of": 3}}, "strategy.of: "),
        (
            {"objectives": {"val_accuracy": "max", "params": "min"}},
            "objectives: strategy 'successive_halving' takes one, not 2",
        ),
        (
            {"evaluation": {**TRAIN, "epochs": 4}},
            "strategy: successive_halving goes on from fidelity 0.111 to 0.333, but evaluation "
            "'train' makes no more effort",
        ),
        (
            {"evaluation": {"name": "supernet", "of": TRAIN}},
            "evaluation 'supernet' makes no more effort",
        ),
        (
            {
                "evaluation": {**EVALUATIONS["zero_cost"], "training": False},
                "objectives": {"naswot": "max"},
            },
            "evaluation 'zero_cost' makes no more effort",
        ),
        (
            {"evaluation": {"name": "reduced", "of": {**TRAIN, "batch_size": 0}}},
            "evaluation.of.batch_size: Input should be greater than or equal to 1, not 0",
        ),
        (
            {"evaluation": {"name": "inherit", "of": {"name": "reduced", "of": TRAIN, "data": 2}}},
            "evaluation.of.data: Input should be less than or equal to 1, not 2",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_a_line(
    changes: Mapping[str, Any], reason: str, content: Callable[..., dict[str, Any]]
) -> None:
    given = reading.validate(content(**changes), "test")
    with pytest.raises(EvonasError) as refusal:
        assemble.assemble(given, Registry(), Path("run"))
    assert refusal.value.exit_code == RecipeError.exit_code
    assert reason in str(refusal.value)
    assert not Path("run").exists()


def test_the_source_is_resolved_and_chosen_on_the_command_line(
    content: Callable[..., dict[str, Any]],
) -> None:
    path = Path("recipe.yaml")
    path.write_text(yaml.safe_dump(content(strategy={"name": "hyperband"})))

    def resolved(*sets: str) -> dict[str, Any]:
        made = assemble.assemble(reading.load(path, sets), Registry(), Path("run"))
        return dict(made.recipe.strategy.options)

    assert resolved() == {"of": {"name": "random"}, "eta": 3, "min_fidelity": 1 / 9}
    assert resolved("strategy.of.name=tpe")["of"]["startup_trials"] == 10
    assert resolved("strategy.of=tpe", "strategy.of.candidates=3")["of"]["candidates"] == 3


SOURCE = """
from random import Random
from evonas.strategies.base import Strategy

class Mine(Strategy):
    def __init__(self, space, objectives, luck: int = 1):
        super().__init__(space, objectives)

    def ask(self, rng: Random):
        return self.new(rng)
"""


def test_a_plugin_is_a_source(content: Callable[..., dict[str, Any]]) -> None:
    folder = Path("mine", "strategies")
    folder.mkdir(parents=True)
    (folder / "lucky.py").write_text(SOURCE)
    registry = Registry((Path("mine"),))
    strategy = {"name": "successive_halving", "min_fidelity": 0.111, "of": "lucky"}
    given = reading.validate(content(strategy=strategy), "test")
    made = assemble.assemble(given, registry, Path("run"))
    assert made.recipe.strategy.options["of"] == {"name": "lucky", "luck": 1}
    proposal = made.strategy().ask(Random(0))
    assert proposal is not None
    assert proposal.fidelity == 0.111


def test_they_are_listed_and_pass_the_kit() -> None:
    listed = CliRunner().invoke(main, ["list", "strategy"]).output
    for name in ("successive_halving", "hyperband"):
        assert f"  {name} " in listed
        assert checking.check(Registry(), "strategy", name) == []
