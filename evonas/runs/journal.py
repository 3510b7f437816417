"""The truth about a run: an append-only journal with one writer.

``history.jsonl`` holds one JSON object per line, ``{"seq": n, "crc": "…", "event": {…}}``, the
checksum being CRC-32 of the event's text. Line 0 is the run's header, every further line a trial
event. A line is flushed to the disk before ``append`` returns. A torn last line is what a crash
leaves; it is dropped on opening. Damage anywhere else is refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evonas.errors import HistoryError, RunInUse, StorageError
from evonas.files import mistake
from evonas.trial import Trial, TrialState

JOURNAL = "history.jsonl"
FORMAT = 2


class _Header(BaseModel):
    """What line 0 may say; ``run.start`` writes it."""

    model_config = ConfigDict(extra="allow")

    format: int
    version: str = ""
    started: Annotated[float, Field(ge=0, lt=1e11)] = 0.0
    source: dict[str, str] = {}
    recipe: str = ""
    data: str | None = None
    fidelities: list[float] = []
    sweep: str = ""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    plugins: list[str] = []
    taken: Annotated[int, Field(ge=0)] = 0
    scaled_from: str = ""


class Journal:
    """The journal of one run, open for writing by this process alone.

    Args:
        run_dir: The run folder; it must exist.

    Attributes:
        header: What the run is: recipe and data fingerprints, version; empty in a new journal.
        events: All trial events, in order.
        dropped: Bytes of a torn last line that opening cut off.

    Raises:
        RunInUse: If another process holds the folder.
        StorageError: If the journal is damaged in the middle, or cannot be opened.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / JOURNAL
        try:
            self._lock = _lock(run_dir)
            self._file = self.path.open("ab", buffering=0)
            self.header, self.events, good = _replay(self.path)
            self.dropped = self.path.stat().st_size - good
            if self.dropped:
                os.truncate(self.path, good)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}") from error
        self._seq = len(self.events) + bool(good)

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write the header of a new journal."""
        self.header = {"format": FORMAT, **header}
        self._write(self.header)

    def append(self, trial: Trial) -> None:
        """Write one event; when this returns it is on the disk.

        Raises:
            StorageError: If it is not, for example because the disk is full.
        """
        self._write(trial.to_json())
        self.events.append(trial)

    def close(self) -> None:
        """Close the journal and give the folder free."""
        self._file.close()
        self._lock.close()

    def _write(self, event: Mapping[str, Any]) -> None:
        line = _line(self._seq, event)
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}; the run can be resumed") from error
        self._seq += 1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_journal(run_dir: Path) -> tuple[dict[str, Any], list[Trial]]:
    """Header and events of a run, without holding it: another process may be writing.

    Raises:
        HistoryError: If there is no run in the folder.
        StorageError: If its journal is damaged.
    """
    with _found(run_dir) as path:
        header, events, _ = _replay(path)
    return header, events


def read_header(run_dir: Path) -> dict[str, Any]:
    """The header of a run, whatever comes after it; empty if it was never written.

    Raises:
        HistoryError: If there is no run in the folder.
        StorageError: If it is damaged.
    """
    with _found(run_dir) as path:
        return next((_header(path, record) for record, _ in _records(path)), {})


@contextmanager
def _found(run_dir: Path) -> Iterator[Path]:
    """The journal of a run folder, to be read."""
    path = run_dir / JOURNAL
    try:
        if not path.is_file():
            raise HistoryError(f"{run_dir} holds no run: {JOURNAL} is not there")
        yield path
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def held(run_dir: Path) -> bool:
    """Whether a process works on the run in this folder."""
    try:
        _lock(run_dir).close()
    except (RunInUse, FileNotFoundError) as error:
        return isinstance(error, RunInUse)
    return False


def _lock(run_dir: Path) -> BinaryIO:
    """Hold ``run_dir/lock`` for as long as the file is open; the kernel frees it at any death."""
    file = (run_dir / "lock").open("ab+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="replace").strip()
        file.close()
        raise RunInUse(f"{run_dir} is in use by process {holder or '?'}") from None
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()
    return file


def _line(seq: int, event: Mapping[str, Any]) -> bytes:
    """A record as it stands in the file."""
    return _record(seq, json.dumps(event, separators=(",", ":"), allow_nan=False).encode())


def _record(seq: int, text: bytes) -> bytes:
    """A record of an event's text."""
    return b'{"seq": %d, "crc": "%08x", "event": %b}\n' % (seq, zlib.crc32(text), text)


def _parse(line: bytes, seq: int) -> Any:
    """The event of a line, or None if the line is not the intact record ``seq``."""
    text = line.removesuffix(b"}\n").partition(b'"event": ')[2]
    # The checksum tells of a changed text; equal lines, of any change outside of it.
    if _record(seq, text) != line:
        return None
    try:
        return _DECODER.decode(text.decode())
    except (ValueError, RecursionError):
        return None


def _finite(number: str) -> float:
    """A number of an event; ``_line`` writes no other."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is not finite")
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def _records(path: Path) -> Iterator[tuple[Any, int]]:
    """What the intact lines say, one after another, and where each ends.

    Raises:
        StorageError: If a line before the last is damaged.
    """
    end = 0
    with path.open("rb") as file:
        for seq, line in enumerate(file):
            if (record := _parse(line, seq)) is None:
                if line.endswith(b"\n") and file.read(1):
                    raise StorageError(f"{path}: record {seq} is damaged; nothing was changed")
                return
            end += len(line)
            yield record, end


def _header(path: Path, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        version = record.get("version", "?") if isinstance(record, dict) else "?"
        raise HistoryError(f"{path}: written by evonas {version} in another format")
    try:
        return _Header.model_validate(record).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise StorageError(f"{path}: record 0 is no header: {mistake(error)}") from error


def _replay(path: Path) -> tuple[dict[str, Any], list[Trial], int]:
    """Header, events, and where the last intact line ends.

    Line by line, for the plain data of a long journal take several times its trials' memory.
    """
    header: dict[str, Any] = {}
    trials: list[Trial] = []
    ended = set[tuple[str, int]]()
    end = 0
    for place, (record, end) in enumerate(_records(path)):  # noqa: B007  (it is returned)
        if place == 0:
            header = _header(path, record)
            continue
        try:
            trials.append(_trial(record, ended))
        # Whole, but not what this evonas writes: a key that is missing or new, another type.
        except ValueError as error:
            reason = mistake(error) if isinstance(error, ValidationError) else str(error)
            raise StorageError(f"{path}: record {place} is no trial: {reason}") from error
    return header, trials, end


def _trial(event: Any, ended: set[tuple[str, int]]) -> Trial:
    """An event, which is taken down if a trial ends by it.

    Args:
        event: The record.
        ended: Stage and number of the trials that have.

    Raises:
        ValueError: If it is none, or none that can follow those before it.
    """
    trial = Trial.from_json(event)
    stage, name = trial.proposal.stage, (trial.proposal.stage, trial.number)
    if stage != "search" and not trial.proposal.parents:
        raise ValueError(f"a {stage} training is one of a trial of the search")
    if trial.state is TrialState.RUNNING:
        if stage == "search" and name in ended:  # other trainings may be done once more
            raise ValueError(f"trial {trial.number} begins again after its end")
        ended.discard(name)
    elif name in ended:
        raise ValueError(f"{stage} trial {trial.number} ends twice")
    else:
        ended.add(name)
    return trial
