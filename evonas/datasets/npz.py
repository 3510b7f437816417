"""One NumPy file that holds everything."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from evonas.datasets.base import Dataset, line
from evonas.errors import DataError
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
