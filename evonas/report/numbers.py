"""Numbers as people read them: one style, with units that no line break parts from them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from evonas.architecture import Value

_GAP = "\N{NO-BREAK SPACE}"
_SHARES = ("accuracy", "f1", "top5", "top_5", "acceptance")
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LABELS = {
    "params": "parameters",
    "flops": "FLOPs",
    "peak_memory": "live activations",
}


def label(name: str) -> str:
    """A metric's name in words."""
    words = re.sub("^val_", "validation_", name).replace("_", " ")
    return _LABELS.get(name, words.replace("macro f1", "macro F1"))


def metric(name: str, value: float) -> str:
    """A metric's value with its unit, which its name tells."""
    if is_share(name, [value]):
        return percent(value)
    if name in ("params", "flops"):
        return count(value)
    if name.startswith("seconds") or name.endswith("_seconds"):
        return duration(value)
    if name.startswith("latency"):
        return f"{plain(value)}{_GAP}ms"
    if name == "peak_memory":
        return f"{short(value)}B"
    return plain(value)


def difference(name: str, value: float) -> str:
    """Of two values of a metric: shares differ by points, of which 100 are all."""
    return f"{100 * value:.2f}{_GAP}points" if is_share(name, [value]) else metric(name, value)


def is_share(name: str, values: Iterable[float]) -> bool:
    """Whether a metric is a share of 1: by its name, unless a table of others gives per cent."""
    return any(share in name for share in _SHARES) and all(-1 <= value <= 1 for value in values)


def percent(share: float) -> str:
    """0.98056 is "98.06 %"."""
    return f"{100 * share:.2f}{_GAP}%"


def count(value: float) -> str:
    """A count, every digit of it."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """A count in three digits: 18,582 is "18.6 k"."""
    for size, prefix in _STEPS:
        if abs(value) >= size:
            return f"{float(f'{value / size:.3g}'):g}{_GAP}{prefix}"
    return f"{plain(value)}{_GAP}"


def duration(seconds: float) -> str:
    """Seconds as the two largest units that they have."""
    if seconds < 10:
        return f"{seconds:.1f}{_GAP}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (number, _) in enumerate(units) if number), 3)
    return " ".join(f"{number}{_GAP}{unit}" for number, unit in units[first : first + 2] if number)


def plain(value: float) -> str:
    """Any other number: four digits, and whole numbers as they are."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def choice(value: Value | None) -> str:
    """A choice's value; a dash for None, where an architecture has no such choice."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
