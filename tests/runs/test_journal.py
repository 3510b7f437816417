from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evonas.architecture import Architecture
from evonas.errors import HistoryError, RunInUse, StorageError
from evonas.runs.journal import JOURNAL, Journal, read_header, read_journal
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

pytestmark = pytest.mark.faults("5: a torn, damaged or foreign journal is cut, refused or named")


UP = (Objective("a"),)


def trial(number: int, state: TrialState = TrialState.COMPLETE, **metrics: float) -> Trial:
    architecture = Architecture("toy", {"x": number, "ü": "naïve", "f": 0.1 + 0.2})
    curve = ((1, {"val_accuracy": 1 / 3}),)
    return Trial(
        number, Proposal(architecture, parents=(0,)), state, metrics, curve, 1.5, None, 2.5
    )


def write(folder: Path, count: int = 5) -> list[Trial]:
    folder.mkdir(exist_ok=True)
    with Journal(folder) as journal:
        journal.begin({"recipe": "r"})
        for number in range(count):
            journal.append(trial(number, a=float(number)))
        return journal.events


def test_round_trip(tmp_path: Path) -> None:
    events = write(tmp_path)
    header, read = read_journal(tmp_path)
    assert header["recipe"] == "r"
    assert read == events
    with Journal(tmp_path) as again:
        assert again.events == events
        again.append(trial(9, a=1.0))
    assert len(read_journal(tmp_path)[1]) == 6


def test_journals_of_before_have_the_fidelity_for_the_effort() -> None:
    ended = replace(trial(0, a=1.0), effort=0.125)
    assert Trial.from_json(ended.to_json()) == ended
    for state, effort in ((TrialState.RUNNING, 0.0), (TrialState.FAILED, 0.5)):
        proposal = replace(ended.proposal, fidelity=0.5)
        old = replace(ended, state=state, proposal=proposal).to_json()
        del old["effort"]
        assert Trial.from_json(old).effort == effort


def test_every_torn_tail_is_dropped(tmp_path: Path) -> None:
    events = write(tmp_path)
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    last = whole[whole.rstrip(b"\n").rfind(b"\n") + 1 :]
    for cut in range(1, len(last)):
        path.write_bytes(whole[:-cut])
        with Journal(tmp_path) as journal:
            assert journal.dropped == len(last) - cut
            assert journal.events == events[:-1]
            journal.append(events[-1])
        assert path.read_bytes() == whole


def test_a_last_line_of_garbage_is_dropped(tmp_path: Path) -> None:
    events = write(tmp_path)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b"\0" * 100 + b"\n")
    with Journal(tmp_path) as journal:
        assert journal.events == events
        assert journal.dropped == 101


@pytest.mark.parametrize("line", range(5))
def test_damage_in_the_middle_is_refused_and_nothing_is_changed(tmp_path: Path, line: int) -> None:
    write(tmp_path)
    path = tmp_path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"seq"', b'"sqe"')
    path.write_bytes(b"".join(lines))
    damaged = path.read_bytes()
    with pytest.raises(StorageError, match=f"record {line} is damaged"):
        Journal(tmp_path)
    assert path.read_bytes() == damaged


def test_one_flipped_digit_is_noticed(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes().replace(b'"a":1.0', b'"a":9.0'))
    with pytest.raises(StorageError):
        read_journal(tmp_path)


def test_no_flipped_bit_of_a_record_is_read_as_another_content(tmp_path: Path) -> None:
    events = write(tmp_path, 3)
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    end = whole.index(b"\n", start) + 1  # of the first trial's record, which others follow
    for place in (*range(start, start + 60), *range(end - 60, end)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(StorageError):
                read_journal(tmp_path)
    path.write_bytes(whole)
    assert read_journal(tmp_path)[1] == events


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.pop("state"),
        lambda event: event.update(state="asleep"),
        lambda event: event.update(colour="red"),
        lambda event: event.update(proposal=None),
        lambda event: event.update(curve=3),
        lambda event: event["proposal"]["architecture"].update(choices=[1]),
        lambda event: event["proposal"].update(stage=[]),
        lambda event: event["proposal"].update(parents=[-1]),
        lambda event: event["proposal"].update(stage="final", parents=[]),
        lambda event: event["proposal"].update(colour="red"),
        lambda event: event.update(number={}),
        lambda event: event.update(metrics={"a": "much"}),
        lambda event: event.update(metrics={"a": "nan"}),
        lambda event: event.update(curve=[[1]]),
        lambda event: event.update(error=["why"]),
        lambda event: event.update(elapsed=None),
        lambda event: event.update(number=4),  # which ended before
    ],
)
def test_a_whole_record_that_is_no_trial_is_named(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    write(tmp_path)
    with Journal(tmp_path) as journal:
        event = trial(5).to_json()
        change(event)
        journal._write(event)
    with pytest.raises(StorageError, match="record 6 is no trial: "):
        Journal(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read as somebody else")
@pytest.mark.faults("8: a journal that may not be read is named")
def test_a_journal_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / JOURNAL).chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match=r"Permission denied"):
            read_journal(tmp_path)
    finally:
        os.seteuid(0)


def test_a_deeply_nested_last_line_is_dropped_as_a_torn_one(tmp_path: Path) -> None:
    events = write(tmp_path)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b"[" * 100_000 + b"\n")
    assert read_journal(tmp_path)[1] == events


@pytest.mark.faults("journal: one writer, and the lock dies with it")
def test_one_writer(tmp_path: Path) -> None:
    write(tmp_path)
    with Journal(tmp_path), pytest.raises(RunInUse, match=str(os.getpid())):
        Journal(tmp_path)
    Journal(tmp_path).close()


@pytest.mark.faults("journal: one writer, and the lock dies with it")
def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    write(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from evonas.runs.journal import Journal\n"
        "held = Journal(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    Journal(tmp_path).close()


@pytest.mark.faults("4: a full disk loses nothing that was acknowledged")
def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    events = write(tmp_path)
    size = (tmp_path / JOURNAL).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Journal(tmp_path) as journal:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
            with pytest.raises(StorageError, match="can be resumed"):
                journal.append(trial(9, a=1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with Journal(tmp_path) as journal:
        assert journal.dropped == 40
        assert journal.events == events


def test_no_run_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="holds no run"):
        read_journal(tmp_path)
    with Journal(tmp_path) as journal:
        journal.begin({"format": 99, "version": "9.9"})
    with pytest.raises(HistoryError, match=r"9\.9"):
        read_journal(tmp_path)


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="JSON"):
        journal.append(trial(0, a=float("nan")))


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_not_a_number_is_never_read(tmp_path: Path, number: str) -> None:
    """The checksum is right, but no journal of ours says so."""
    write(tmp_path)
    path = tmp_path / JOURNAL
    *lines, last = path.read_bytes().splitlines(keepends=True)
    text = last[last.index(b'"event": ') + 9 : -2]
    strange = re.sub(rb'"elapsed":[^,]*', b'"elapsed":' + number.encode(), text)
    assert strange != text
    head = f'{{"seq": {len(lines)}, "crc": "{zlib.crc32(strange):08x}", "event": '
    path.write_bytes(b"".join(lines) + head.encode() + strange + b"}\n")
    assert len(read_journal(tmp_path)[1]) == len(lines) - 1


def test_the_header_is_read_alone(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / JOURNAL
    first, second, *_ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"damage\n" + second)
    assert read_header(tmp_path)["recipe"] == "r"
    path.write_bytes(first[:20])
    assert read_header(tmp_path) == {}, "it was never written whole"


def test_lines_are_json(tmp_path: Path) -> None:
    write(tmp_path)
    records = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert [r["seq"] for r in records] == list(range(6))


def test_ranking_front_and_latest() -> None:
    running = trial(0, TrialState.RUNNING)
    events = [running, trial(1, a=1.0, c=5.0), trial(0, a=1.0, c=5.0), trial(2, a=3.0, c=9.0)]
    events += [trial(3, TrialState.FAILED), trial(4, a=0.5, c=1.0), trial(5, a=0.4, c=2.0)]
    assert [t.number for t in list(Trials((), events).latest.values())] == [0, 1, 2, 3, 4, 5]
    assert [t.number for t in Trials(UP, events).ranking()] == [2, 0, 1, 4, 5]
    both = (*UP, Objective("c", "min"))
    assert [t.number for t in Trials(both, events).front()] == [2, 0, 4]
    assert Trials(UP, [running]).best is None


def test_fuller_trials_rank_first_and_every_architecture_once() -> None:
    def rung(number: int, of: int, fidelity: float, **metrics: float) -> Trial:
        proposal = Proposal(trial(of).architecture, fidelity)
        return Trial(number, proposal, TrialState.COMPLETE, metrics)

    events = [rung(0, 0, 0.1, a=5.0, c=1.0), rung(1, 1, 0.1, a=4.0, c=1.0)]
    events += [rung(2, 0, 0.3, a=2.0, c=1.0), rung(3, 2, 0.1, a=9.0, c=1.0)]
    assert [t.number for t in Trials(UP, events).ranking()] == [2, 3, 1]
    events += [rung(4, 3, 1.0, a=1.0, c=1.0), rung(5, 4, 1.0, a=2.0, c=2.0)]
    assert [t.number for t in Trials(UP, events).ranking()] == [5, 4, 2, 3, 1]
    best = Trials(UP, events).best
    assert best is not None
    assert best.number == 5
    both = (*UP, Objective("c", "min"))
    assert [t.number for t in Trials(both, events).front()] == [5, 4]


@pytest.mark.parametrize(
    "said",
    [{"started": "soon"}, {"started": 1e300}, {"plugins": "p"}, {"data": 3}, {"threads": 10**6}],
)
def test_a_header_of_another_shape_is_named(said: dict[str, Any], tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(said)
    with pytest.raises(StorageError, match=f"record 0 is no header: {next(iter(said))}"):
        read_journal(tmp_path)
