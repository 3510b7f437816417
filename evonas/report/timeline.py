"""When which trial ran, in lanes: as many as ran side by side."""

from __future__ import annotations

from collections.abc import Iterable

from evonas.trial import Trial

_SLACK = 0.25  # seconds: the search hears of an end, and of a beginning, a little late


def lanes(events: Iterable[Trial]) -> list[tuple[int, float, float, Trial]]:
    """Lane, beginning and end in seconds of the run, of every trial that ended.

    The journal says when a trial ended and how long it took, but not which worker had it: each
    takes the first lane that is free.
    """
    ended = [t for t in events if t.seconds > 0 and t.origin is None]
    spans = sorted((max(0.0, t.elapsed - t.seconds), t.elapsed, t.number, t) for t in ended)
    free: list[float] = []  # when each lane is
    placed = []
    for begin, end, _, trial in spans:
        lane = next((i for i, at in enumerate(free) if at <= begin + _SLACK), len(free))
        free[lane : lane + 1] = [end]
        placed.append((lane, begin, end, trial))
    return placed
