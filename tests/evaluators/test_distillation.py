"""A teacher: found where a run leaves its network, asked about what the pupil saw, learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluators_helper import context, data, evaluate, make, trial
from torch import nn

from evonas.errors import DataError, RecipeError
from evonas.evaluators.train import Train
from evonas.spaces.base import Task
from evonas.training import programs
from evonas.training.data import Data
from evonas.training.distillation import Distill, Teacher, find
from evonas.training.loop import Normalize

NORMALIZE = Normalize(torch.full((3,), 100.0), torch.full((3,), 60.0))


class Brightest(nn.Module):
    """Says that the class is the one after the brightest channel: wrong, and sure of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).roll(1, 1) * 50


def file(path: Path, size: int = 8, channels: int = 3, classes: Any = None) -> Path:
    """A teacher for the helper's data, as a run leaves it."""
    task = Task(channels, size, size, 3)
    about = {"task": vars(task), "classes": classes or list(data().classes)}
    normalize = Normalize(torch.full((channels,), 100.0), torch.full((channels,), 60.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    network = nn.Sequential(normalize, Brightest()).eval()
    path.write_bytes(programs.program(network, task, about, "pt2"))
    return path


def found(path: Path, of: Data | None = None, **options: Any) -> Teacher:
    return find(Distill(teacher=str(path), **options), of or data(), NORMALIZE)


@pytest.mark.parametrize("place", ["incumbent/network.pt2", "network.pt2"])
def test_it_is_found_in_a_folder_and_as_a_file(place: str, tmp_path: Path) -> None:
    path = file(tmp_path / place)
    for source in (tmp_path, path):
        assert found(source).task == Task(3, 8, 8, 3)


def test_it_sees_the_images_as_they_were_before_normalisation(tmp_path: Path) -> None:
    teacher = found(file(tmp_path / "a.pt2"), weight=1.0, temperature=2.0)
    images = torch.rand(5, 3, 8, 8) * 255
    told = Brightest()((images - 100) / 60)
    agreed = teacher.blend(torch.tensor(7.0), NORMALIZE(images), told)
    assert agreed.item() == pytest.approx(0.0, abs=1e-3)
    other = teacher.blend(torch.tensor(7.0), NORMALIZE(images), told.roll(1, 1))
    logs = [(logits / 2).log_softmax(1) for logits in (told, told.roll(1, 1))]
    gap = (logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()
    assert other.item() == pytest.approx(4 * gap.item(), rel=1e-3)


def test_images_of_another_size_are_scaled_to_its_own(tmp_path: Path) -> None:
    teacher = found(file(tmp_path / "a.pt2", size=16), weight=1.0)
    images = (torch.rand(5, 3, 1, 1) * 255).expand(5, 3, 8, 8)
    told = Brightest()((images - 100) / 60)
    loss = teacher.blend(torch.tensor(7.0), NORMALIZE(images), told)
    assert loss.item() == pytest.approx(0.0, abs=1e-3)


def test_of_no_weight_it_changes_nothing(tmp_path: Path) -> None:
    path = str(file(tmp_path / "a.pt2"))
    plain, taught = (
        evaluate(Train(context(), epochs=2, batch_size=20, distill=distill), trial())
        for distill in (None, Distill(teacher=path, weight=0.0))
    )
    assert plain == taught


def test_a_pupil_believes_a_teacher_of_full_weight(tmp_path: Path) -> None:
    path = str(file(tmp_path / "a.pt2"))
    options = {"epochs": 12, "batch_size": 20, "distill": {"teacher": path, "weight": 1.0}}
    evaluator = make(Train, context(), **options)
    metrics, _ = evaluate(evaluator, trial())
    assert metrics["val_accuracy"] < 0.2  # the labels are never what it says
    metrics, _ = evaluate(make(Train, context(data=_rolled(data())), **options), trial())
    assert metrics["val_accuracy"] > 0.8


def _rolled(whole: Data) -> Data:
    train, val = (replace(part, labels=(part.labels + 1) % 3) for part in (whole.train, whole.val))
    return replace(whole, train=train, val=val)


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    cases = {
        file(tmp_path / "others.pt2", classes=["x", "y", "z"]): (RecipeError, "other classes"),
        file(tmp_path / "grey.pt2", channels=1): (RecipeError, "takes 1 channels"),
        tmp_path / "none.pt2": (DataError, "no such file"),
        tmp_path: (DataError, "network.pt2: no such file"),
    }
    for path, (error, text) in cases.items():
        with pytest.raises(error, match=text):
            make(Train, context(), distill={"teacher": str(path)})
    for options in ({}, {"teacher": "a", "weight": 2}, {"teacher": "a", "temperature": 0}):
        with pytest.raises(RecipeError, match=r"evaluation\.distill"):
            make(Train, context(), distill=options)
