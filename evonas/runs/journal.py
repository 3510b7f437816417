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
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
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
            records, good, total = _read(self.path)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}") from error
        self.dropped = total - good
        if self.dropped:
            os.truncate(self.path, good)
        self.header, self.events = _replay(self.path, records)
        self._seq = len(records)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def read_journal(run_dir: Path) -> tuple[dict[str, Any], list[Trial]]:
    """Header and events of a run, without holding it: another process may be writing.

    Raises:
        HistoryError: If there is no run in the folder.
        StorageError: If its journal is damaged.
    """
    path = run_dir / JOURNAL
    try:
        if not path.is_file():
            raise HistoryError(f"{run_dir} holds no run: {JOURNAL} is not there")
        records, _, _ = _read(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return _replay(path, records)


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
    text = json.dumps(event, separators=(",", ":"), allow_nan=False)
    head = json.dumps({"seq": seq, "crc": f"{zlib.crc32(text.encode()):08x}"})
    return f'{head[:-1]}, "event": {text}}}\n'.encode()


def _read(path: Path) -> tuple[list[dict[str, Any]], int, int]:
    """The journal's events, how many bytes of it are good, and how many there are."""
    data = path.read_bytes()
    records: list[dict[str, Any]] = []
    good = 0
    while good < len(data):
        end = data.find(b"\n", good) + 1
        event = _parse(data[good:end], len(records)) if end else None
        if event is None:
            if end and end < len(data):
                raise StorageError(f"{path}: record {len(records)} is damaged; nothing was changed")
            break
        records.append(event)
        good = end
    return records, good, len(data)


def _parse(line: bytes, seq: int) -> dict[str, Any] | None:
    """The event of a line, or None if the line is not the intact record ``seq``."""
    try:
        event: dict[str, Any] = json.loads(line)["event"]
        # The checksum tells of a changed event; equal lines, of any change outside of it.
        return event if _line(seq, event) == line else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _replay(path: Path, records: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Trial]]:
    if not records:
        return {}, []
    first, *events = records
    if not isinstance(first, dict) or first.get("format") != FORMAT:
        version = first.get("version", "?") if isinstance(first, dict) else "?"
        raise HistoryError(f"{path}: written by evonas {version} in another format")
    trials: list[Trial] = []
    what = "header"
    try:
        header = _Header.model_validate(first).model_dump(exclude_unset=True)
        what, ended = "trial", set[tuple[str, int]]()
        for event in events:
            trials.append(_trial(event, ended))
    # Whole, but not what this evonas writes: a key that is missing or new, another type.
    except ValueError as error:
        place = 0 if what == "header" else len(trials) + 1
        reason = mistake(error) if isinstance(error, ValidationError) else str(error)
        raise StorageError(f"{path}: record {place} is no {what}: {reason}") from error
    return header, trials


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
        ended.discard(name)
    elif name in ended:
        raise ValueError(f"{stage} trial {trial.number} ends twice")
    else:
        ended.add(name)
    return trial
