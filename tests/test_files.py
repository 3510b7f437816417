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


def test_half_a_surrogate_in_json_is_read() -> None:
    path = Path("a.json")
    path.write_text(r'{"x": 1, "where": {"caf\udce9": []}}')
    assert files.load(path, Point) == Point(1, {"caf\udce9": ()})


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"[" * 100_000, b"null", b"[1]", b'{"x": NaN}']
)
def test_what_is_no_json_or_of_another_shape_is_damaged(text: bytes) -> None:
    path = Path("a.json")
    path.write_bytes(text)
    with pytest.raises(StorageError, match=r"a\.json: is damaged: ."):
        files.load(path, Point)


def test_what_is_wrong_is_named_with_its_place() -> None:
    path = Path("a.json")
    assert files.load(path, Point) is None
    path.write_text('{"x": 1, "where": {"a": [1, 2]}}')
    assert files.load(path, Point) == Point(1, {"a": (1.0, 2.0)})
    path.write_text('{"x": 1, "where": {"a": [1, "b"]}}')
    with pytest.raises(StorageError, match=r"a\.json: is damaged: where\.a\.1: .*number"):
        files.load(path, Point)
