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


class Predictions:
    """What a network says of the pictures that a user names.

    Args:
        network: The network.
        names: Files, and folders, which are searched at any depth; within a named folder, pictures
            in a folder that is called as a class have that label.
    """

    def __init__(self, network: Network, names: Sequence[Path]) -> None:
        self._network, self._classes = network, network.classes
        self._made: list[Prediction] = []
        self._skipped: dict[Path, str] = {}  # why each other file was passed over
        self._paths: list[tuple[Path, int | None]] = []
        numbers = {name: number for number, name in enumerate(self._classes)}
        for name in names:
            if name.is_dir():
                paths, skipped = files_under(name)
                self._skipped.update(skipped)
                for path in paths:
                    folders = path.relative_to(name).parts[:-1]
                    label = next((numbers[part] for part in folders if part in numbers), None)
                    self._paths.append((path, label))
            elif name.is_file():
                self._paths.append((name, None))
            else:
                self._skipped[name] = "no regular file" if name.exists() else "not there"

    def __iter__(self) -> Iterator[Prediction]:
        """One after another; each picture is prepared as the network's training images were.

        Raises:
            DataError: If none could be read.
        """
        for start in range(0, len(self._paths), _BATCH):
            some = self._paths[start : start + _BATCH]
            images, unreadable = self._network.prepare([path for path, _ in some])
            self._skipped.update((some[number][0], why) for number, why in unreadable.items())
            good = [pair for number, pair in enumerate(some) if number not in unreadable]
            for (path, label), row in zip(good, self._network.predict(images), strict=True):
                self._made.append(Prediction(path, row, label))
                yield self._made[-1]
        if not self._made:
            reasons = ", ".join(f"{path}: {why}" for path, why in list(self._skipped.items())[:3])
            raise DataError(f"no picture to look at ({reasons or 'the folder is empty'})")

    def __len__(self) -> int:
        """Number of pictures so far."""
        return len(self._made)

    def line(self, prediction: Prediction, top: int) -> str:
        """One of them for the terminal."""
        shares = [(self._classes[n], prediction.probabilities[n]) for n in prediction.best(top)]
        return f"{prediction.path}  {'  '.join(f'{name} {share:.4f}' for name, share in shares)}"

    def complaints(self) -> list[str]:
        """A line for each file that was passed over, if others were not."""
        skipped = self._skipped if self._made else {}
        return [f"skipped {path}: {why}" for path, why in skipped.items()]

    def confusion(self) -> Confusion | None:
        """Of those that have a label; None without any."""
        pairs = [(p.label, p.best(1)[0]) for p in self._made if p.label is not None]
        return Confusion.of(self._classes, *zip(*pairs, strict=True)) if pairs else None

    def to_json(self) -> str:
        """Everything, for a program."""
        rows: list[dict[str, Any]] = []
        for prediction in self._made:
            label, (best,) = prediction.label, prediction.best(1)
            row: dict[str, Any] = {"file": str(prediction.path), "class": self._classes[best]}
            named = zip(self._classes, prediction.probabilities.tolist(), strict=True)
            row |= {"probability": float(prediction.probabilities[best])}
            row |= {"probabilities": dict(named)}
            rows.append(row if label is None else {**row, "label": self._classes[label]})
        skipped = {str(path): why for path, why in self._skipped.items()}
        content: dict[str, Any] = {"predictions": rows, "skipped": skipped}
        if (counts := self.confusion()) is not None:
            content["scores"] = {"classes": list(self._classes), **counts.to_json()}
        return json.dumps(content, indent=2)

    def to_csv(self) -> str:
        """A line a picture: file, class, its label if its folder says it, all probabilities."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "class", "label", *self._classes])
        for prediction in self._made:
            label = "" if prediction.label is None else self._classes[prediction.label]
            best = self._classes[prediction.best(1)[0]]
            writer.writerow([prediction.path, best, label, *prediction.probabilities.tolist()])
        return file.getvalue()
