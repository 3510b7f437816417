"""How many random architectures were drawn, and how many met the limits, over all sessions.

A small file beside the journal, written anew at every event that changed it. It is no part of the
history, and not flushed: a crash of the machine may lose the last of it, a killed process none.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from evonas import files
from evonas.errors import StorageError
from evonas.spaces.parts.limits import Limits

FILE = "draws.json"


class Draws:
    """Of a run, as long as one process searches for it.

    Args:
        folder: The run folder.
        limits: Those of its space, which count this process's draws.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self._earlier = self._stored = read(folder)

    def total(self) -> tuple[int, int]:
        """Draws, and those accepted, of this session and those before; writes them down.

        Raises:
            StorageError: If the disk does not take them.
        """
        drawn = self._earlier[0] + self._limits.drawn
        total = drawn, self._earlier[1] + self._limits.accepted
        if total != self._stored:
            beside = self._folder / f"{FILE}.tmp"
            try:
                beside.write_text(json.dumps(total))
                os.replace(beside, self._folder / FILE)
            except OSError as error:
                raise StorageError(f"{beside}: {error.strerror}") from error
            self._stored = total
        return total


def read(folder: Path) -> tuple[int, int]:
    """Draws, and those accepted; none if the file is not there, or says something else."""
    try:
        return files.load(folder / FILE, tuple[int, int]) or (0, 0)
    except StorageError:
        return 0, 0
