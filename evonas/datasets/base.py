"""Where images come from: one small loader per source, looked up by name in ``LOADERS``."""

from __future__ import annotations

import socket
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from evonas.errors import DataError
from evonas.training.data import Arrays, Data, Images, Labels, room, split

_LARGEST = 256  # pixels a side that are kept without the user having chosen a size
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Source:
    """Where to read, and how.

    Attributes:
        path: Folder or file; loaders that need none ignore it.
        size: Pixels a side; None keeps the images as they are.
        test: Share held out as the test split where the source has none.
        seed: Seed of the splits.
    """

    path: Path
    size: int | None = None
    test: float = 0.2
    seed: int = 0


def load(name: str, source: Source, validation: float) -> Data:
    """Load a data set by name and split it.

    Args:
        name: One of ``LOADERS``. Any of them also reads an ``.npz`` given as the path.
        source: Where to read.
        validation: Share of the training images to hold out for the search.

    Raises:
        DataError: If it is missing, broken or does not fit, in one line.
    """
    loader = npz if source.path.suffix == ".npz" else LOADERS[name]
    try:
        arrays = loader(name, source)
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise DataError(f"dataset {name}: {source.path}: {error.strerror}") from error
    data = split(arrays, validation, source.seed, f"dataset {name}")
    if source.size is None or data.task.input_shape[1:] == (source.size, source.size):
        return data
    return data.resized(source.size)


def digits(name: str, source: Source) -> Arrays:
    """1,797 real 8×8 digits that scikit-learn bundles; a stratified share is the test split."""
    bundle = load_digits()
    images = (bundle.images * 255 / 16).round().astype(np.uint8)
    kept, held_out = _held_out(bundle.target, source)
    train, test = ((images[part], bundle.target[part]) for part in (kept, held_out))
    return Arrays(train, test, classes=[str(n) for n in bundle.target_names])


def npz(name: str, source: Source) -> Arrays:
    """x_train, y_train[, x_val, y_val], x_test, y_test[, names] of one file, uint8 NHWC."""
    path = source.path
    if not path.is_file():
        raise DataError(f"dataset {name}: no file {path}; --set dataset.path=FILE.npz")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataError(f"dataset {name}: {path} holds one array without a name; use np.savez")
        with file:
            stored = {key: file[key] for key in file.files if key in _NPZ_KEYS}
    except _UNREADABLE as error:
        raise DataError(f"dataset {name}: {path} cannot be read: {_line(error)}") from error
    needed = [f"{axis}_{part}" for part in ("train", "test") for axis in "xy"]
    if missing := [key for key in needed if key not in stored]:
        raise DataError(f"dataset {name}: {path} lacks {', '.join(missing)}")
    if ("x_val" in stored) != ("y_val" in stored):
        raise DataError(f"dataset {name}: {path} has one of x_val and y_val without the other")
    return Arrays(
        (stored["x_train"], stored["y_train"]),
        (stored["x_test"], stored["y_test"]),
        (stored["x_val"], stored["y_val"]) if "x_val" in stored else None,
        [str(n) for n in stored["names"].ravel()] if "names" in stored else None,
    )


_UNREADABLE = (  # what NumPy and zipfile raise, wherever a file is damaged
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
_NPZ_KEYS = {"x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "names"}


def image_folder(name: str, source: Source) -> Arrays:
    """A user's own images: ``CLASS/*``, or ``train/CLASS/*`` with ``val`` and ``test`` if there."""
    root = source.path
    if not root.is_dir():
        raise DataError(f"dataset {name}: no folder {root}; --set dataset.path=FOLDER")
    train_dir = root / "train" if (root / "train").is_dir() else root
    classes = _subfolders(train_dir)
    if len(classes) < 2:
        raise DataError(f"dataset {name}: {train_dir} needs a folder per class, at least two")
    files = {"train": _files(train_dir, classes)}
    if train_dir != root:
        for part in ("val", "test"):
            if (root / part).is_dir():
                files[part] = _files(root / part, classes)
    if "test" not in files:  # before decoding: the images need not be copied then
        paths, labels = files["train"]
        for part, indices in zip(("train", "test"), _held_out(labels, source), strict=True):
            files[part] = [paths[i] for i in indices], labels[indices]
    size, mode = _format([path for paths, _ in files.values() for path in paths], source.size)
    parts = {part: (_decode(paths, size, mode), labels) for part, (paths, labels) in files.items()}
    return Arrays(parts["train"], parts["test"], parts.get("val"), classes)


def torchvision(name: str, source: Source) -> Arrays:
    """CIFAR, MNIST and their like through torchvision, downloaded on first use."""
    from torchvision import datasets  # three seconds that the other loaders need not wait

    spec = _TORCHVISION[name]
    make = getattr(datasets, spec.cls)
    root = source.path.absolute()
    made = [root / spec.cls / "raw", root / spec.cls, root, *root.parents]
    absent = [folder for folder in made if not folder.exists()]
    try:
        try:
            parts = [make(source.path, download=False, **arguments) for arguments in spec.splits]
        except RuntimeError:  # torchvision's "not found or corrupted"
            with _socket_timeout(_CONNECT_SECONDS):
                parts = [make(source.path, download=True, **arguments) for arguments in spec.splits]
    except (OSError, RuntimeError) as error:
        for folder in absent:
            with suppress(OSError):  # not empty: what was downloaded stays
                folder.rmdir()
        raise DataError(
            f"dataset {name}: not in {root}, and the download failed ({_line(error)}). "
            f"Put {spec.file} there, or point elsewhere with --set dataset.path=FOLDER "
            "(or an .npz file)"
        ) from error
    train, test = ((_nhwc(np.asarray(p.data)), _labels(p)) for p in parts)
    return Arrays(train, test, classes=getattr(parts[0], "classes", None))


@dataclass(frozen=True)
class _Spec:
    cls: str
    file: str
    splits: tuple[Mapping[str, object], ...] = ({"train": True}, {"train": False})


_TORCHVISION = {
    "cifar10": _Spec("CIFAR10", "cifar-10-python.tar.gz, unpacked to cifar-10-batches-py"),
    "cifar100": _Spec("CIFAR100", "cifar-100-python.tar.gz, unpacked to cifar-100-python"),
    "mnist": _Spec("MNIST", "MNIST/raw/train-images-idx3-ubyte and its three siblings"),
    "fashion_mnist": _Spec(
        "FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte and its three siblings"
    ),
    "svhn": _Spec(
        "SVHN", "train_32x32.mat and test_32x32.mat", ({"split": "train"}, {"split": "test"})
    ),
}

LOADERS: Mapping[str, Callable[[str, Source], Arrays]] = {
    "digits": digits,
    "image_folder": image_folder,
    "npz": npz,
    **dict.fromkeys(_TORCHVISION, torchvision),
}


def _held_out(labels: Labels, source: Source) -> tuple[Labels, Labels]:
    """Indices of the training images and of the test images, each class in proportion."""
    try:
        kept, held_out = train_test_split(
            np.arange(len(labels)), test_size=source.test, stratify=labels, random_state=source.seed
        )
    except ValueError as error:
        raise DataError(f"dataset.test: cannot hold out a test split: {error}") from error
    return kept, held_out


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path, classes: list[str]) -> tuple[list[Path], Labels]:
    paths: list[Path] = []
    labels: list[int] = []
    known = set(Image.registered_extensions())
    if strange := set(_subfolders(folder)) - set(classes):
        raise DataError(f"{folder / min(strange)}: no such class among the training images")
    for label, name in enumerate(classes):
        images = [p for p in sorted((folder / name).glob("[!.]*")) if p.suffix.lower() in known]
        if not images:
            raise DataError(f"{folder / name}: the class folder holds no images")
        paths += images
        labels += [label] * len(images)
    return paths, np.asarray(labels, np.int64)


def _format(paths: list[Path], size: int | None) -> tuple[tuple[int, int], str]:
    """Size (width, height) and mode ("L" or "RGB") that fit all the images, from their headers."""
    sizes: set[tuple[int, int]] = set()
    grey = True
    for path in paths:
        with _opened(path) as image:
            sizes.add(image.size)
            grey = grey and image.mode in ("1", "L", "LA", "I", "I;16", "I;16B")
    mode = "L" if grey else "RGB"
    if size is not None:
        return (size, size), mode
    if len(sizes) > 1 or max(max(sizes)) > _LARGEST:
        found = f"{len(sizes)} sizes" if len(sizes) > 1 else f"{max(sizes)} pixels"
        raise DataError(f"the images have {found}; choose one with --set dataset.size=64")
    return sizes.pop(), mode


def _decode(paths: list[Path], size: tuple[int, int], mode: str) -> Images:
    width, height = size
    images = room((len(paths), height, width, *((3,) if mode == "RGB" else ())))
    for place, path in enumerate(paths):
        with _opened(path) as image:
            images[place] = np.asarray(_fitted(_eight_bits(image).convert(mode), size), np.uint8)
    return images


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit image scaled to 8 bits; Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest centred cut of the wanted shape, scaled to ``size``."""
    if image.size == size:
        return image
    scale = min(image.width / size[0], image.height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except _BROKEN_IMAGE as error:
        raise DataError(f"{path}: not a readable image ({_line(error)})") from error


_BROKEN_IMAGE = (  # what Pillow raises, over its many formats
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)


def _line(error: BaseException) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())


def _nhwc(images: Images) -> Images:
    return images.transpose(0, 2, 3, 1) if images.ndim == 4 and images.shape[1] == 3 else images


def _labels(part: object) -> Labels:
    values = getattr(part, "targets", None)
    return np.asarray(values if values is not None else part.labels, np.int64)  # type: ignore[attr-defined]


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Let no download hang: torchvision sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
