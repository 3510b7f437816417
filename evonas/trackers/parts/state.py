"""What a run folder remembers of MLflow, in ``mlflow.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evonas import files
from evonas.errors import StorageError

FILE = "mlflow.json"


@dataclass
class State:
    """Where a run is in MLflow, and how much of it.

    Attributes:
        uri: The store, without user and password.
        experiment_id: Of the experiment.
        run_id: The parent of its trials.
        events: So many of the journal are mirrored.
        refused: Places of those that the store did not take.
        view: Whether the experiment has the leaderboard (see ``views``).
    """

    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    events: int = 0
    refused: list[int] = field(default_factory=list)
    view: bool = False

    @staticmethod
    def of(run_dir: Path, uri: str | None = None) -> State:
        """What the run folder says, of this store alone if one is given; else the beginning."""
        try:
            state = files.load(run_dir / FILE, State) or State()
        except StorageError:  # lost: the store is asked then
            return State()
        return state if uri is None or state.uri == uri else State()

    def store(self, run_dir: Path) -> None:
        """Write it down."""
        files.write(run_dir / FILE, json.dumps(asdict(self)).encode())
