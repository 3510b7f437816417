"""Every wrapper round every evaluator: refused where a change would be ignored, else it has one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from evaluators_helper import SPACE, context, evaluate, final, kept, make, trial

from evonas.errors import RecipeError
from evonas.evaluators.base import Context, Evaluator, Wrapper
from evonas.evaluators.extrapolate import Extrapolate
from evonas.evaluators.hypernet import Hypernet
from evonas.evaluators.inherit import Inherit
from evonas.evaluators.latency import Latency
from evonas.evaluators.reduced import Reduced
from evonas.evaluators.supernet import SinglePathOneShot
from evonas.evaluators.tabular import Tabular
from evonas.evaluators.train import Train
from evonas.evaluators.zero_cost import ZeroCost
from evonas.spaces.base import SearchSpace
from evonas.spaces.darts import DARTS
from evonas.trial import Proposal, Trial

TRAIN: dict[str, Any] = {"epochs": 4, "batch_size": 20}
ONCE: dict[str, Any] = {"epochs": 1, "batch_size": 20, "calibration_batches": 1}
WRAPPERS: dict[str, tuple[type[Wrapper], dict[str, Any]]] = {
    "extrapolate": (Extrapolate, {"share": 0.5}),
    "inherit": (Inherit, {"epochs": 0.5}),
    "reduced": (Reduced, {"data": 0.5}),
    "supernet": (SinglePathOneShot, ONCE),
    "hypernet": (Hypernet, ONCE),
    "latency": (Latency, {"runs": 1, "warmup": 0}),
    "zero_cost": (ZeroCost, {"proxies": ["naswot"], "batch_size": 8}),
    "zero_cost_alone": (ZeroCost, {"proxies": ["naswot"], "batch_size": 8, "training": False}),
}
UNTRAINED = {"tabular", "supernet", "hypernet", "zero_cost_alone"}  # whose trials train no network
REFUSED = {
    *itertools.product(("extrapolate", "inherit"), UNTRAINED),
    ("extrapolate", "extrapolate"),
    ("inherit", "inherit"),
    ("reduced", "tabular"),
    ("reduced", "latency"),
}
PAIRS = list(itertools.product(WRAPPERS, ("train", "tabular", *WRAPPERS)))


def train(world: Context) -> Evaluator:
    return Train(world, **TRAIN)


def tabular(world: Context) -> Evaluator:
    Path("table.csv").write_text("architecture,score\n3,0.5\n")
    name = next(iter(world.space.domains))
    return Tabular(world, Path("table.csv"), f"{{{name}}}", {"val_accuracy": "score"})


def made(name: str, world: Context, of: Callable[[Context], Evaluator] = train) -> Evaluator:
    cls, options = WRAPPERS[name]
    return make(cls, world, of, **options)


def inner_of(name: str) -> Callable[[Context], Evaluator]:
    return {"train": train, "tabular": tabular}.get(name) or partial(made, name)


def world(folder: Path, space: SearchSpace) -> Context:
    return context(space, run_dir=folder, weights=kept(folder))


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_a_change_that_would_be_ignored_is_refused(outer: str, inner: str, tmp_path: Path) -> None:
    given = world(tmp_path, DARTS(4))
    if (outer, inner) not in REFUSED:
        made(outer, given, inner_of(inner))
        return
    with pytest.raises(RecipeError, match=r"^evaluation\.of: ") as refused:
        made(outer, given, inner_of(inner))
    assert "\n" not in str(refused.value)
    assert inner.removesuffix("_alone") in str(refused.value)


TRAINED = [
    (outer, inner)
    for outer, inner in PAIRS
    if outer in ("extrapolate", "inherit", "reduced")
    and (outer, inner) not in REFUSED
    and inner not in ("supernet", "hypernet")
]


@pytest.mark.parametrize(("outer", "inner"), TRAINED)
def test_a_change_that_is_not_refused_has_an_effect(outer: str, inner: str, tmp_path: Path) -> None:
    given = world(tmp_path, SPACE)
    evaluator, alone = made(outer, given, inner_of(inner)), inner_of(inner)(given)
    metrics, curve = evaluate(evaluator, trial())
    assert set(evaluator.metrics) <= set(metrics)
    match outer:
        case "extrapolate":
            assert 0 < len(curve) < len(evaluate(alone, trial())[1])
        case "inherit":
            mutant = SPACE.mutate(trial().architecture, Random(1))
            child, short = evaluate(evaluator, Trial(1, Proposal(mutant, parents=(0,))))
            assert child["inherited"] > 0
            assert len(short) < len(curve)
        case "reduced":
            unreduced, long = evaluate(alone, trial())
            untimed = {n: v for n, v in metrics.items() if not n.startswith("latency")}
            assert (untimed, curve) != ({n: unreduced[n] for n in untimed}, long)
    full, epochs = evaluate(evaluator, final())
    untimed = {name: value for name, value in full.items() if not name.startswith("latency")}
    assert (untimed, epochs) == evaluate(train(given), final())


@pytest.mark.parametrize("name", ["supernet", "hypernet", "zero_cost_alone"])
def test_what_trains_only_finals_trains_them_as_the_inner_one(name: str, tmp_path: Path) -> None:
    given = world(tmp_path, DARTS(4))
    evaluator, winner = made(name, given), final(space=given.space)
    assert evaluator.finals
    assert evaluate(evaluator, winner) == evaluate(train(given), winner)
    assert "test_accuracy" in evaluator.test(winner)
