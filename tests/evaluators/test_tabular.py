"""Recorded trainings: a row per architecture, from CSV or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from evaluators_helper import SPACE, context, evaluate, final, trial

from evonas.errors import DataError, EvonasError, RecipeError
from evonas.evaluators.tabular import Tabular
from evonas.executors.base import run_trial
from evonas.spaces.nasbench201 import NASBench201
from evonas.testing import check_evaluator
from evonas.trial import Proposal, Trial, TrialState

TEMPLATE = "{k1}-{c1}"
KEY = TEMPLATE.format_map(dict(trial().architecture.choices))
ROWS: list[Mapping[str, Any]] = [
    {"architecture": KEY, "valid": 61.5, "test": 60.25, "time": 1234.5},
    {"architecture": "other", "valid": 1, "test": 2, "time": 3},
]


def write(path: Path, rows: list[Mapping[str, Any]] | None = None) -> Path:
    rows = ROWS if rows is None else rows
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def tabular(path: Path, **options: Any) -> Tabular:
    given: dict[str, Any] = {"template": TEMPLATE, "columns": {"val_accuracy": "valid"}, **options}
    return Tabular(context(data=None), path, **given)


@pytest.mark.parametrize("name", ["table.csv", "table.json"])
def test_metrics_are_the_columns_of_the_row(tmp_path: Path, name: str) -> None:
    evaluator = tabular(write(tmp_path / name))
    assert evaluator.metrics == ("val_accuracy",)
    assert evaluate(evaluator, trial()) == ({"val_accuracy": 61.5}, [])
    columns = {"val_accuracy": "valid"}
    keys = {TEMPLATE.format_map(dict(point.choices)) for point in SPACE.enumerate()}
    path = write(tmp_path / name, [{**ROWS[0], "architecture": key} for key in sorted(keys)])
    table = partial(Tabular, path=path, template=TEMPLATE, columns=columns)
    assert check_evaluator(table, SPACE) == []


def test_json_may_be_an_object_by_key(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({KEY: {"valid": 7}, "other": {"valid": 8}}))
    assert evaluate(tabular(path), trial())[0] == {"val_accuracy": 7.0}


def test_the_key_may_be_another_column(tmp_path: Path) -> None:
    path = write(
        tmp_path / "table.csv", [{"architecture": "x", "valid": 5, "test": KEY, "time": 1}]
    )
    assert evaluate(tabular(path, key="test"), trial())[0] == {"val_accuracy": 5.0}


def test_seconds_are_simulated(tmp_path: Path) -> None:
    columns = {"val_accuracy": "valid", "seconds": "time"}
    ended = run_trial(tabular(write(tmp_path / "table.csv"), columns=columns), trial())
    assert ended.state is TrialState.COMPLETE
    assert ended.seconds == 1234.5
    assert run_trial(tabular(tmp_path / "table.csv"), trial()).seconds < 10


def test_a_missing_row_fails_the_trial_and_no_other(tmp_path: Path) -> None:
    evaluator = tabular(write(tmp_path / "table.csv"))
    sampled = (SPACE.sample(Random(seed)) for seed in range(99))
    absent = next(a for a in sampled if TEMPLATE.format_map(dict(a.choices)) != KEY)
    ended = run_trial(evaluator, Trial(0, Proposal(absent)))
    assert ended.state is TrialState.FAILED
    assert ended.error is not None
    assert "has no row" in ended.error
    assert run_trial(evaluator, trial(1)).state is TrialState.COMPLETE


@pytest.mark.parametrize("value", ["", "n/a", "nan", "inf"])
def test_a_row_without_a_number_fails_the_trial(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "table.csv", [{**ROWS[0], "valid": value}])
    assert run_trial(tabular(path), trial()).state is TrialState.FAILED


def test_the_end_reads_its_own_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv")
    plain = tabular(path)
    assert not plain.finals
    assert plain.test(trial()) == {}
    table = tabular(path, full={"val_accuracy": "test"}, final={"test_accuracy": "test"})
    assert table.finals
    assert evaluate(table, final())[0] == {"val_accuracy": 60.25}
    assert table.test(final()) == {"test_accuracy": 60.25}


@pytest.mark.parametrize(
    "template", ["{k9}", "{}", "{0}", "{k1", "{k1:s}", "{k1.real.x}", "{k1[0]}"]
)
def test_a_template_that_does_not_fit_the_space_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(RecipeError, match=r"template: .*choices are k1, k2"):
        tabular(write(tmp_path / "table.csv"), template=template)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {}}, "columns: name at least one"),
        ({"columns": {"x": "nope"}}, "no column 'nope'; there are architecture, valid, test, time"),
        ({"final": {"x": "nope"}}, "no column 'nope'"),
        ({"key": "nope"}, "no column 'nope' to find rows by"),
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "table.json"])
def test_columns_that_are_not_there_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvonasError, match=message):
        tabular(write(tmp_path / name), **options)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", ""),
        ("table.csv", "architecture,valid\n"),
        ("table.csv", "architecture,valid\n\xff"),
        ("table.json", "{"),
        ("table.json", "[]"),
        ("table.json", "5"),
        ("table.json", "[1, 2]"),
        ("table.json", '{"a": 5}'),
        ("table.json", '{"a": [5]}'),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=name):
        tabular(tmp_path / name)


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_table_that_cannot_be_opened_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"evaluation\.path: .*cannot be read"):
        tabular(tmp_path / name)


def test_the_real_table(shared_data: Path) -> None:
    space = NASBench201()
    evaluator = Tabular(
        context(space, data=None),
        shared_data / "nasbench201_cifar100.csv",
        "|{edge_0_1}~0|+|{edge_0_2}~0|{edge_1_2}~1|+|{edge_0_3}~0|{edge_1_3}~1|{edge_2_3}~2|",
        {"val_accuracy": "valid_12ep", "seconds": "train_seconds_200ep"},
    )
    for seed in range(20):
        metrics, _ = evaluate(evaluator, Trial(seed, Proposal(space.sample(Random(seed)))))
        assert 0 < metrics["val_accuracy"] < 100
        assert metrics["seconds"] > 100


def test_rows_may_be_longer_than_the_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("architecture,test\n1-1,0.5,7,8\n")
    with pytest.raises(DataError, match="no column 'valid'; there are architecture, test"):
        tabular(path)
