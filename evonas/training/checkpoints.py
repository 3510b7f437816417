"""Weights on the disk: written whole or not at all, and not believed unchecked."""

from __future__ import annotations

import json
import os
import time
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from evonas import files
from evonas.architecture import Value
from evonas.trial import Stage, Trial

FOLDER = "weights"  # The run folder has it.
RUNGS_GB = 2.0  # The weights of lower rungs may take so much.
CHECKSUM = "crc32"  # The metadata of every file that is ours have it.


class BadWeights(Exception):
    """A file of weights is missing, damaged, or another one than was asked for."""


@dataclass(frozen=True)
class Checkpoint:
    """What a trial's training left.

    Attributes:
        weights: By the names of the network's ``state_dict``; on the CPU.
        epochs: That the network has behind it.
        choices: Of its architecture.
    """

    weights: Mapping[str, torch.Tensor]
    epochs: int
    choices: Mapping[str, Value]


class Checkpoints:
    """The weights of a run's trials, a file each; many processes may write.

    Of the search's trials those stay that were used last, as far as they fit. Finals all stay.

    Args:
        folder: Where; it is made when the first weights are saved.
        keep_gb: Most that the search's weights may take when a trial begins, in gigabytes.
    """

    def __init__(self, folder: Path, keep_gb: float) -> None:
        self.folder, self._keep_bytes = folder, keep_gb * 1e9

    def save(self, trial: Trial, network: nn.Module, epochs: int) -> None:
        """Keep a trial's weights; what an earlier session kept for it is replaced."""
        about = {
            "trial": str(trial.number),
            "architecture": trial.architecture.id,
            "epochs": str(epochs),
            "choices": json.dumps(dict(trial.architecture.choices)),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(trial.number, trial.proposal.stage)
        write_weights(path, network.state_dict(), about)
        _touch(path)

    def read(
        self, number: int, architecture: str | None = None, stage: Stage = "search"
    ) -> Checkpoint:
        """The weights of a trial.

        Args:
            number: Of the trial.
            architecture: The id that its architecture must have, if that matters.
            stage: Of the trial.

        Raises:
            BadWeights: If they are lost or damaged, or another trial's.
        """
        path = self._path(number, stage)
        weights, about = read_weights(path)
        if about.get("trial") != str(number):
            raise BadWeights(f"{path}: are those of trial {about.get('trial')}")
        if architecture not in (None, about.get("architecture")):
            raise BadWeights(f"{path}: are those of another architecture")
        _touch(path)
        return Checkpoint(weights, int(about["epochs"]), json.loads(about["choices"]))

    def load(self, number: int, architecture: str | None = None) -> Checkpoint | None:
        """``read`` the weights of a trial of the search; None, with a warning, if that fails."""
        try:
            return self.read(number, architecture)
        except BadWeights as error:
            warnings.warn(f"{error}; training from scratch", RuntimeWarning, stacklevel=2)
            return None

    def make_room(self, number: int) -> None:
        """Before a trial begins: delete what was not used for longest, if there is too much.

        Not when it ends, and without what a killed session left of the trial itself: so a trial
        that is run again finds the weights that it found the first time.
        """
        self._path(number).unlink(missing_ok=True)
        room = self._keep_bytes
        entries = [(path, path.stat()) for path in self.folder.glob("trial_*.safetensors")]
        for path, stat in sorted(entries, key=lambda pair: pair[1].st_mtime_ns, reverse=True):
            room -= stat.st_size
            if room < 0:
                path.unlink(missing_ok=True)

    def _path(self, number: int, stage: Stage = "search") -> Path:
        return self.folder / f"{'trial' if stage == 'search' else stage}_{number}.safetensors"


def _touch(path: Path) -> None:
    """Used now, to the nanosecond, which the file system's own clock does not have."""
    now = time.time_ns()
    with suppress(FileNotFoundError):  # another process made room
        os.utime(path, ns=(now, now))


class Continued:
    """What the networks of a search start from, and which of them leave their weights.

    An evaluator that trains calls ``start`` on every network that it built for a trial and ``end``
    when it has trained it. Without such an object every network starts at random and is forgotten.

    Here a trial goes on from the weights of its own lower rung (``Proposal.resume_from``). It
    trains the epochs that are missing, with a learning-rate schedule of their own (warm restarts:
    Loshchilov and Hutter, ICLR 2017). Trials below full fidelity leave their weights. A subclass
    starts networks otherwise, or leaves others.

    Args:
        checkpoints: Where weights are kept; final trainings leave theirs there, too.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def start(self, network: nn.Module, trial: Trial, epochs: int) -> int:
        """Load the lower rung's weights, if the trial continues one and they are intact.

        Args:
            network: Freshly built, on its device; changed in place.
            trial: What the network was built for.
            epochs: That the trial's fidelity asks for.

        Returns:
            Epochs that are left to be trained, at least 1.
        """
        rung = trial.proposal.resume_from
        lower = None if rung is None else self.checkpoints.load(rung, trial.architecture.id)
        self.checkpoints.make_room(trial.number)
        if lower is None:
            return epochs
        network.load_state_dict(dict(lower.weights))
        return max(1, epochs - lower.epochs)

    def end(self, network: nn.Module, trial: Trial, epochs: int) -> None:
        """Save the weights of a network that has so many epochs behind it, for a higher rung."""
        if trial.proposal.fidelity < 1:
            self.checkpoints.save(trial, network, epochs)


def write_weights(
    path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]
) -> None:
    """Write tensors and text about them as one safetensors file, atomically, with a checksum."""
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    whole = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    files.write(path, save(whole, {**about, CHECKSUM: _checksum(whole, about)}))


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read what ``write_weights`` wrote.

    Raises:
        BadWeights: If the file is not there, is cut off, or is not what was written.
    """
    try:
        data = path.read_bytes()  # safetensors itself opens no path that is not UTF-8
        tensors = load(data)
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = dict(head.get("__metadata__", {}))
    except FileNotFoundError as error:
        raise BadWeights(f"{path}: is not there") from error
    except (SafetensorError, OSError) as error:
        raise BadWeights(f"{path}: cannot be read: {error}") from error
    if about.pop(CHECKSUM, None) != _checksum(tensors, about):
        raise BadWeights(f"{path}: is damaged")
    return tensors, about


def _checksum(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    """Of everything that the file says: a wrong dtype or epoch is as bad as a wrong number."""
    value = zlib.crc32(json.dumps(sorted(about.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(data.data, zlib.crc32(head.encode(), value))
    return f"{value:08x}"
