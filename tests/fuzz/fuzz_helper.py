"""Inputs of every kind, one after another, each within 2 s and 500 MB; and how they are made.

A target is a test that is given inputs. It passes if each ends well, or in an error of evonas's own
tree: the command line makes one line and an exit code of that.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from evonas.errors import EvonasError

ALL = int(os.environ.get("EVONAS_FUZZ", "0"))  # Inputs over all targets; 0: few, as a test.
_FEW = 50  # inputs a target
_SECONDS = 2.0  # of computing
_PATIENCE = 30.0  # seconds of waiting: the machine may be busy, but nothing may wait for ever
_BYTES = 500e6


class Count(NamedTuple):
    """What a target was given."""

    inputs: int
    seconds: float
    slowest: float
    largest: float


BUGS: dict = {}
COUNTS: dict[str, Count] = {}


class TooMuch(BaseException):
    """An input takes more time or memory than any may; no ``except`` of ours is to catch it."""


def target(share: float, **inputs: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Make a test of inputs.

    Args:
        share: Of all inputs, over all targets; the shares sum to 1.
        inputs: The test's arguments that are drawn; others are fixtures.
    """

    def decorate(test: Callable[..., None]) -> Any:
        name = test.__name__.removeprefix("test_")

        @functools.wraps(test)
        def once(*args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            before = COUNTS.get(name, Count(0, 0.0, 0.0, 0.0))
            seconds, size = 0.0, 0.0
            try:
              try:
                with _bounded() as spent:
                    test(*args, **kwargs)
              finally:
                  seconds, size = spent()
                  COUNTS[name] = Count(
                    before.inputs + 1,
                    before.seconds + time.perf_counter() - began,
                    max(before.slowest, seconds),
                    max(before.largest, size),
                )
            except BaseException as e:
                if not os.environ.get("FUZZ_COLLECT") or isinstance(e, KeyboardInterrupt): raise
                import traceback
                fr=[f for f in traceback.extract_tb(e.__traceback__) if "/evonas/" in f.filename] or traceback.extract_tb(e.__traceback__)
                key=f"{name} {type(e).__name__} {fr[-1].filename[-40:]}:{fr[-1].lineno} {fr[-1].name}"
                b=BUGS.setdefault(key,[0,"",""]); b[0]+=1
                if not b[1] or len(repr(kwargs))<len(b[1]): b[1]=repr(kwargs); b[2]=str(e)[:300]; b[3:]=["".join(traceback.format_exception(e)[-6:])]
            if size > _BYTES:
                if os.environ.get("FUZZ_COLLECT"): BUGS.setdefault(f"{name} MEM",[0,"",""])[1]=repr(kwargs)[:3000]+f" {size/1e6}"
                else: raise TooMuch(f"{size / 1e6:.0f} MB")

        number = max(_FEW, round(share * ALL))
        tried = settings(
            max_examples=number,
            derandomize=not ALL,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if not ALL else [Phase.generate, Phase.shrink],
        )
        return pytest.mark.fuzz(tried(given(**inputs)(once)))

    return decorate


@contextmanager
def _bounded() -> Iterator[Callable[[], tuple[float, float]]]:
    """Raise TooMuch in what takes too long; errors of ours are what a bad input should end in."""
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
    except EvonasError as error:
        assert str(error).strip(), f"{type(error).__name__} says nothing"
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


Edit = tuple[str, int, int, bytes, bytes]  # kind, place, length, bytes, word
Change = tuple[str, int, int, Any]  # kind, place, another place, something else
_PLACES = st.integers(0, 2**32 - 1)  # taken modulo a length
_WORDS = [b"\x00", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00" * 8, b"\x80", b"\n", b'"', b"{", b"["]
_EDITS = ("set", "flip", "insert", "delete", "repeat", "cut", "swap", "word")


def damaged(seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """One of the seeds with up to six edits."""
    return st.builds(damage, st.sampled_from(seeds), edits(words))


def edits(words: Sequence[bytes] = ()) -> st.SearchStrategy[list[Edit]]:
    """What ``damage`` does to bytes.

    Args:
        words: That mean something there, beside numbers on the edge.
    """
    edit = st.tuples(
        st.sampled_from(_EDITS),
        _PLACES,
        st.integers(1, 64),
        st.binary(min_size=1, max_size=8),
        st.sampled_from([*_WORDS, *words]),
    )
    return st.lists(edit, min_size=1, max_size=6)


def damage(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Bytes with edits, one after another."""
    for kind, place, length, new, word in edits:
        at = place % (len(data) + 1)
        match kind:
            case "set":
                data = data[:at] + new + data[at + len(new) :]
            case "flip":
                data = data[:at] + bytes(b ^ (1 << length % 8) for b in data[at : at + 1]) + data[at + 1 :]
            case "insert":
                data = data[:at] + new + data[at:]
            case "delete":
                data = data[:at] + data[at + length :]
            case "repeat":
                data = data[:at] + data[at : at + length] * (1 + place % 7) + data[at:]
            case "cut":
                data = data[:at]
            case "swap":
                data = data[at:] + data[:at] if place % 5 == 0 else data[:at] + data[at : at + length][::-1] + data[at + length :]
            case "word":
                data = data[:at] + word + data[at + (len(word) if place % 2 else 0) :]
    return data


_TEXTS = ["", " ", "x" * 2000, "ä", "\ud800", "\x00", "a\nb", "nan", "1e999", "../..", "%s", "{0}", "true", "/", "~", "module:Class", "os:system", "-1", "1"]
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 3, 255, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.integers(-10, 10_000),
    st.sampled_from([0.0, -0.0, 0.5, 1e-9, 1e9, 1e308, -1.5, float("inf"), float("nan")]),
    st.sampled_from(_TEXTS),
    st.text(max_size=12),
    st.sampled_from([[], {}, [[]], {"": {}}, [None], {"name": None}, {"name": "train"}, {"max": 1}]),
    st.lists(st.integers(-1, 5), max_size=4),
    st.dictionaries(st.sampled_from(["name", "of", "max", "min", "x"]), st.integers(0, 9), max_size=3),
)


def changed(seeds: Sequence[Any], junk: st.SearchStrategy[Any] = JUNK) -> st.SearchStrategy[Any]:
    """One of the seeds, plain data, with up to three changes somewhere within."""
    chosen = st.sampled_from(range(len(seeds))).map(seeds.__getitem__)
    return st.builds(change, chosen, changes(junk))


def changes(junk: st.SearchStrategy[Any] = JUNK) -> st.SearchStrategy[list[Change]]:
    """What ``change`` does to plain data."""
    one = st.tuples(
        st.sampled_from(["set", "set", "set", "drop", "copy", "rename", "wrap", "move"]),
        _PLACES,
        _PLACES,
        junk,
    )
    return st.lists(one, min_size=1, max_size=3)


def change(seed: Any, changes: Sequence[Change]) -> Any:
    """Plain data with changes, one after another."""
    value = [copy.deepcopy(seed)]  # so that the whole can be changed, too
    for kind, place, other, junk in changes:
        found = list(_inside(value))
        home, key = found[place % len(found)]
        giver, name = found[other % len(found)]
        match kind:
            case "set":
                home[key] = copy.deepcopy(junk)
            case "drop" if home is not value:
                del home[key]
            case "copy":
                home[key] = copy.deepcopy(giver[name])
            case "rename" if isinstance(home, dict):
                home[junk if isinstance(junk, str) else "new"] = home.pop(key)
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
