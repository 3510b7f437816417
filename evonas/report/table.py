"""The rows that a strategy ends with, as text, as CSV, and as cells for a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

Rows = Sequence[Mapping[str, float]]  # all of the same columns


def cells(rows: Rows) -> list[list[str]]:
    """The columns' names, then the numbers to read: shares with four digits, counts whole."""
    return [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]


def text(rows: Rows) -> list[str]:
    """Lines with the columns under each other; none without rows."""
    if not rows:
        return []
    shown = cells(rows)
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in shown
    ]


def comma_separated(rows: Rows) -> str:
    """A CSV file with all digits."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}"
