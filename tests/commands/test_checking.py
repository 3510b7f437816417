"""The contract kit on components that are named, and on what people get wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helper import evonas

from evonas.commands import checking
from evonas.errors import DataError, RecipeError
from evonas.recipe.registry import Registry

REGISTRY = Registry()


def test_check_runs_the_kit() -> None:
    assert checking.check(REGISTRY, "space", "plain_cnn") == []
    assert checking.check(REGISTRY, "strategies", "random") == []
    Path("plugins/spaces").mkdir(parents=True)
    Path("plugins/spaces/broken.py").write_text(
        "from evonas.spaces.base import SearchSpace\n"
        "class Broken(SearchSpace):\n"
        "    def build(self, architecture, task): ...\n"
    )
    problems = checking.check(Registry((Path("plugins"),)), "space", "broken")
    assert problems == ["domains: the space declares none; set self.domains in __init__"]


@pytest.mark.parametrize(
    ("kind", "name", "overrides"),
    [
        ("evaluators", "train", ()),
        ("evaluator", "inherit", ("evaluation.of={name: train, epochs: 1}",)),
        ("evaluator", "hypernet", ("epochs=1", "of.epochs=1")),
        ("datasets", "digits", ("seed=3", "dataset.test=0.5")),
        ("pruning", "median", ("startup_trials=2",)),
        ("executor", "serial", ()),
        ("tracker", "console", ()),
        ("space", "plain_cnn", ("max_depth=1", "max_width=8")),
        ("strategy", "hypernet", ()),
        ("strategy", "tpe", ("startup_trials=3",)),
    ],
)
def test_every_kind_is_checked_by_name(kind: str, name: str, overrides: tuple[str, ...]) -> None:
    assert checking.check(REGISTRY, kind, name, overrides) == []


def test_options_that_must_be_given(images: Callable[..., Path]) -> None:
    assert checking.check(REGISTRY, "dataset", "npz", (f"path={images()}",)) == []
    with pytest.raises(DataError, match=r"no file .*--set dataset\.path=FILE"):
        checking.check(REGISTRY, "dataset", "npz")
    with pytest.raises(RecipeError, match=r"evaluation\.path: is missing; evaluation\.template"):
        checking.check(REGISTRY, "evaluator", "tabular")
    rows = "".join(f"{width},0.5\n" for width in range(65))
    Path("table.csv").write_text(f"architecture,valid\n{rows}")
    table = ("path=table.csv", 'template="{c1}"', "columns={val_accuracy: valid}")
    assert checking.check(REGISTRY, "evaluator", "tabular", table) == []


@pytest.mark.parametrize(
    ("kind", "override", "complaint"),
    [
        ("dataset", "size=1", "dataset.size: .*greater than or equal to 4, not 1"),
        ("dataset", "sise=8", "dataset.sise: unknown key. Did you mean 'size'"),
        ("dataset", "name=3", "dataset.name: .*string, not 3"),
        ("evaluator", "epoch=1", "evaluation.epoch: unknown key. Did you mean 'epochs'"),
        ("evaluator", "epochs=0", "evaluation.epochs: .*, not 0"),
        ("evaluator", "epochs", "must be KEY=VALUE"),
    ],
)
def test_options_that_will_not_do(kind: str, override: str, complaint: str) -> None:
    name = {"dataset": "digits", "evaluator": "train"}[kind]
    with pytest.raises(RecipeError, match=complaint):
        checking.check(REGISTRY, kind, name, (override,))


def test_a_check_of_mlflow_leaves_the_users_store_alone(tmp_path: Path) -> None:
    assert checking.check(REGISTRY, "tracker", "mlflow") == []
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_options_as_run_does() -> None:
    done = evonas("check", "dataset", "digits", "--set", "dataset.test=0.5")
    assert (done.stdout, done.exit_code) == ("dataset digits: ok\n", 0)
    wrong = evonas("check", "dataset", "digits", "--set", "tset=0.5")
    assert wrong.exit_code == 2
    assert "dataset.tset: unknown key. Did you mean 'test'? Known: " in wrong.stderr
