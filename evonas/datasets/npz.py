"""One NumPy file that holds everything."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evonas.datasets.base import Dataset, line
from evonas.errors import DataError
from evonas.training.containers import free_memory
from evonas.training.data import Arrays

_KEYS = {"x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "names"}
_UNREADABLE = (  # NumPy and zipfile raise these, wherever a file is damaged.
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an unknown compression, or encryption
    MemoryError,  # a header that claims an enormous array
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# No member larger than this may unpack to so many times its size: images do not, bombs do, and what
# deflate can make of a byte is 1,032.
_LARGE, _PACKED = 100e6, 500


class Npz(Dataset):
    """x_train, y_train[, x_val, y_val], x_test, y_test[, names] of one file, uint8 NHWC.

    Args:
        path: The file. Nothing in it is ever unpickled.
    """

    def __init__(self, path: Path = Path("data")) -> None:
        self._path = path

    def read(self) -> Arrays:
        """The arrays as they are."""
        path = self._path
        if not path.is_file():
            raise DataError(f"no file {path}; --set dataset.path=FILE.npz")
        try:
            file = np.load(path, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise DataError(f"{path} holds one array without a name; use np.savez")
            with file:
                _check(path, file.zip.infolist())
                stored = {key: file[key] for key in file.files if key in _KEYS}
        except _UNREADABLE as error:
            raise DataError(f"{path} cannot be read: {line(error)}") from error
        keys = ("x_train", "y_train", "x_test", "y_test")
        if missing := [key for key in keys if key not in stored]:
            raise DataError(f"{path} lacks {', '.join(missing)}")
        if ("x_val" in stored) != ("y_val" in stored):
            raise DataError(f"{path} has one of x_val and y_val without the other")
        return Arrays(
            (stored["x_train"], stored["y_train"]),
            (stored["x_test"], stored["y_test"]),
            (stored["x_val"], stored["y_val"]) if "x_val" in stored else None,
            [str(n) for n in stored["names"].ravel()] if "names" in stored else None,
        )


def _check(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse what would fill the memory.

    Raises:
        DataError: If an array is a bomb, or all together are larger than the free memory.
    """
    for member in members:
        if member.file_size > max(_LARGE, _PACKED * member.compress_size):
            raise DataError(
                f"{path}: {member.filename} unpacks {member.compress_size:,} bytes to "
                f"{member.file_size:,}, which images never do"
            )
    size, free = sum(member.file_size for member in members), free_memory()
    if size > free:
        raise DataError(f"{path}: holds {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
