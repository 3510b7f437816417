"""Inputs of every kind, one after another, each within 2 s and 500 MB; and how they are made.

A target is a test that is given inputs. It passes if each ends well, or in an error of evonas's own
tree: the command line makes one line and an exit code of that.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import evonas
from evonas.errors import EvonasError

ALL = int(os.environ.get("EVONAS_FUZZ", "0"))  # Inputs over all targets; 0: few, as a test.
_FEW = 50  # inputs a target
_SECONDS = 2.0  # of computing
_PATIENCE = 300.0  # seconds, at a machine that may be busy: nothing may wait for ever
_BYTES = 500e6


class Count(NamedTuple):
    """What a target was given.

    Attributes:
        inputs: How many.
        seconds: Of all.
        slowest: Seconds of computing, of one.
        largest: Bytes of memory, of one, beyond what the process held.
    """

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    largest: float = 0.0


COUNTS: dict[str, Count] = {}


class TooMuch(BaseException):
    """An input takes more time or memory than any may; no ``except`` of ours is to catch it."""


def target(
    share: float, heavy: bool = False, **inputs: st.SearchStrategy[Any]
) -> Callable[[Any], Any]:
    """Make a test of inputs.

    Args:
        share: Of all inputs, over all targets; the shares sum to 1.
        heavy: Whether even a few inputs take minutes: the ordinary tests pass over it.
        inputs: The test's arguments that are drawn; others are fixtures.
    """

    def decorate(test: Callable[..., None]) -> Any:
        name = test.__name__.removeprefix("test_")

        @functools.wraps(test)
        def once(*args: Any, **kwargs: Any) -> None:
            began, before = time.perf_counter(), COUNTS.get(name, Count())
            with _bounded() as spent:
                try:
                    test(*args, **kwargs)
                except EvonasError as error:  # what a bad input should end in
                    if not str(error).strip():
                        raise ValueError("an error that says nothing") from error
                finally:
                    seconds, size = spent()
                    COUNTS[name] = Count(
                        before.inputs + 1,
                        before.seconds + time.perf_counter() - began,
                        max(before.slowest, seconds),
                        max(before.largest, size),
                    )
            if size > _BYTES:
                raise TooMuch(f"{size / 1e6:.0f} MB")

        number = max(_FEW, round(share * ALL))
        tried = settings(
            max_examples=number,
            derandomize=not ALL,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        skipped = pytest.mark.skipif(heavy and not ALL, reason="make fuzz runs it")
        here = pytest.mark.skipif(sys.platform != "linux", reason="memory is told as Linux does")
        return here(skipped(pytest.mark.fuzz(tried(given(**inputs)(once)))))

    return decorate


@contextmanager
def _bounded() -> Iterator[Callable[[], tuple[float, float]]]:
    """Raise TooMuch in what takes too long; gives what tells seconds and bytes that it took."""
    handlers = {
        signal.SIGPROF: (signal.ITIMER_PROF, _SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, _PATIENCE),
    }
    before = {number: signal.signal(number, _stop) for number in handlers}
    Path("/proc/self/clear_refs").write_text("5")  # begin to look for the peak anew
    memory, cpu = _peak(), time.process_time()
    for timer, limit in handlers.values():
        signal.setitimer(timer, limit)
    try:
        yield lambda: (time.process_time() - cpu, _peak() - memory)
    finally:
        for timer, _ in handlers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooMuch(signal.Signals(number).name)


def _peak() -> float:
    """Bytes of memory that this process held at most."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return 1024.0 * int(match[1])


Made = TypeVar("Made")


def made(make: Callable[[Random], Made]) -> st.SearchStrategy[Made]:
    """What a function makes of a generator.

    To draw every part from hypothesis takes ten times as long, and what fails is small enough.
    """
    return st.randoms(use_true_random=True).map(make)


Edit = tuple[str, int, int, bytes, bytes]  # kind, place, length, bytes, word
Change = tuple[str, int, int, Any]  # kind, place, another place, something else
_PLACES = 2**32  # taken modulo a length
_WORDS = [b"\x00", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00" * 8, b"\x80", b"\n", b'"', b"{", b"["]
_EDITS = ("set", "flip", "insert", "delete", "repeat", "cut", "turn", "word")


def damaged(seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """One of the seeds with edits."""
    return made(lambda rng: damage(rng.choice(seeds), edits(rng, words)))


def edits(rng: Random, words: Sequence[bytes] = ()) -> list[Edit]:
    """What ``damage`` does to bytes, up to six times.

    Args:
        rng: A generator.
        words: That mean something there, beside numbers on the edge.
    """
    return [
        (
            rng.choice(_EDITS),
            rng.randrange(_PLACES),
            rng.randint(1, 64),
            rng.randbytes(rng.randint(1, 8)),
            rng.choice([*_WORDS, *words]),
        )
        for _ in range(rng.randint(1, 6))
    ]


def damage(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Bytes with edits, one after another."""
    for kind, place, length, new, word in edits:
        at = place % (len(data) + 1)
        head, part, rest = data[:at], data[at : at + length], data[at + length :]
        match kind:
            case "set":
                data = head + new + data[at + len(new) :]
            case "flip":
                data = head + bytes(byte ^ 1 << length % 8 for byte in data[at : at + 1])
                data += (part + rest)[1:]
            case "insert":
                data = head + new + part + rest
            case "delete":
                data = head + rest
            case "repeat":
                data = head + part * (2 + place % 6) + rest
            case "cut":
                data = head
            case "turn":
                data = head + part[::-1] + rest
            case "word":
                data = head + word + data[at + (len(word) if place % 2 else 0) :]
    return data


_TEXTS = (
    *("", " ", "x" * 2000, "ä", "\ud800", "\x00", "a\nb", "nan", "1e999", "../..", "%s", "{0}"),
    *("true", "/", "~", "module:Class", "os:system", "-1", "1"),
)
_INTEGERS = (0, 1, -1, 2, 3, 255, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400)
_FLOATS = (0.0, -0.0, 0.5, 1e-9, 1e9, 1e308, -1.5, math.inf, math.nan)
_OTHERS = (None, [], {}, [[]], {"": {}}, [None], {"name": None}, {"name": "train"}, {"max": 1})


def junk(rng: Random) -> Any:
    """Any plain data."""
    match rng.randrange(8):
        case 0:
            return rng.choice((True, False))
        case 1:
            return rng.choice(_INTEGERS)
        case 2:
            return rng.randint(-10, 10_000)
        case 3:
            return rng.choice(_FLOATS)
        case 4:
            return rng.choice(_TEXTS)
        case 5:
            return text(rng, 12)
        case 6:
            return [rng.randint(-1, 5) for _ in range(rng.randint(0, 4))]
        case _:
            return copy.deepcopy(rng.choice(_OTHERS))


def text(rng: Random, longest: int, alphabet: str = "") -> str:
    """Any text, of plain letters, of the alphabet or of all of Unicode."""
    size = rng.randint(0, longest)
    if rng.randrange(4):
        return "".join(rng.choices(alphabet or "abcxyz_.-=:/ 0189\"'", k=size))
    return "".join(chr(rng.randrange(0x110000)) for _ in range(size))


def changed(seeds: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of the seeds, plain data, with changes somewhere within."""
    return made(lambda rng: change(rng.choice(seeds), changes(rng)))


def changes(rng: Random) -> list[Change]:
    """What ``change`` does to plain data, up to three times."""
    kinds = ("set", "set", "set", "drop", "copy", "rename", "wrap", "move")
    return [
        (rng.choice(kinds), rng.randrange(_PLACES), rng.randrange(_PLACES), junk(rng))
        for _ in range(rng.randint(1, 3))
    ]


def change(seed: Any, changes: Sequence[Change]) -> Any:
    """Plain data with changes, one after another."""
    value = [copy.deepcopy(seed)]  # so that the whole can be changed, too
    for kind, place, other, new in changes:
        found = list(_inside(value))
        home, key = found[place % len(found)]
        giver, name = found[other % len(found)]
        match kind:
            case "set":
                home[key] = copy.deepcopy(new)
            case "drop" if home is not value:
                del home[key]
            case "copy":
                home[key] = copy.deepcopy(giver[name])
            case "rename" if isinstance(home, dict):
                home[new if isinstance(new, str) else "new"] = home.pop(key)
            case "wrap":
                home[key] = [home[key]] if other % 2 else {"name": home[key]}
            case "move":
                home[key], giver[name] = copy.deepcopy(giver[name]), copy.deepcopy(home[key])
            case _:
                home[key] = None
    return value[0]


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in plain data: what holds it, and its key there."""
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        yield value, key
        if isinstance(value[key], list | dict):
            yield from _inside(value[key])


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended: searched, trained, audited."""
    place = tmp_path_factory.mktemp("small")
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 60), ("test", 12)):
        arrays[f"x_{part}"] = rng.integers(0, 255, (count, 8, 8, 1), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(place / "images.npz", **arrays)
    recipe = {
        "name": "small",
        "dataset": {"name": "npz", "path": str(place / "images.npz")},
        "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 8},
        "strategy": {"name": "aging_evolution", "population_size": 3, "tournament_size": 2},
        "evaluation": {"name": "train", "epochs": 1, "augmentation": "none"},
        "constraints": {"params": {"max": 20_000}},
        "budget": {"trials": 5},
        "audit": {"trials": 4},
        "executor": {"name": "serial", "isolate": False},
        "tracking": "console",
    }
    return evonas.run(recipe, run_dir=place / "run", plugins=(), show=False).folder


def lines() -> list[str]:
    """How many inputs there were: a line a target, and one for all."""
    said = [
        f"fuzz {name:<16} {count.inputs:>7,} inputs in {count.seconds:>6.1f} s; at most "
        f"{count.slowest:.2f} s and {count.largest / 1e6:.0f} MB each"
        for name, count in COUNTS.items()
    ]
    whole = sum(count.inputs for count in COUNTS.values())
    seconds = sum(count.seconds for count in COUNTS.values())
    return [*said, f"fuzz: {whole:,} inputs in {seconds:.0f} s"] if said else []
