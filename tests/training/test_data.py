"""Data in memory: what a network must fit, its statistics, and smaller versions of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import a_disk_of

from evonas.errors import DataError
from evonas.spaces.base import Task
from evonas.training import data as data_module
from evonas.training.data import Arrays, Data, Split, split


def data(count: int = 60, height: int = 6, width: int = 8, channels: int = 3) -> Data:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    labels = np.arange(count) % 3
    return split(Arrays((images, labels), (images[:9], labels[:9])), 0.2, seed=0, source="made up")


def parts(of: Data) -> tuple[Split, Split, Split]:
    assert of.test is not None
    return of.train, of.val, of.test


def test_the_task_is_read_off_the_images() -> None:
    assert data().task == Task(channels=3, height=6, width=8, classes=3)
    assert data(channels=1).task.input_shape == (1, 6, 8)


def test_splits_have_their_length() -> None:
    given = data()
    assert given.test is not None
    assert (len(given.train), len(given.val), len(given.test)) == (48, 12, 9)


def test_what_is_on_the_device_is_not_copied() -> None:
    train = data().train
    assert train.to("cpu").images.data_ptr() == train.images.data_ptr()


def test_channel_statistics_are_those_of_the_training_images() -> None:
    given = data()
    mean, std = given.channel_statistics()
    pixels = given.train.images.numpy().astype(np.float64).reshape(-1, 3)
    assert np.allclose(mean, pixels.mean(0), atol=1e-3)
    assert np.allclose(std, pixels.std(0), atol=1e-3)


def test_images_of_one_colour_have_no_zero_deviation() -> None:
    given = data()
    black = replace(given, train=replace(given.train, images=given.train.images * 0))
    mean, std = black.channel_statistics()
    assert mean.tolist() == [0, 0, 0]
    assert std.tolist() == [1, 1, 1]


def test_the_whole_share_takes_everything_but_the_test_split() -> None:
    given = data()
    whole = given.subset(1.0, seed=0)
    assert whole.train is given.train
    assert whole.test is None


def test_a_share_that_misses_a_class_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"evaluation\.data: cannot take a part .* 48 images are too few"
    ):
        data().subset(0.02, seed=0)


@pytest.mark.parametrize("resolution", [1, 4, 16])
def test_resized_images_are_square_and_whole(resolution: int) -> None:
    given = data()
    small = given.resized(resolution)
    assert small.task == Task(3, resolution, resolution, 3)
    for part, original in zip(parts(small), parts(given), strict=True):
        assert part.images.dtype == torch.uint8
        assert part.images.is_contiguous()
        assert torch.equal(part.labels, original.labels)
        assert part.images.float().mean() == pytest.approx(
            float(original.images.float().mean()), abs=3
        )


def test_resizing_without_a_test_split() -> None:
    assert data().subset(0.5, seed=0).resized(4).test is None


def test_resizing_to_the_same_size_changes_nothing() -> None:
    given = data(height=8, width=8)
    assert torch.equal(given.resized(8).train.images, given.train.images)


def made_split(count: int = 23, streamed: bool = False) -> Split:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8))
    return Split(images, torch.arange(count) % 3, streamed)


@pytest.mark.parametrize("size", [1, 5, 23])
def test_a_streamed_split_gives_the_batches_of_a_resident_one(size: int) -> None:
    found = []
    for part in (made_split(), made_split(streamed=True)):
        batches = part.batches(size, torch.Generator().manual_seed(size))
        found.append([(images[index], labels[index]) for images, labels, index in batches])
    assert len(found[0]) == len(found[1]) == 23 // size
    for (images, labels), (others, other_labels) in zip(*found, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_what_does_not_fit_on_the_device_stays_and_is_streamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = made_split()
    monkeypatch.setattr(data_module, "_free", lambda device: 2 * split.images.nbytes)
    assert split.to("meta").images.is_meta
    monkeypatch.setattr(data_module, "_free", lambda device: 2 * split.images.nbytes - 1)
    moved = split.to("meta")
    assert moved.streamed
    assert moved.images is split.images
    assert moved.labels.is_meta


def test_to_a_cpu_only_images_in_a_file_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in memory are there already, however little of it is left."""
    monkeypatch.setattr(data_module, "_free", lambda device: 10)
    assert not made_split().to("cpu").streamed
    moved = replace(made_split(), mapped=True).to("cpu")
    assert moved.streamed
    assert moved.to("cpu").streamed


def test_a_gpu_is_asked_for_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fake(device: str) -> tuple[int, int]:
        asked.append(device)
        return 7, 80

    monkeypatch.setattr(torch.cuda, "mem_get_info", fake)
    assert data_module._free("cuda:1") == 7
    assert asked == ["cuda:1"]
    assert data_module._free("cpu") > 1e6


def test_images_that_would_fill_the_memory_are_kept_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole way: room, splitting, a share, another resolution; all equal to those in memory."""
    rng = np.random.default_rng(0)
    arrays = Arrays(
        (rng.integers(0, 256, (60, 6, 6, 3), dtype=np.uint8), np.arange(60) % 3),
        (rng.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8), np.arange(12) % 3),
    )

    def small() -> Data:
        return split(arrays, 0.25, 0, "made up").subset(0.5, 0).resized(4)

    inside = small()
    monkeypatch.setattr(data_module, "_free", lambda device: 10)
    assert isinstance(data_module.room((3, 2)), np.memmap)
    outside = small()
    for one, other in ((inside.train, outside.train), (inside.val, outside.val)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert not one.mapped
        assert other.mapped
    assert inside.fingerprint == outside.fingerprint


@pytest.mark.skipif(sys.platform != "linux", reason="the memory is asked for on Linux alone")
def test_a_disk_that_is_too_small_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for a full disk: writing would kill the process."""
    monkeypatch.setattr(data_module, "_free", lambda device: 10)
    with a_disk_of(100_000):
        assert data_module.room((1000,)).shape == (1000,)
        with pytest.raises(DataError, match=r"0\.2 GB of images fit neither .* TMPDIR") as caught:
            data_module.room((200_000_000,))
    assert "\n" not in str(caught.value)


STREAM = """
import faulthandler
import torch
from evonas.training.data import Split

faulthandler.dump_traceback_later(60, exit=True)
images = torch.zeros(512, 224, 224, 3, dtype=torch.uint8)
split = Split(images, torch.zeros(512, dtype=torch.long), streamed=True)
print([len(index) for _, _, index in split.batches(256, torch.Generator())])
"""


@pytest.mark.faults("21: batches are streamed where /dev/shm has 64 MB, as in a container")
def test_a_small_shared_memory(tmp_path: Path) -> None:
    (tmp_path / "stream.py").write_text(STREAM)
    small = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", small], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{small} && exec {sys.executable} stream.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[256, 256]\n", done.stderr
