"""A run's network, or one from an exported file: pictures in, classes and probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from evonas import files
from evonas.architecture import Architecture
from evonas.datasets import base as datasets
from evonas.datasets.parts.images import decode
from evonas.errors import DataError, HistoryError
from evonas.recipe import reading
from evonas.runs import export
from evonas.runs.assemble import Parts
from evonas.runs.journal import JOURNAL, read_header, read_journal
from evonas.runs.run import registry_of
from evonas.spaces.base import Task
from evonas.training import programs
from evonas.training.checkpoints import (
    FOLDER,
    RUNGS_GB,
    BadWeights,
    Checkpoint,
    Checkpoints,
    read_weights,
)
from evonas.training.data import Data, Images
from evonas.training.loop import Normalize
from evonas.trial import Trial
from evonas.trials import Trials

_BATCH = 64  # images


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        module: Takes images of 0…255, (N, channels, height, width), and gives logits (N, classes).
            From a run it is ``nn.Sequential(Normalize, network)`` and can be trained further, from
            a file it is for inference alone. In inference mode, on the CPU.
        about: What it is, as ``architecture.json`` says it.
    """

    module: nn.Module
    about: Mapping[str, Any]

    @property
    def task(self) -> Task:
        """The shape of its input, and the number of classes."""
        return Task(**self.about["task"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the logits."""
        return tuple(self.about["classes"])

    def prepare(self, paths: Sequence[Path]) -> tuple[Images, dict[int, str]]:
        """Pictures as ``predict`` takes them, prepared as those of the training were.

        Returns:
            Those that can be read, and why the others cannot, by their places in ``paths``.
        """
        channels, height, width = self.task.input_shape
        return decode(paths, (width, height), "L" if channels == 1 else "RGB")

    def predict(self, images: Images | torch.Tensor) -> npt.NDArray[np.float32]:
        """Probabilities of the classes, (N, classes).

        Args:
            images: uint8, (N, height, width, channels), or (N, height, width) if they are grey.

        Raises:
            DataError: If they are not of the network's shape.
        """
        pixels = torch.as_tensor(images)
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        channels, height, width = self.task.input_shape
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (height, width, channels):
            raise DataError(
                f"images must be uint8, (N, {height}, {width}, {channels}), "
                f"not {pixels.dtype} of shape {tuple(pixels.shape)}"
            )
        with torch.inference_mode():
            logits = [
                self.module(batch.permute(0, 3, 1, 2).contiguous())
                for batch in torch.split(pixels, _BATCH)
                if len(batch)
            ]
        if not logits:
            return np.zeros((0, self.task.classes), np.float32)
        probabilities: npt.NDArray[np.float32] = torch.cat(logits).float().softmax(1).numpy()
        return probabilities


def find(source: Path) -> Network:
    """The network of a run folder, of a folder with one in it, or of a file.

    Raises:
        EvonasError: In one line, whatever is wrong with it.
    """
    if source.is_dir():
        program = source / export.PROGRAM
        alone = program.exists() and not (source / JOURNAL).exists()
        return Network(*programs.read(program)) if alone else read(source)
    return Network(*programs.read(source))


def read(folder: Path, trial: int | None = None) -> Network:
    """A network of a run, built by the run's own space.

    Args:
        folder: The run folder.
        trial: Number of a trial of the search; default: the winner.

    Raises:
        HistoryError: If there is no run, no such trial, or no weights of it.
        EvonasError: If its recipe or plugins are no longer what they were.
    """
    run = _Run(folder)
    if trial is None or trial == run.winner.get("trial"):
        return run.incumbent()
    return run.other(trial)


def data(folder: Path) -> Data:
    """The data set of a run.

    Raises:
        HistoryError: If there is no run, or it has none.
        DataError: If it is no longer there.
    """
    return _Run(folder).data


class _Run:
    """What a run folder holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        header, self._events = read_journal(folder)
        if not header:
            raise HistoryError(f"{folder} holds no run: the first record of {JOURNAL} is missing")
        origin = Path(header.get("scaled_from", folder))  # the recipe of what was scaled is there
        if origin != folder:
            header = read_header(origin)
        recipe = reading.load(origin / reading.FILE)
        self._parts = Parts(recipe, registry_of(header))

    @cached_property
    def winner(self) -> dict[str, Any]:
        """The description of the winner; empty before there is one."""
        path = self.folder / export.FOLDER / export.ABOUT
        about = files.load(path, programs.Description)
        return about.plain() if about else {}

    def incumbent(self) -> Network:
        """The winner."""
        if not self.winner:
            raise HistoryError(
                f"{self.folder} has no trained winner yet; go on with: evonas resume {self.folder}"
            )
        path = self.folder / export.FOLDER / export.WEIGHTS
        if "task" not in self.winner or not path.exists():
            raise HistoryError(
                f"{self.folder}: its evaluation trains no network that it could keep"
            )
        try:
            weights, _ = read_weights(path)
        except BadWeights as error:
            raise HistoryError(str(error)) from error
        about = {"preprocessing": programs.preprocessing(self._task), **self.winner}
        return self._built(about, weights, str(path))

    def other(self, number: int) -> Network:
        """Another trial's: as finally trained, else as the search left it."""
        trials = Trials((), self._events)
        if number not in trials.latest:
            raise HistoryError(f"{self.folder}: no trial {number} among {len(trials.latest)}")
        source, found = self._weights(trials.latest[number])
        mean, std = self._statistics
        weights = {"0.mean": mean, "0.std": std}
        weights |= {f"1.{name}": value for name, value in found.weights.items()}
        about = export.description(
            source.architecture, number, source.metrics, self._task, self._classes
        )
        about["stage"] = source.proposal.stage
        return self._built(about, weights, f"weights of trial {number}")

    def _weights(self, trial: Trial) -> tuple[Trial, Checkpoint]:
        """Of the best of its final trainings, else of the trial itself."""
        finals = Trials((), self._events, "final").complete
        own = [final for final in finals if trial.number in final.proposal.parents]
        own.sort(key=lambda final: final.metrics.get("val_accuracy", 0.0), reverse=True)
        checkpoints = Checkpoints(self.folder / FOLDER, RUNGS_GB)
        for source in (*own, trial):
            try:
                stage = source.proposal.stage
                return source, checkpoints.read(source.number, source.architecture.id, stage)
            except BadWeights as error:
                reason = error
        raise HistoryError(
            f"{self.folder}: trial {trial.number} left no weights ({reason}); final: {{top: N}} "
            "trains and keeps the N best"
        ) from reason

    def _built(
        self, about: Mapping[str, Any], weights: Mapping[str, torch.Tensor], source: str
    ) -> Network:
        space = self._parts.searched()
        architecture = space.reference(Architecture.from_json(about).choices)
        channels = self._task.channels

        def built() -> nn.Sequential:
            blank = Normalize(torch.zeros(channels), torch.ones(channels))
            return nn.Sequential(blank, space.build(architecture, self._task))

        with torch.device("meta"):  # what does not fit may be of any size
            wanted = {name: tensor.shape for name, tensor in built().state_dict().items()}
        if wanted != {name: tensor.shape for name, tensor in weights.items()}:
            # A reduced world's, or a plugin that was changed since.
            raise HistoryError(
                f"{source}: do not fit the network that space {architecture.space!r} builds: they "
                "are a reduced network's, or the space has changed"
            )
        whole = built()
        whole.load_state_dict(dict(weights))
        return Network(whole.eval(), about)

    @property
    def _task(self) -> Task:
        return Task(**self.winner["task"]) if "task" in self.winner else self.data.task

    @property
    def _classes(self) -> tuple[str, ...]:
        return tuple(self.winner.get("classes") or self.data.classes)

    @property
    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation per channel: the winner's, else of the data."""
        try:
            weights, _ = read_weights(self.folder / export.FOLDER / export.WEIGHTS)
        except BadWeights:
            mean, std = self.data.channel_statistics()
            return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
        return weights["0.mean"], weights["0.std"]

    @cached_property
    def data(self) -> Data:
        """The data set."""
        section = self._parts.recipe.dataset
        if section is None:
            raise HistoryError(f"{self.folder}: its recipe has no data set, so there is no network")
        return datasets.load(section, self._parts["dataset"])
