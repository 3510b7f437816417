"""Decoded pictures on the disk: large folders are decoded once on a machine, not by every process.

They are kept by joblib in ``XDG_CACHE_HOME/evonas`` (``~/.cache/evonas`` by default), which may be
deleted at any time. What was not used for longest goes when it holds more than ``EVONAS_CACHE_GB``
gigabytes, 20 by default; 0 keeps nothing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from joblib import Memory

from evonas.datasets.parts.images import decode
from evonas.errors import RecipeError
from evonas.training.data import Images, room

_VERSION = 1  # Of what ``decode`` makes of a file: whoever changes that raises it.
_LARGE = 50e6  # Files of fewer bytes together are decoded sooner than the disk is asked.
_GIGABYTES = 20.0  # The cache takes no more, unless the user says so.

Signature = tuple[str, int, int]  # path, length and time of change of a file


def decoded(
    paths: Sequence[Path], size: tuple[int, int], mode: str
) -> tuple[Images, dict[int, str]]:
    """As ``images.decode``, from the cache if they are large and the files are what they were.

    Raises:
        RecipeError: If EVONAS_CACHE_GB is no number.
    """
    limit = _limit()
    stats = [path.stat() for path in paths]
    if not limit or sum(stat.st_size for stat in stats) < _LARGE:
        return decode(paths, size, mode)
    signatures = [
        (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
        for path, stat in zip(paths, stats, strict=True)
    ]
    try:
        with warnings.catch_warnings():  # joblib tells of a damaged entry, and makes it anew
            warnings.simplefilter("ignore", UserWarning)
            memory = Memory(_folder(), mmap_mode="r", verbose=0)
            kept, unreadable = memory.cache(_decode)(signatures, size, mode, _VERSION)
        memory.reduce_size(bytes_limit=limit)
    except OSError:  # no home folder, or a disk that takes nothing
        return decode(paths, size, mode)
    images = room(kept.shape)
    images[:] = kept  # a file that is mapped would be read again in every epoch
    return images, unreadable


def _decode(
    signatures: Sequence[Signature], size: tuple[int, int], mode: str, version: int
) -> tuple[Images, dict[int, str]]:
    """``decode`` with all that its result depends on among its arguments."""
    return decode([Path(path) for path, _, _ in signatures], size, mode)


def _limit() -> int:
    text = os.environ.get("EVONAS_CACHE_GB", "")
    try:
        return int(1e9 * float(text or _GIGABYTES))
    except (ValueError, OverflowError) as error:
        raise RecipeError(f"EVONAS_CACHE_GB: must be a number, not {text!r}") from error


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "evonas"
