"""Files of ours: written whole, and believed when they are whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from evonas import files
from evonas.errors import StorageError


@dataclass(frozen=True)
class Point:
    """Something small."""

    x: int
    where: dict[str, tuple[float, ...]]


def test_half_a_surrogate_is_written_as_an_escape() -> None:
    files.store(Path("a.txt"), "caf\udce9 ü")
    assert Path("a.txt").read_text() == "caf\\udce9 ü"


def test_what_is_wrong_is_named_with_its_place() -> None:
    path = Path("a.json")
    assert files.load(path, Point) is None
    path.write_text('{"x": 1, "where": {"a": [1, 2]}}')
    assert files.load(path, Point) == Point(1, {"a": (1.0, 2.0)})
    path.write_text('{"x": 1, "where": {"a": [1, "b"]}}')
    with pytest.raises(StorageError, match=r"a\.json: is damaged: where\.a\.1: .*number"):
        files.load(path, Point)
