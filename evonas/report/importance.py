"""Which choices matter: how much worse a model of the trials gets when one of them is shuffled.

Breiman, Random forests, Machine Learning 2001, by scikit-learn, on trials that the model was not
fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from evonas.architecture import Value
from evonas.report import numbers
from evonas.trial import Objective, Trial

LEAST = 20  # trials: of fewer a forest learns nothing that could be believed
_MOST = 2000  # trials; more of them change the picture little and take their time
_TREES = 100
_REPEATS = 5
_BINS = 8
Row = TypeVar("Row")


@dataclass(frozen=True)
class Importance:
    """What came out.

    Attributes:
        shares: Of the choices, the largest first; they sum to 1, unless nothing matters.
        explained: Share of the variance that the model explains (R² on trials it did not see).
    """

    shares: dict[str, float]
    explained: float


def importance(objective: Objective, complete: Sequence[Trial]) -> Importance | None:
    """Of the choices, for the objective; None if there are too few trials, or all are alike."""
    trials = evenly(complete, _MOST)
    varied = [n for n in names(trials) if len({t.architecture.choices.get(n) for t in trials}) > 1]
    values = [trial.metrics[objective.metric] for trial in trials]
    if len(trials) < LEAST or not varied or len(set(values)) < 2:
        return None
    import pandas as pd  # half a second, which most runs' ends can do without
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = pd.DataFrame(
        {name: [trial.architecture.choices.get(name) for trial in trials] for name in varied}
    )
    words = [name for name in varied if not pd.api.types.is_numeric_dtype(table[name])]
    for name in varied:  # a choice that is none for this network is a value like any other
        table[name] = table[name].astype(str) if name in words else table[name].fillna(-1)
    encoded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), words), remainder="passthrough"
    )
    model = make_pipeline(encoded, RandomForestRegressor(_TREES, random_state=0, n_jobs=1))
    seen, unseen, known, unknown = train_test_split(table, values, test_size=0.3, random_state=0)
    model.fit(seen, known)
    found = permutation_importance(
        model, unseen, unknown, n_repeats=_REPEATS, random_state=0, n_jobs=1
    )
    raw = {n: max(0.0, float(v)) for n, v in zip(varied, found.importances_mean, strict=True)}
    total = sum(raw.values()) or 1.0
    ordered = sorted(raw.items(), key=lambda item: -item[1])
    explained = float(model.score(unseen, unknown))
    return Importance({name: value / total for name, value in ordered}, explained)


def names(trials: Sequence[Trial]) -> list[str]:
    """Of all their choices, in the order in which they are first met."""
    return list(dict.fromkeys(name for trial in trials for name in trial.architecture.choices))


def by_value(objective: Objective, trials: Sequence[Trial], name: str) -> list[dict[str, object]]:
    """For each value of a choice: its trials, their median and their best.

    Numbers of more than eight values are put together, as many trials in each.
    """
    having = [trial for trial in trials if name in trial.architecture.choices]
    bins = _bins([trial.architecture.choices[name] for trial in having])
    groups: dict[str, list[float]] = {group: [] for group in bins.values()}
    for trial in having:
        groups[bins[trial.architecture.choices[name]]].append(trial.metrics[objective.metric])
    best = max if objective.direction == "max" else min
    return [
        {"value": group, "trials": len(values), "median": median(values), "best": best(values)}
        for group, values in groups.items()
    ]


def _bins(values: Sequence[Value]) -> dict[Value, str]:
    """The group of each value, in order."""
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    words = any(isinstance(value, str | bool) for value in distinct)
    size = 1 if words else math.ceil(len(distinct) / _BINS)
    bins: dict[Value, str] = {}
    for start in range(0, len(distinct), size):
        group = distinct[start : start + size]
        ends = dict.fromkeys((group[0], group[-1]))
        bins |= dict.fromkeys(group, "…".join(map(numbers.choice, ends)))
    return bins


def evenly(rows: Sequence[Row], most: int) -> list[Row]:
    """All, or so many of them at equal distances."""
    step = max(1.0, len(rows) / most)
    return [rows[int(i * step)] for i in range(min(len(rows), most))]
