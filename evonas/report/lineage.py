"""A trial's family tree: whom it descends from, and what was changed on the way."""

from __future__ import annotations

from dataclasses import dataclass

from evonas.report import numbers
from evonas.trial import Trial
from evonas.trials import Trials

LARGEST = 40  # ancestors; the nearest are shown


@dataclass(frozen=True)
class Ancestor:
    """One of the tree.

    Attributes:
        generation: 0 is the trial itself, 1 its parents, …
        trial: The ancestor.
        changes: How its first child of the tree differs from it, choice by choice.
    """

    generation: int
    trial: Trial
    changes: tuple[str, ...]


def tree(trials: Trials, trial: Trial) -> list[Ancestor]:
    """The trial and its ancestors, the nearest first; no more than forty."""
    rows, seen = [Ancestor(0, trial, ())], {trial.number}
    for child in rows:  # which grow
        for number in child.trial.proposal.parents:
            parent = trials.latest.get(number)
            if parent is not None and number not in seen and len(rows) < LARGEST:
                rows.append(Ancestor(child.generation + 1, parent, changes(parent, child.trial)))
                seen.add(number)
    return rows


def changes(parent: Trial, child: Trial) -> tuple[str, ...]:
    """``NAME old → new`` for every choice in which the two differ."""
    old, new = parent.architecture.choices, child.architecture.choices
    return tuple(
        f"{name} {numbers.choice(old.get(name))} → {numbers.choice(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    )
