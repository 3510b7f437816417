"""Recipe → objects: the composition root, the only place that knows every component."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from evonas.architecture import Architecture
from evonas.datasets.base import LOADERS, Source, load
from evonas.errors import EvonasError, OptionError, PluginError, RecipeError, did_you_mean
from evonas.evaluators.base import Context, Evaluator
from evonas.executors.base import Executor, MakeEvaluator
from evonas.executors.serial import Serial
from evonas.recipe import options, reading
from evonas.recipe.registry import Registry
from evonas.recipe.schema import Component, Recipe
from evonas.runs.pruning import RULES, Pruner
from evonas.runs.search import Budget
from evonas.spaces.base import SearchSpace
from evonas.spaces.parts import cost
from evonas.spaces.parts.feasible import Feasible
from evonas.strategies.base import Sampler, Strategy
from evonas.trackers.base import Tracker
from evonas.training import devices
from evonas.training.checkpoints import FOLDER as WEIGHTS
from evonas.training.checkpoints import RUNGS_GB, Checkpoints, Continued
from evonas.training.data import Data
from evonas.trial import Limit, Objective

_MEASURED = ("latency",)  # limited costs that are known only when a trial runs


@dataclass(frozen=True)
class EvaluatorFactory:
    """Builds the recipe's evaluator for a device, here or in a worker process.

    Only recipe and registry travel to a worker; it loads space and data for itself.
    """

    recipe: Recipe
    registry: Registry
    run_dir: Path

    def __call__(self, device: str) -> Evaluator:
        """The evaluator for a device, one for all who ask: it keeps the data on the device."""
        if device not in self._made:
            weights = Continued(Checkpoints(self.run_dir / WEIGHTS, RUNGS_GB))
            context = Context(
                self.space,
                self.data,
                device,
                self.recipe.seed,
                self.run_dir,
                weights,
                limits=_limits(self.recipe, _MEASURED),
            )
            make = maker(self.registry, "evaluator", self.recipe.evaluation, "evaluation")
            self._made[device] = make(context)
        return self._made[device]

    @cached_property
    def _made(self) -> dict[str, Evaluator]:
        return {}

    @cached_property
    def data(self) -> Data | None:
        """The data set, loaded on first use."""
        section = self.recipe.dataset
        if section is None:
            return None
        if section.name not in LOADERS:
            known = sorted(LOADERS)
            hint = did_you_mean(section.name, known)
            raise RecipeError(
                f"dataset.name: unknown data set {section.name!r}{hint} Known: {', '.join(known)}"
            )
        source = Source(section.path, section.size, section.test, section.seed)
        return load(section.name, source, section.validation)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, unconstrained."""
        section = self.recipe.space
        cls = self.registry.find("space", section.name)
        space: SearchSpace = _make(cls, **options.check(cls, section.options, "space"))
        return space

    def __getstate__(self) -> dict[str, Any]:
        return {"recipe": self.recipe, "registry": self.registry, "run_dir": self.run_dir}


@dataclass(frozen=True)
class Assembly:
    """Everything that a run needs, checked.

    Attributes:
        recipe: The resolved recipe: every default filled in, every path absolute.
        registry: Where its components come from.
        space: What the strategy searches: the constrained space.
        objectives: What to optimise.
        budget: When to stop.
        evaluator: The parent's own: it runs the serial trials and the final training.
        devices: Where to compute.
        fingerprint: Of the data; None without any.
    """

    recipe: Recipe
    registry: Registry
    space: SearchSpace
    objectives: tuple[Objective, ...]
    budget: Budget
    evaluator: Evaluator
    devices: tuple[str, ...]
    fingerprint: str | None
    make_evaluator: MakeEvaluator

    def strategy(self) -> Strategy:
        """A fresh strategy."""
        make = maker(self.registry, "strategy", self.recipe.strategy, "strategy")
        handed_over: list[Any] = [self.space, self.objectives]
        if self.registry.find("strategy", self.recipe.strategy.name).samples:
            handed_over.append(self._sampler())
        strategy: Strategy = make(*handed_over)
        return strategy

    def _sampler(self) -> Sampler:
        sampler = self.evaluator.sampler()
        if sampler is None:
            raise RecipeError(
                f"strategy.name: {self.recipe.strategy.name} asks a sampler, which evaluation "
                f"{self.recipe.evaluation.name!r} does not learn; take evaluation hypernet"
            )
        return sampler

    def executor(self) -> Executor:
        """A fresh executor, to be closed by the caller."""
        return self._executor(self.make_evaluator, ("device",))

    def retraining_executor(self, retrainer: MakeEvaluator, trainings: int) -> Executor:
        """A fresh executor for so many trainings for good, to be closed by the caller."""
        if trainings == 1:  # here, with all cores and the data that are loaded already
            return Serial(retrainer, self.devices)
        # Without the time limit, which is for trials: a training for good takes far longer.
        return self._executor(retrainer, ("device", "timeout"))

    def _executor(self, make_evaluator: MakeEvaluator, own: tuple[str, ...]) -> Executor:
        section = self.recipe.executor
        cls, arguments = _checked(self.registry, "executor", section, "executor", own)
        executor: Executor = _make(cls, make_evaluator, self.devices, **arguments)
        return executor

    def pruner(self) -> Pruner | None:
        """A fresh pruner; None if the recipe wants no trial stopped."""
        section = self.recipe.pruning
        if section is None:
            return None
        cls, arguments = _rule(section)
        return Pruner(self.objectives, cls(**arguments))

    @property
    def acceptance(self) -> float | None:
        """Share of random architectures that met the constraints so far; None without any."""
        return self.space.acceptance if isinstance(self.space, Feasible) else None


def assemble(given: Recipe, registry: Registry, run_dir: Path) -> Assembly:
    """Build and check everything, so that no mistake shows up after the first trial.

    Args:
        given: The recipe.
        registry: Where its components come from.
        run_dir: The run folder; it need not exist, and nothing is written.

    Raises:
        EvonasError: In one line, whatever is wrong with recipe, data, plugins or devices.
    """
    resolved = _resolve(given, registry)
    factory = EvaluatorFactory(resolved, registry, run_dir)
    chosen = devices.choose(resolved.executor.device, devices.available())
    evaluator = factory(chosen[0])
    objectives = _objectives(resolved, evaluator)
    assembly = Assembly(
        recipe=resolved,
        registry=registry,
        space=_constrained(factory),
        objectives=objectives,
        budget=_budget(resolved),
        evaluator=evaluator,
        devices=chosen,
        fingerprint=factory.data.fingerprint if factory.data else None,
        make_evaluator=factory,
    )
    strategy = assembly.strategy()
    if len(objectives) > 1 and not strategy.multi_objective:
        raise RecipeError(
            f"objectives: strategy {resolved.strategy.name!r} takes one, not {len(objectives)}"
        )
    if assembly.pruner() is not None and objectives[0].metric not in evaluator.reports:
        raise RecipeError(
            f"pruning: evaluation {resolved.evaluation.name!r} reports no {objectives[0].metric!r} "
            f"on the way, only {', '.join(evaluator.reports) or 'nothing'}"
        )
    _check_efforts(resolved, strategy, evaluator)
    tracker_of(resolved, registry)
    assembly.executor().close()
    assembly.space.sample(Random(f"{resolved.seed}/feasible"))
    return assembly


def _check_efforts(resolved: Recipe, strategy: Strategy, evaluator: Evaluator) -> None:
    """Refuse a strategy of several fidelities where more of it is no more effort."""
    for low, high in pairwise(strategy.fidelities):
        if not evaluator.effort(low) < evaluator.effort(high):
            raise RecipeError(
                f"strategy: {resolved.strategy.name} goes on from fidelity {low:.3g} to "
                f"{high:.3g}, but evaluation {resolved.evaluation.name!r} makes no more effort "
                "there; it needs more epochs, or a greater strategy.min_fidelity, or a strategy "
                "of one fidelity"
            )


def tracker_of(given: Recipe, registry: Registry) -> Tracker:
    """A fresh tracker for a recipe; nothing else of the recipe is looked at."""
    tracker: Tracker = maker(registry, "tracker", given.tracking, "tracking")()
    return tracker


def _checked(
    registry: Registry, kind: str, section: Component, path: str, own: tuple[str, ...] = ()
) -> tuple[type[Any], dict[str, Any]]:
    """A component's class and its checked options; ``own`` are the section's, not the class's."""
    cls = registry.find(kind, section.name)
    return cls, options.check(cls, {k: v for k, v in section.options.items() if k not in own}, path)


def _make(cls: type[Any], *handed_over: Any, **arguments: Any) -> Any:
    """Construct a component; what a plugin's constructor raises is the plugin's fault."""
    try:
        return cls(*handed_over, **arguments)
    except EvonasError:
        raise
    # A constructor may be anybody's code; our own bugs stay bugs.
    except Exception as error:
        if cls.__module__.startswith("evonas."):
            raise
        raise PluginError(
            f"{cls.__module__}:{cls.__name__} cannot be made: {type(error).__name__}: {error}"
        ) from error


def maker(registry: Registry, kind: str, section: Component, path: str) -> Callable[..., Any]:
    """What makes a component of what is handed over to it; it wraps (``of``) one of its own kind.

    Raises:
        EvonasError: If its options, or those of what it wraps, are wrong.
    """
    cls, arguments = _checked(registry, kind, section, path)
    if isinstance(inner := arguments.get("of"), Component):
        arguments["of"] = maker(registry, kind, inner, f"{path}.of")

    def make(*handed_over: Any) -> Any:
        try:
            return _make(cls, *handed_over, **arguments)
        except OptionError as error:  # a constructor does not know where in the recipe it stands
            raise RecipeError(f"{path}.{error}") from error
        except RecipeError as error:
            raise RecipeError(_located(str(error), path)) from error

    return make


def _located(message: str, path: str) -> str:
    """A constructor names its options after the section; a wrapped one has them further down."""
    section = path.partition(".")[0]
    if message.startswith(f"{path}."):
        return message
    return message.replace(f"{section}.", f"{path}.")


def _resolve(given: Recipe, registry: Registry) -> Recipe:
    """The recipe with every default filled in and every path absolute."""
    data = given.dump()
    sections = {
        "space": ("space", given.space),
        "strategy": ("strategy", given.strategy),
        "evaluation": ("evaluator", given.evaluation),
        "executor": ("executor", given.executor),
        "tracking": ("tracker", given.tracking),
    }
    for key, (kind, section) in sections.items():
        data[key].update(_with_defaults(registry, kind, section, key))
    if given.pruning is not None:
        data["pruning"].update(_rule(given.pruning)[1])
    if given.dataset is not None:
        data["dataset"]["path"] = str(given.dataset.path.absolute())
    data["start_from"] = [_absolute(name) for name in given.start_from]
    return reading.validate(_plain(data), "recipe")


def _absolute(name: str) -> str:
    """A run folder wherever we are; what is none is an id."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _rule(section: Component) -> tuple[type[Any], dict[str, Any]]:
    """The class of a pruning rule and its checked options."""
    if section.name not in RULES:
        hint = did_you_mean(section.name, RULES)
        raise RecipeError(
            f"pruning.name: unknown rule {section.name!r}{hint} Known: {', '.join(RULES)}"
        )
    return RULES[section.name], options.check(RULES[section.name], section.options, "pruning")


def _with_defaults(registry: Registry, kind: str, section: Component, path: str) -> dict[str, Any]:
    _, arguments = _checked(registry, kind, section, path)
    if isinstance(inner := arguments.get("of"), Component):
        arguments["of"] = _with_defaults(registry, kind, inner, f"{path}.of")
    return {"name": section.name, **arguments}


def _plain(value: Any) -> Any:
    """Only what YAML holds: paths become text, tuples lists, and absent values are left out."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def _objectives(resolved: Recipe, evaluator: Evaluator) -> tuple[Objective, ...]:
    wanted: dict[str, Iterable[str]] = {
        "objectives": resolved.objectives,
        "constraints": _limits(resolved, _MEASURED),
    }
    for section, metrics in wanted.items():
        for metric in metrics:
            if metric in evaluator.metrics:
                continue
            hint = did_you_mean(metric, evaluator.metrics)
            if metric in _MEASURED:
                hint = f". To measure it: evaluation: {{name: {metric}, of: {{…}}}}."
            raise RecipeError(
                f"{section}.{metric}: evaluation {resolved.evaluation.name!r} gives no such "
                f"metric{hint} Known: {', '.join(evaluator.metrics)}"
            )
    return tuple(Objective(metric, way) for metric, way in resolved.objectives.items())


def _constrained(factory: EvaluatorFactory) -> SearchSpace:
    limits, space = _limits(factory.recipe, tuple(cost.COSTS)), factory.space
    if not limits:
        return space
    if factory.data is None:
        raise RecipeError("constraints: counting needs a dataset section, for the input's shape")
    task, names = factory.data.task, tuple(limits)

    def measure(architecture: Architecture) -> Mapping[str, float]:
        return cost.count(space, architecture, task, names)

    return Feasible(space, limits, measure)


def _limits(resolved: Recipe, names: tuple[str, ...]) -> dict[str, Limit]:
    """The recipe's limits of these costs."""
    return {
        name: Limit(**section.model_dump(exclude_none=True))
        for name, section in resolved.constraints.items()
        if name in names
    }


def _budget(resolved: Recipe) -> Budget:
    section = resolved.budget
    seconds = None if section.minutes is None else 60 * section.minutes
    return Budget(section.trials, seconds, section.max_failures)
