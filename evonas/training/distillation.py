"""Knowledge distillation: a network learns from a larger one's logits beside the labels.

Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015. The teacher is asked
about the very images that the network is shown, shifted, flipped and mixed as they are (Beyer et
al., Knowledge distillation: a good teacher is patient and consistent, CVPR 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import nn
from torch.nn import functional as F

from evonas.errors import OptionError
from evonas.recipe.options import Positive, Probability, absolute
from evonas.spaces.base import Task
from evonas.training import programs
from evonas.training.data import Data
from evonas.training.loop import Normalize


class Distill(BaseModel):
    """The option: who teaches, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    teacher: Annotated[Path, AfterValidator(absolute)]
    weight: Probability = 0.9
    temperature: Positive = 4.0


@dataclass(frozen=True)
class Teacher:
    """A trained network that is learnt from.

    Attributes:
        network: Takes images of 0…255, (N, C, H, W), of its own size; gives logits.
        normalize: How the pupil's images were normalised.
        task: Its own.
        weight: Of the teacher in the loss; the labels have the rest.
        temperature: That softens both sides' probabilities.
    """

    network: nn.Module
    normalize: Normalize
    task: Task
    weight: float
    temperature: float

    def blend(self, loss: torch.Tensor, images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The loss with what the teacher says of the images.

        Args:
            loss: By the labels.
            images: Normalised, as the pupil saw them, (N, C, H, W).
            logits: Of the pupil, (N, classes).
        """
        with torch.no_grad():
            pixels = images * self.normalize.std + self.normalize.mean
            if pixels.shape[1:] != self.task.input_shape:
                size = (self.task.height, self.task.width)
                pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
            teachers = F.log_softmax(self.network(pixels).float() / self.temperature, 1)
        pupils = F.log_softmax(logits.float() / self.temperature, 1)
        gap = F.kl_div(pupils, teachers, reduction="batchmean", log_target=True)
        # Softened gradients shrink with the square of the temperature.
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * gap


def find(distill: Distill, data: Data, normalize: Normalize) -> Teacher:
    """The teacher that the option names: a run folder, or a file ``.pt2`` of ``evonas export``.

    Args:
        distill: The option.
        data: The pupil's, to be told apart by the same classes.
        normalize: How its images are normalised, on the device where the teacher is to be.

    Raises:
        OptionError: If it knows other classes or takes another number of channels.
        DataError: If it is not there, damaged, or no such file.
    """
    path = distill.teacher
    if path.is_dir():  # a run's, or the folder that holds what a run leaves
        inside = path / "incumbent" / "network.pt2"
        path = inside if inside.exists() else path / "network.pt2"
    network, about = programs.read(path)
    task = Task(**about["task"])
    if list(about["classes"]) != list(data.classes):
        raise OptionError("distill", f"{path} tells other classes apart than the data set has")
    if task.channels != data.task.channels:
        reason = f"{path} takes {task.channels} channels, and the images have {data.task.channels}"
        raise OptionError("distill", reason)
    network.to(normalize.mean.device).to(memory_format=torch.channels_last)
    return Teacher(network, normalize, task, distill.weight, distill.temperature)
