"""Files that are written wholly or not at all, and believed when they are whole; the one lock."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from evonas.errors import StorageError

Shape = TypeVar("Shape")


def write(path: Path, data: bytes) -> None:
    """Write a file: after a crash it is the old one or the new one, and on the disk.

    Raises:
        OSError: If the disk does not take it; the old file is as it was.
    """
    draft = path.with_suffix(".tmp")  # the same each time, so that kills leave no more than one
    try:
        with open(draft, "wb", opener=_not_through_links) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _not_through_links(path: str, flags: int) -> int:
    """Open a file, but not where somebody has laid a link in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def store(path: Path, text: str) -> None:
    """``write`` a text; StorageError if the disk does not take it.

    Half a surrogate, as names that are not UTF-8 leave in a text, is written as an escape.
    """
    with blamed(path):
        write(path, text.encode(errors="backslashreplace"))


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Whatever the system refuses inside is StorageError, and names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def load(path: Path, shape: type[Shape]) -> Shape | None:
    """What a file of ours says in JSON; None if there is none.

    Args:
        path: The file.
        shape: What it holds, as pydantic checks it: a dataclass, ``dict[str, float]``, …

    Raises:
        StorageError: If it cannot be read, or holds something else.
    """
    try:
        # Not pydantic's own parser, which takes no half surrogates: texts of errors may have some.
        content = json.loads(path.read_bytes())
        found: Shape = _reader(shape).validate_python(content)  # type: ignore[arg-type]
        return found
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StorageError(f"{path}: is damaged: {mistake(error)}") from error
    except (ValueError, RecursionError) as error:  # no JSON
        raise StorageError(f"{path}: is damaged: {error}") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


@cache
def _reader(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def mistake(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, and where."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for, and hold, the lock of a file; the system frees it should the process die."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
