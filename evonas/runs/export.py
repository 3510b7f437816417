"""The winner that a user takes away: what it is, its weights, and a program for torch alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from evonas import files
from evonas.runs.session import Session
from evonas.spaces.base import Task
from evonas.training.checkpoints import BadWeights, write_weights
from evonas.training.loop import Normalize
from evonas.trial import Trial

FOLDER = "incumbent"


def keep(
    session: Session,
    winner: Trial,
    metrics: Mapping[str, float],
    tested: Mapping[int, Mapping[str, float]],
    best: Trial,
) -> None:
    """Write ``incumbent/``: what a user takes away.

    ``architecture.json`` and, if there is a network, ``weights.safetensors`` and ``network.pt2``, a
    torch.export program that needs torch alone. The network takes images in 0…255: ``0.`` among
    the weights' names is its normalisation.

    Args:
        session: The run's.
        winner: The trial of the search.
        metrics: Its final metrics.
        tested: Those of its final trainings, by seed.
        best: The final training whose network is kept.

    Raises:
        OSError: If the disk does not take it.
    """
    folder = session.folder / FOLDER
    folder.mkdir(exist_ok=True)
    described: dict[str, object] = {
        **winner.architecture.to_json(),
        "trial": winner.number,
        "metrics": dict(metrics),
        "seeds": {str(seed): row for seed, row in tested.items()},
    }
    data = session.assembly.evaluator.context.data
    if data is not None:
        described |= {"task": vars(data.task), "classes": data.classes}
    files.write(folder / "architecture.json", json.dumps(described, indent=2).encode())
    network = _network(session, best)
    if network is not None and data is not None:
        _keep_network(network, data.task, folder, session)


def _network(session: Session, trial: Trial) -> nn.Module | None:
    """Normalisation and trained network in a row, on the CPU; None if no weights were left."""
    context = session.assembly.evaluator.context
    if context.data is None or context.weights is None:
        return None
    checkpoints, stage = context.weights.checkpoints, trial.proposal.stage
    try:
        found = checkpoints.read(trial.number, trial.architecture.id, stage)
    except BadWeights:  # the evaluator leaves none, or its test would have missed them
        return None
    network = context.space.build(trial.architecture, context.data.task)
    network.load_state_dict(dict(found.weights))
    return nn.Sequential(Normalize(*context.data.channel_statistics()), network).eval()


def _keep_network(network: nn.Module, task: Task, folder: Path, session: Session) -> None:
    (folder / "network.pt2").unlink(missing_ok=True)  # an earlier winner's
    write_weights(folder / "weights.safetensors", network.state_dict(), {})
    example = torch.zeros(2, *task.input_shape)
    any_batch = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=any_batch)
    # A space builds anybody's code: what cannot be exported was measured and is kept all the same.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        session.note(f"no network.pt2, torch.export refuses the network: {reason}")
        return
    with warnings.catch_warnings():  # about tensors that share storage; they are saved all the same
        warnings.simplefilter("ignore", UserWarning)
        torch.export.save(program, folder / "network.pt2")
