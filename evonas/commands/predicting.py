"""Pictures → classes and probabilities; and, if their folders are called as classes, a score."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evonas.datasets.parts.listing import files_under
from evonas.errors import DataError
from evonas.runs.network import Network
from evonas.runs.scores import Confusion

_BATCH = 64  # So many pictures are decoded at once.


@dataclass(frozen=True)
class Prediction:
    """What a network says of a picture.

    Attributes:
        path: The picture.
        probabilities: Of the classes.
        label: Of the class that its folder is called as; None if there is no such folder.
    """

    path: Path
    probabilities: npt.NDArray[np.float32]
    label: int | None

    def best(self, count: int) -> list[int]:
        """The most probable classes, the best first."""
        order: list[int] = np.argsort(-self.probabilities, kind="stable").tolist()
        return order[:count]


class Pictures:
    """The pictures that a user names.

    Args:
        names: Files, and folders, which are searched at any depth.
        classes: Names of classes; within a named folder, pictures in a folder of such a name have
            that label.

    Attributes:
        skipped: Why each other file was passed over; it grows as pictures are read.
    """

    def __init__(self, names: Sequence[Path], classes: Sequence[str]) -> None:
        self.skipped: dict[Path, str] = {}
        self._paths: list[tuple[Path, int | None]] = []
        numbers = {name: number for number, name in enumerate(classes)}
        for name in names:
            if name.is_dir():
                paths, skipped = files_under(name)
                self.skipped.update(skipped)
                for path in paths:
                    folders = path.relative_to(name).parts[:-1]
                    label = next((numbers[part] for part in folders if part in numbers), None)
                    self._paths.append((path, label))
            elif name.is_file():
                self._paths.append((name, None))
            else:
                self.skipped[name] = "no regular file" if name.exists() else "not there"

    def predictions(self, network: Network) -> Iterator[Prediction]:
        """What the network says of each, prepared as its training images were.

        Raises:
            DataError: If none could be read.
        """
        count = 0
        for start in range(0, len(self._paths), _BATCH):
            some = self._paths[start : start + _BATCH]
            images, unreadable = network.prepare([path for path, _ in some])
            self.skipped.update((some[number][0], why) for number, why in unreadable.items())
            good = [pair for number, pair in enumerate(some) if number not in unreadable]
            for (path, label), row in zip(good, network.predict(images), strict=True):
                count += 1
                yield Prediction(path, row, label)
        if not count:
            reasons = ", ".join(f"{path}: {why}" for path, why in list(self.skipped.items())[:3])
            raise DataError(f"no picture to look at ({reasons or 'the folder is empty'})")

    def complaints(self) -> list[str]:
        """A line for each file that was passed over."""
        return [f"skipped {path}: {why}" for path, why in self.skipped.items()]


def line(prediction: Prediction, classes: Sequence[str], top: int) -> str:
    """For the terminal."""
    best = prediction.best(top)
    said = "  ".join(f"{classes[label]} {prediction.probabilities[label]:.4f}" for label in best)
    return f"{prediction.path}  {said}"


def confusion(predictions: Sequence[Prediction], classes: Sequence[str]) -> Confusion | None:
    """Of those that have a label; None without any."""
    pairs = [(p.label, p.best(1)[0]) for p in predictions if p.label is not None]
    if not pairs:
        return None
    return Confusion.of(classes, *zip(*pairs, strict=True))


def to_json(predictions: Sequence[Prediction], network: Network, pictures: Pictures) -> str:
    """Everything, for a program."""
    classes = network.classes
    rows: list[dict[str, Any]] = []
    for prediction in predictions:
        label, (best,) = prediction.label, prediction.best(1)
        row: dict[str, Any] = {"file": str(prediction.path), "class": classes[best]}
        named = zip(classes, prediction.probabilities.tolist(), strict=True)
        row |= {"probability": float(prediction.probabilities[best]), "probabilities": dict(named)}
        rows.append(row if label is None else {**row, "label": classes[label]})
    skipped = {str(path): why for path, why in pictures.skipped.items()}
    content: dict[str, Any] = {"predictions": rows, "skipped": skipped}
    if (counts := confusion(predictions, classes)) is not None:
        content["scores"] = {"classes": list(classes), **counts.to_json()}
    return json.dumps(content, indent=2)


def to_csv(predictions: Sequence[Prediction], network: Network) -> str:
    """A line a picture: file, class, its label if its folder says it, all probabilities."""
    classes, file = network.classes, io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", "class", "label", *classes])
    for prediction in predictions:
        label = "" if prediction.label is None else classes[prediction.label]
        best = classes[prediction.best(1)[0]]
        writer.writerow([prediction.path, best, label, *prediction.probabilities.tolist()])
    return file.getvalue()
