"""Data sets that torchvision finds on the disk, or downloads on first use."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evonas.datasets.base import Dataset, line
from evonas.errors import DataError
from evonas.training.data import Arrays, Images, Labels

_CONNECT_SECONDS = 10  # A server that does not answer within these is not there.


class Torchvision(Dataset):
    """A class of torchvision's with a training and a test split.

    Args:
        path: The folder that holds it, or will.

    Attributes:
        source: Name of the class.
        file: What must be in the folder, should the download fail.
        splits: How the class is told which split.
    """

    source: ClassVar[str]
    file: ClassVar[str]
    splits: ClassVar[tuple[Mapping[str, object], ...]] = ({"train": True}, {"train": False})

    def __init__(self, path: Path = Path("data")) -> None:
        self._path = path

    def read(self) -> Arrays:
        """From the folder, else downloaded into it; a folder that stays empty is removed again."""
        from torchvision import datasets  # three seconds that the other data sets need not wait

        make = getattr(datasets, self.source)
        root = self._path.absolute()
        folders = [root / self.source / "raw", root / self.source, root, *root.parents]
        new_folders = [folder for folder in folders if not folder.exists()]
        try:
            try:
                parts = [make(root, download=False, **split) for split in self.splits]
            except RuntimeError:  # torchvision's "not found or corrupted"
                with _socket_timeout(_CONNECT_SECONDS):
                    parts = [make(root, download=True, **split) for split in self.splits]
        except (OSError, RuntimeError) as error:
            for folder in new_folders:
                with suppress(OSError):  # not empty: what was downloaded stays
                    folder.rmdir()
            raise DataError(
                f"not in {root}, and the download failed ({line(error)}). Put {self.file} there, "
                "or point elsewhere with --set dataset.path=FOLDER (or an .npz file)"
            ) from error
        train, test = ((_nhwc(np.asarray(part.data)), _labels(part)) for part in parts)
        return Arrays(train, test, classes=getattr(parts[0], "classes", None))


def _nhwc(images: Images) -> Images:
    return images.transpose(0, 2, 3, 1) if images.ndim == 4 and images.shape[1] == 3 else images


def _labels(part: Any) -> Labels:
    values = getattr(part, "targets", None)
    return np.asarray(part.labels if values is None else values, np.int64)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Let no download hang: torchvision sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
