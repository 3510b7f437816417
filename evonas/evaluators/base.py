"""The contract of an evaluator (evaluation strategy)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evonas.spaces.base import SearchSpace
from evonas.trial import Curve, Trial

if TYPE_CHECKING:
    from torch import nn

    from evonas.training.data import Data

Reporter = Callable[[int, Mapping[str, float]], None]  # step, metrics


@dataclass(frozen=True)
class Context:
    """The world that an evaluator works in. Wrappers build their inner evaluator in a changed one.

    Attributes:
        space: Builds the networks.
        data: Images and labels, or None if the recipe has no dataset.
        device: Where to compute: "cpu", "cuda", "cuda:1".
        seed: Seed of the run; trial ``n`` is trained with a seed derived from it and ``n``.
    """

    space: SearchSpace
    data: Data | None
    device: str
    seed: int


@dataclass(frozen=True)
class Final:
    """The incumbent, measured for good.

    Attributes:
        metrics: Among them those on the test split.
        curve: What was reported on the way.
        network: The trained network, if there is one to take away.
    """

    metrics: Mapping[str, float]
    curve: Curve = ()
    network: nn.Module | None = field(default=None, compare=False)


class Evaluator(ABC):
    """An evaluation strategy: how good is an architecture?

    Wrappers take ``of``, a function from Context to the evaluator that they wrap.

    Attributes:
        metrics: Names of the metrics that ``evaluate`` promises; recipes are checked against them
            before any trial.
    """

    metrics: tuple[str, ...]

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Evaluate an architecture on the validation split.

        Args:
            trial: What to evaluate, and with how much effort (``trial.proposal.fidelity``).
            report: To be called with (step, metrics) on the way, usually once per epoch.

        Returns:
            Finite numbers, the promised ones among them. ``seconds``, if given, replaces the
            measured time of the trial (simulated time of recorded trainings).

        Raises:
            Exception: Anything; the trial is then recorded as FAILED with the traceback.
        """

    def finish(self, trial: Trial, report: Reporter) -> Final | None:
        """Measure the run's winner for good: train at full effort, and read the test split, once.

        Returns:
            None if there is nothing to add to the search's own metrics.
        """
        return None
