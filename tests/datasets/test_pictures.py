"""Pictures as people have them: their folders, their lists, their files."""

from __future__ import annotations

import io
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from evonas.__main__ import main
from evonas.datasets.base import load
from evonas.datasets.parts.images import scaled
from evonas.errors import DataError
from evonas.recipe.schema import DatasetSection
from evonas.training.data import Data

NOISE = np.random.default_rng(0)


def pictures(folder: str, count: int = 10, value: int = 60, **how: Any) -> None:
    """Noisy pictures of one brightness, no two alike."""
    place, start = Path(folder), len(list(Path(folder).glob("*"))) if Path(folder).exists() else 0
    place.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        picture(place / f"{number:03}.png", value, **how)


def picture(path: Path, value: int = 60, size: tuple[int, int] = (12, 12), **how: Any) -> None:
    pixels = NOISE.normal(value, 9, (*size[::-1], 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, **how)


def read(path: str = "images", **how: Any) -> Data:
    section = {"name": "image_folder", "path": path, "validation": 0.25, **how}
    return load(DatasetSection.model_validate(section))


def sizes(data: Data) -> tuple[int, ...]:
    return tuple(len(part) for part in (data.train, data.val, data.test) if part)


def total(data: Data) -> int:
    return sum(sizes(data))


# --- layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("train", "validation", "test"),
        ("train", "dev", "test"),
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
    ],
)
def test_folders_of_the_splits(names: tuple[str, ...]) -> None:
    for split, count in zip(names, (20, 10, 5), strict=True):
        pictures(f"images/{split}/cat", count)
        pictures(f"images/{split}/dog", count, 150)
    data = read()
    assert sizes(data) == (40, 20, 10)
    assert data.classes == ("cat", "dog")


def test_a_class_may_be_called_as_a_split_is() -> None:
    for number, name in enumerate(("bus", "car", "train")):
        pictures(f"images/{name}", value=60 + 60 * number)
    data = read()
    assert data.classes == ("bus", "car", "train")
    assert total(data) == 30
    pictures("images/train/steam")  # and have subfolders, as other classes may
    assert read().classes == ("bus", "car", "train")


def test_pictures_in_subfolders_belong_to_the_class() -> None:
    for label, name in enumerate(("cat", "dog")):
        pictures(f"images/{name}", 6, 60 + 90 * label)
        pictures(f"images/{name}/monday", 20, 60 + 90 * label)
        pictures(f"images/{name}/monday/morning", 2, 60 + 90 * label)
    data = read()
    assert total(data) == 56
    for part in (data.train, data.val, data.test):
        assert part is not None
        assert ((part.images.float().mean((1, 2, 3)) > 100) == (part.labels == 1)).all()


def test_one_split_twice_is_refused() -> None:
    for split in ("train", "val", "valid"):
        pictures(f"images/{split}/cat")
        pictures(f"images/{split}/dog")
    with pytest.raises(DataError, match=r"images/valid: val is there too; which is the split\?"):
        read()


def test_splits_without_training_images_are_refused() -> None:
    for split in ("val", "test"):
        pictures(f"images/{split}/cat")
        pictures(f"images/{split}/dog")
    with pytest.raises(DataError, match="images has test, val, but no train folder"):
        read()


def test_what_lies_beside_is_said() -> None:
    for split in ("train", "val"):
        pictures(f"images/{split}/cat")
        pictures(f"images/{split}/dog")
    pictures("images/test", 3)  # of a competition, without labels
    pictures("images/raw", 2)
    pictures("images/train", 1)
    said = str(read())
    assert "skipped 6 files: 3 without a class (test/000.png, test/001.png, test/002.png); " in said
    assert "2 beside the splits' folders (raw/000.png, raw/001.png)" in said
    assert "1 outside the class folders (train/002.png)" in said


def listed(name: str, header: str, rows: list[str]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("\n".join([header, *rows]))


@pytest.mark.parametrize("header", ["path,label", "file_name,class", "Filename, Category"])
def test_a_list_of_paths_and_labels(header: str) -> None:
    pictures("images/files", 24)
    rows = [f"files/{n:03}.png,{('cat', 'dog')[n % 2]}" for n in range(24)]
    listed("images/any name.csv", header, rows)
    data = read("images/any name.csv")
    assert data.classes == ("cat", "dog")
    assert total(data) == 24
    shutil.move("images/any name.csv", "images/metadata.csv")
    assert read().fingerprint == data.fingerprint


def test_a_list_may_say_the_splits() -> None:
    pictures("images", 24)
    names = ("train", "Train", "validation", "test")
    rows = [f"{n:03}.png,{('cat', 'dog')[n // 12]},{names[n % 4]}" for n in range(24)]
    listed("images/metadata.csv", "file_name,label,split", rows)
    assert sizes(read()) == (12, 6, 6)
    listed("images/metadata.csv", "file_name,label,split", [*rows, "000.png,cat,tested"])
    with pytest.raises(DataError, match=r"metadata\.csv: row 26: split 'tested' is none of train"):
        read()


@pytest.mark.parametrize("lists", ["one", "each"])
def test_lists_of_a_folder_a_split(lists: str) -> None:
    for split, count in (("train", 16), ("test", 8)):
        pictures(f"images/{split}", count)
        where = f"{split}/" if lists == "one" else ""
        rows = [f"{where}{n:03}.png,{('cat', 'dog')[n % 2]}" for n in range(count)]
        place = Path("images/metadata.csv" if lists == "one" else f"images/{split}/metadata.csv")
        before = place.read_text().splitlines()[1:] if place.exists() else []
        listed(str(place), "file_name,label", [*before, *rows])
    assert sizes(read()) == (12, 4, 8)


def test_lists_that_will_not_do() -> None:
    pictures("images", 8)
    rows = [f"{n:03}.png,{('cat', 'dog')[n % 2]}" for n in range(8)]
    listed("images/a.csv", "pixels,label", rows)
    with pytest.raises(DataError, match=r"a\.csv: no column of its header is a path; .*'path'"):
        read("images/a.csv")
    listed("images/a.csv", "path,label", [*rows, "007.png,"])
    with pytest.raises(DataError, match="row 10 lacks its label"):
        read("images/a.csv")
    Path("images/a.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(DataError, match="not a list in CSV"):
        read("images/a.csv")
    Path("images/a.csv").write_bytes(b"")
    with pytest.raises(DataError, match=r"no column .*\(there: none\)"):
        read("images/a.csv")
    listed("images/a.csv", "path,label", [*rows, "008.png,dog"])
    assert "1 listed but not there (008.png)" in str(read("images/a.csv"))


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    pictures("home/images/cat")
    pictures("home/images/dog")
    assert total(read("~/images")) == 20
    with pytest.raises(DataError, match=r"no folder .*/~no-such-user/images"):
        read("~no-such-user/images")


def test_a_list_may_name_what_cannot_be() -> None:
    for label in ("cat", "dog"):
        pictures(f"images/{label}", value=60 if label == "cat" else 150)
    rows = [f"{path},{path.split('/')[0]}" for path in _below("images")]
    rows += ["~no-such-user/0.png,cat", f"{300 * 'a'}.png,cat"]
    Path("images/metadata.csv").write_text("\n".join(["path,label", *rows]))
    data = read()
    assert total(data) == 20
    assert "2 listed but not there" in data.notes[-1]


def _below(folder: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(Path(folder).glob("*/*"))]


def test_pillow_may_raise_what_it_wants() -> None:
    for label in ("cat", "dog"):
        pictures(f"images/{label}")
    Path("images/cat/strange.dds").write_bytes(_dds(flags=2**27))
    whole = io.BytesIO()
    Image.new("RGB", (12, 12)).save(whole, "AVIF")
    Path("images/cat/torn.avif").write_bytes(whole.getvalue().replace(b"mdat", b"mdat\xff\xff"))
    data = read()
    assert total(data) == 20
    assert "skipped 2 files" in data.notes[-1]


def _dds(flags: int) -> bytes:
    """A picture of a pixel format that Pillow has not learnt."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "DDS")
    data = bytearray(file.getvalue())
    data[80:84] = flags.to_bytes(4, "little")
    return bytes(data)


def test_a_small_file_that_says_it_is_an_enormous_picture_is_passed_over() -> None:
    for label in ("cat", "dog"):
        pictures(f"images/{label}")
    Image.new("1", (8_000, 8_000)).save("images/cat/bomb.png")
    data = read()
    assert total(data) == 20
    assert "1 of more than 60 megapixels" in data.notes[-1]


def test_numbers_that_are_all_one_negative_number_are_black() -> None:
    assert not scaled(np.full((3, 3), -4.5, np.float32)).any()


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def _two_classes() -> None:
    pictures("images/cat")
    pictures("images/dog", value=150)


def alone(write: Callable[[Path], None], suffix: str = ".png") -> Data:
    """Ten times the same odd file in one of two classes."""
    for name in ("cat", "dog"):
        pictures(f"images/{name}", 0)
        for number in range(10):
            write(Path(f"images/{name}/{number}{suffix}"))
    return read(size=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(orientation: int) -> None:
    upright = np.zeros((12, 20, 3), np.uint8)
    upright[:6], upright[:, :4] = 200, 90
    # How a camera that was held so stores what is to be seen upright: the inverse of each turn.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("cat", "dog"):
        Path(f"images/{name}").mkdir(parents=True)
        for number in range(10):
            path = f"images/{name}/{number}.png"
            Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    data = read()
    assert "pictures of 20×12" in str(data)
    assert (data.train.images[0].numpy() == upright).all()


RAMP = np.linspace(0, 1, 144).reshape(12, 12)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 65535).astype(np.uint16),
        (RAMP * 4095).astype(np.uint16),
        (RAMP * 255).astype(np.int32),
        (RAMP * 100_000).astype(np.int32),
        (RAMP * 4000 - 2000).astype(np.int32),
        RAMP.astype(np.float32),
        (RAMP * 255).astype(np.float32),
        (RAMP * 7 - 3).astype(np.float32),
    ],
)
def test_more_than_eight_bits_are_scaled_by_their_range(values: np.ndarray) -> None:
    data = alone(lambda path: Image.fromarray(values).save(path), ".tif")
    assert data.task.channels == 1
    assert abs(data.train.images[0, ..., 0].numpy() - RAMP * 255).max() <= 1


def test_numbers_that_are_none_are_black() -> None:
    values = np.array([[0.5, np.nan, np.inf, 1.0]])
    assert scaled(values).tolist() == [[128, 0, 0, 255]]
    assert scaled(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "jpg"), ("P", "gif"), ("P", "png"), ("LA", "png"), ("RGBA", "webp"), ("1", "bmp")],
)
def test_modes_of_colour(mode: str, suffix: str) -> None:
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[:, 6:] = 255
    data = alone(lambda path: Image.fromarray(pixels).convert(mode).save(path), f".{suffix}")
    seen = data.train.images[0].float().mean(-1)
    assert seen[:, :4].max() < 40
    assert seen[:, 8:].min() > 215


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame(suffix: str) -> None:
    frames = [Image.new("RGB", (12, 12), (value,) * 3) for value in (200, 10, 20)]
    data = alone(
        lambda path: frames[0].save(path, save_all=True, append_images=frames[1:]), f".{suffix}"
    )
    assert data.train.images.min() > 180


@pytest.mark.usefixtures("_two_classes")
def test_what_is_no_picture_is_passed_over_and_said() -> None:
    before = read().fingerprint
    for number in range(5):
        Path(f"images/cat/IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    Path("images/dog/notes.pdf").write_bytes(b"%PDF-1.7")
    Path("images/dog/broken.jpg").write_bytes(b"")
    Path("images/dog/cut.png").write_bytes(Path("images/dog/000.png").read_bytes()[:-200])
    data = read()
    assert data.fingerprint == before
    said = str(data)
    assert "skipped 8 files: 5 HEIC without a reader (cat/IMG_0.HEIC, cat/IMG_1.HEIC, " in said
    assert "1 no picture (dog/notes.pdf)" in said
    assert "2 broken (dog/broken.jpg, dog/cut.png)" in said
    with pytest.raises(DataError, match="strict, but skipped 8 files: ") as caught:
        read(strict=True)
    for name in ("cat/IMG_4.HEIC)", "dog/cut.png)", "(dog/notes.pdf)"):
        assert name in str(caught.value)


@pytest.mark.usefixtures("_two_classes")
def test_a_picture_without_a_suffix_is_one() -> None:
    shutil.copy("images/dog/000.png", "images/dog/photo")
    assert total(read()) == 21


@pytest.fixture
def _odd_files(_two_classes: None) -> Iterator[None]:
    os.mkfifo("images/cat/pipe.png")
    Path("images/cat/nowhere.png").symlink_to("absent.png")
    Path("images/cat/circle").symlink_to("../cat", target_is_directory=True)
    Path("images/dog/itself").symlink_to("itself")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("images/dog/socket.png")
        yield


@pytest.mark.usefixtures("_odd_files")
def test_pipes_sockets_and_circles_of_links() -> None:
    data = read()
    assert total(data) == 20
    said = str(data)
    for reason in ("2 no regular file", "2 a link to nothing", "1 a link to a folder above it"):
        assert reason in said


@pytest.mark.usefixtures("_two_classes")
def test_links_to_pictures_and_folders_are_followed() -> None:
    pictures("elsewhere/more", 4)
    Path("images/cat/more").symlink_to(Path("elsewhere/more").absolute())
    Path("images/cat/one.png").symlink_to(Path("elsewhere/more/000.png").absolute())
    assert total(read()) == 25


@pytest.mark.usefixtures("_two_classes")
def test_folders_of_systems_and_tools_are_no_classes() -> None:
    for name in ("__MACOSX", ".git", "__pycache__"):
        Path("images", name).mkdir()
        Path("images", name, "x").write_text("")
    Path("images/cat/Thumbs.db").write_bytes(b"\xd0\xcf")
    data = read()
    assert data.classes == ("cat", "dog")
    assert "skipped" not in str(data)


@pytest.mark.usefixtures("_two_classes")
def test_a_class_of_one_picture_is_named() -> None:
    pictures("images/emu", 1)
    with pytest.raises(DataError, match=r"dataset\.test: .*class 'emu' has one image"):
        read()


def test_a_class_of_which_nothing_can_be_read_is_named() -> None:
    pictures("images/cat")
    Path("images/dog").mkdir()
    Path("images/dog/a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    complaint = r"dog: the class folder holds no images \(1 HEIC without a reader\)"
    with pytest.raises(DataError, match=complaint):
        read()


# --- what is said and kept ------------------------------------------------------------------------


@pytest.mark.usefixtures("_two_classes")
def test_one_sentence_says_what_was_found() -> None:
    picture(Path("images/cat/tall.jpg"), size=(10, 30))
    assert str(read(size=8)) == (
        "12 training, 4 validation, 5 test images of 8×8 colour; 2 classes: cat 11, dog 10; "
        "pictures of 12×12 to 10×30 pixels"
    )


def run_cli(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


RECIPE = """
name: mine
dataset: {name: image_folder, path: images, validation: 0.25}
space: {name: plain_cnn, max_depth: 1, max_width: 8}
strategy: random
evaluation: {name: train, epochs: 1, final_epochs: 1, batch_size: 8}
budget: {trials: 1}
tracking: {uri: "sqlite:///mlflow.db"}
"""


@pytest.mark.usefixtures("_two_classes")
def test_the_command_line_shows_the_data_and_the_run_keeps_the_test_files() -> None:
    Path("mine.yaml").write_text(RECIPE)
    code, output = run_cli("data", "mine.yaml", "--sheet", "sheet.png")
    assert code == 0, output
    assert output.startswith("12 training, 4 validation, 4 test images of 12×12 colour; 2 classes")
    assert "cat         6           2     2" in output
    with Image.open("sheet.png") as sheet:
        assert min(sheet.size) > 100
    code, output = run_cli("run", "mine.yaml", "--run-dir", "out")
    assert code == 0, output
    assert "data: 12 training, 4 validation, 4 test images" in output
    names = Path("out/test_images.txt").read_text().splitlines()
    assert len(names) == len(set(names)) == 4
    assert all(Path("images", name).is_file() for name in names)


def test_a_recipe_without_data_has_nothing_to_show() -> None:
    Path("mine.yaml").write_text(RECIPE.replace("dataset: {", "# {"))
    code, output = run_cli("data", "mine.yaml")
    assert code == 2
    assert "dataset: the recipe has none" in output
