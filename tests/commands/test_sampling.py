"""A run of the hypernet strategy from start to end, and what may be asked of it afterwards."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helper import evonas
from conftest import ROOT

from evonas.commands import sampling
from evonas.errors import HistoryError, RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run

TINY = (
    "space.channels=2",
    "evaluation.resolution=8",
    "strategy.steps=2",
    "evaluation.of.epochs=1",
    "evaluation.of.of.final_epochs=1",
    "tracking.name=console",
)


def started(images: Callable[..., Path], folder: Path, *sets: str, workers: int = 0) -> run.Outcome:
    executor = (
        ["executor.name=processes", f"executor.workers={workers}"]
        if workers
        else ["executor.name=serial"]
    )
    given = reading.load(
        ROOT / "recipes" / "mnist_hypernet.yaml",
        [*TINY, f"dataset.path={images()}", *executor, *sets],
    )
    return run.start(given, Registry(), folder)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_ends_with_the_table_and_gives_samples(
    workers: int, images: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    report = started(images, folder, workers=workers).report
    assert report.status == "finished"
    assert len(report.table) == 6
    for row in report.table:
        assert row["pooling"] + row["identity"] + row["convolution"] == 28
    with (folder / "table.csv").open() as file:
        kept = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert kept == [dict(row) for row in report.table]
    assert "S_convolution" in (folder / "report.html").read_text()
    middle = next(row for row in report.table if row["S_pooling"] == row["S_identity"] < 0.5)
    wanted = ",".join(str(middle[f"S_{kind}"]) for kind in ("pooling", "identity", "convolution"))
    shown = evonas("sample", str(folder), "--complexity", wanted)
    assert shown.exit_code == 0, shown.output
    for name in ("val_accuracy", "params", "pooling"):
        assert any(
            line.split() == [name, f"{middle[name]:,.6g}"] for line in shown.output.splitlines()
        )


@pytest.mark.slow
def test_a_run_that_was_stopped_before_it_was_trained(
    images: Callable[..., Path], tmp_path: Path
) -> None:
    stops = itertools.count()
    folder = tmp_path / "run"
    given = reading.load(
        ROOT / "recipes" / "mnist_hypernet.yaml",
        [*TINY, f"dataset.path={images()}", "executor.name=serial", "evaluation.of.epochs=2"],
    )
    stopped = run.start(given, Registry(), folder, stopping=lambda: next(stops) > 0)
    assert stopped.report.status == "interrupted"
    assert stopped.report.trials == {}
    with pytest.raises(HistoryError, match="not trained yet; go on with: evonas resume"):
        sampling.sample(folder, "1,0,0", print)
    resumed = run.resume(folder, ["budget.trials=2"]).report
    whole = started(images, tmp_path / "whole", "evaluation.of.epochs=2", "budget.trials=2").report
    assert resumed.table == whole.table
    assert len(resumed.table) >= 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0.5,0.5", "must be three numbers"),
        ("a,b,c", "must be three numbers"),
        ("", "must be three numbers"),
        ("-0.5,1,0.5", "must be three numbers, 0 or more"),
        ("nan,0.5,0.5", "must be three numbers"),
        ("1,1,1", "must sum to 1, not to 3"),
        ("inf,0,0", "must sum to 1, not to inf"),
        ("0,0,0", "must sum to 1, not to 0"),
    ],
)
def test_a_wrong_complexity_is_one_line(given: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sampling.parse(given)
    shown = evonas("sample", "nowhere", f"--complexity={given}")
    assert (shown.exit_code, shown.output.count("\n")) == (2, 1)


def test_rounded_weights_sum_to_one() -> None:
    assert sum(sampling.parse("0.33,0.33,0.33")) == pytest.approx(1)
    assert sampling.parse("0.15, 0.15, 0.7") == pytest.approx((0.15, 0.15, 0.7))


def test_a_run_without_a_sampler_has_no_samples(images: Callable[..., Path]) -> None:
    sets = ["executor.name=serial", "tracking.name=console", "budget.trials=1"]
    sets += ["space.max_depth=1", "space.max_width=8", "evaluation.epochs=1", "constraints={}"]
    run.start(
        reading.load(ROOT / "recipes" / "digits_evo.yaml", sets), Registry(), Path("run").absolute()
    )
    with pytest.raises(HistoryError, match="learns no sampler"):
        sampling.sample(Path("run"), "1,0,0", print)


def test_the_strategy_needs_an_evaluation_with_a_sampler(images: Callable[..., Path]) -> None:
    sets = [*TINY, f"dataset.path={images()}", "evaluation.name=train"]
    given = reading.load(ROOT / "recipes" / "mnist_hypernet.yaml", [sets[1], *sets[4:]])
    with pytest.raises(RecipeError, match=r"strategy\.name: hypernet asks a sampler"):
        run.start(given, Registry())
