"""The public contract kit: what every component must keep, told in sentences.

Each function returns a list of problems, empty if there are none::

    def test_my_space():
        assert check_space(MySpace()) == []
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from random import Random
from statistics import median

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evonas.architecture import Architecture, Categorical, Integer
from evonas.errors import InfeasibleConstraints, InvalidArchitecture
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.executors.base import Executor, Watch, run_trial
from evonas.runs.search import Budget, Search
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import cost
from evonas.strategies.base import Strategy
from evonas.strategies.hypernet import Sampler
from evonas.trial import Limit, Proposal, Trial, TrialState

_TIMES = ("seconds", "latency")  # metrics that are measured, and so never twice the same
_MUTANTS = 1000  # As many of a parent's mutants are looked through for its child.
_INSTEAD = {
    method: f"override {hook}, which yields choices, in place of {method}"
    for method, hook in {"sample": "draws", "mutate": "mutants", "crossover": "crossovers"}.items()
}
_NEW_TENSORS = "make new tensors by x.new_zeros and the like, or register them as buffers"
TASK = Task(channels=3, height=16, width=16, classes=10)


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
    problems = list(_check_declarations(space))
    if problems:
        return problems
    for n in range(points):
        rng = Random(f"{seed}/{n}")
        architecture = space.sample(rng)
        problems += _check_point(space, architecture, rng)
        problems += _check_network(space, architecture, task)
        if problems:
            return problems
    problems += _check_variation(space, Random(seed))
    problems += _check_limits(space.unlimited, task, seed)
    problems += _check_extremes(space, task, Random(seed))
    grey = Task(1 if task.channels > 1 else 3, task.height, task.width, task.classes + 1)
    problems += _check_network(space, space.sample(Random(seed)), grey)
    for name in space.points:
        try:
            space.point(name)
        except InvalidArchitecture as error:
            problems.append(f"points: {name!r} is not in the space: {error}")
    return problems


def _check_declarations(space: SearchSpace) -> Iterator[str]:
    domains = getattr(space, "domains", None)
    if not domains:
        yield "domains: the space declares none; set self.domains in __init__"
        return
    for name, domain in domains.items():
        if not isinstance(domain, Categorical | Integer):
            yield f"domains: {name!r} is {domain!r}; it must be a Categorical or an Integer"
    for name in space.conditions:
        if name not in domains:
            yield f"conditions: {name!r} is no choice of the space; name one of its domains"
    some = {name: d.values()[0] for name, d in domains.items() if hasattr(d, "values")}
    for kind, predicates in (("conditions", space.conditions), ("rules", space.rules)):
        for name, predicate in predicates.items():
            try:
                predicate(some)
            # The space under test is anybody's code: what it raises is the finding.
            except Exception as error:
                yield f"{kind}: that of {name!r} raises {type(error).__name__}: {error}"


def _check_point(space: SearchSpace, parent: Architecture, rng: Random) -> Iterator[str]:
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
    limit = Limit(max=median(space.costs(point, task)[name] for point in points))
    within = [point for point in points if space.costs(point, task)[name] <= limit.max]
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
        yield "sample: two generators of one seed give different architectures"
        return
    one, two = ([space.mutate(parent, Random(0)) for parent in first] for _ in range(2))
    if one != two:
        yield "mutate: two generators of one seed give different children"
    if len({a.id for a in first}) > space.size():
        yield f"size: says {space.size()}, but more architectures than that were drawn"
    unchanged = {name for name, domain in space.domains.items() if domain.size > 1}
    unchanged -= _changed_by_mutation(space, rng, unchanged)
    for name in sorted(unchanged):
        yield f"mutate: never changes {name!r}, so that search cannot reach its other values"
    a, b = first[0], next((other for other in first if other != first[0]), first[0])
    children = {space.crossover(a, b, rng).id for _ in range(32)}
    for parent in (a, b):
        if a != b and children == {parent.id}:
            yield "crossover: the child is always the same parent; take choices from both"


def _changed_by_mutation(space: SearchSpace, rng: Random, wanted: set[str]) -> set[str]:
    """Those choices that a random walk by mutation changed."""
    changed: set[str] = set()
    for _ in range(20 * len(wanted)):
        here = space.sample(rng)
        for _ in range(5):
            child = space.mutate(here, rng)
            changed |= {n for n in wanted if child.choices.get(n) != here.choices.get(n)}
            here = child
        if changed == wanted:
            break
    return changed


def _check_extremes(space: SearchSpace, task: Task, rng: Random) -> Iterator[str]:
    """The smallest point runs here; both, without data, as half precision and on a GPU."""
    smallest, largest = (_extreme(space, end, rng) for end in (0, -1))
    yield from _check_network(space, smallest, task)
    for architecture in (smallest, largest):
        yield from _check_without_data(space, architecture, task, "cuda")
        yield from _check_without_data(space, architecture, task, "meta", torch.bfloat16)


def _extreme(space: SearchSpace, end: int, rng: Random) -> Architecture:
    """The point with every choice at one end of its domain; a random one if rules forbid that."""
    try:
        return space.architecture({name: d.values()[end] for name, d in space.domains.items()})
    except InvalidArchitecture:
        return space.sample(rng)


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
    try:
        with fake, torch.device(device):
            network = space.build(architecture, task)
            if device == "meta":
                network = network.to(dtype)
            images = torch.empty(2, *task.input_shape, dtype=dtype)
        with fake:
            logits = network(images)
        if device == "meta" and logits.requires_grad:
            logits.sum().backward()
    # As below: anybody's code.
    except Exception as error:
        said = str(error).partition("\n")[0]
        yield (
            f"forward: {dict(architecture.choices)} on {device} as {dtype} raises "
            f"{type(error).__name__}: {said}; {_NEW_TENSORS}"
        )
        return
    if logits.dtype != dtype or logits.device.type != device:
        yield f"forward: of {dtype} on {device} it gives {logits.dtype} on {logits.device.type}"


def _check_network(space: SearchSpace, architecture: Architecture, task: Task) -> Iterator[str]:
    choices = dict(architecture.choices)
    try:
        network, other = space.build(architecture, task), space.build(architecture, task)
    # The space under test is anybody's code: what it raises is the finding.
    except Exception as error:
        yield f"build: {choices} raises {type(error).__name__}: {error}"
        return
    if not isinstance(network, nn.Module):
        yield f"build: returns {type(network).__name__}, not a torch module"
        return
    if _shapes(network) != _shapes(other):
        yield f"build: {choices} gives a different network each time"
        return
    if {p.device.type for p in network.parameters()} - {"cpu"}:
        yield "build: puts parameters on a device; evonas does that"
        return
    images = torch.randn(2, *task.input_shape)
    before = images.clone()
    try:
        logits = network(images)
        alone = network.eval()(before[:1])
    # As above.
    except Exception as error:
        yield f"forward: {choices} raises {type(error).__name__}: {error}"
        return
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, task.classes):
        yield f"forward: {choices} must give logits of shape (2, {task.classes})"
        return
    if tuple(alone.shape) != (1, task.classes):
        yield f"forward: {choices} must give logits of shape (1, {task.classes}) for one image"
    if not torch.equal(images, before):
        yield f"forward: {choices} changes the images in place; leave out inplace=True at the start"
    yield from _check_gradients(network, logits, choices)
    yield from _check_cost(space, architecture, task, other)


def _shapes(network: object) -> dict[str, torch.Size]:
    if not isinstance(network, nn.Module):
        return {}
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _check_gradients(
    network: nn.Module, logits: torch.Tensor, choices: Mapping[str, object]
) -> Iterator[str]:
    if not any(p.requires_grad for p in network.parameters()):
        yield f"build: {choices} has no parameter to train"
        return
    if logits.requires_grad:
        logits.sum().backward()
    if all(p.grad is None for p in network.parameters()):
        yield f"backward: no parameter of {choices} gets a gradient"


def _check_cost(
    space: SearchSpace, architecture: Architecture, task: Task, network: nn.Module
) -> Iterator[str]:
    try:
        told = space.costs(architecture, task)
    # As above: the space's own count, or its network on the meta device.
    except Exception as error:
        said = str(error).partition("\n")[0]
        yield f"costs: counting raises {type(error).__name__}: {said}; {_NEW_TENSORS}"
        return
    choices = dict(architecture.choices)
    for name in space.counted:
        if name not in told:
            yield f"costs: gives no {name!r}, which counted names"
        elif name in cost.COSTS and (value := cost.COSTS[name](network, task)) != told[name]:
            yield f"costs: says {told[name]:,.0f} {name}, the network of {choices} has {value:,.0f}"


class _Grid(SearchSpace):
    """A space of integers for checking strategies; nothing is built."""

    def __init__(self, dimensions: int, options: int) -> None:
        self.domains = {f"x{i}": Categorical(range(options)) for i in range(dimensions)}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Identity()


class _Sum(Evaluator):
    """The sum of the choices; every seventh architecture fails."""

    metrics = ("value",)

    def __init__(self) -> None:
        super().__init__(Context(_Grid(1, 1), None, "cpu", seed=0))

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        if int(trial.architecture.id, 16) % 7 == 0:
            raise RuntimeError("this architecture fails on purpose")
        value = float(sum(int(v) for v in trial.architecture.choices.values()))
        report(1, {"value": value / 2})
        return {"value": value}


class _Sums(Executor):
    """Evaluates the sum at once; every fifth architecture is pruned."""

    workers = 1

    def submit(self, trial: Trial, watch: Watch | None = None) -> Future[Trial]:
        hopeless = int(trial.architecture.id, 16) % 5 == 0
        future: Future[Trial] = Future()
        future.set_result(run_trial(_Sum(), trial, lambda step, metrics: hopeless))
        return future


def sampler_of(space: SearchSpace) -> Sampler:
    """A stand-in for a sampler: a point of the space, drawn by the weights as a seed."""
    return lambda complexity: space.sample(Random(repr(complexity)))


def check_strategy(
    make: Callable[[SearchSpace], Strategy], trials: int = 60, seed: int = 0
) -> list[str]:
    """Check a strategy: a fold over events, no repetition, exhaustion, parents that were tried.

    Some of the trials fail, and some are pruned.

    Args:
        make: Makes a fresh strategy for a space; it is told the metric ``value``, to be maximised.
        trials: Length of the searches.
        seed: Seed of the searches.
    """
    space = _Grid(dimensions=5, options=4)
    events = list(_run(make(space), trials, seed))
    if [e.to_json() for e in _run(make(space), trials, seed)] != [e.to_json() for e in events]:
        return ["ask: two searches of one seed differ; use only the generator that ask is handed"]
    problems: list[str] = []
    for cut in (1, len(events) // 3, len(events) // 2, len(events) - 1):
        resumed = [*events[:cut], *_run(make(space), trials, seed, events[:cut])]
        if _keys(resumed) != _keys(events):
            problems.append(f"tell: told {cut} events of a history, it goes on differently")
    keys = [e.proposal.key for e in events if e.state is TrialState.RUNNING]
    if len(set(keys)) < len(keys):
        problems.append("ask: the same architecture is proposed twice")
    problems += _check_fidelities(make(space).fidelities, events)
    to_the_end = list(_run(make(_Grid(2, 3)), 50, seed))
    problems += [*_check_parents(events), *_check_parents(to_the_end)]
    small = [event.proposal.key for event in to_the_end if event.state is TrialState.RUNNING]
    points = {architecture for architecture, *_ in small}
    if len(points) < 9:
        problems.append(f"ask: of a space of 9 points only {len(points)} are proposed")
    if len(small) > len(set(small)):
        problems.append("ask: in an exhausted space it repeats itself and does not return None")
    return problems


def _check_fidelities(declared: Sequence[float], events: Sequence[Trial]) -> Iterator[str]:
    """Proposals have the declared fidelities; what is continued was completed with less effort."""
    complete: dict[int | None, Proposal] = {}
    for event in events:
        proposal, rung = event.proposal, event.proposal.resume_from
        if event.state is TrialState.COMPLETE:
            complete[event.number] = proposal
        if event.state is not TrialState.RUNNING:
            continue
        if proposal.fidelity not in declared:
            yield f"ask: fidelity {proposal.fidelity:g} is none of strategy.fidelities"
        lower = complete.get(rung)
        same = lower is not None and lower.architecture == proposal.architecture
        if rung is not None and not (same and lower and lower.fidelity < proposal.fidelity):
            yield (
                f"ask: trial {event.number} continues trial {rung}, which is no completed trial "
                "of its architecture with less effort"
            )


def _check_parents(events: Sequence[Trial]) -> Iterator[str]:
    """Who is named as a parent was tried before, and did not fail."""
    alive = set()
    for event in events:
        if event.state in (TrialState.COMPLETE, TrialState.PRUNED):
            alive.add(event.number)
        for parent in set(event.proposal.parents) - alive:
            yield (
                f"ask: trial {event.number} names trial {parent} as a parent, which had not ended "
                "by then, or had failed; parents are told trials that the child was made of"
            )


def _run(
    strategy: Strategy, trials: int, seed: int, history: list[Trial] | tuple[Trial, ...] = ()
) -> Iterator[Trial]:
    with _Sums(lambda device: _Sum(), ("cpu",)) as executor:
        for event in Search(strategy, executor, Budget(trials, max_failures=None), seed, history):
            yield Trial(
                event.number,
                event.proposal,
                event.state,
                event.metrics,
                event.curve,
                0.0,
                event.error,
            )


def _keys(events: list[Trial]) -> list[tuple[int, Proposal, TrialState]]:
    return [(e.number, e.proposal, e.state) for e in events]


def check_evaluator(evaluator: Evaluator, architecture: Architecture) -> list[str]:
    """Check an evaluator: promised metrics, finite numbers, the same result for the same trial."""
    trial = Trial(0, Proposal(architecture))
    first, second = (run_trial(evaluator, trial) for _ in range(2))
    if first.state is not TrialState.COMPLETE:
        return [f"evaluate: {first.error}"]
    timeless = [{k: v for k, v in t.metrics.items() if k not in _TIMES} for t in (first, second)]
    if timeless[0] != timeless[1]:
        return [f"evaluate: one trial gives {timeless[0]} and then {timeless[1]}"]
    return []
