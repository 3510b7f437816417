"""Data: arrays in .npz, folders of pictures, lists and tables in CSV and JSON, weights."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_helper import changed, damaged, target
from hypothesis import strategies as st
from PIL import ExifTags, Image

from evonas.commands.comparing import read_published
from evonas.datasets.image_folder import ImageFolder
from evonas.datasets.npz import Npz
from evonas.datasets.parts import images
from evonas.evaluators.base import Context
from evonas.evaluators.tabular import Tabular
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training import transfer
from evonas.training.checkpoints import BadWeights, Checkpoints, write_weights
from evonas.training.data import split


def _npz(arrays: dict[str, Any], pack: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if pack else np.savez)(file, **arrays)
    return file.getvalue()


IMAGES = {
    "x_train": np.arange(20 * 16, dtype=np.uint16).reshape(20, 4, 4, 1).astype(np.uint8),
    "y_train": np.arange(20) % 2,
    "x_test": np.zeros((4, 4, 4, 1), np.uint8),
    "y_test": np.arange(4) % 2,
    "names": np.array(["a", "b"]),
}


@target(0.005, data=damaged([_npz(IMAGES), _npz(IMAGES, True)]))
def test_npz_bytes(data: bytes) -> None:
    _load_npz(data)


DTYPES = ["u1", "i1", "i8", "u8", "f4", "f8", "c8", "?", "S3", "U3", "M8[s]", "V4", "O", "u1,i4"]
SHAPES = [
    (),
    (0,),
    (4,),
    (20,),
    (20, 1),
    (20, 4, 4),
    (20, 4, 4, 1),
    (20, 4, 4, 3),
    (20, 4, 4, 2),
    (0, 4, 4, 1),
    (20, 0, 4, 1),
    (20, 1, 1, 1),
    (1, 4, 4, 1),
    (20, 4, 4, 1, 1),
    (2, 5, 4, 1),
]


@st.composite
def _arrays(draw: st.DrawFn) -> bytes:
    arrays = dict(IMAGES)
    keys = [*IMAGES, "x_val", "y_val", "z"]
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4)):
        if draw(st.integers(0, 5)) == 0:
            arrays.pop(key, None)
            continue
        dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(SHAPES))
        number = draw(st.sampled_from([0, 1, 2, -1, 255, 2**31, 2**63 - 1, -(2**63)]))
        array = np.zeros(shape, dtype)
        if array.dtype.kind in "iuf?":
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array.flat[:: draw(st.integers(1, 3))] = np.array(number).astype(dtype)
        arrays[key] = array
    return _npz(arrays, draw(st.booleans()))


@target(0.005, data=_arrays())
def test_npz_arrays(data: bytes) -> None:
    _load_npz(data)


@functools.cache
def _bomb(method: int, size: int, claimed: tuple[int, ...]) -> bytes:
    """A file with a member of so many zero bytes, that says to be of a shape."""
    file, head = io.BytesIO(_npz(IMAGES)), io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": claimed}
    np.lib.format.write_array_header_1_0(head, about)
    with zipfile.ZipFile(file, "a", method) as archive:
        for name in ("x_val.npy", "y_val.npy"):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(head.getvalue())
                for _ in range(size // 10**6):
                    member.write(bytes(10**6))
    return file.getvalue()


BOMBS = st.one_of(
    st.tuples(
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
        st.sampled_from([0, 3 * 10**6]),
        st.sampled_from(
            [(10**15,), (2**62, 8), (-1,), (10**9, 4, 4, 1), (3 * 10**6,), (-(2**62), 16)]
        ),
    ),
    st.just((zipfile.ZIP_DEFLATED, 700 * 10**6, (700 * 10**6 // 16, 4, 4, 1))),
)


@target(0.0005, heavy=True, data=BOMBS.map(lambda bomb: _bomb(*bomb)))
def test_npz_bombs(data: bytes) -> None:
    _load_npz(data)


def _load_npz(data: bytes) -> None:
    Path("images.npz").write_bytes(data)
    split(Npz(Path("images.npz")).read(), 0.3, 0, "images.npz")


def _pictures() -> list[bytes]:
    colour = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = []
    for form in (
        "PNG",
        "JPEG",
        "BMP",
        "GIF",
        "WEBP",
        "TIFF",
        "PPM",
        "TGA",
        "ICO",
        "JPEG2000",
        "PCX",
        "DDS",
        "SGI",
        "ICNS",
        "IM",
        "MSP",
        "XBM",
        "SPIDER",
        "PDF",
        "EPS",
        "AVIF",
        "QOI",
    ):
        for mode in ("RGB", "L", "P", "1", "I;16", "F", "RGBA", "CMYK", "LA"):
            file = io.BytesIO()
            with suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                size = (16, 16) if form in ("ICO", "ICNS") else (8, 8)
                image = (
                    colour.convert("L").convert(mode)
                    if mode in ("I;16", "F")
                    else colour.convert(mode)
                )
                image.resize(size).save(
                    file,
                    form,
                    **(
                        {"exif": turned}
                        if mode == "RGB" and form in ("JPEG", "PNG", "WEBP")
                        else {}
                    ),
                )
                pictures.append(file.getvalue())
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        file = io.BytesIO()
        with suppress(Exception):
            colour.convert("1" if packing == "group4" else "RGB").save(
                file, "TIFF", compression=packing
            )
            pictures.append(file.getvalue())
    return pictures


PICTURES = _pictures()
GOOD = PICTURES[0]
WORDS = [
    b"\xff\xd8",
    b"\xff\xe1\x00\x10Exif\0\0",
    b"II*\0",
    b"MM\0*",
    b"IHDR",
    b"\0\0\xff\xff",
    b"RIFF",
    b"\x7f\xff",
]


@target(0.02, data=damaged(PICTURES, WORDS), mode=st.sampled_from(["L", "RGB"]))
def test_picture(data: bytes, mode: str) -> None:
    path = Path("picture.png")
    path.write_bytes(data)
    with suppress(images.Unreadable):
        images.header(path)
    decoded, unreadable = images.decode([path], (8, 8), mode)
    assert len(decoded) + len(unreadable) == 1


@functools.cache
def _enormous(form: str, mode: str, side: int, how: str) -> bytes:
    file, turned = io.BytesIO(), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    options = {
        "turned": {"exif": turned},
        "lzw": {"compression": "tiff_lzw"},
        "slow": {"progressive": True},
    }
    Image.new(mode, (side, side)).save(file, form, **options.get(how, {}))
    return file.getvalue()


ENORMOUS = st.sampled_from(
    [
        *(("PNG", mode, side, "") for mode in ("RGBA", "I;16", "P") for side in (7_700, 12_000)),
        *(("JPEG", mode, 7_700, how) for mode in ("RGB", "CMYK") for how in ("turned", "slow")),
        *(("GIF", "P", 7_700, ""), ("TIFF", "F", 6_300, "lzw"), ("WEBP", "RGB", 6_300, "")),
        ("JPEG2000", "RGB", 6_300, ""),
    ]
)


@target(0.0005, heavy=True, data=ENORMOUS.map(lambda picture: _enormous(*picture)))
def test_enormous_picture(data: bytes) -> None:
    Path("picture.png").write_bytes(data)
    images.decode([Path("picture.png")], (8, 8), "RGB")


NAMES = [
    "train",
    "val",
    "test",
    "a",
    "b",
    "metadata.csv",
    "TRAIN",
    ".git",
    "__MACOSX",
    "ä",
    "\udcff",
    "a\nb",
    " ",
    "a b",
    "con",
    "..a",
    "x.PNG",
    "-",
    "%s",
    "valid",
    "testing",
    "0",
    "z" * 200,
]


@target(
    0.002,
    places=st.lists(
        st.tuples(
            st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
            st.sampled_from(["picture", "folder", "text", "link", "loop", "fifo", "empty"]),
        ),
        max_size=12,
    ),
)
def test_folders(places: list[tuple[list[str], str]]) -> None:
    root = Path("folder")
    shutil.rmtree(root, ignore_errors=True)
    for parts, kind in [(["a", "0.png"], "picture"), (["b", "0.png"], "picture"), *places]:
        path = root.joinpath(*parts)
        with suppress(OSError):
            if path.exists() or path.is_symlink():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            match kind:
                case "picture":
                    path.write_bytes(GOOD)
                case "folder":
                    path.mkdir()
                case "text":
                    path.write_text("path,label\n0.png,a\n")
                case "link":
                    path.symlink_to("nowhere")
                case "loop":
                    path.symlink_to(root.absolute())
                case "fifo":
                    os.mkfifo(path)
                case "empty":
                    path.touch()
    split(ImageFolder(root, 4).read(), 0.3, 0, "folder")


LIST = b"path,label,split\n" + b"".join(
    b"%d.png,%c,%s\n" % (n, b"ab"[n % 2], s)
    for n, s in enumerate([b"train"] * 8 + [b"val"] * 2 + [b"test"] * 2)
)
LIST_WORDS = [
    b",",
    b'"',
    b"\r",
    b"split",
    b"path",
    b"label",
    b"valid",
    b"../",
    b"~root",
    b"/dev/zero",
    b"/dev/stdin",
    b"a" * 140000,
    b"\xef\xbb\xbf",
]


@target(
    0.1,
    data=damaged(
        [LIST, LIST.replace(b"\n", b"\r\n"), b"image,class\n0.png,a\n1.png,b\n" * 2], LIST_WORDS
    ),
)
def test_list(data: bytes) -> None:
    folder = Path("listed")
    if not folder.exists():
        folder.mkdir()
        for number in range(12):
            (folder / f"{number}.png").write_bytes(GOOD)
    (folder / "metadata.csv").write_bytes(data)
    split(ImageFolder(folder, 4).read(), 0.3, 0, "listed")


TABLE = {
    "4-8": {"val_accuracy": 0.5, "params": 10, "architecture": "4-8"},
    "8-8": {"val_accuracy": 0.6, "params": 12, "architecture": "8-8"},
}
TEXT = b"architecture,val_accuracy,params\n4-8,0.5,10\n8-8,0.6,12\n"


@target(
    0.08,
    table=changed([TABLE, list(TABLE.values())]),
    data=damaged([TEXT, json.dumps(TABLE).encode()]),
    kind=st.sampled_from(["json", "csv", "bytes"]),
)
def test_table(table: Any, data: bytes, kind: str) -> None:
    path = Path("table.csv" if kind == "csv" else "table.json")
    try:
        path.write_bytes(json.dumps(table).encode() if kind == "json" else data)
    except ValueError:
        return
    space = PlainCNN(max_depth=1, max_width=8)
    context = Context(space, None, "cpu", 0, Path("run"))
    made = Tabular(context, path, "{c1}-{c2}", {"val_accuracy": "val_accuracy", "params": "params"})
    point = space.architecture(
        {**{f"k{i}": 1 for i in range(1, 5)}, "c1": 4, "c2": 8, "c3": 8, "c4": 8}
    )
    with suppress(
        LookupError, ValueError, TypeError, OverflowError
    ):  # a trial that fails, which is data
        made._look_up(point, {"val_accuracy": "val_accuracy"})


PUBLISHED = b"source,name,params,test_accuracy\nHe,ResNet,1.7e6,0.7\nTan,Eff,5.3e6,0.77\n"


@target(0.06, data=damaged([PUBLISHED], [b"nan", b"inf", b"1e999", b'"', b"\r"]))
def test_published(data: bytes) -> None:
    Path("published.csv").write_bytes(data)
    read_published(Path("published.csv"), "test_accuracy")


def _weights() -> bytes:
    tensors = {"0.mean": torch.zeros(1), "0.std": torch.ones(1), "1.a": torch.ones(3)}
    about = {"trial": "0", "epochs": "1", "choices": "{}", "architecture": "x"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.safetensors")
        write_weights(path, tensors, about)
        return path.read_bytes()


@target(0.08, data=damaged([_weights()], [b'{"', b"F32", b"BF16", b"U64", b"__metadata__"]))
def test_weights(data: bytes) -> None:
    Path("trial_0.safetensors").write_bytes(data)
    with suppress(BadWeights):  # whoever reads them knows what to do without
        Checkpoints(Path(), 1).read(0)
    transfer.read("trial_0.safetensors")
