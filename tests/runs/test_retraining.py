"""Trainings for good: each once, kept, side by side, and none lost when one dies."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from retraining_helper import Writes, trial, weight

from evonas.errors import StorageError
from evonas.executors.base import Executor, MakeEvaluator
from evonas.executors.processes import Processes
from evonas.executors.serial import Serial
from evonas.runs.retraining import Retraining, Stopped, criterion, weights_path
from evonas.trial import Objective, TrialState


def serial(make: MakeEvaluator, count: int) -> Executor:
    return Serial(make, ("cpu",))


def two(make: MakeEvaluator, count: int) -> Executor:
    return Processes(make, ("cpu",), workers=2)


def retraining(
    folder: Path,
    executor: Callable[[MakeEvaluator, int], Executor] = serial,
    note: Callable[[str], None] = lambda message: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Retraining:
    return Retraining(folder, executor, partial(Writes, folder=folder), note, stopping)


def trained(folder: Path) -> list[str]:
    """Trial and seed of every training, in order."""
    path = folder / "log"
    return path.read_text().split() if path.exists() else []


def test_every_trial_is_trained_with_every_seed_once(tmp_path: Path) -> None:
    given = [trial(7), trial(2)]
    told: list[str] = []
    first = retraining(tmp_path, note=told.append).run(given, range(2), weights=True)
    assert list(first) == [(7, 0), (7, 1), (2, 0), (2, 1)]
    assert trained(tmp_path) == ["7/0", "7/1", "2/0", "2/1"]
    for (number, seed), ended in first.items():
        assert ended.state is TrialState.COMPLETE
        assert ended.number == number
        assert ended.metrics["val_accuracy"] == pytest.approx(number / 100 + seed / 1000)
        assert ended.curve == ((1, {"val_accuracy": 0.25}),)
        assert weight(weights_path(tmp_path / "retrained", number, seed)) == number
    assert "training trial 7 for good, seed 1" in told
    assert "  trial 2, seed 0, step 1: val_accuracy 0.2500" in told
    again = retraining(tmp_path).run(given, range(2), weights=True)
    assert again == first, "to the second that it took"
    assert len(trained(tmp_path)) == 4


def test_more_is_asked_for_and_only_the_rest_is_trained(tmp_path: Path) -> None:
    retraining(tmp_path).run([trial(1)], range(1), weights=True)
    retraining(tmp_path).run([trial(1), trial(2)], range(2), weights=True)
    assert trained(tmp_path) == ["1/0", "1/1", "2/0", "2/1"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
    ],
    ids=["lost", "empty", "torn", "flipped"],
)
def test_lost_weights_are_trained_again_if_they_are_wanted(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    jobs = retraining(tmp_path)
    jobs.run([trial(1)], range(2), weights=True)
    harm(weights_path(jobs.folder, 1, 0))
    retraining(tmp_path).run([trial(1)], range(2), weights=False)
    assert trained(tmp_path) == ["1/0", "1/1"]
    retraining(tmp_path).run([trial(1)], range(2), weights=True)
    assert trained(tmp_path) == ["1/0", "1/1", "1/0"]
    assert weight(weights_path(jobs.folder, 1, 0)) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"number": 1}'])
def test_a_damaged_record_is_trained_again(tmp_path: Path, text: str) -> None:
    first = retraining(tmp_path).run([trial(1)], range(1), weights=True)
    (tmp_path / "retrained" / "trial_1_seed_0.json").write_text(text)
    again = retraining(tmp_path).run([trial(1)], range(1), weights=True)
    assert trained(tmp_path) == ["1/0", "1/0"]
    assert again[1, 0].metrics == first[1, 0].metrics


def test_figures_without_a_network_are_kept_too(tmp_path: Path) -> None:
    for _ in range(2):
        found = retraining(tmp_path).run(
            [trial(1, "figures"), trial(2, "nothing")], range(1), weights=True
        )
        assert found[1, 0].metrics == {"val_accuracy": 0.5}
        assert found[2, 0].state is TrialState.COMPLETE
        assert not found[2, 0].metrics
    assert trained(tmp_path) == ["1/0", "2/0"]


def test_failures_are_told_and_tried_again_another_time(tmp_path: Path) -> None:
    for attempt in (1, 2):
        found = retraining(tmp_path).run([trial(1, "fail"), trial(2)], range(1), weights=True)
        assert found[1, 0].state is TrialState.FAILED
        assert found[1, 0].error is not None
        assert found[1, 0].error.startswith("ValueError: as told")
        assert found[2, 0].state is TrialState.COMPLETE
        assert trained(tmp_path).count("1/0") == attempt
        assert trained(tmp_path).count("2/0") == 1


def test_weights_may_be_forgotten_and_the_figures_stay(tmp_path: Path) -> None:
    jobs = retraining(tmp_path)
    first = jobs.run([trial(1)], range(1), weights=True)
    jobs.forget_weights()
    assert [path.suffix for path in jobs.folder.iterdir()] == [".json"]
    assert retraining(tmp_path).run([trial(1)], range(1), weights=False) == first
    assert trained(tmp_path) == ["1/0"]


def test_stopping_keeps_what_was_done(tmp_path: Path) -> None:
    stopped = retraining(tmp_path, stopping=lambda: len(trained(tmp_path)) == 3)
    with pytest.raises(Stopped):
        stopped.run([trial(1), trial(2)], range(2), weights=True)
    assert trained(tmp_path) == ["1/0", "1/1", "2/0"]
    assert len(list((tmp_path / "retrained").glob("*.json"))) == 3
    found = retraining(tmp_path).run([trial(1), trial(2)], range(2), weights=True)
    assert len(found) == 4
    assert trained(tmp_path) == ["1/0", "1/1", "2/0", "2/1"]


def test_stopping_when_all_is_done_is_too_late(tmp_path: Path) -> None:
    first = retraining(tmp_path, stopping=lambda: len(trained(tmp_path)) == 2).run(
        [trial(1)], range(2), weights=True
    )
    assert len(first) == 2
    assert (
        retraining(tmp_path, stopping=lambda: True).run([trial(1)], range(2), weights=True) == first
    )


def test_workers_train_side_by_side_and_one_that_dies_costs_its_own(tmp_path: Path) -> None:
    given = [trial(1), trial(2, "die"), trial(3, "fail"), trial(4)]
    found = retraining(tmp_path, two).run(given, range(2), weights=True)
    for (number, _), ended in found.items():
        good = number in (1, 4)
        assert ended.state is (TrialState.COMPLETE if good else TrialState.FAILED)
        assert ended.number == number
    assert "killed by SIGKILL" in str(found[2, 0].error)
    assert len({ended.metrics["pid"] for ended in found.values() if ended.metrics}) > 1
    assert weight(weights_path(tmp_path / "retrained", 4, 1)) == 4
    before = trained(tmp_path)
    retraining(tmp_path, two).run([trial(1), trial(4)], range(2), weights=True)
    assert trained(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "retrained").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="retrained"):
        retraining(tmp_path).run([trial(1)], range(1), weights=True)


def test_a_record_holds_its_trial(tmp_path: Path) -> None:
    retraining(tmp_path).run([trial(12)], range(3), weights=True)
    record = json.loads((tmp_path / "retrained" / "trial_12_seed_2.json").read_text())
    assert record["number"] == 12
    assert record["proposal"]["architecture"]["choices"] == {"do": "train", "x": 12}


def test_what_trainings_are_compared_by() -> None:
    loss = Objective("loss", "min")
    assert criterion((loss,), {"loss": 1.0, "val_accuracy": 0.5}) is loss
    assert criterion((Objective("naswot"),), {"val_accuracy": 0.5}) == Objective("val_accuracy")
    assert criterion((loss,), {"other": 1.0}) is None
