"""Recipe → objects: the composition root, the only place that knows every component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from evonas.architecture import Architecture, Domain
from evonas.datasets import base as datasets
from evonas.errors import InvalidArchitecture, PluginError, RecipeError, did_you_mean
from evonas.evaluators.base import Context, Evaluator, ability
from evonas.executors.base import Executor
from evonas.executors.processes import Processes
from evonas.executors.serial import Serial
from evonas.recipe import options, reading
from evonas.recipe.options import Part, bind
from evonas.recipe.registry import SECTIONS, Registry, blamed
from evonas.recipe.schema import Recipe
from evonas.runs.pace import Reserve
from evonas.runs.pruning.base import Pruner
from evonas.runs.search import Budget
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import tuned
from evonas.spaces.parts.probe import Probe, declared, points
from evonas.strategies.base import Strategy
from evonas.strategies.hypernet import Sampler
from evonas.strategies.parts.known_first import KnownFirst, known_networks
from evonas.trackers.base import Tracker
from evonas.training import devices
from evonas.training.checkpoints import FOLDER as WEIGHTS
from evonas.training.checkpoints import RUNGS_GB, Checkpoints, Continued
from evonas.training.data import Data
from evonas.trial import Limit, Objective


@runtime_checkable
class Samples(Protocol):
    """An evaluator that learns an architecture for every trade-off."""

    def sampler(self) -> Sampler:
        """What gives it."""


class Parts:
    """The components that a recipe names, each found and its options checked once, when asked for.

    By their sections: ``parts["space"]()`` makes the space. Data set, pruning rule and tracker are
    made of nothing, too; the strategy of space, objectives and, if it asks for one, a sampler; the
    evaluator of a context; the executor of what makes evaluators, and devices.

    Only recipe and registry travel to a worker, which finds the components again.

    Args:
        recipe: The recipe.
        registry: Where its components come from.
    """

    def __init__(self, recipe: Recipe, registry: Registry) -> None:
        self.recipe, self.registry = recipe, registry
        self._found: dict[str, Part] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Parts, (self.recipe, self.registry)

    def __getitem__(self, section: str) -> Part:
        """The component that a section of the recipe names, which must be there."""
        if section not in self._found:
            named = getattr(self.recipe, section)
            self._found[section] = bind(self.registry, SECTIONS[section], named, section)
        return self._found[section]

    def searched(self) -> SearchSpace:
        """The search space, with what of the training is searched beside it.

        Raises:
            RecipeError: If a list of values is no domain.
        """
        space: SearchSpace = self["space"]()
        if not (section := self.recipe.space.training):
            return space
        domains: dict[str, Domain] = {}
        for name, values in section.items():
            try:
                domains[name] = tuned.domain(values)
            except ValueError as error:
                raise RecipeError(f"space.training.{name}: {error}") from error
        return tuned.Tuned(space, domains)

    def resolved(self) -> Recipe:
        """The recipe with every default filled in and every path absolute."""
        content = self.recipe.dump()
        if self.recipe.dataset is not None:  # whether its component asks for the path or not
            content["dataset"]["path"] = options.absolute(self.recipe.dataset.path)
        for section in SECTIONS:
            if section in content:
                content[section].update(self[section].dump())
        content["start_from"] = [_absolute(name) for name in self.recipe.start_from]
        return reading.validate(_plain(content), "recipe")


class EvaluatorFactory:
    """Builds the recipe's evaluator for a device, here or in a worker process.

    Only recipe and registry travel to a worker; it loads space and data for itself.

    Args:
        parts: The recipe's.
        run_dir: The run folder.
    """

    def __init__(self, parts: Parts, run_dir: Path) -> None:
        self.parts, self.run_dir = parts, run_dir
        self._made: dict[str, Evaluator] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return EvaluatorFactory, (self.parts, self.run_dir.absolute())

    def __call__(self, device: str) -> Evaluator:
        """The evaluator for a device, one for all who ask: it keeps the data on the device."""
        if device not in self._made:
            recipe = self.parts.recipe
            context = Context(
                space=self.space,
                data=self.data,
                device=device,
                seed=recipe.seed,
                run_dir=self.run_dir,
                weights=Continued(Checkpoints(self.run_dir / WEIGHTS, RUNGS_GB)),
                limits=_limits(recipe),
                flip=recipe.final.flip,
            )
            evaluator = self.parts["evaluation"](context)
            if not isinstance(getattr(evaluator, "context", None), Context):
                cls = type(evaluator)
                raise PluginError(
                    f"{cls.__module__}:{cls.__name__}: __init__ must call "
                    "super().__init__(context), and has not"
                )
            self._made[device] = evaluator
        return self._made[device]

    @property
    def carried(self) -> Data | None:
        """The data, if they are in memory and so can be sent along."""
        return None if self.data is None or self.data.train.mapped else self.data

    @cached_property
    def data(self) -> Data | None:
        """The data set, loaded on first use unless it was set before."""
        section = self.parts.recipe.dataset
        return None if section is None else datasets.load(section, self.parts["dataset"])

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, without the recipe's limits."""
        return self.parts.searched()


@dataclass(frozen=True)
class Assembly:
    """Everything that a run needs, checked.

    Attributes:
        recipe: The resolved recipe: every default filled in, every path absolute.
        parts: Its components.
        space: What the strategy searches: the space within the limits.
        objectives: What to optimise.
        budget: When to stop.
        evaluator: The parent's own: it runs the serial trials and tests the winner.
        devices: Where to compute.
        fingerprint: Of the data; None without any.
        make_evaluator: Makes the evaluator for a device.
        remarks: What a person should know of the space before the search starts.
        tried: Points of the space whose networks were built and took images.
        known: Networks that the search begins with, by what they are called.
    """

    recipe: Recipe
    parts: Parts
    space: SearchSpace
    objectives: tuple[Objective, ...]
    budget: Budget
    evaluator: Evaluator
    devices: tuple[str, ...]
    fingerprint: str | None
    make_evaluator: EvaluatorFactory
    remarks: tuple[str, ...] = ()
    tried: tuple[Architecture, ...] = ()
    known: Mapping[str, Architecture] = field(default_factory=dict)

    def threads(self) -> int:
        """CPU threads with which the networks that were tried train fastest, here and now."""
        if not self.tried or self.devices != ("cpu",):
            return devices.threads()
        assert self.make_evaluator.data is not None, "without images nothing is tried"
        task = self.make_evaluator.data.task
        networks = (self.space.build(point, task) for point in self.tried)
        with blamed(self.space.builder, "cannot be trained", timed=True):
            return devices.fastest_threads(networks, task.input_shape)

    def strategy(self) -> Strategy:
        """A fresh strategy."""
        part = self.parts["strategy"]
        sampler = [self._sampler()] if part.asks_for("sampler") else []
        strategy: Strategy = part(self.space, self.objectives, *sampler)
        return KnownFirst(strategy, self.known) if self.known else strategy

    def _sampler(self) -> Sampler:
        source = ability(self.evaluator, Samples)  # type: ignore[type-abstract]
        if source is None:
            raise RecipeError(
                f"strategy.name: {self.recipe.strategy.name} asks a sampler, which evaluation "
                f"{self.recipe.evaluation.name!r} does not learn; take evaluation hypernet"
            )
        return source.sampler()

    def executor(self) -> Executor:
        """A fresh executor, to be closed by the caller."""
        executor: Executor = self.parts["executor"](self.make_evaluator, self.devices)
        return executor

    def final_executor(self, trainings: int) -> Executor:
        """A fresh executor for so many final trainings, to be closed by the caller."""
        if trainings == 1 and self.parts["executor"].cls is Processes:  # one worker has all cores
            return Serial(self.make_evaluator, self.devices)
        return self.executor()

    def pruner(self) -> Pruner | None:
        """A fresh pruner; None if the recipe wants no trial stopped."""
        return Pruner(self.objectives, self.parts["pruning"]()) if self.recipe.pruning else None

    def tracker(self) -> Tracker:
        """A fresh tracker."""
        tracker: Tracker = self.parts["tracking"]()
        return tracker


def assemble(recipe: Recipe, registry: Registry, run_dir: Path) -> Assembly:
    """Build and check everything, so that no mistake shows up after the first trial.

    Args:
        recipe: As a person wrote it.
        registry: Where its components come from.
        run_dir: The run folder; it need not exist, and nothing is written.

    Raises:
        EvonasError: In one line, whatever is wrong with recipe, data, plugins or devices.
    """
    parts = Parts(recipe, registry)
    resolved = parts.recipe = parts.resolved()
    reading.text(resolved)
    factory = EvaluatorFactory(parts, run_dir)
    chosen = devices.choose(resolved.executor.device, devices.available())
    evaluator = factory(chosen[0])
    _check_training(parts, evaluator)
    objectives = _objectives(resolved, factory.space, evaluator)
    space, remarks, tried = _limited(factory), list[str](), list[Architecture]()
    if factory.data is not None:
        space, remarks, tried = _tried(space, factory.data.task, resolved.seed)
    known = known_networks(space, resolved.start_with)
    too_large = (f"left out: {name}, too large at any width" for name, a in known.items() if not a)
    with parts["executor"](factory, chosen) as executor:
        workers = executor.workers
    assembly = Assembly(
        recipe=resolved,
        parts=parts,
        space=space,
        objectives=objectives,
        budget=_budget(resolved, evaluator, workers),
        evaluator=evaluator,
        devices=chosen,
        fingerprint=factory.data.fingerprint if factory.data else None,
        make_evaluator=factory,
        remarks=(*remarks, *too_large),
        tried=tuple(tried),
        known={name: architecture for name, architecture in known.items() if architecture},
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
    assembly.tracker()
    if factory.data is None:  # else networks of it were tried
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


def _check_training(parts: Parts, evaluator: Evaluator) -> None:
    """Refuse choices of the training that no trial's training follows, or that are none."""
    section, part = parts.recipe.space.training or {}, parts["evaluation"]
    if section and "training" not in evaluator.takes:
        raise RecipeError(
            f"space.training: evaluation {part.name!r} trains no network by it; take one that does"
        )
    while isinstance(inner := part.options.get("of"), Part):
        part = inner
    for name, values in section.items():
        for value in tuned.domain(values).values():
            options.check(part.cls, {name: value}, "space.training")


def _absolute(name: str) -> str:
    """A run folder wherever we are; what is none is an id."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _plain(value: Any) -> Any:
    """Only what YAML holds: paths become text, tuples lists, and absent values are left out."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def _objectives(
    resolved: Recipe, space: SearchSpace, evaluator: Evaluator
) -> tuple[Objective, ...]:
    lacking = f"evaluation {resolved.evaluation.name!r} gives no such metric"
    _check_names("objectives", resolved.objectives, evaluator.metrics, lacking)
    lacking += f", and space {space.name!r} counts no such cost"
    known = tuple(dict.fromkeys((*space.counted, *evaluator.metrics)))
    _check_names("constraints", resolved.constraints, known, lacking)
    return tuple(Objective(metric, way) for metric, way in resolved.objectives.items())


def _check_names(section: str, names: Iterable[str], known: tuple[str, ...], lacking: str) -> None:
    for name in names:
        if name not in known:
            hint = did_you_mean(name, [*known, "latency"])
            if name == "latency":
                hint = ". To measure it: evaluation: {name: latency, of: {…}}."
            raise RecipeError(f"{section}.{name}: {lacking}{hint} Known: {', '.join(known)}")


def _limited(factory: EvaluatorFactory) -> SearchSpace:
    """The space within the limits of what it can count; the others are held when measured."""
    space = factory.space
    limits = {k: v for k, v in _limits(factory.parts.recipe).items() if k in space.counted}
    if not limits:
        return space
    if factory.data is None:
        raise RecipeError("constraints: counting needs a dataset section, for the input's shape")
    return space.limited(limits, factory.data.task)


def _tried(
    space: SearchSpace, task: Task, seed: int
) -> tuple[SearchSpace, list[str], list[Architecture]]:
    """The space, whose networks were tried out at a few points before they cost anything.

    And what there is to say of it, and the points that were all right and not enormous.

    Where some take no image of the task, as they pool too often for it, such networks are left out:
    that is decided by counting, so a space without limits is searched as if it had some.

    Raises:
        PluginError: If a network is at fault, or none of them takes an image.
    """
    seen: dict[str, InvalidArchitecture | None] = {}  # why it is impossible, by architecture
    good: list[Architecture] = []

    def look_at(point: Architecture) -> None:
        try:
            probe = Probe(space, point, task)
            seen[point.id] = None
            if not probe.large:
                good.append(point)
        except InvalidArchitecture as error:
            seen[point.id] = error

    rng = Random(f"{seed}/feasible")
    try:
        for sentence in declared(space):
            raise PluginError(sentence)
        look_at(space.unlimited.sample(rng))  # limits are counted, which says less of what is wrong
        good.clear()  # it may be beyond them
        for point in points(space, task, rng):
            look_at(point)
    except PluginError as error:
        reason = next((r for r in seen.values() if r), error)
        raise PluginError(f"space {space.name!r}: {reason}") from error
    impossible = [reason for reason in seen.values() if reason]
    if len(impossible) == len(seen):
        raise PluginError(f"space {space.name!r}: {impossible[0]}")
    if not impossible:
        return space, [], good
    remark = f"left out: networks that take no image of this size; for example {impossible[0]}"
    return space if space.limits else space.limited({}, task), [remark], good


def _limits(resolved: Recipe) -> dict[str, Limit]:
    return {
        name: Limit(**section.model_dump(exclude_none=True))
        for name, section in resolved.constraints.items()
    }


def _budget(resolved: Recipe, evaluator: Evaluator, workers: int) -> Budget:
    section, final, audit = resolved.budget, resolved.final, resolved.audit
    _check_end(resolved, evaluator)
    seconds = None if section.minutes is None else 60 * section.minutes
    budget = Budget(section.trials, seconds, section.effort, section.max_failures)
    if seconds is None or not evaluator.finals:  # which train nothing after the search
        return budget
    trainings = final.top * final.seeds + (audit.trials if audit else 0)
    return replace(budget, reserve=Reserve(seconds, trainings, workers))


def _check_end(resolved: Recipe, evaluator: Evaluator) -> None:
    """Refuse a budget of effort alone where it may never be spent.

    Raises:
        RecipeError: If no trial trains, or a limit is held before a trial trains.
    """
    section, name = resolved.budget, resolved.evaluation.name
    if section.effort is None or section.trials is not None or section.minutes is not None:
        return
    advice = "so that effort alone would never end the run; give trials or minutes as well"
    if not evaluator.context.work.full:  # every trial counts as its fidelity
        return
    if "training" not in evaluator.takes:
        raise RecipeError(f"budget.effort: with evaluation {name!r} trials train nothing, {advice}")
    if "latency" in resolved.constraints:
        raise RecipeError(
            f"budget.effort: a trial beyond constraints.latency trains nothing, {advice}"
        )
