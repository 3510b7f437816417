"""The Pareto front's networks: each trained in full and exported, for a user to choose from."""

from __future__ import annotations

import shutil

from evonas.errors import StorageError
from evonas.runs import card, export
from evonas.runs.session import Session
from evonas.trial import Proposal, TrialState

FOLDER = "front"


def keep(session: Session) -> None:
    """Train every member of the search's front and write ``front/TRIAL/``, as ``incumbent/`` is.

    What an earlier session trained or wrote is kept; trials that left the front since, go. None
    meets the test split, for whoever chooses among them would choose by it: that is the winner's.

    Args:
        session: The run's, whose search is over.

    Raises:
        StorageError: If the disk does not take it.
        Stopped: If the user wants to stop.
    """
    members, folder = session.trials().front(), session.folder / FOLDER
    runs = list(members)
    if session.assembly.evaluator.finals:
        runs = session.train(
            [Proposal(t.architecture, parents=(t.number,), stage="final") for t in members]
        )
    try:
        for old in folder.iterdir() if folder.exists() else ():
            if old.name not in {str(member.number) for member in members}:
                shutil.rmtree(old)
        for member, run in zip(members, runs, strict=True):
            if run.state is not TrialState.COMPLETE:
                reason = (run.error or "no reason was given").splitlines()[0]
                session.note(f"no network of trial {member.number} in {FOLDER}/: {reason}")
            elif not (folder / str(member.number) / card.FILE).exists():
                name = f"{FOLDER}/{member.number}"
                metrics = {**run.metrics, "seconds": run.seconds}
                export.keep(session, member, metrics, {0: metrics}, run, name, tested=False)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; evonas resume does it again") from error
