"""Files that are written wholly or not at all."""

from __future__ import annotations

import os
from pathlib import Path


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
