"""The contract of an evaluator (evaluation strategy), and of those that wrap another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from evonas.errors import OptionError
from evonas.spaces.base import SearchSpace
from evonas.trial import Limit, Trial, figure
from evonas.trial import Reporter as Reporter  # part of the contract

if TYPE_CHECKING:
    from evonas.training.checkpoints import Continued
    from evonas.training.data import Data

Ability = TypeVar("Ability")


@dataclass
class Work:
    """How much has been trained in a world, and what one full training is.

    Counted on the host, in pixels: images times height times width, each as often as it was learnt
    from. How wide and deep a network is does not count. Whoever trains adds to ``pixels``; who
    trains finals raises ``full`` when it is made.

    Attributes:
        pixels: Learnt from so far, by whatever trained, what diverged or was cut off included.
        full: Of one full training of the recipe, that is of a final one on all training images; 0
            if nobody here counts.
    """

    pixels: int = 0
    full: int = 0


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
        weights: What a trial's training starts from and leaves, and where final trainings leave
            their networks; None: random weights, and nothing.
        share: Share of a trial's training after which it is cut off, in the middle of the schedule
            of its learning rate; a final training is never cut off.
        limits: The recipe's. They are held against every trial's metrics without an evaluator's
            doing; one that knows a metric before it trains may spare the training by ``hold``.
        flip: Whether the test split is scored on images and their mirror images together.
        work: What was trained so far; one for this world and all that wrappers make of it.
    """

    space: SearchSpace
    data: Data | None
    device: str
    seed: int
    run_dir: Path | None = None
    weights: Continued | None = None
    share: float = 1.0
    limits: Mapping[str, Limit] = field(default_factory=dict)
    flip: bool = False
    work: Work = field(default_factory=Work)

    def data_for(self, name: str) -> Data:
        """The data, for an evaluator of this name that cannot do without.

        Raises:
            OptionError: If the recipe has no dataset.
        """
        if self.data is None:
            raise OptionError("name", f"{name} needs a dataset section")
        return self.data


class Infeasible(Exception):
    """Raised by ``evaluate``: the trial breaks a limit, and ends PRUNED.

    Args:
        metrics: What is known of it; ``violation`` among them says how far outside it is.
    """

    def __init__(self, metrics: Mapping[str, float]) -> None:
        self.metrics = {str(name): float(value) for name, value in metrics.items()}
        super().__init__(
            ", ".join(f"{name} {figure(value)}" for name, value in self.metrics.items())
        )


def hold(limits: Mapping[str, Limit], metrics: Mapping[str, float]) -> None:
    """Raise ``Infeasible`` with the metrics, and their ``violation``, if one is outside a limit."""
    violation = sum(limits[name].violation(metrics[name]) for name in limits if name in metrics)
    if violation > 0:
        raise Infeasible({**metrics, "violation": violation})


class Evaluator(ABC):
    """An evaluation strategy: how good is an architecture?

    A subclass sets ``metrics`` and writes ``evaluate``; if that trains networks that are worth
    keeping, ``test``. All else has defaults.

    Attributes:
        metrics: Names of the metrics that ``evaluate`` promises; recipes are checked against them
            before any trial.
        reports: Names of the metrics that every call of ``report`` has; what pruning can go by.
        takes: Names of the context's attributes that a wrapper may change to an effect: ``data``,
            ``share``, ``weights``. A wrapper refuses an evaluator that would ignore the change. And
            ``training``, if its trials are trained as ``training_choices`` of the architecture say.
        finals: Whether a trial of the stage ``final`` or ``audit`` is trained more fully than one
            of the search. If not, there are none: the search's figures are the final ones.
    """

    metrics: tuple[str, ...]
    reports: tuple[str, ...] = ()
    takes: frozenset[str] = frozenset()
    finals: bool = False

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Evaluate an architecture on the validation split.

        Args:
            trial: What to evaluate, with how much effort (``trial.proposal.fidelity``), and what
                for: if ``trial.proposal.stage`` is not ``search``, from scratch, with all that the
                recipe gives to the winner, and a seed that depends on ``trial.proposal.repeat``
                alone, so that those of one repeat compare architectures. At the stage ``final`` the
                weights are left in ``context.weights.checkpoints``.
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

        What has been learnt from then is effort of the first trial that ends: ``context.work``.

        Args:
            note: Told how it goes.
            stopping: Asked on the way; when True, it returns as soon as it can.

        Returns:
            Whether it was done, or had been done before.

        Raises:
            TooManyFailures: If no trial can succeed.
        """
        return True

    def effort(self, fidelity: float) -> float:
        """What a trial of a fidelity costs, in any unit; the same for all if it has no effect."""
        return fidelity

    def test(self, trial: Trial) -> Mapping[str, float]:
        """Score a winner on the test split; the run's winner alone is brought here.

        Args:
            trial: Of the stage ``final``, whose weights are in ``context.weights.checkpoints``; if
                ``finals`` is False, of the search.

        Returns:
            Metrics, such as ``test_accuracy``; empty if there is no test split.

        Raises:
            BadWeights: If the weights are lost or damaged; it is then trained again.
        """
        return {}


class Wrapper(Evaluator):
    """An evaluator round another, which trains finals as the inner one does.

    Constructors of wrappers take ``of``, a function from Context to the evaluator they wrap.

    Args:
        context: The world of this one.
        inner: The wrapped evaluator, made in the changed world.

    Attributes:
        inner: The wrapped evaluator.
        trainer: What final trainings and tests are left to: the inner evaluator, or one like it in
            an unchanged world.
        changes: Which of ``data``, ``share`` and ``weights`` of the context it changes for the
            inner one.

    Raises:
        OptionError: If the inner evaluator would ignore a change.
    """

    changes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, context: Context, inner: Evaluator) -> None:
        super().__init__(context)
        self.inner = self.trainer = inner
        self.metrics, self.reports = inner.metrics, inner.reports
        self.takes, self.finals = inner.takes - self.changes, inner.finals
        if ignored := sorted(self.changes & _CHANGES.keys() - inner.takes):
            change, outer = _CHANGES[ignored[0]], name_of(self)
            raise OptionError("of", f"{name_of(inner)} ignores the {change} that {outer} gives it")

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """A trial of the search is scored; a final training is the trainer's."""
        if trial.proposal.stage != "search":
            return self.trainer.evaluate(trial, report)
        return self.score(trial, report)

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """``evaluate`` a trial of the search; by default as the inner evaluator does."""
        return self.inner.evaluate(trial, report)

    def prepare(self, note: Callable[[str], None], stopping: Callable[[], bool]) -> bool:
        """The inner evaluator's."""
        return self.inner.prepare(note, stopping)

    def effort(self, fidelity: float) -> float:
        """The inner evaluator's."""
        return self.inner.effort(fidelity)

    def test(self, trial: Trial) -> Mapping[str, float]:
        """The trainer's."""
        return self.trainer.test(trial)


_CHANGES = {"data": "smaller data", "share": "share of a training", "weights": "weights"}


def name_of(evaluator: Evaluator) -> str:
    """How recipes call it."""
    return type(evaluator).__module__.rpartition(".")[2]


def ability(evaluator: Evaluator, protocol: type[Ability]) -> Ability | None:
    """The evaluator, or the first one that it wraps, that has what a runtime protocol asks for."""
    layer: Evaluator | None = evaluator
    while layer is not None and not isinstance(layer, protocol):
        layer = layer.inner if isinstance(layer, Wrapper) else None
    return layer
