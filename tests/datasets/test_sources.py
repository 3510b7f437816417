from __future__ import annotations

import os
import pickle
import shutil
import socket
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evonas.datasets.base import load
from evonas.datasets.image_folder import ImageFolder
from evonas.datasets.parts import images as decoding
from evonas.errors import DataError, PluginError, RecipeError, UnknownComponent
from evonas.recipe.options import bind
from evonas.recipe.registry import Registry
from evonas.recipe.schema import DatasetSection
from evonas.training import data as data_module
from evonas.training.data import Arrays, Data, split


def read(name: str, path: Path = Path("data"), validation: float = 0.2, **how: Any) -> Data:
    return load(DatasetSection(name=name, path=path, validation=validation, **how))


# --- a data set of arrays -------------------------------------------------------------------------


def arrays(train: int = 60, test: int = 12, classes: int = 3, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        made[f"x_{part}"] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        made[f"y_{part}"] = np.arange(count) % classes
    return {k: v for k, v in {**made, **changes}.items() if v is not None}


def npz(validation: float = 0.2, seed: int = 0, **changes: Any) -> Data:
    np.savez("data.npz", **arrays(**changes))
    return read("npz", Path("data.npz"), validation, seed=seed)


def counts(labels: torch.Tensor) -> dict[int, int]:
    return dict(Counter(labels.tolist()))


def test_digits_are_split_by_class() -> None:
    data = read("digits", Path("none"), 0.2)
    assert [len(part) for part in (data.train, data.val, data.test) if part] == [1149, 288, 360]
    assert data.task.input_shape == (1, 8, 8)
    assert data.task.classes == 10
    assert data.train.images.dtype == torch.uint8
    assert int(data.train.images.max()) == 255
    for part in (data.val, data.test):
        assert part is not None
        shares = [count / len(part) for count in counts(part.labels).values()]
        assert max(shares) - min(shares) < 0.015


def test_the_split_holds_the_proportions_of_unequal_classes() -> None:
    labels = np.repeat([0, 1, 2], [200, 80, 20])
    x = np.zeros((300, 8, 8, 1), np.uint8)
    data = npz(0.1, x_train=x, y_train=labels, x_test=x[:12])
    assert counts(data.val.labels) == {0: 20, 1: 8, 2: 2}
    assert counts(data.train.labels) == {0: 180, 1: 72, 2: 18}


def test_the_split_is_seeded_and_takes_every_image_once() -> None:
    x = np.zeros((60, 8, 8, 1), np.uint8)
    x[:, 0, 0, 0] = np.arange(60)
    first, again, other = (
        npz(0.2, seed, x_train=x, x_test=x[:12]).val.images[:, 0, 0, 0].tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    data = npz(0.2, x_train=x, x_test=x[:12])
    whole = torch.cat([data.train.images, data.val.images])[:, 0, 0, 0]
    assert sorted(whole.tolist()) == list(range(60))


def test_fingerprint_changes_with_data_or_seed_and_not_otherwise() -> None:
    base = npz().fingerprint
    assert npz().fingerprint == base
    Path("elsewhere").mkdir()
    shutil.copy("data.npz", "elsewhere/other.npz")
    assert read("cifar10", Path("elsewhere/other.npz"), 0.2).fingerprint == base
    assert read("npz", Path("data.npz"), size=99, test=0.5).fingerprint == base
    pixel = arrays()["x_train"].copy()
    pixel[7, 3, 3, 0] ^= 1
    labels = arrays()["y_train"].copy()
    labels[[0, 1]] = labels[[1, 0]]
    tested = arrays()["y_test"].copy()
    tested[[0, 1]] = tested[[1, 0]]
    changed = [
        npz(seed=1),
        npz(0.3),
        npz(x_train=pixel),
        npz(y_train=labels),
        npz(y_test=tested),
        npz(x_val=arrays()["x_test"], y_val=arrays()["y_test"]),
    ]
    assert len({base, *(data.fingerprint for data in changed)}) == len(changed) + 1


def test_subset_is_stratified_seeded_and_without_test() -> None:
    data = npz(train=300)
    small = data.subset(0.25, 0)
    assert counts(small.train.labels) == {0: 20, 1: 20, 2: 20}
    assert small.test is None
    assert small.val is data.val
    assert torch.equal(small.train.images, data.subset(0.25, 0).train.images)
    assert not torch.equal(small.train.images, data.subset(0.25, 1).train.images)
    assert data.subset(1, 0).train is data.train


# --- npz ------------------------------------------------------------------------------------------


def test_npz_in_every_shape_that_is_understood() -> None:
    grey = {k: v[..., 0] for k, v in arrays().items() if k.startswith("x_")}
    assert npz(**grey).task.input_shape == (1, 8, 8)
    column = {k: v[:, None] for k, v in arrays().items() if k.startswith("y_")}
    assert npz(**column).fingerprint == npz().fingerprint
    small = {k: v.astype(np.uint8) for k, v in arrays().items() if k.startswith("y_")}
    assert npz(**small).fingerprint == npz().fingerprint
    fortran = {k: np.asfortranarray(v) for k, v in arrays().items() if k.startswith("x_")}
    assert npz(**fortran).fingerprint == npz().fingerprint


def test_npz_brings_its_own_validation_split() -> None:
    own = arrays(test=9)
    data = npz(x_val=own["x_test"], y_val=own["y_test"])
    assert len(data.train) == 60
    assert torch.equal(data.val.images, torch.from_numpy(own["x_test"]))


def test_npz_names_its_classes() -> None:
    assert npz().classes == ("0", "1", "2")
    assert npz(names=np.array(["cat", "dog", "cow"])).classes == ("cat", "dog", "cow")


FLOAT = np.zeros((60, 8, 8, 3), np.float32)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"x_train": FLOAT}, "x_train must be uint8, not float32"),
        ({"x_train": FLOAT.astype(np.uint8).transpose(0, 3, 1, 2)}, r"1 or 3 channels.*3, 8, 8"),
        ({"x_train": np.zeros((60, 192), np.uint8)}, "1 or 3 channels"),
        ({"x_train": np.zeros((0, 8, 8, 3), np.uint8), "y_train": np.zeros(0, int)}, "integers"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test"),
        ({"x_test": np.zeros((12, 9, 9, 3), np.uint8)}, "test images differ in shape"),
        ({"x_test": np.zeros((12, 8, 8), np.uint8)}, "test images differ in shape"),
        ({"y_train": np.zeros(60)}, "y_train must be integers"),
        ({"y_train": np.zeros(60, bool)}, "y_train must be integers"),
        ({"y_train": np.full(60, "cat")}, "y_train must be integers"),
        ({"y_train": np.arange(59) % 3}, "y_train must be 60 integers"),
        ({"y_train": np.eye(3, dtype=int)[np.arange(60) % 3]}, r"shape \(60, 3\)"),
        ({"y_train": np.zeros(60, int)}, "at least two classes"),
        ({"y_train": np.arange(60) % 3 - 1}, "-1…1, out of range for 2 classes"),
        ({"y_train": np.full(60, 10**9)}, "label 1000000000; number classes from 0"),
        ({"y_test": np.arange(12)}, "y_test has labels 0…11, out of range for 3 classes"),
        ({"y_test": np.full(12, -1)}, "y_test has labels -1…-1"),
        ({"names": np.array(["a", "b"])}, "y_train has labels 0…2, out of range for 2 classes"),
        ({"names": np.array("a")}, "at least two classes"),
        ({"y_train": np.arange(60) // 59, "y_test": np.zeros(12, int)}, "class '1' has one image"),
        ({"x_test": None}, "lacks x_test"),
        ({"x_train": None, "y_train": None}, "lacks x_train, y_train"),
        ({"x_val": FLOAT.astype(np.uint8)}, "one of x_val and y_val without the other"),
        ({"x_val": FLOAT, "y_val": np.arange(60) % 3}, "x_val must be uint8"),
    ],
)
def test_npz_that_does_not_fit(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        npz(**changes)
    assert "dataset npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_npz_that_unpacks_to_what_no_images_would_is_not_unpacked() -> None:
    np.savez_compressed("bomb.npz", x_train=np.zeros((50_000, 64, 64), np.uint8))
    with pytest.raises(DataError, match=r"x_train\.npy unpacks [\d,]+ bytes to 2[\d,]+, which"):
        read("npz", Path("bomb.npz"), 0.2)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("key", ["x_train", "y_train", "names", "unrelated"])
def test_npz_is_never_unpickled(tmp_path: Path, key: str) -> None:
    marker = tmp_path / "executed"
    objects = np.array([Bomb(marker)] * 60, dtype=object)
    np.savez("data.npz", **{**arrays(), key: objects})
    try:
        read("npz", Path("data.npz"), 0.2)
    except DataError as error:
        assert "allow_pickle" in str(error)  # noqa: PT017
    else:
        assert key == "unrelated", "the array was accepted"
    assert not marker.exists()
    with np.load("data.npz", allow_pickle=True) as file:
        assert file[key] is not None  # the bomb is live
    assert marker.exists()


def test_a_pickle_called_npz_is_never_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    Path("data.npz").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(DataError, match="cannot be read"):
        read("npz", Path("data.npz"), 0.2)
    assert not marker.exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_cut_off_anywhere(save: Callable[..., None]) -> None:
    save("data.npz", **arrays())
    whole = Path("data.npz").read_bytes()
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        Path("data.npz").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"data\.npz cannot be read") as caught:
            read("npz", Path("data.npz"), 0.2)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_wrong_bytes_is_refused_or_fits(save: Callable[..., None]) -> None:
    save("data.npz", **arrays())
    whole = Path("data.npz").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, len(whole), 10)] = rng.integers(0, 256, 10)
        Path("data.npz").write_bytes(damaged.tobytes())
        try:
            read("npz", Path("data.npz"), 0.2)
        except DataError:
            refused += 1
    assert refused > 90  # bytes that the checksums do not cover do no harm


def test_other_things_called_npz() -> None:
    with Path("one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    Path("folder.npz").mkdir()
    with zipfile.ZipFile("text.npz", "w") as archive:
        archive.writestr("x_train", "hello")
    for name in ("one.npz", "folder.npz", "text.npz", "absent.npz", "n" * 300 + ".npz"):
        with pytest.raises(DataError, match="dataset npz"):
            read("npz", Path(name), 0.2)


# --- image_folder ---------------------------------------------------------------------------------


def picture(
    path: Path, size: tuple[int, int] = (12, 12), mode: str = "RGB", value: int = 9
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value,) * len(mode) if len(mode) > 1 else value).save(path)


def folder(root: Path, per_class: int = 10, classes: str = "ab", **how: Any) -> None:
    for label, name in enumerate(classes):
        for i in range(per_class):
            picture(root / name / f"{i}.png", value=50 * label + i, **how)


def image_folder(root: Path = Path("images"), **how: Any) -> Data:
    return read("image_folder", root, 0.25, **how)


def test_one_folder_per_class() -> None:
    folder(Path("images"), 20, "bac")
    data = image_folder()
    assert data.classes == ("a", "b", "c")
    assert data.task.input_shape == (3, 12, 12)
    assert data.test is not None
    assert counts(data.test.labels) == {0: 4, 1: 4, 2: 4}
    assert counts(data.val.labels) == {0: 4, 1: 4, 2: 4}
    assert len(data.train) == 36
    for part in (data.train, data.val, data.test):  # the value says the class: b, a, c were written
        values = part.images[:, 0, 0, 0] // 50
        assert torch.equal(values, torch.tensor([1, 0, 2])[part.labels].to(torch.uint8))


def test_a_folder_too_large_for_memory_never_gets_there(monkeypatch: pytest.MonkeyPatch) -> None:
    folder(Path("images"), 20)
    inside = image_folder()
    monkeypatch.setattr(data_module, "_free", lambda device: 10)
    outside = image_folder()
    assert inside.fingerprint == outside.fingerprint
    for part in (outside.train, outside.val, outside.test):
        assert part is not None
        assert part.mapped


def test_grey_stays_grey_and_one_colour_image_makes_all_colour() -> None:
    folder(Path("images"), mode="L")
    assert image_folder().task.channels == 1
    picture(Path("images/a/0.png"), mode="RGB")
    assert image_folder().task.channels == 3


def test_alpha_is_dropped_and_formats_may_be_mixed() -> None:
    folder(Path("images"))
    picture(Path("images/a/x.PNG"), mode="RGBA")
    picture(Path("images/a/x.jpg"))
    picture(Path("images/a/x.gif"), mode="L")
    data = image_folder()
    assert data.task.channels == 3
    assert len(data.train) + len(data.val) + len(data.test or []) == 23


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    folder(Path("images"), mode="L")
    ramp = (np.arange(144).reshape(12, 12) * 256).astype(np.uint16)
    Image.fromarray(ramp).save("images/a/0.png")
    found = ImageFolder(Path("images"), test=0.5).read()
    seen = [image for part in (found.train, found.test) for image in part[0]]
    assert any(np.array_equal(image, ramp >> 8) for image in seen)


def test_mixed_sizes_need_a_size() -> None:
    folder(Path("images"))
    picture(Path("images/a/0.png"), (30, 20))
    with pytest.raises(DataError, match=r"2 sizes; choose one with --set dataset\.size"):
        image_folder()
    assert image_folder(size=16).task.input_shape == (3, 16, 16)


def test_large_images_need_a_size() -> None:
    folder(Path("images"), 4, size=(300, 300))
    with pytest.raises(DataError, match=r"300.* pixels; choose one with --set dataset\.size"):
        image_folder()
    assert image_folder(size=8, test=0.25).task.input_shape == (3, 8, 8)


def test_a_wide_image_is_cut_in_its_centre() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save("wide.png")
    assert decoding.decode([Path("wide.png")], (10, 10), "RGB")[0].min() == 200
    assert decoding.decode([Path("wide.png")], (5, 5), "RGB")[0].shape == (1, 5, 5, 3)


def test_no_shape_is_cut_beyond_its_edge() -> None:
    for width, height, size in [(27, 35, 26), (56, 42, 18), (34, 25, 11), (29, 46, 14)]:
        picture(Path("odd.png"), (width, height))
        assert decoding.decode([Path("odd.png")], (size, size), "L")[0].shape == (1, size, size)


@pytest.mark.parametrize("parts", [("train",), ("train", "val"), ("train", "val", "test")])
def test_train_val_and_test_folders(parts: tuple[str, ...]) -> None:
    sizes = {"train": 20, "val": 3, "test": 2}
    for part in parts:
        folder(Path("images", part), sizes[part])
    data = image_folder()
    assert data.classes == ("a", "b")
    test = 4 if "test" in parts else 8  # else a fifth of the training images
    left = 40 if "test" in parts else 32
    val = 6 if "val" in parts else left // 4
    assert data.test is not None
    assert (len(data.test), len(data.val)) == (test, val)
    assert len(data.train) == (left if "val" in parts else left - val)


def test_hidden_files_are_not_there() -> None:
    folder(Path("images"))
    before = image_folder().fingerprint
    for name in ("a/.DS_Store", "a/._0.png", "a/notes.txt", ".git/HEAD", "readme.md"):
        Path("images", name).parent.mkdir(exist_ok=True)
        Path("images", name).write_bytes(b"no image")
    assert image_folder().fingerprint == before


def test_a_class_folder_without_images() -> None:
    folder(Path("images"))
    Path("images/empty").mkdir()
    with pytest.raises(DataError, match="images/empty: the class folder holds no images"):
        image_folder()


def test_a_class_that_only_one_split_has() -> None:
    folder(Path("images/train"), classes="ab")
    folder(Path("images/test"), classes="abz")
    with pytest.raises(DataError, match="images/test/z: no such class among the training"):
        image_folder()
    shutil.rmtree("images/test/z")
    shutil.rmtree("images/test/b")
    with pytest.raises(DataError, match="test: no image is of class 'b'"):
        image_folder()


@pytest.mark.parametrize("classes", ["", "a"])
def test_fewer_than_two_classes(classes: str) -> None:
    Path("images").mkdir()
    folder(Path("images"), classes=classes)
    with pytest.raises(DataError, match="images needs a folder per class, at least two"):
        image_folder()


def test_no_folder() -> None:
    Path("file").write_text("")
    for name in ("nowhere", "file", "n" * 300):
        with pytest.raises(DataError, match=f"dataset image_folder: .*{name[:9]}"):
            image_folder(Path(name))


def test_too_few_images_to_split() -> None:
    folder(Path("images"), 1)
    with pytest.raises(DataError, match=r"dataset\.test: cannot hold out a test split"):
        image_folder()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp"])
def test_a_broken_image_is_named(suffix: str) -> None:
    folder(Path("images"))
    broken = Path(f"images/b/broken.{suffix}")
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(broken)
    whole = broken.read_bytes()
    for data in (b"", b"no image at all", whole[:30], whole[: len(whole) // 2]):
        broken.write_bytes(data)
        with pytest.raises(DataError, match=rf"strict, .* 1 broken \(b/broken\.{suffix}\)") as e:
            image_folder(strict=True)
        assert "\n" not in str(e.value)


def test_an_image_that_claims_to_be_enormous() -> None:
    folder(Path("images"))
    picture(Path("images/a/0.bmp"))
    header = bytearray(Path("images/a/0.bmp").read_bytes())
    header[18:26] = (100_000).to_bytes(4, "little") * 2
    Path("images/a/0.bmp").write_bytes(header)
    assert image_folder().notes[-1] == "skipped 1 file: 1 broken (a/0.bmp)"


# --- torchvision, without a network ---------------------------------------------------------------


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download fails at once: the proxy is a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, closed)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("mnist", "train-images-idx3-ubyte"),
        ("fashion_mnist", "train-images-idx3-ubyte"),
        ("svhn", "train_32x32.mat"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_no_network(tmp_path: Path, name: str, file: str, there: bool) -> None:
    path = Path("some/data")
    if there:
        path.mkdir(parents=True)
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        read(name, path, 0.1)
    assert time.perf_counter() - start < 30  # importing torchvision takes most of it
    message = str(caught.value)
    for part in (str(tmp_path / path), file, "--set dataset.path=FOLDER", "download failed"):
        assert part in message
    assert "\n" not in message
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")]
    assert sorted(left) == (["some", "some/data"] if there else [])


@pytest.mark.usefixtures("_offline")
def test_the_users_files_stay_when_a_download_fails() -> None:
    Path("data").mkdir()
    Path("data/mine.txt").write_text("precious")
    with pytest.raises(DataError):
        read("mnist", Path("data"), 0.1)
    assert [p.name for p in Path("data").rglob("*")] == ["mine.txt"]


def test_cifar10_from_its_files() -> None:
    """Files as torchvision unpacks them, with their real names and our own contents."""
    from torchvision.datasets import CIFAR10

    root = Path("data", CIFAR10.base_folder)
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    rows = {name: rng.integers(0, 256, (20, 3072), dtype=np.uint8) for name in names}
    for name in names:
        entry = {"data": rows[name], "labels": [i % 10 for i in range(20)]}
        (root / name).write_bytes(pickle.dumps(entry))
    meta = {"label_names": [f"class {i}" for i in range(10)]}
    (root / CIFAR10.meta["filename"]).write_bytes(pickle.dumps(meta))
    with pytest.MonkeyPatch.context() as patch:  # the checksums are those of the real contents
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        data = read("cifar10", Path("data"), 0.2)
    assert (len(data.train), len(data.val), len(data.test or [])) == (80, 20, 20)
    assert data.classes[3] == "class 3"
    assert data.task.input_shape == (3, 32, 32)
    first = rows["test_batch"][0].reshape(3, 32, 32).transpose(1, 2, 0)
    assert data.test is not None
    assert torch.equal(data.test.images[0], torch.from_numpy(first.copy()))


def test_split_refuses_what_no_loader_should_give() -> None:
    x = np.zeros((20, 8, 8, 3), np.uint8)
    y = np.arange(20) % 2
    with pytest.raises(DataError, match="here: x_test must be uint8"):
        split(Arrays((x, y), (x.astype(float), y)), 0.2, 0, "here")


# --- options, and data sets of one's own ----------------------------------------------------------

MINE = '''
from pathlib import Path
import numpy as np
from evonas import Arrays, DataError, Dataset, OptionError

class Mine(Dataset):
    """Stripes, as many as asked for."""

    def __init__(self, path: Path, seed: int, stripes: int = 2, fault: str = ""):
        self.path, self.seed, self.stripes, self.fault = path, seed, stripes, fault
        if fault == "option":
            raise OptionError("stripes", "are too many")

    def read(self):
        if self.fault == "code":
            raise KeyError("nothing")
        if self.fault == "data":
            raise DataError(f"no file {self.path}")
        if self.fault == "system":
            open(self.path / "absent")
        x = np.full((20, 8, 8), self.seed, np.uint8)
        y = np.arange(20) % self.stripes
        return Arrays((x, y), (x, y))
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Registry:
    folder = tmp_path / "plugins" / "datasets"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(MINE)
    return Registry((tmp_path / "plugins",))


def mine(registry: Registry, **keys: Any) -> Data:
    return load_from(registry, name="mine", validation=0.2, **keys)


def load_from(registry: Registry, **keys: Any) -> Data:
    section = DatasetSection(**keys)
    return load(section, bind(registry, "dataset", section, "dataset"))


def test_a_plugin_is_given_the_keys_of_the_section_that_it_asks_for(plugins: Registry) -> None:
    data = mine(plugins, seed=7, stripes=4)
    assert data.task.input_shape == (1, 8, 8)
    assert data.task.classes == 4
    assert int(data.train.images[0, 0, 0, 0]) == 7
    assert mine(plugins, size=16).task.input_shape == (1, 16, 16), "it asks for no size"


def test_an_npz_is_a_plugins_own_to_read(plugins: Registry) -> None:
    np.savez("data.npz", **arrays())
    assert mine(plugins, path=Path("data.npz")).task.input_shape == (1, 8, 8)
    assert read("digits", Path("data.npz")).task.input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("fault", "error", "complaint"),
    [
        ("option", RecipeError, "dataset.stripes: are too many"),
        ("data", DataError, "dataset mine: no file .*/data"),
        ("system", DataError, "dataset mine: .*/data/absent: No such file or directory"),
        ("code", PluginError, "mine:Mine cannot be read: KeyError: 'nothing'"),
    ],
)
def test_a_plugins_faults_are_its_own(
    plugins: Registry, fault: str, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint) as caught:
        mine(plugins, fault=fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (
            {"name": "digits", "pth": "x"},
            r"dataset\.pth: unknown key\. Did you mean 'path'\? Known: ",
        ),
        ({"name": "digits", "shape": 3}, "unknown key. Known: test, seed, path, size, validation"),
        ({"name": "mine", "stripe": 3}, "dataset.stripe: unknown key. Did you mean 'stripes'"),
        ({"name": "mine", "stripes": True}, "dataset.stripes: must not be true"),
        ({"name": "mine", "stripes": "three"}, "dataset.stripes: .* valid integer.*'three'"),
    ],
)
def test_unknown_options_are_refused(
    plugins: Registry, keys: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load_from(plugins, **keys)


def test_unknown_data_sets_are_answered_with_the_nearest(plugins: Registry) -> None:
    with pytest.raises(UnknownComponent, match=r"unknown data set 'mime'\. Did you mean 'mine'\?"):
        load_from(plugins, name="mime")
    with pytest.raises(
        UnknownComponent, match=r"'cifar'\. Did you mean 'cifar10+'\? Known: cifar10, "
    ):
        load(DatasetSection(name="cifar"))
