"""Which files are the pictures, and of which class and split: by folders, or by a list."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evonas.datasets.base import line
from evonas.datasets.parts.images import Header, Unreadable, header
from evonas.errors import DataError

SPLITS: Mapping[str, tuple[str, ...]] = {  # Folders and rows of a list are called so, in any case.
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
LIST = "metadata.csv"  # The list of a folder of pictures has this name.
_COLUMNS: Mapping[str, tuple[str, ...]] = {  # The first of these in the header is taken.
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image"),
    "label": ("label", "class", "category", "target", "class_name", "label_name"),
    "split": ("split", "subset", "partition", "set"),
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
_SHOWN = 3  # So many of the skipped files are named for each reason.


@dataclass
class Picture:
    """A file that is a picture, as far as its first bytes tell; it may be put in another split."""

    path: Path
    label: str
    split: str
    header: Header


@dataclass(frozen=True)
class Listing:
    """The pictures under a folder, and the files that were passed over.

    Attributes:
        root: The folder, or that of the list.
        pictures: In the order of their paths, split by split; or as listed.
        skipped: Why each other file was passed over.
    """

    root: Path
    pictures: list[Picture] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)

    def part(self, split: str) -> list[Picture]:
        """Those of a split."""
        return [picture for picture in self.pictures if picture.split == split]

    def add(self, path: Path, label: str, split: str) -> None:
        """Take a file in, if it is a picture."""
        try:
            self.pictures.append(Picture(path, label, split, header(path)))
        except Unreadable as error:
            self.skipped[path] = error.reason

    def name(self, path: Path) -> str:
        """A path below the root, from there; another, whole."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def sentence(self, shown: int | None = _SHOWN) -> str:
        """What was passed over, and why: empty if nothing was.

        Args:
            shown: How many files are named for each reason; None: all.
        """
        if not self.skipped:
            return ""
        reasons = Counter(self.skipped.values())
        phrases = []
        for reason, count in reasons.most_common():
            names = [self.name(path) for path, why in self.skipped.items() if why == reason]
            rest = ", …" if shown is not None and count > shown else ""
            phrases.append(f"{count} {reason} ({', '.join(names[:shown])}{rest})")
        plural = "s" if len(self.skipped) > 1 else ""
        return f"skipped {len(self.skipped)} file{plural}: {'; '.join(phrases)}"


def listed(root: Path) -> Listing:
    """Find the pictures.

    Args:
        root: A folder with a folder per class, or with one per split that has these; a CSV file; or
            a folder with one that is called ``metadata.csv``, or one in each split's folder.

    Raises:
        DataError: If there is no such folder, or it is not clear what is meant.
    """
    if root.is_file():
        return _rows(Listing(root.parent), root)
    if not root.is_dir():
        raise DataError(f"no folder {root}; --set dataset.path=FOLDER")
    if (root / LIST).is_file():
        return _rows(Listing(root), root / LIST)
    listing, folders = Listing(root), _split_folders(root)
    for split, folder in folders.items():
        if (folder / LIST).is_file():
            _rows(listing, folder / LIST, split)
        else:
            _classes(listing, folder, split)
    for beside in _folders(root) if root not in folders.values() else ():
        if beside not in folders.values():
            reason = "without a class" if _split_of(beside) else "beside the splits' folders"
            listing.skipped.update((path, reason) for path in _files(beside, listing))
    return listing


def files_under(root: Path) -> tuple[list[Path], dict[Path, str]]:
    """The regular files of a folder, at any depth, and why what else is there was passed over."""
    listing = Listing(root)
    return list(_files(root, listing)), listing.skipped


def _split_of(folder: Path) -> str | None:
    return _SPLIT_OF.get(folder.name.lower())


def _split_folders(root: Path) -> dict[str, Path]:
    """The splits' folders; the root alone, as the training images', if it has a folder per class.

    A class may be called as a split is: it has no folder per class.
    """
    children, folders = _folders(root), dict[str, Path]()
    for folder in children:
        split = _split_of(folder)
        if split is None or not (_folders(folder) or (folder / LIST).is_file()):
            continue
        if split in folders:
            raise DataError(f"{folder}: {folders[split].name} is there too; which is the split?")
        folders[split] = folder
    named = all(map(_split_of, children))
    if folders and "train" not in folders and named:
        raise DataError(f"{root} has {', '.join(f.name for f in children)}, but no train folder")
    # Beside nothing but classes, one called "train" that has subfolders is a class itself.
    return folders if "train" in folders and (named or len(folders) > 1) else {"train": root}


def _classes(listing: Listing, root: Path, split: str) -> None:
    """The pictures of a folder per class, however deep they lie."""
    for folder in _folders(root):
        before = len(listing.pictures), len(listing.skipped)
        for path in _files(folder, listing):
            listing.add(path, folder.name, split)
        if len(listing.pictures) == before[0]:
            reasons = Counter(list(listing.skipped.values())[before[1] :])
            why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            raise DataError(
                f"{folder}: the class folder holds no images" + (f" ({why})" if why else "")
            )
    loose = (path for path in sorted(root.iterdir()) if path.is_file() and not _hidden(path))
    for path in loose:
        try:
            header(path)
        except Unreadable:  # a readme, a licence: nobody misses these
            continue
        listing.skipped[path] = "outside the class folders"


def _hidden(path: Path) -> bool:
    """Whether it is a system's or a tool's: ``.git``, ``__MACOSX``, ``__pycache__``, Thumbs.db."""
    return path.name.startswith((".", "__")) or path.name in ("Thumbs.db", "desktop.ini")


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _hidden(path))


def _files(root: Path, listing: Listing, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Regular files at any depth; links to folders are followed, but not in circles."""
    above |= {root.resolve()}
    for path in sorted(root.iterdir()):
        if _hidden(path):
            continue
        if path.is_file():
            yield path
        elif not path.is_dir():
            listing.skipped[path] = "a link to nothing" if path.is_symlink() else "no regular file"
        elif path.resolve() in above:
            listing.skipped[path] = "a link to a folder above it"
        else:
            yield from _files(path, listing, above)


def _rows(listing: Listing, path: Path, split: str | None = None) -> Listing:
    """The pictures of a list with a header; paths in it are relative to its folder.

    Args:
        listing: They are added to it.
        path: The list.
        split: Of all rows; None: a column says it, or the folder that a path begins with, or all
            are training images.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = _columns(path, reader.fieldnames or ())
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a list in CSV ({line(error)})") from error
    for number, row in enumerate(rows, start=2):
        name, label = ((row[columns[key]] or "").strip() for key in ("path", "label"))
        if not name or not label:
            raise DataError(f"{path}: row {number} lacks its {'label' if name else 'path'}")
        file_path = path.parent / os.path.expanduser(name)
        own = split or _split_of_row(path, number, row.get(columns.get("split", "")), name)
        if os.path.isfile(file_path):  # which bears names that no file may have
            listing.add(file_path, label, own)
        else:
            listing.skipped[file_path] = "listed but not there"
    return listing


def _columns(path: Path, header_row: Sequence[str]) -> dict[str, str]:
    """The columns' names in the list, by what they hold."""
    names = {name.strip().lower(): name for name in reversed(header_row) if name}
    columns = {}
    for key, known in _COLUMNS.items():
        if found := [names[name] for name in known if name in names]:
            columns[key] = found[0]
        elif key != "split":
            raise DataError(
                f"{path}: no column of its header is a {key}; call one {known[0]!r} "
                f"(there: {', '.join(header_row) or 'none'})"
            )
    return columns


def _split_of_row(path: Path, number: int, value: str | None, name: str) -> str:
    if value and value.strip():
        if (split := _SPLIT_OF.get(value.strip().lower())) is None:
            raise DataError(f"{path}: row {number}: split {value!r} is none of train, val, test")
        return split
    first = Path(name).parts[0].lower() if len(Path(name).parts) > 1 else ""
    return _SPLIT_OF.get(first, "train")
