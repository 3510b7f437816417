"""Files that are written wholly or not at all, and the one lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evonas.errors import StorageError


def write(path: Path, data: bytes) -> None:
    """Write a file: after a crash it is the old one or the new one, and on the disk.

    Raises:
        OSError: If the disk does not take it; the old file is as it was.
    """
    draft = path.with_suffix(".tmp")  # the same each time, so that kills leave no more than one
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def store(path: Path, text: str) -> None:
    """``write`` a text; StorageError if the disk does not take it."""
    try:
        write(path, text.encode())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for, and hold, the lock of a file; the system frees it should the process die."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
