"""Trainings of the later stages: each once, in the journal, side by side, and none lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from sessions_helper import TWO, finals, session, timeless, trained, trial, writes

from evonas.errors import StorageError
from evonas.runs.journal import read_journal
from evonas.runs.session import Stopped
from evonas.trial import TrialState


def test_every_trial_is_trained_with_every_seed_once(tmp_path: Path) -> None:
    wanted, said = finals([trial(7), trial(2)], 2), list[str]()
    with session(tmp_path, writes(tmp_path), tell=said.append) as run:
        first = run.train(wanted)
    assert [ended.proposal for ended in first] == wanted
    assert trained(tmp_path) == ["7/0", "7/1", "2/0", "2/1"]
    for number, ended in enumerate(first):
        assert ended.state is TrialState.COMPLETE
        assert ended.number == number, "numbered within the stage"
        assert ended.curve == ((1, {"val_accuracy": 0.25}),)
    assert "trial 2, seed 0, step 1: {'val_accuracy': 0.25}" in said
    with session(tmp_path, writes(tmp_path)) as run:
        assert run.train(wanted) == first, "to the second that it took"
    assert len(trained(tmp_path)) == 4


def test_more_is_asked_for_and_only_the_rest_is_trained(tmp_path: Path) -> None:
    for trials, seeds in (([trial(1)], 1), ([trial(1), trial(2)], 2)):
        with session(tmp_path, writes(tmp_path)) as run:
            run.train(finals(trials, seeds))
    assert trained(tmp_path) == ["1/0", "1/1", "2/0", "2/1"]


def test_every_training_is_in_the_journal_before_it_starts_and_when_it_ends(tmp_path: Path) -> None:
    with session(tmp_path, writes(tmp_path)) as run:
        run.train(finals([trial(12, "fail"), trial(3)]))
    _, events = read_journal(tmp_path)
    assert [(e.number, str(e.state)) for e in events] == [
        *((0, "running"), (0, "failed")),
        *((1, "running"), (1, "complete")),
    ]
    assert {e.proposal.stage for e in events} == {"final"}
    assert dict(events[0].architecture.choices) == {"do": "fail", "x": 12}
    assert str(events[1].error).startswith("ValueError: as told")


@pytest.mark.parametrize("cut", range(8))
def test_killed_at_any_event_it_goes_on_to_the_same_journal(tmp_path: Path, cut: int) -> None:
    wanted = finals([trial(1), trial(2, "fail")], 2)
    (tmp_path / "alone").mkdir()
    (tmp_path / "killed").mkdir()
    with session(tmp_path / "alone", writes(tmp_path / "alone")) as run:
        run.train(wanted)
        whole = run.journal.events
    with session(tmp_path / "killed", writes(tmp_path / "killed")) as run:
        for event in whole[:cut]:
            run.journal.append(event)
        ended = run.train(wanted)
        assert [t.proposal for t in ended] == wanted
        assert timeless([e for e in run.journal.events if "pid" not in e.metrics]) == timeless(
            [e for e in whole if "pid" not in e.metrics]
        )
        assert len(run.journal.events) == len(whole)


def test_what_failed_is_trained_again_if_it_is_begun_again(tmp_path: Path) -> None:
    wanted = finals([trial(1, "fail"), trial(2)])
    with session(tmp_path, writes(tmp_path)) as run:
        failed, _ = run.train(wanted)
        run.train(wanted)
        assert trained(tmp_path) == ["1/0", "2/0"]
        run.begin_again([failed])
        again, _ = run.train(wanted)
    assert trained(tmp_path) == ["1/0", "2/0", "1/0"]
    assert (again.number, again.state) == (failed.number, TrialState.FAILED)


def test_stopping_keeps_what_was_done(tmp_path: Path) -> None:
    wanted = finals([trial(1), trial(2)], 2)
    three = lambda: len(trained(tmp_path)) == 3  # noqa: E731
    with session(tmp_path, writes(tmp_path), stopping=three) as run, pytest.raises(Stopped):
        run.train(wanted)
    assert trained(tmp_path) == ["1/0", "1/1", "2/0"]
    with session(tmp_path, writes(tmp_path)) as run:
        assert len(run.train(wanted)) == 4
    assert trained(tmp_path) == ["1/0", "1/1", "2/0", "2/1"]


def test_stopping_when_all_is_done_is_too_late(tmp_path: Path) -> None:
    wanted = finals([trial(1)], 2)
    with session(tmp_path, writes(tmp_path), stopping=lambda: len(trained(tmp_path)) == 2) as run:
        first = run.train(wanted)
    assert len(first) == 2
    with session(tmp_path, writes(tmp_path), stopping=lambda: True) as run:
        assert run.train(wanted) == first


def test_workers_train_side_by_side_and_one_that_dies_costs_its_own(tmp_path: Path) -> None:
    wanted = finals([trial(1), trial(2, "die"), trial(3, "fail"), trial(4)], 2)
    with session(tmp_path, writes(tmp_path), TWO) as run:
        found = run.train(wanted)
    for ended in found:
        good = ended.proposal.parents[0] in (1, 4)
        assert ended.state is (TrialState.COMPLETE if good else TrialState.FAILED)
    assert "killed by SIGKILL" in str(found[2].error)
    assert len({ended.metrics["pid"] for ended in found if ended.metrics}) > 1
    before = trained(tmp_path)
    with session(tmp_path, writes(tmp_path), TWO) as run:
        run.train(finals([trial(1), trial(4)], 2))
    assert trained(tmp_path) == before


def test_the_disk_that_takes_no_event_is_a_storage_error(tmp_path: Path) -> None:
    with session(tmp_path, writes(tmp_path)) as run:
        run.journal.close()
        with pytest.raises((StorageError, ValueError)):
            run.train(finals([trial(1)]))
    assert trained(tmp_path) == [], "nothing is trained that is not written down"
