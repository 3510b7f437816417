"""The public contract kit: what every component must keep, told in sentences.

Each function returns a list of problems, empty if there are none::

    def test_my_space():
        assert check_space(MySpace()) == []

    def test_my_evaluator():
        assert check_evaluator(functools.partial(MyEvaluator, epochs=2)) == []

``evonas check KIND NAME`` calls the same functions.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import ParamSpec

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evonas.architecture import Architecture, Categorical
from evonas.datasets.base import Dataset
from evonas.datasets.digits import Digits
from evonas.errors import (
    DataError,
    EvonasError,
    InfeasibleConstraints,
    InvalidArchitecture,
    PluginError,
    RecipeError,
)
from evonas.evaluators.base import Context, Evaluator, Infeasible, Reporter
from evonas.executors.base import Executor, MakeEvaluator, Watch, run_trial
from evonas.executors.serial import Serial
from evonas.recipe.reading import validate
from evonas.recipe.registry import told
from evonas.runs import provenance
from evonas.runs.pruning.base import Pruner, Rule
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.darts import DARTS
from evonas.spaces.parts import cost
from evonas.spaces.parts.probe import Probe, declared, extreme
from evonas.spaces.plain_cnn import PlainCNN
from evonas.strategies.base import Strategy
from evonas.strategies.hypernet import Sampler
from evonas.strategies.random import RandomSearch
from evonas.trackers.base import Report, RunInfo, Tracker
from evonas.training.checkpoints import Checkpoints, Continued
from evonas.training.data import Arrays, split
from evonas.trial import Limit, Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

# These metrics are measured, and so never twice the same.
_TIMES = ("seconds", "latency", "latency_q1", "latency_q3")
_TAKES = ("data", "share", "training", "weights")  # Others may change these for an evaluator.
_VALUE = (Objective("value"),)
_SAME_IMAGES = 0.01  # This share of the test images may be training images by chance.
_AT_ONCE = 1.0  # Within so many seconds a tracker returns from an event.
_WAIT = 120.0  # Within so many seconds the smallest trial ends, a process's start included.
_MUTANTS = 1000  # As many of a parent's mutants are looked through for its child.
_INSTEAD = {
    method: f"override {hook}, which yields choices, in place of {method}"
    for method, hook in {"sample": "draws", "mutate": "mutants", "crossover": "crossovers"}.items()
}
_NEW_TENSORS = "; make new tensors by x.new_zeros and the like, or register them as buffers"
Checked = ParamSpec("Checked")
TASK = Task(channels=3, height=16, width=16, classes=10)


class _Broken(Exception):
    """A finding that makes it pointless to look further."""


@contextmanager
def _blamed(prefix: str, *shown: type[EvonasError], hint: str = "") -> Iterator[None]:
    """Whatever is raised inside is the last finding of a check, but for errors that are shown."""
    passed_on: tuple[type[Exception], ...] = (_Broken, *shown)
    try:
        yield
    except passed_on:
        raise
    # The component under test is anybody's code: what it raises is the finding.
    except (Exception, SystemExit) as error:
        # Of devices torch complains itself; a name that is missing has nothing to do with them.
        advice = hint if isinstance(error, RuntimeError | InvalidArchitecture) else ""
        raise _Broken(f"{prefix} {told(error)}{advice}".lstrip()) from error


def _findings(*checks: Iterator[str]) -> list[str]:
    """What the checks find wrong, each one until it is pointless to look further."""
    problems = []
    for check in checks:
        try:
            for problem in check:  # one by one, to keep those before the last
                problems.append(problem)
        except _Broken as last:
            problems.append(str(last))
    return problems


def _listed(check: Callable[Checked, Iterator[str]]) -> Callable[Checked, list[str]]:
    """Make a function that yields findings one that returns them."""

    @functools.wraps(check)
    def listed(*args: Checked.args, **kwargs: Checked.kwargs) -> list[str]:
        return _findings(check(*args, **kwargs))

    return listed


def check_space(space: SearchSpace, task: Task = TASK, points: int = 8, seed: int = 0) -> list[str]:
    """Check a search space, and say in a sentence what is wrong.

    Domains, conditions and rules; sampling, mutation, crossover, also under a limit; JSON; networks
    that are built, run forward and backward, on the CPU and, as far as shapes, types and devices
    go, on a GPU; costs.

    Args:
        space: The space.
        task: What its networks are built for.
        points: How many random points are built and run forward and backward.
        seed: Seed of the points.
    """
    points_of_seed = (_check_point(space, task, Random(f"{seed}/{n}")) for n in range(points))
    for check in (declared(space), *points_of_seed):
        if problems := _findings(check):
            return problems
    grey = Task(1 if task.channels > 1 else 3, task.height, task.width, task.classes + 1)
    return _findings(
        _check_variation(space, Random(seed)),
        _check_limits(space.unlimited, task, seed),
        _check_extremes(space, task, Random(seed)),
        _check_network(space, space.sample(Random(seed)), grey),
        _check_named_points(space),
    )


def _check_named_points(space: SearchSpace) -> Iterator[str]:
    for name in space.points:
        try:
            space.point(name)
        except InvalidArchitecture as error:
            yield f"points: {name!r} is not in the space: {error}"


def _check_point(space: SearchSpace, task: Task, rng: Random) -> Iterator[str]:
    """A random point, its child and its network."""
    parent = space.sample(rng)
    copy = Architecture.from_json(json.loads(json.dumps(parent.to_json())))
    if copy != parent or copy.id != parent.id:
        yield f"JSON: {dict(parent.choices)} does not survive the round trip"
    if dict(space.canonical(parent.choices)) != dict(parent.choices):
        yield "canonical: applied twice it gives something else than applied once"
    if space.size() > 1:
        child = space.mutate(parent, rng)
        if child.id == parent.id:
            yield f"mutate: the child equals its parent {dict(parent.choices)}"
        yield from _belongs(space, child, "mutate")
        yield from _check_descent(space, parent, rng.random())
        yield from _belongs(space, space.crossover(parent, child, rng), "crossover")
    yield from _belongs(space, parent, "sample")
    yield from _check_network(space, parent, task)


def _belongs(space: SearchSpace, architecture: Architecture, method: str) -> Iterator[str]:
    try:
        again = space.architecture(architecture.choices)
    except InvalidArchitecture as error:
        yield f"{method}: gives an architecture outside the space: {error}"
    else:
        if again.id != architecture.id:
            yield f"{method}: gives an architecture that is not canonical; use self.architecture()"


def _check_descent(space: SearchSpace, parent: Architecture, seed: float) -> Iterator[str]:
    """A child is one of its parent's mutants: its trial is recorded so, and may inherit weights."""
    try:
        child = space.mutate(parent, Random(seed))
    except InfeasibleConstraints:  # a parent need not have one within the limits
        return
    for choices in itertools.islice(space.mutants(parent, Random(seed)), _MUTANTS):
        with suppress(InvalidArchitecture):
            if space.architecture(choices).id == child.id:
                return
    if child.id != parent.id:
        yield f"mutate: gives a child that mutants does not yield; {_INSTEAD['mutate']}"


def _check_limits(space: SearchSpace, task: Task, seed: int) -> Iterator[str]:
    """Under a limit that half of the random points exceed, nothing that is handed out does."""
    if not space.counted:
        return
    name = space.counted[0]
    points = [space.sample(Random(f"{seed}/{n}")) for n in range(9)]
    with _blamed("costs: counting raises"):
        counted = [space.costs(point, task)[name] for point in points]
    limit = Limit(max=median(counted))
    within = [point for point, value in zip(points, counted, strict=True) if value <= limit.max]
    limited = space.limited({name: limit}, task)
    methods: dict[str, Callable[[Random], Architecture]] = {
        "sample": limited.sample,
        "mutate": lambda rng: limited.mutate(rng.choice(within), rng),
        "crossover": lambda rng: limited.crossover(rng.choice(within), rng.choice(within), rng),
    }
    for method, draw in methods.items():
        for n in range(8):
            try:
                drawn = draw(Random(f"{seed}/{n}"))
            except InfeasibleConstraints:  # what the contract wants where nothing is found
                continue
            except InvalidArchitecture as error:
                yield f"{method}: raises under a limit on {name}: {error}; {_INSTEAD[method]}"
                break
            except PluginError as fault:
                raise _Broken(f"{method}: {fault}") from fault
            if space.costs(drawn, task)[name] > limit.max:
                yield f"{method}: exceeds a limit on {name}; {_INSTEAD[method]}"
                break
    for parent in within:
        yield from _check_descent(limited, parent, seed)


def _check_variation(space: SearchSpace, rng: Random) -> Iterator[str]:
    """Determinism, and that search can get everywhere."""
    # Sixteen draws, so that chance does not hide randomness of the space's own.
    seeds = (rng.random(),) * 2
    first, second = ([space.sample(own) for _ in range(16)] for own in map(Random, seeds))
    if first != second:
        raise _Broken("sample: two generators of one seed give different architectures")
    one, two = ([space.mutate(parent, Random(0)) for parent in first] for _ in range(2))
    if one != two:
        yield "mutate: two generators of one seed give different children"
    if len({a.id for a in first}) > space.size():
        yield f"size: says {space.size()}, but more architectures than that were drawn"
    unchanged = {name for name, domain in space.domains.items() if domain.size > 1}
    # Walks, not single steps: some choices have an effect in few networks alone.
    for _ in range(20 * len(unchanged)):
        here = space.sample(rng)
        for _ in range(5):
            child = space.mutate(here, rng)
            unchanged -= {n for n in unchanged if child.choices.get(n) != here.choices.get(n)}
            here = child
        if not unchanged:
            break
    for name in sorted(unchanged):
        yield f"mutate: never changes {name!r}, so that search cannot reach its other values"
    a, b = first[0], next((other for other in first if other != first[0]), first[0])
    children = {space.crossover(a, b, rng) for _ in range(32)}
    if a != b and children in ({a}, {b}):
        yield "crossover: the child is always the same parent; take choices from both"


def _check_extremes(space: SearchSpace, task: Task, rng: Random) -> Iterator[str]:
    """The smallest point runs here; both, without data, as half precision and on a GPU."""
    # A random one where the rules forbid the extreme.
    smallest, largest = (extreme(space, end) or space.sample(rng) for end in (0, -1))
    yield from _check_network(space, smallest, task)
    for architecture in (smallest, largest):
        yield from _check_without_data(space, architecture, task, "cuda")
        yield from _check_without_data(space, architecture, task, "meta", torch.bfloat16)


def _check_without_data(
    space: SearchSpace,
    architecture: Architecture,
    task: Task,
    device: str,
    dtype: torch.dtype = torch.float32,
) -> Iterator[str]:
    """Where only shapes, types and devices are computed: forward on a GPU, which needs none.

    Backward on the meta device alone: torch's gradients want a real GPU.
    """
    fake = FakeTensorMode() if device == "cuda" else nullcontext()
    choices = dict(architecture.choices)
    with _blamed(f"forward: {choices} on {device} as {dtype} raises", hint=_NEW_TENSORS):
        with fake, torch.device(device):
            network = space.build(architecture, task)
            if device == "meta":
                network = network.to(dtype)
            images = torch.empty(2, *task.input_shape, dtype=dtype)
        with fake:
            logits = network(images)
        if device == "meta" and logits.requires_grad:
            logits.sum().backward()
    if logits.dtype != dtype or logits.device.type != device:
        yield f"forward: of {dtype} on {device} it gives {logits.dtype} on {logits.device.type}"


def _check_network(space: SearchSpace, architecture: Architecture, task: Task) -> Iterator[str]:
    choices = dict(architecture.choices)
    try:
        probe = Probe(space, architecture, task)
    except (PluginError, InvalidArchitecture) as fault:
        raise _Broken(str(fault)) from fault
    network, logits = probe.network, probe.logits
    if probe.in_place:
        yield f"forward: {choices} changes the images in place; leave out inplace=True at the start"
    if not any(p.requires_grad for p in network.parameters()):
        raise _Broken(f"build: {choices} has no parameter to train")
    if not probe.large:  # its gradients would need memory; see _check_without_data
        if logits.requires_grad:
            logits.sum().backward()
        if all(p.grad is None for p in network.parameters()):
            yield f"backward: no parameter of {choices} gets a gradient"
    with _blamed("costs: counting raises", hint=_NEW_TENSORS):
        costs = space.costs(architecture, task)
    for name in space.counted:
        if name not in costs:
            yield f"costs: gives no {name!r}, which counted names"
        elif name in cost.COSTS and (value := _counted(probe, name)) != costs[name]:
            count = f"{costs[name]:,.0f} {name}"
            yield f"costs: says {count}, the network of {choices} has {value:,.0f}"


def _counted(probe: Probe, name: str) -> float:
    """A cost of the network that was built; of a large one, of another without memory."""
    if not probe.large:
        return cost.COSTS[name](probe.other, probe.task)
    space, architecture, task = probe.space, probe.architecture, probe.task
    return cost.of_built(lambda: space.build(architecture, task), task, (name,))[name]


class _Grid(SearchSpace):
    """A space of integers for checking strategies; nothing is built."""

    def __init__(self, dimensions: int, options: int) -> None:
        self.domains = {f"x{i}": Categorical(range(options)) for i in range(dimensions)}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


class _Sum(Evaluator):
    """The sum of the choices; some architectures fail, some are pruned."""

    metrics = ("value",)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(Context(_Grid(1, 1), None, device, seed=0))

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        if int(trial.architecture.id, 16) % 7 == 0:
            raise RuntimeError("this architecture fails on purpose")
        value = float(sum(int(v) for v in trial.architecture.choices.values()))
        report(1, {"value": value / 2})
        if int(trial.architecture.id, 16) % 5 == 0:
            raise Infeasible({"value": value / 2})
        return {"value": value}


def sampler_of(space: SearchSpace) -> Sampler:
    """A stand-in for a sampler: a point of the space, drawn by the weights as a seed."""
    return lambda complexity: space.sample(Random(repr(complexity)))


@_listed
def check_strategy(
    make: Callable[[SearchSpace], Strategy], trials: int = 60, seed: int = 0
) -> Iterator[str]:
    """Check a strategy: a fold over events, no repetition, exhaustion, parents that were tried.

    Some of the trials fail, and some are pruned.

    Args:
        make: Makes a fresh strategy for a space; it is told the metric ``value``, to be maximised.
        trials: Length of the searches.
        seed: Seed of the searches.
    """
    space = _Grid(dimensions=5, options=4)
    events = _run(make(space), trials, seed)
    if _run(make(space), trials, seed) != events:
        raise _Broken(
            "ask: two searches of one seed differ; use only the generator that ask is handed"
        )
    for cut in (1, len(events) // 3, len(events) // 2, len(events) - 1):
        if events[:cut] + _run(make(space), trials, seed, events[:cut]) != events:
            yield f"tell: told {cut} events of a history, it goes on differently"
    to_the_end = _run(make(_Grid(2, 3)), 50, seed)
    keys, small_keys = (
        [event.proposal.key for event in each if event.state is TrialState.RUNNING]
        for each in (events, to_the_end)
    )
    if len(set(keys)) < len(keys):
        yield "ask: the same architecture is proposed twice"
    yield from _check_lineage(make(space).fidelities, events)
    yield from _check_lineage(make(space).fidelities, to_the_end)
    points = {architecture for architecture, *_ in small_keys}
    if len(points) < 9:
        yield f"ask: of a space of 9 points only {len(points)} are proposed"
    if len(set(small_keys)) < len(small_keys):
        yield "ask: in an exhausted space it repeats itself and does not return None"


def _check_lineage(fidelities: Sequence[float], events: Sequence[Trial]) -> Iterator[str]:
    """Fidelities are declared ones; parents did not fail; what is continued had less effort."""
    trials = Trials()
    for event in events:
        trials.add(event)
        if event.state is not TrialState.RUNNING:
            continue
        proposal, rung = event.proposal, event.proposal.resume_from
        if proposal.fidelity not in fidelities:
            yield f"ask: fidelity {proposal.fidelity:g} is none of strategy.fidelities"
        complete: dict[int | None, Proposal] = {t.number: t.proposal for t in trials.complete}
        lower = complete.get(rung, proposal)
        same = lower.architecture == proposal.architecture
        if rung is not None and not (same and lower.fidelity < proposal.fidelity):
            yield (
                f"ask: trial {event.number} continues trial {rung}, which is no completed trial "
                "of its architecture with less effort"
            )
        for parent in set(proposal.parents) - complete.keys() - {t.number for t in trials.pruned}:
            yield (
                f"ask: trial {event.number} names trial {parent} as a parent, which had not ended "
                "by then, or had failed; parents are told trials that the child was made of"
            )


def _run(strategy: Strategy, trials: int, seed: int, history: Sequence[Trial] = ()) -> list[Trial]:
    """The events of a search for the largest sum, without what the clock measured."""
    with Serial(_Sum, ("cpu",), isolate=False) as executor:
        search = Search(strategy, executor, Budget(trials, max_failures=None), seed, history)
        return [replace(event, seconds=0.0, elapsed=0.0) for event in search]


@_listed
def check_evaluator(
    make: Callable[[Context], Evaluator], space: SearchSpace | None = None, seed: int = 0
) -> Iterator[str]:
    """Check an evaluator on a few small digits, and say in a sentence what is wrong.

    What it promises, the same result for the same trial also after a resume and without the test
    split, reports, effort, final trainings, and what it claims to take from its context.

    Args:
        make: Makes it in a context: its class, or one with options by ``functools.partial``. A
            training of two epochs is long enough.
        space: What is evaluated; default: the first of two small spaces that it can be made for.
        seed: Of the run and the architecture.

    Raises:
        RecipeError: If it can be made for neither space.
    """
    with tempfile.TemporaryDirectory() as folder:
        world = _world(make, space, Path(folder), seed)
        with _blamed(""):
            yield from _check_evaluator(make, world)


def _world(
    make: Callable[[Context], Evaluator], space: SearchSpace | None, folder: Path, seed: int
) -> Context:
    """A small world that the evaluator can be made in."""
    digits = Digits(seed=seed).read()
    (images, labels), (test_images, test_labels) = digits.train, digits.test
    few = Arrays(
        (images[:200], labels[:200]), (test_images[:50], test_labels[:50]), None, digits.classes
    )
    data, weights = split(few, 0.2, seed, "digits"), Checkpoints(folder / "weights", keep_gb=1)
    world = Context(space or PlainCNN(1, 8), data, "cpu", seed, folder, Continued(weights))
    try:
        make(world)
    except RecipeError:
        if space is not None:
            raise
        world = replace(world, space=DARTS(2))
        make(world)
    return world


def _check_evaluator(make: Callable[[Context], Evaluator], world: Context) -> Iterator[str]:
    evaluator = make(world)
    if problems := list(_check_promises(evaluator)):
        yield from problems
        return
    if not evaluator.prepare(lambda message: None, lambda: False):
        yield "prepare: says that it was not done, though nobody stopped it; return True"
    trial = Trial(0, Proposal(world.space.sample(Random(world.seed))))
    first, again = (_completed(evaluator, trial) for _ in range(2))
    if _timeless(again) != _timeless(first):
        raise _Broken(
            f"evaluate: one trial gives {_timeless(first)} and then {_timeless(again)}; seed "
            "whatever is random by the run's seed and the trial's number"
        )
    assert world.data is not None
    resumed = make(replace(world, data=replace(world.data, test=None)))
    resumed.prepare(lambda message: None, lambda: False)
    afresh = _timeless(run_trial(resumed, trial))
    if afresh != _timeless(first):
        yield (
            f"evaluate: made afresh, and without a test split, it gives {afresh}, not "
            f"{_timeless(first)}; keep what must last in context.run_dir, and do not look at "
            "tests"
        )
    yield from _check_reports(evaluator, first)
    efforts = [evaluator.effort(fidelity) for fidelity in (0.25, 0.5, 1.0)]
    if efforts != sorted(efforts):
        yield f"effort: falls with the fidelity: {efforts} at 0.25, 0.5 and 1"
    low = replace(trial, proposal=replace(trial.proposal, fidelity=0.5))
    _completed(evaluator, low, "at fidelity 0.5: ")
    yield from _check_final(evaluator, trial)
    yield from _check_takes(make, world, evaluator, first)


def _completed(evaluator: Evaluator, trial: Trial, what: str = "", hint: str = "") -> Trial:
    """The trial, run to its end; any other end is a finding."""
    ended = run_trial(evaluator, trial)
    if ended.state is not TrialState.COMPLETE:
        reason = ended.error or f"ends the trial as {ended.state}"
        raise _Broken(f"evaluate: {what}{reason}{hint}")
    return ended


def _check_promises(evaluator: Evaluator) -> Iterator[str]:
    if not isinstance(getattr(evaluator, "context", None), Context):
        yield "__init__: call super().__init__(context)"
    for name in ("metrics", "reports"):
        names = getattr(evaluator, name, ())
        if not (isinstance(names, tuple) and all(isinstance(each, str) for each in names)):
            yield f"{name}: is {names!r}; it must be a tuple of names, such as ('val_accuracy',)"
    if not getattr(evaluator, "metrics", ()):
        yield "metrics: promises none, so that no recipe can have an objective; name them"
    for name in sorted(evaluator.takes - set(_TAKES)):
        yield f"takes: {name!r} is none of {', '.join(_TAKES)}"


def _timeless(trial: Trial) -> Mapping[str, float]:
    """Metrics that must be the same each time."""
    return {name: value for name, value in trial.metrics.items() if name not in _TIMES}


def _check_reports(evaluator: Evaluator, ended: Trial) -> Iterator[str]:
    steps = [step for step, _ in ended.curve]
    if steps != sorted(set(steps)):
        yield f"report: the steps are {steps}; let them rise, 1, 2, 3, …"
    for step, metrics in ended.curve:
        if missing := ", ".join(name for name in evaluator.reports if name not in metrics):
            yield f"report: step {step} has no number for {missing}, which `reports` promises"
            break
    if evaluator.reports and not ended.curve:
        yield f"report: is never called, though `reports` promises {', '.join(evaluator.reports)}"


def _check_final(evaluator: Evaluator, trial: Trial) -> Iterator[str]:
    """Final trainings of one repeat compare architectures; the winner's weights are tested."""
    winner = trial
    if evaluator.finals:
        winner = replace(trial, proposal=replace(trial.proposal, stage="final"))
        hint = "; set finals = False if there is no fuller training than a trial's"
        zero, one = (
            _timeless(_completed(evaluator, replace(winner, number=n), "a final training: ", hint))
            for n in (0, 1)
        )
        if zero != one:
            raise _Broken(
                f"evaluate: final trainings of one repeat give {zero} and {one}; seed them by "
                "trial.proposal.repeat, and not by the number"
            )
    metrics = evaluator.test(winner)
    if not all(math.isfinite(value) for value in metrics.values()):
        yield f"test: gives {dict(metrics)}; all must be finite numbers"


class _Noted(Continued):
    """Notes who starts from it and who leaves something."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        super().__init__(checkpoints)
        self.started: list[nn.Module] = []
        self.ended: list[nn.Module] = []

    def start(self, network: nn.Module, trial: Trial, epochs: int) -> int:
        self.started.append(network)
        return super().start(network, trial, epochs)

    def end(self, network: nn.Module, trial: Trial, epochs: int) -> None:
        self.ended.append(network)
        super().end(network, trial, epochs)


def _check_takes(
    make: Callable[[Context], Evaluator], world: Context, whole: Evaluator, ended: Trial
) -> Iterator[str]:
    """What is claimed to be taken from the context has the effect that a wrapper counts on."""
    assert world.data is not None
    assert world.run_dir is not None
    trial = replace(ended, state=TrialState.RUNNING, metrics={}, curve=())
    if "data" in whole.takes:
        data, folder = world.data.subset(0.5, world.seed).resized(6), world.run_dir / "smaller"
        folder.mkdir()
        weights = Continued(Checkpoints(folder / "weights", keep_gb=1))
        small = make(replace(world, data=data, run_dir=folder, weights=weights))
        small.prepare(lambda message: None, lambda: False)
        if (error := run_trial(small, trial).error) is not None:
            yield f"takes: data, but on half of them, at 6 pixels: {error}"
    if "share" in whole.takes and whole.effort(0.5) < whole.effort(1):  # there is something to cut
        part = make(replace(world, share=0.5))
        cut = run_trial(part, trial)
        if not (part.effort(1) < whole.effort(1) and len(cut.curve) <= len(ended.curve)):
            yield "takes: share, but context.share = 0.5 shortens neither a trial nor its effort"
    if "weights" in whole.takes:
        noted = _Noted(Checkpoints(world.run_dir / "noted", keep_gb=1))
        run_trial(make(replace(world, weights=noted)), trial)
        if not noted.started or [*map(id, noted.started)] != [*map(id, noted.ended)]:
            yield (
                "takes: weights, but does not call context.weights.start with every network that "
                "it trains, and context.weights.end with the same one afterwards"
            )


@_listed
def check_dataset(make: Callable[[], Dataset], size: int | None = None) -> Iterator[str]:
    """Check a data set, and say in a sentence what is wrong.

    Shapes, types, labels, classes that are missing, test images that are training images, and the
    same images every time.

    Args:
        make: Makes it, afresh each time: its class, or one with options by ``functools.partial``.
        size: What it was told to give, pixels a side; None: nothing.

    Raises:
        EvonasError: If there is nothing to read where it was told to.
    """
    with _blamed("read: raises", EvonasError):
        arrays, again = make().read(), make().read()
    if not isinstance(arrays, Arrays):
        raise _Broken(f"read: returns {type(arrays).__name__}, not evonas.Arrays(train, test)")
    try:
        data, same = (split(each, 0.2, 0, "read") for each in (arrays, again))
    except DataError as error:
        raise _Broken(str(error)) from error
    if same.fingerprint != data.fingerprint:
        yield "read: gives other images each time; seed whatever is random, sort files"
    if size is not None and data.task.input_shape[1:] != (size, size):
        shape = "×".join(map(str, data.task.input_shape[1:]))
        yield f"read: was asked for {size}×{size} pixels and gives {shape}"
    for name in ("train", "test"):
        labels = set(np.asarray(getattr(arrays, name)[1]).ravel().tolist())
        empty = [c for label, c in enumerate(data.classes) if label not in labels]
        if empty:
            yield f"read: no {name} image is of class {empty[0]!r}; leave it out"
    training_images = {image.tobytes() for image in arrays.train[0]}
    share = np.mean([image.tobytes() in training_images for image in arrays.test[0]])
    if share > _SAME_IMAGES:
        yield f"read: {share:.0%} of the test images are training images; a test on those is none"


@_listed
def check_pruning(make: Callable[[], Rule], trials: int = 40, seed: int = 0) -> Iterator[str]:
    """Check a pruning rule on curves that rise in straight lines from 0 and never cross.

    Args:
        make: Makes it, afresh each time: its class, or one with options by ``functools.partial``.
        trials: Number of curves.
        seed: Of their ends, which are from 0 to 1.
    """
    rng = Random(seed)
    ends = [rng.random() for _ in range(trials)]
    with _blamed("prune: raises"):
        stops, again = _stops(make, ends), _stops(make, ends)
    if again != stops:
        yield "prune: judges the same curves differently; let it depend on them alone"
    elif (step := stops[ends.index(max(ends))]) is not None:
        value = max(ends) * step / _STEPS
        yield (
            f"prune: stops the best of {trials} trials, made-up curves that rise in straight lines "
            f"from 0, at step {step} of {_STEPS} with {value:.2f}; if it is meant to, check it "
            "with options by which it does not"
        )


_STEPS = 9  # A made-up curve is that long.


def _stops(make: Callable[[], Rule], ends: Sequence[float]) -> list[int | None]:
    """The step at which each trial is stopped."""
    pruner, point = Pruner(_VALUE, make()), _Grid(1, 2).sample(Random(0))
    stops: list[int | None] = []
    for number, end in enumerate(ends):
        trial = Trial(number, Proposal(point))
        pruner.tell(trial)
        curve = [(step, {"value": end * step / _STEPS}) for step in range(1, _STEPS + 1)]
        stop = next((step for step, m in curve if pruner.should_stop(number, step, m)), None)
        stops.append(stop)
        reports = tuple(curve[:stop])
        state = TrialState.COMPLETE if stop is None else TrialState.PRUNED
        pruner.tell(replace(trial, state=state, metrics=reports[-1][1], curve=reports))
    return stops


@_listed
def check_executor(
    make: Callable[[MakeEvaluator, tuple[str, ...]], Executor], trials: int = 16
) -> Iterator[str]:
    """Check an executor: every trial ends as it does here, failed and stopped ones among them.

    Args:
        make: Makes it of what makes evaluators, and devices: its class, or one with options by
            ``functools.partial``.
        trials: How many are run.
    """
    space = _Grid(dimensions=5, options=4)
    waiting = [Trial(n, Proposal(space.sample(Random(n)))) for n in range(trials)]

    def watch(trial: Trial) -> Watch:
        return lambda step, metrics: trial.number % 5 == 0

    with make(_Sum, ("cpu",)) as executor:
        if executor.workers < 1:
            raise _Broken(f"workers: is {executor.workers}; at least one trial must run at once")
        for n in range(0, trials, executor.workers):
            batch = waiting[n : n + executor.workers]
            with _blamed(f"submit: trial {n} or after: raises"):
                futures = [executor.submit(trial, watch(trial)) for trial in batch]
                ended = [_outcome(future.result(_WAIT)) for future in futures]
            for trial, end in zip(batch, ended, strict=True):
                here = _outcome(run_trial(_Sum(), trial, watch(trial)))
                if end != here:
                    yield (
                        f"submit: trial {trial.number} ends as {end}, not as {here}; "
                        "run it by run_trial with the watch"
                    )
    executor.close()  # a second time, which must do no harm


def _outcome(trial: Trial) -> tuple[object, ...]:
    """What of an ended trial is the same wherever it ran."""
    reason = (trial.error or "").partition("\n")[0]
    return trial.number, trial.state.value, dict(trial.metrics), trial.curve, reason


@_listed
def check_tracker(make: Callable[[], Tracker]) -> Iterator[str]:
    """Check a tracker: it takes a whole run, resumed once, and never holds it up.

    Args:
        make: Makes it, afresh each time: its class, or one with options by ``functools.partial``.

    Raises:
        EvonasError: If it cannot work at all.
    """
    events = _run(RandomSearch(_Grid(2, 4), _VALUE), trials=8, seed=0)
    names = {"space": "plain_cnn", "strategy": "random", "evaluation": "train"}
    recipe = validate({"name": "check", **names, "budget": {"trials": 8}}, "check").dump()
    environment = provenance.environment(("cpu",))
    with tempfile.TemporaryDirectory() as folder, _blamed("raises", EvonasError):
        for history, rest in ((events[:0], events[:7]), (events[:7], events[7:])):
            run = RunInfo(
                "check", Path(folder), recipe, _VALUE, environment, time.time(), bool(history)
            )
            tracker = make()
            tracker.start(run, tuple(history))
            tracker.note("half way")
            for event in rest:
                start = time.perf_counter()
                tracker.record(event)
                if (seconds := time.perf_counter() - start) > _AT_ONCE:
                    yield f"record: takes {seconds:.1f} s, and the search waits; do it aside"
            best = Trials(_VALUE, [*history, *rest]).best
            tracker.close(Report("finished", "the check is over", {}, 1.0, best))
