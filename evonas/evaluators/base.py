"""The contract of an evaluator (evaluation strategy), and of those that wrap another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evonas.architecture import Architecture
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Sampler
from evonas.trial import Curve, Limit, Trial
from evonas.trial import Reporter as Reporter  # part of the contract

if TYPE_CHECKING:
    from torch import nn

    from evonas.training.checkpoints import Weights
    from evonas.training.data import Data


@dataclass(frozen=True)
class Context:
    """The world that an evaluator works in. Wrappers build their inner evaluator in a changed one.

    Attributes:
        space: Builds the networks.
        data: Images and labels, or None if the recipe has no dataset.
        device: Where to compute: "cpu", "cuda", "cuda:1".
        seed: Seed of the run; trial ``n`` is trained with a seed derived from it and ``n``.
        run_dir: The run folder, for what an evaluator keeps between trials; None outside of a run.
            It exists when a trial is evaluated, not when an evaluator is made.
        weights: What training starts from and leaves; None: random weights, and nothing.
        share: Share of a trial's training after which it is cut off, in the middle of the schedule
            of its learning rate; a training for good is never cut off.
        limits: Of metrics that are known only when they were measured. Who gives such a metric
            ends the trial by ``hold`` if it is outside.
    """

    space: SearchSpace
    data: Data | None
    device: str
    seed: int
    run_dir: Path | None = None
    weights: Weights | None = None
    share: float = 1.0
    limits: Mapping[str, Limit] = field(default_factory=dict)


class Infeasible(Exception):
    """Raised by ``evaluate``: the trial breaks a limit, and ends PRUNED.

    Args:
        metrics: What is known of it; ``violation`` among them says how far outside it is.
    """

    def __init__(self, metrics: Mapping[str, float]) -> None:
        self.metrics = {str(name): float(value) for name, value in metrics.items()}
        super().__init__(", ".join(f"{name} {value:.6g}" for name, value in self.metrics.items()))


def hold(limits: Mapping[str, Limit], metrics: Mapping[str, float]) -> None:
    """Raise ``Infeasible`` with the metrics, and their ``violation``, if one is outside a limit."""
    violation = sum(limits[name].violation(metrics[name]) for name in limits if name in metrics)
    if violation > 0:
        raise Infeasible({**metrics, "violation": violation})


@dataclass(frozen=True)
class Retrained:
    """An architecture trained for good.

    Attributes:
        metrics: Of the validation split, never of the test split.
        curve: What was reported on the way.
        network: The trained network on the CPU, for images (N, C, H, W) in 0…255; None if the
            evaluator trains nothing.
    """

    metrics: Mapping[str, float]
    curve: Curve = ()
    network: nn.Module | None = field(default=None, compare=False)


class Evaluator(ABC):
    """An evaluation strategy: how good is an architecture?

    Attributes:
        metrics: Names of the metrics that ``evaluate`` promises; recipes are checked against them
            before any trial.
        reports: Names of the metrics that every call of ``report`` has; what pruning can go by.
    """

    metrics: tuple[str, ...]
    reports: tuple[str, ...] = ()

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
            Infeasible: If a limit is broken; the trial is then recorded as PRUNED.
            Exception: Anything else; the trial is then recorded as FAILED with the traceback.
        """

    def prepare(self, note: Callable[[str], None], stopping: Callable[[], bool]) -> bool:
        """Do what must be done once, before the first trial; called in the main process.

        Args:
            note: Told how it goes.
            stopping: Asked on the way; when True, it returns as soon as it can.

        Returns:
            Whether it was done, or had been done before.

        Raises:
            TooManyFailures: If no trial can succeed.
        """
        return True

    def sampler(self) -> Sampler | None:
        """What gives an architecture for every trade-off, if this evaluation learns that."""
        return None

    def effort(self, fidelity: float) -> float:
        """What a trial of a fidelity costs, in any unit; the same for all if it has no effect."""
        return fidelity

    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        """Train an architecture from scratch at full effort, and score it on the validation split.

        Args:
            trial: Its architecture is what is trained.
            seed: Of this training; those of one seed compare architectures, those of several
                measure the noise.
            report: As in ``evaluate``.

        Returns:
            None if there is no fuller training than a trial's.
        """
        return None

    def network(self, architecture: Architecture) -> nn.Module | None:
        """A network of the form that ``retrain`` gives, to load stored weights into; or None."""
        return None

    def test(self, architecture: Architecture, network: nn.Module | None) -> Mapping[str, float]:
        """Score a retrained network on the test split; the run's winner alone is brought here.

        Args:
            architecture: The winner.
            network: As ``retrain`` gave it.

        Returns:
            Metrics, such as ``test_accuracy``; empty if there is no test split.
        """
        return {}

    def retain(self, trials: Sequence[int]) -> None:  # noqa: B027  (who keeps nothing ignores it)
        """Free what is kept for trials but these, given in order of importance."""


class Wrapper(Evaluator):
    """An evaluator round another, which trains for good and keeps things as the inner one does.

    Constructors of wrappers take ``of``, a function from Context to the evaluator they wrap.

    Attributes:
        inner: The wrapped evaluator.
    """

    def __init__(self, context: Context, inner: Evaluator) -> None:
        super().__init__(context)
        self.inner = inner
        self.metrics, self.reports = inner.metrics, inner.reports

    def prepare(self, note: Callable[[str], None], stopping: Callable[[], bool]) -> bool:
        """The inner evaluator's."""
        return self.inner.prepare(note, stopping)

    def sampler(self) -> Sampler | None:
        """The inner evaluator's."""
        return self.inner.sampler()

    def effort(self, fidelity: float) -> float:
        """The inner evaluator's."""
        return self.inner.effort(fidelity)

    def retrain(self, trial: Trial, seed: int, report: Reporter) -> Retrained | None:
        """The inner evaluator's."""
        return self.inner.retrain(trial, seed, report)

    def network(self, architecture: Architecture) -> nn.Module | None:
        """The inner evaluator's."""
        return self.inner.network(architecture)

    def test(self, architecture: Architecture, network: nn.Module | None) -> Mapping[str, float]:
        """The inner evaluator's."""
        return self.inner.test(architecture, network)

    def retain(self, trials: Sequence[int]) -> None:
        """The inner evaluator's."""
        self.inner.retain(trials)
