"""Tables: as text, as CSV, and the rows that a strategy ends with as cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

Rows = Sequence[Mapping[str, float]]  # all of the same columns


def cells(rows: Rows) -> list[list[str]]:
    """The columns' names, then the numbers to read: shares with four digits, counts whole."""
    return [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table with the columns under each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in lines
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
