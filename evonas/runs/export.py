"""The winner that a user takes away: what it is, its weights, a program for torch alone, a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import nn

from evonas import files
from evonas.architecture import Architecture
from evonas.runs import card
from evonas.runs.scores import Confusion
from evonas.runs.session import Session
from evonas.spaces.base import Task
from evonas.spaces.parts import cost
from evonas.training import programs
from evonas.training.checkpoints import BadWeights, write_weights
from evonas.training.data import Split
from evonas.training.latency import timings
from evonas.training.loop import Normalize
from evonas.trial import Trial

FOLDER = "incumbent"
ABOUT, TEST = "architecture.json", "test.json"
WEIGHTS, PROGRAM = "weights.safetensors", "network.pt2"
_BATCH = 128  # images


def keep(
    session: Session,
    winner: Trial,
    metrics: Mapping[str, float],
    seeds: Mapping[int, Mapping[str, float]],
    best: Trial,
    name: str = FOLDER,
    tested: bool = True,
) -> None:
    """Write ``incumbent/``: what a user takes away.

    ``architecture.json``, which says all that one must know to use the network, and, if there is a
    network, ``weights.safetensors``, ``network.pt2`` (see ``programs``), ``test.json`` and
    ``MODEL_CARD.md``. The network takes images in 0…255: ``0.`` among the weights' names is its
    normalisation.

    Args:
        session: The run's.
        winner: The trial of the search.
        metrics: Its final metrics.
        seeds: Those of its final trainings, by seed.
        best: The final training whose network is kept.
        name: Of the folder in the run folder.
        tested: Whether it met the test split, and may be counted there.

    Raises:
        OSError: If the disk does not take it.
    """
    folder = session.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    earlier = (folder / name for name in (WEIGHTS, TEST, card.FILE))
    for path in (*folder.glob("network.*"), *earlier):  # an earlier winner's
        path.unlink(missing_ok=True)
    data = session.assembly.evaluator.context.data
    about = description(
        winner.architecture,
        winner.number,
        metrics,
        data.task if data else None,
        data.classes if data else (),
    )
    about["seeds"] = {str(seed): row for seed, row in seeds.items()}
    network = _network(session, best)
    if network is not None and data is not None:
        about["blocks"] = cost.outline(network[1], data.task)
    files.write(folder / ABOUT, json.dumps(about, indent=2).encode())
    if network is None or data is None:
        return
    write_weights(folder / WEIGHTS, network.state_dict(), {})
    try:
        files.write(folder / PROGRAM, programs.program(network, data.task, about, "pt2"))
    except programs.Refused as error:  # it was measured, and is kept all the same
        session.note(f"no {PROGRAM}, {error}")
    counts, device = None, session.assembly.evaluator.context.device
    if tested and data.test is not None:
        counts = Confusion.of(data.classes, *_guesses(network, data.test, device))
        files.write(folder / TEST, json.dumps(counts.to_json()).encode())
    milliseconds = median(timings(network, data.task, device))
    text = card.text(session, folder, about, counts, milliseconds)  # which names files
    files.write(folder / card.FILE, text.encode(errors="backslashreplace"))


def description(
    architecture: Architecture,
    number: int,
    metrics: Mapping[str, float],
    task: Task | None,
    classes: Sequence[str],
) -> dict[str, Any]:
    """The one JSON that goes with a network, in ``architecture.json`` and inside exported files.

    Args:
        architecture: What was built.
        number: Of the trial.
        metrics: Its own.
        task: Shape of the input; None if the run had no images.
        classes: Their names.
    """
    about = {**architecture.to_json(), "trial": number, "metrics": dict(metrics)}
    if task is not None:
        about |= {"task": vars(task), "classes": list(classes)}
        about["preprocessing"] = programs.preprocessing(task)
    return about


def _network(session: Session, trial: Trial) -> nn.Sequential | None:
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


def _guesses(network: nn.Module, part: Split, device: str) -> tuple[list[int], list[int]]:
    """Labels, and the most probable classes.

    The winner has met these images before: nothing is chosen by what comes out here.
    """
    guesses = []
    network.to(device)
    with torch.inference_mode():
        for images in torch.split(part.images, _BATCH):
            logits = network(images.to(device).permute(0, 3, 1, 2))
            guesses.append(logits.argmax(1).cpu())
    network.to("cpu")
    return part.labels.tolist(), torch.cat(guesses).tolist()
