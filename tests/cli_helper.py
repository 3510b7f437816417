"""The command line in this process, on a tiny recipe, ``r.yaml`` in the working directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from evonas.__main__ import main

RECIPE = """
name: tiny
dataset: {name: digits, validation: 0.2}
space: {name: plain_cnn, max_depth: 1, max_width: 8}
strategy: {name: random}
evaluation: {name: train, epochs: 1, batch_size: 256}
budget: {trials: 1}
executor: {name: serial, device: cpu}
tracking: {name: console}
"""


STRATEGY = """
from evonas.strategies.random import RandomSearch

class Mine(RandomSearch):
    pass
"""


def plugin(
    text: str, name: str = "mine", folder: str = "plugins", kind: str = "strategies"
) -> None:
    path = Path(folder, kind, f"{name}.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def evonas(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*overrides: str, more: Sequence[str | Path] = ()) -> Result:
    return evonas("run", "r.yaml", *more, *(a for o in overrides for a in ("--set", o)))


@contextmanager
def nothing_written() -> Iterator[None]:
    """Everything under the working directory is as it was: names, sizes and times of change.

    Whoever holds a run folder writes its number into ``lock``; that changes nothing.
    """

    def seen() -> dict[str, tuple[int, int]]:
        found = {str(p): p.stat() for p in Path().rglob("*") if "__pycache__" not in p.parts}
        timeless = {p for p in found if Path(p).is_dir() or Path(p).name == "lock"}
        return {
            p: (0, 0) if p in timeless else (s.st_size, s.st_mtime_ns) for p, s in found.items()
        }

    before = seen()
    yield
    assert seen() == before


def refused(result: Result, code: int, complaint: str) -> None:
    """One line for the user and nothing else."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    lines = result.output.splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("evonas: ")
    assert complaint in lines[0]
    assert result.stderr == result.output, "it belongs on stderr"
