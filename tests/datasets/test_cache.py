from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evonas.datasets.parts import cache
from evonas.datasets.parts.cache import decoded
from evonas.errors import RecipeError

FORM = (12, 12), "RGB"


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    monkeypatch.setattr(cache, "_LARGE", 1)


def pictures(count: int = 8, side: int = 12) -> list[Path]:
    noise, paths = np.random.default_rng(0), [Path(f"{n}.png") for n in range(count)]
    for path in paths:
        Image.fromarray(noise.integers(0, 255, (side, side, 3), np.uint8)).save(path)
    return paths


def entries() -> int:
    return len(list(Path("cache").rglob("output.pkl")))


def spoil(path: Path) -> None:
    """Another content, of the same length and time of change."""
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_pictures_are_decoded_once() -> None:
    paths = pictures()
    paths[3].write_bytes(b"no picture")
    images, unreadable = decoded(paths, *FORM)
    assert unreadable == {3: "broken"}
    spoil(paths[0])  # so that only the cache knows it still
    again, unreadable = decoded(paths, *FORM)
    assert np.array_equal(again, images)
    assert not isinstance(again, np.memmap)
    assert again.flags.writeable
    assert unreadable == {3: "broken"}
    assert entries() == 1


def test_a_changed_file_is_decoded_again() -> None:
    paths = pictures()
    images, _ = decoded(paths, *FORM)
    Image.new("RGB", (12, 12), (1, 2, 3)).save(paths[0])
    again, _ = decoded(paths, *FORM)
    assert again[0, 0, 0].tolist() == [1, 2, 3]
    assert np.array_equal(again[1:], images[1:])
    assert decoded(paths, (6, 6), "L")[0].shape == (8, 6, 6)
    assert entries() == 3


def test_the_cache_keeps_to_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVONAS_CACHE_GB", "1e-5")  # 10 kB, three times the pictures
    paths = pictures()
    for side in range(10, 20):
        decoded(paths, (side, side), "RGB")
    assert 1 <= entries() <= 3


@pytest.mark.parametrize("how", ["none wanted", "small"])
def test_nothing_is_kept_without_need(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "small":
        monkeypatch.setattr(cache, "_LARGE", 10**9)
    else:
        monkeypatch.setenv("EVONAS_CACHE_GB", "0")
    assert len(decoded(pictures(), *FORM)[0]) == 8
    assert not Path("cache").exists()


def test_a_size_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVONAS_CACHE_GB", "lots")
    with pytest.raises(RecipeError, match="EVONAS_CACHE_GB: must be a number, not 'lots'"):
        decoded(pictures(), *FORM)


def test_a_damaged_cache_and_one_that_cannot_be_written_do_no_harm() -> None:
    paths = pictures()
    images, _ = decoded(paths, *FORM)
    for path in Path("cache").rglob("output.pkl"):
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(decoded(paths, *FORM)[0], images)
    for path in sorted(Path("cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path("cache/evonas").write_text("a file in the folder's place")
    assert np.array_equal(decoded(paths, *FORM)[0], images)
