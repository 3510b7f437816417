"""The error tree.

EvonasError                       exit code
├── RecipeError                   2   the recipe or a ``--set`` is wrong
│   ├── OptionError               2   a constructor refuses an option of its component
│   └── InfeasibleConstraints     2   (almost) nothing in the space meets the limits
├── UnknownComponent              2   no component of that name
├── InvalidArchitecture           2   a choice outside its domain, or a rule of the space broken
├── DataError                     2   data missing, broken or unusable
├── HistoryError                  2   the run folder is another recipe's, or the data changed
├── TooManyFailures               3   trials fail one after another
├── RunInUse                      4   the run folder is held, or holds a run already
├── StorageError                  5   a disk that is full, read-only or corrupt
└── PluginError                   6   a component does not load, or the environment lacks something

Every error of this tree is shown to the user as one line, and ``exit_code`` is what the process
returns. Anything else that reaches the top is a bug of ours and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvonasError(Exception):
    """Base of all errors that evonas raises on purpose: the user's input, unless said otherwise."""

    exit_code = 2


class RecipeError(EvonasError):
    """The recipe, or an override of it, cannot be accepted."""


class OptionError(RecipeError):
    """A constructor refuses an option, for a reason that its annotation cannot say.

    Who makes the component knows where it stands in the recipe, and puts that before the name.

    Args:
        option: Its name; ``name`` if the component itself will not do.
        reason: Such as ``must be from 0 to the images' 32 pixels, not 40``.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")


class InfeasibleConstraints(RecipeError):
    """No architecture that meets the constraints could be found."""


class UnknownComponent(EvonasError):
    """No component of this kind has this name.

    Args:
        kind: What is not known.
        name: Its name.
        known: The names that are.
        hint: A sentence that helps more than the nearest name.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        advice = f". {hint}." if hint else did_you_mean(name, names)
        super().__init__(f"unknown {kind} {name!r}{advice} Known: {', '.join(names)}")


class InvalidArchitecture(EvonasError):
    """The architecture breaks a rule of its space."""


class DataError(EvonasError):
    """The data set is missing, broken or does not fit."""


class HistoryError(EvonasError):
    """The run folder's history belongs to something else."""


class TooManyFailures(EvonasError):
    """Trials fail one after another; the search gives up."""

    exit_code = 3


class RunInUse(EvonasError):
    """The run folder is held by another process, or already holds a run."""

    exit_code = 4


class StorageError(EvonasError):
    """Writing or reading the run folder failed."""

    exit_code = 5


class PluginError(EvonasError):
    """A component could not be loaded, or the environment lacks what it needs."""

    exit_code = 6


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``". Did you mean 'x'?"`` for the nearest known name, else ``"."``."""
    near = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.6)
    return f". Did you mean {near[0]!r}?" if near else "."
