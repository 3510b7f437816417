"""Images as uint8: what every loader returns and what the training loop reads.

What takes more than half of the free memory is kept in a temporary file that is mapped into it.
From there to a CPU, and where it takes more than half of a GPU's memory, it is streamed batch by
batch.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

from evonas.errors import DataError
from evonas.spaces.base import Task
from evonas.training.containers import free_memory

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # images, labels, numbers among them
_WORKERS = 2  # So many threads load a streamed split, so many batches each ahead.
_CHUNK = 4096  # So many images are copied or resized at once.
_NAMED = 12  # Of more classes than these, a sentence does not name each.


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8, (N, height, width, channels).
        labels: int64, (N,), on the device to train on.
        streamed: Whether the images stay where they are, and batches of them go to the device.
        mapped: Whether the images are in a file that is mapped into memory.
    """

    images: torch.Tensor
    labels: torch.Tensor
    streamed: bool = False
    mapped: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> int:
        """Of all images: what an epoch learns from."""
        return math.prod(self.images.shape[:3])

    def to(self, device: str) -> Split:
        """A copy on the device; without the images if they would take half of its free memory.

        On a CPU nothing is copied: there, images in memory are used and images in a file streamed.
        """
        cpu = torch.device(device).type == "cpu"
        too_large = self.mapped if cpu else 2 * self.images.nbytes > _free(device)
        if self.streamed or too_large:
            return Split(self.images, self.labels.to(device), True, self.mapped)
        return Split(self.images.to(device), self.labels.to(device))

    def batches(self, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Batches on the device in random order, those of a streamed split loaded ahead by threads.

        The last batch is left out where it is incomplete: its statistics would be worse, and
        torch's compiled code, CUDA's graphs and its tuned convolutions want one shape. Another
        order leaves out others.

        Args:
            size: Images a batch, no more than there are.
            rng: Draws the order, on the device.

        Yields:
            Images, their labels, and the numbers of those among them that are the batch. A resident
            split gives all it has, so that cutting out a batch can be part of augmenting it.
        """
        order = torch.randperm(len(self), device=rng.device, generator=rng)
        order = order[: len(self) // size * size]
        parts = order.split(size)
        if not self.streamed:
            for index in parts:
                yield self.images, self.labels, index
            return
        pinned = self.labels.is_cuda

        def load(numbers: torch.Tensor) -> torch.Tensor:
            batch = self.images[numbers]
            return batch.pin_memory() if pinned else batch

        # Threads, for processes would hand batches over in /dev/shm, which is tiny in containers;
        # torch frees the interpreter's lock while it copies.
        with ThreadPoolExecutor(_WORKERS) as pool:
            numbers = iter(order.cpu().split(size))
            ahead = deque(pool.submit(load, part) for part in islice(numbers, 2 * _WORKERS))
            for index in parts:
                batch = ahead.popleft().result().to(self.labels.device, non_blocking=True)
                ahead.extend(pool.submit(load, part) for part in islice(numbers, 1))
                yield batch, self.labels[index], torch.arange(len(index), device=batch.device)


@dataclass(frozen=True)
class Data:
    """A data set in its three splits.

    Attributes:
        train: What networks are trained on.
        val: What the search compares them on.
        test: What the winner is measured on, once; None where nobody may look.
        classes: Their names; the position is the label.
        fingerprint: Hash of images, labels and split.
        notes: What its source has to say of it, such as what was passed over.
        test_files: Where the test images come from, if from files of their own.
    """

    train: Split
    val: Split
    test: Split | None
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """What a network must fit."""
        _, height, width, channels = self.train.images.shape
        return Task(channels, height, width, len(self.classes))

    def __str__(self) -> str:
        """One sentence: how many images of which shape and classes, by split."""
        channels, height, width = self.task.input_shape
        splits = {"training": self.train, "validation": self.val, "test": self.test}
        counts = ", ".join(f"{len(part):,} {name}" for name, part in splits.items() if part)
        labels = torch.cat([part.labels for part in splits.values() if part])
        of_class = torch.bincount(labels, minlength=len(self.classes)).tolist()
        if len(self.classes) > _NAMED:
            classes = f"of {min(of_class):,} to {max(of_class):,} images each"
        else:
            classes = ", ".join(f"{n} {c:,}" for n, c in zip(self.classes, of_class, strict=True))
        colour = "grey" if channels == 1 else "colour"
        size = f"{width}×{height} {colour}"
        parts = (f"{counts} images of {size}; {len(self.classes)} classes: {classes}", *self.notes)
        return "; ".join(parts)

    def channel_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation per channel of the training images, in 0…255."""
        pixels = self.train.images[:10_000].float()
        std, mean = torch.std_mean(pixels, dim=(0, 1, 2), correction=0)
        return mean, std.clamp_min(1.0)

    def subset(self, share: float, seed: int) -> Data:
        """A stratified share of the training images; validation is whole, the test split gone."""
        if share >= 1:
            return replace(self, test=None)
        labels = self.train.labels.numpy()
        what = "evaluation.data: cannot take a part of the training images"
        indices, _ = stratified(labels, 1 - share, seed, what, self.classes)
        return replace(self, train=_take(self.train, np.sort(indices)), test=None)

    def resized(self, resolution: int) -> Data:
        """All images at resolution × resolution pixels."""
        return replace(
            self,
            train=_resize(self.train, resolution),
            val=_resize(self.val, resolution),
            test=_resize(self.test, resolution) if self.test else None,
        )


@dataclass(frozen=True)
class Arrays:
    """What a loader read, before it is checked and split.

    Attributes:
        train: Images (uint8, NHWC or NHW) and labels (integers, N).
        test: The same.
        val: The same, if the source has its own validation split.
        classes: Their names, or None: as many as the largest training label says.
        notes: What a person should know of what was read, a phrase each.
        test_files: Where each test image comes from, if from a file of its own.
    """

    train: tuple[Images, Labels]
    test: tuple[Images, Labels]
    val: tuple[Images, Labels] | None = None
    classes: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()


def split(arrays: Arrays, validation: float, seed: int, source: str) -> Data:
    """Check what was read, and split off the validation images, stratified by class.

    Args:
        arrays: What a loader read.
        validation: Share of the training images, unless the source has its own split.
        seed: Seed of the split.
        source: Where it came from, for error messages.

    Raises:
        DataError: If shapes, types or labels do not fit.
    """
    classes = arrays.classes
    if classes is None:
        labels = np.asarray(arrays.train[1])
        _require(labels.dtype.kind in "iu" and labels.size > 0, source, "y_train must be integers")
        most = int(labels.max())
        _require(most < labels.size, source, f"y_train has label {most}; number classes from 0")
        classes = [str(label) for label in range(most + 1)]
    _require(len(classes) >= 2, source, "at least two classes are needed")
    train = _checked(arrays.train, "train", len(classes), source)
    test = _checked(arrays.test, "test", len(classes), source)
    if arrays.val is not None:
        val = _checked(arrays.val, "val", len(classes), source)
        indices = np.arange(len(train))
    else:
        labels = train.labels.numpy()
        what = f"{source}: dataset.validation: cannot hold out a validation split"
        indices, others = map(np.sort, stratified(labels, validation, seed, what, classes))
        train, val = _take(train, indices), _take(train, others)
    for name, part in (("test", test), ("val", val)):
        same = part.images.shape[1:] == train.images.shape[1:]
        _require(same, source, f"{name} images differ in shape from the training images")
    digest = hashlib.sha256(indices.tobytes())
    for part in (train, val, test):
        digest.update(part.images.numpy().data)
        digest.update(part.labels.numpy().data)
    fingerprint = digest.hexdigest()[:16]
    return Data(
        train, val, test, tuple(classes), fingerprint, arrays.notes, tuple(arrays.test_files)
    )


def _checked(arrays: tuple[Images, Labels], name: str, classes: int, source: str) -> Split:
    images, labels = (np.asarray(a) for a in arrays)
    mapped = isinstance(arrays[0], np.memmap)
    if images.ndim == 3:
        images = images[..., None]
    _require(images.dtype == np.uint8, source, f"x_{name} must be uint8, not {images.dtype}")
    _require(
        images.ndim == 4 and images.shape[-1] in (1, 3) and images.size > 0,
        source,
        f"x_{name} must be (N, height, width, 1 or 3 channels), not {images.shape}",
    )
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    _require(
        labels.dtype.kind in "iu" and labels.shape == images.shape[:1],
        source,
        f"y_{name} must be {len(images)} integers, not {labels.dtype} of shape {labels.shape}",
    )
    low, high = int(labels.min()), int(labels.max())
    _require(
        low >= 0 and high < classes,
        source,
        f"y_{name} has labels {low}…{high}, out of range for {classes} classes",
    )
    return Split(
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(labels.astype(np.int64)),
        mapped=mapped,
    )


def _require(condition: bool, source: str, message: str) -> None:
    if not condition:
        raise DataError(f"{source}: {message}")


def stratified(
    labels: Labels, share: float, seed: int, what: str, classes: Sequence[str] = ()
) -> tuple[Labels, Labels]:
    """Split images in two, each class in proportion.

    Args:
        labels: Of all images.
        share: Of them in the second part.
        seed: Of the choice.
        what: Cannot be done if there are too few: the beginning of the error's message.
        classes: Names, for that message.

    Returns:
        Indices of the first part and of the second, in random order.

    Raises:
        DataError: If there are too few images, of all or of a class.
    """
    lone, counts = np.unique(labels, return_counts=True)
    if counts.size and counts.min() < 2:
        label = int(lone[counts.argmin()])
        name = repr(classes[label]) if classes else str(label)
        raise DataError(f"{what}: class {name} has one image; add some, or leave the class out")
    try:
        rest, part = train_test_split(
            np.arange(len(labels)), test_size=share, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise DataError(f"{what}: {len(labels)} images are too few: {error}") from error
    return rest, part


def room(shape: tuple[int, ...]) -> Images:
    """Room for images: memory, or a mapped temporary file if they would take half of what is free.

    The file has no name, so it is gone when nobody uses it any more, however that came.

    Raises:
        DataError: If the disk has not so much space.
    """
    size = math.prod(shape)
    if 2 * size <= _free("cpu"):
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        if sys.platform == "linux":  # to find the disk full while writing would kill the process
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise DataError(
                    f"{size / 1e9:.1f} GB of images fit neither in half of the free memory nor in "
                    f"{tempfile.gettempdir()} ({error.strerror}); let the environment variable "
                    "TMPDIR name a folder on a larger disk, or --set dataset.size to a smaller one"
                ) from error
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _free(device: str) -> float:
    """Bytes of memory that are free."""
    on_gpu = device.startswith("cuda")
    return torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory()


def _take(part: Split, indices: Labels) -> Split:
    numbers = torch.from_numpy(indices)
    chunks = (part.images[chunk] for chunk in numbers.split(_CHUNK))
    return _filled(chunks, part.images.shape[1:], part.labels[numbers])


def _resize(part: Split, resolution: int) -> Split:
    size = (resolution, resolution)
    scaled = (
        F.interpolate(chunk.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
        for chunk in part.images.split(_CHUNK)
    )
    chunks = (chunk.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1) for chunk in scaled)
    return _filled(chunks, (*size, part.images.shape[3]), part.labels)


def _filled(chunks: Iterator[torch.Tensor], shape: Sequence[int], labels: torch.Tensor) -> Split:
    """Images of a shape, which come ``_CHUNK`` at a time, in memory or in a file."""
    array = room((len(labels), *shape))
    images = torch.from_numpy(array)
    for place, chunk in zip(images.split(_CHUNK), chunks, strict=True):
        place.copy_(chunk)
    return Split(images, labels, mapped=isinstance(array, np.memmap))
