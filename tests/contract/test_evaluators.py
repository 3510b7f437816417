"""Every built-in evaluator through the public contract kit, and the kit on broken ones."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from evonas.errors import RecipeError
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.extrapolate import Extrapolate
from evonas.evaluators.hypernet import Hypernet
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.latency import Latency
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.supernet import SinglePathOneShot
from evonas.evaluators.tabular import Tabular
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ZeroCost
from evonas.recipe.registry import Registry
from evonas.spaces.plain_cnn import PlainCNN
from evonas.testing import check_evaluator
from evonas.trial import Trial

SPACE = PlainCNN(1, 8)
ARCHITECTURE = SPACE.sample(Random(0))
QUICK = partial(Train, epochs=2)


def tabular(context: Context) -> Evaluator:
    path = Path("table.csv").absolute()
    path.write_text(f"architecture,valid\n{ARCHITECTURE.choices['c1']},50\n")
    return Tabular(context, path, "{c1}", {"val_accuracy": "valid"})


EVALUATORS: Mapping[str, Callable[[Context], Evaluator]] = {
    "train": QUICK,
    "reduced": partial(Reduced, of=QUICK, data=0.5, resolution=4, width=0.5),
    "tabular": tabular,
    "inherit": partial(Inherit, of=QUICK),
    "latency": partial(Latency, of=QUICK, runs=2, warmup=0),
    "hypernet": partial(Hypernet, of=QUICK, epochs=1, batch_size=16),
    "supernet": partial(SinglePathOneShot, of=QUICK, epochs=1, batch_size=16),
    "extrapolate": partial(Extrapolate, of=QUICK),
    "zero_cost": partial(ZeroCost, of=QUICK, batch_size=8),
}


def test_every_built_in_evaluator_is_here() -> None:
    assert set(Registry().origins("evaluator")) == set(EVALUATORS)


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_keeps_the_contract(name: str) -> None:
    assert check_evaluator(EVALUATORS[name]) == []


class Good(Evaluator):
    """Counts the choices, and trains a layer; the evaluators below each break one promise."""

    metrics = ("value", "weight")
    reports = ("value",)
    takes = frozenset({"data", "share", "weights"})
    finals = True
    calls = itertools.count()  # over all evaluators, as a clock would be

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        for step in range(1, self.steps(trial.proposal.fidelity) + 1):
            self.report_a(step, report)
        value = float(len(trial.architecture.choices))
        return {"value": value, "weight": self.weight(trial), "seconds": float(next(self.calls))}

    def steps(self, fidelity: float) -> int:
        return max(1, round(4 * fidelity * self.context.share))

    def report_a(self, step: int, report: Reporter) -> None:
        report(step, {"value": 0.0})

    def weight(self, trial: Trial) -> float:
        with torch.random.fork_rng():
            proposal = trial.proposal
            searched = proposal.stage == "search"
            torch.manual_seed(self.context.seed + (trial.number if searched else proposal.repeat))
            network = nn.Linear(3, 2)
        if self.context.weights is not None and searched:
            self.context.weights.start(network, trial, 4)
            self.context.weights.end(network, trial, 4)
        return float(network.weight.detach().sum())

    def effort(self, fidelity: float) -> float:
        return float(self.steps(fidelity))


def broken(**changes: Any) -> type[Good]:
    return type("Broken", (Good,), changes)


def raises(self: Good, trial: Trial, report: Reporter) -> Mapping[str, float]:
    raise ZeroDivisionError("no such training")


def returns(result: Any) -> Callable[..., Any]:
    return lambda self, trial, report: result


def looks_at_tests(self: Good, trial: Trial) -> float:
    assert self.context.data is not None
    return float("nan") if self.context.data.test is None else 1.0


def not_of_finals(self: Good, trial: Trial) -> float:
    if trial.proposal.stage == "final":
        raise RuntimeError("no final trainings here")
    return 1.0


def of_large_images(self: Good, trial: Trial) -> float:
    data = self.context.data
    assert data is not None
    if data.task.height < 8:
        raise RuntimeError("such small images")
    return 1.0


def of_two_networks(self: Good, trial: Trial) -> float:
    assert self.context.weights is not None
    self.context.weights.start(nn.Linear(3, 2), trial, 4)
    self.context.weights.end(nn.Linear(3, 2), trial, 4)
    return 1.0


NO_WEIGHTS = frozenset({"data", "share"})
BROKEN: Mapping[str, tuple[dict[str, Any], str]] = {
    "raises": ({"evaluate": raises}, "evaluate: ZeroDivisionError: no such training"),
    "leaves out": (
        {"evaluate": returns({"value": 1.0})},
        "evaluate: .*did not return the metrics weight",
    ),
    "no number": (
        {"evaluate": returns({"value": 1.0, "weight": float("nan")})},
        "evaluate: .*not a finite number: weight = nan",
    ),
    "no mapping": ({"evaluate": returns(1.0)}, "evaluate: .*returned float, not a mapping"),
    "forgets": (
        {"weight": lambda self, trial: float(next(self.calls))},
        "evaluate: one trial gives .* and then .*; seed whatever is random",
    ),
    "fails the second time it is made": (
        {"weight": looks_at_tests, "takes": frozenset()},
        "evaluate: made afresh, and without a test split, it gives {}.* do not look at tests",
    ),
    "does not call super": (
        {"__init__": lambda self, context: None},
        r"__init__: call super\(\)\.__init__\(context\)",
    ),
    "promises a string": ({"metrics": "value"}, "metrics: is 'value'; it must be a tuple of names"),
    "promises nothing": ({"metrics": ()}, "metrics: promises none"),
    "is never prepared": (
        {"prepare": lambda self, note, stopping: None},
        "prepare: says that it was not done",
    ),
    "cannot be prepared": ({"prepare": lambda self, note, stopping: 1 / 0}, "ZeroDivisionError"),
    "steps that stand still": (
        {"report_a": lambda self, step, report: report(1, {"value": 0.0})},
        r"report: the steps are \[1, 1, 1, 1\]; let them rise",
    ),
    "reports something else": (
        {"report_a": lambda self, step, report: report(step, {"loss": 0.0})},
        "report: step 1 has no number for value, which `reports` promises",
    ),
    "reports no number": (
        {"report_a": lambda self, step, report: report(step, {"value": float("inf")})},
        "report: step 1 has no number for value",
    ),
    "never reports": (
        {"report_a": lambda self, step, report: None},
        "report: is never called, though `reports` promises value",
    ),
    "less effort for more": (
        {"effort": lambda self, fidelity: -fidelity, "takes": frozenset()},
        r"effort: falls with the fidelity: \[-0\.25, -0\.5, -1",
    ),
    "no half efforts": (
        {"steps": lambda self, fidelity: 4 if fidelity == 1 else 1 // 0}
        | {"effort": lambda self, fidelity: fidelity, "takes": frozenset()},
        "evaluate: at fidelity 0.5: ZeroDivisionError",
    ),
    "no finals": (
        {"weight": not_of_finals, "takes": NO_WEIGHTS},
        "evaluate: a final training: RuntimeError: no final .*; set finals = False",
    ),
    "finals by number": (
        {"weight": lambda self, trial: float(trial.number), "takes": NO_WEIGHTS},
        "evaluate: final trainings of one repeat give .*; seed them by trial.proposal.repeat",
    ),
    "tests nothing finite": (
        {"test": lambda self, trial: {"test_accuracy": float("nan")}},
        "test: gives {'test_accuracy': nan}; all must be finite numbers",
    ),
    "takes what there is not": ({"takes": frozenset({"wieghts"})}, "takes: 'wieghts' is none of"),
    "takes no smaller data": (
        {"weight": of_large_images, "takes": NO_WEIGHTS},
        "takes: data, but on half of them, at 6 pixels: RuntimeError: such small images",
    ),
    "takes no share": (
        {"steps": lambda self, fidelity: round(4 * fidelity)},
        "takes: share, but context.share = 0.5 shortens neither",
    ),
    "takes no weights": (
        {"weight": lambda self, trial: 1.0},
        r"takes: weights, but does not call context\.weights\.start with every network",
    ),
    "leaves another network": ({"weight": of_two_networks}, "takes: weights, .*with the same one"),
}


def test_the_kit_accepts_a_good_evaluator() -> None:
    assert check_evaluator(Good) == []
    assert check_evaluator(Good, SPACE, seed=3) == []


@pytest.mark.parametrize("what", BROKEN)
def test_the_kit_names_what_is_broken(what: str) -> None:
    changes, finding = BROKEN[what]
    (problem, *more) = check_evaluator(broken(**changes))
    assert not more
    assert re.match(finding, problem, re.DOTALL), problem


def test_what_is_not_claimed_is_not_asked_for() -> None:
    modest = {"takes": frozenset(), "finals": False, "weight": not_of_finals}
    assert check_evaluator(broken(**modest)) == []


def test_the_second_space_is_for_those_that_need_it() -> None:
    spaces = []

    class OfCells(Good):
        def __init__(self, context: Context) -> None:
            super().__init__(context)
            spaces.append(context.space.name)
            if context.space.name != "darts":
                raise RecipeError("evaluation.name: cells alone")

    assert check_evaluator(OfCells) == []
    assert spaces[:2] == ["plain_cnn", "darts"]
    with pytest.raises(RecipeError, match="cells alone"):
        check_evaluator(OfCells, SPACE)
