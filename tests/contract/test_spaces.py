"""Every space through the public contract kit, and the kit on spaces that break the contract."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from random import Random

import pytest
import torch
from conftest import ROOT, TINY_SPACES, all_spaces
from torch import nn

from evonas.architecture import Architecture, Categorical, Integer, Value
from evonas.errors import InfeasibleConstraints, InvalidArchitecture
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import cost
from evonas.testing import check_space

REGISTRY = Registry((ROOT / "plugins",))
NAMES = all_spaces()
TASKS = (
    Task(channels=1, height=28, width=28, classes=10),
    Task(channels=3, height=5, width=9, classes=4),
)
each_space = pytest.mark.parametrize("name", NAMES)
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: "x".join(map(str, t.input_shape)))


def make(name: str) -> SearchSpace:
    space: SearchSpace = REGISTRY.find("space", name)(**TINY_SPACES.get(name, {}))
    return space


@each_task
@each_space
def test_every_space_keeps_the_contract(name: str, task: Task) -> None:
    assert check_space(make(name), task, points=3) == []


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "nasnet" else []) for n in NAMES]
)
def test_the_defaults_keep_the_contract(name: str) -> None:
    space: SearchSpace = REGISTRY.find("space", name)()
    assert check_space(space, Task(1, 8, 8, 10), points=1) == []


@each_space
def test_the_space_is_called_like_its_file(name: str) -> None:
    assert make(name).sample(Random(0)).space == name


@each_space
def test_whatever_is_drawn_is_of_the_space(name: str) -> None:
    space = make(name)
    for seed in range(100):
        rng = Random(seed)
        a, b = space.sample(rng), space.sample(rng)
        child, crossed = space.mutate(a, rng), space.crossover(a, b, rng)
        assert child.id != a.id
        for drawn in (a, child, crossed, *itertools.islice(space.neighbours(a), 5)):
            assert space.architecture(drawn.choices).id == drawn.id


class Good(SearchSpace):
    """A linear network of a chosen width; the spaces below each break one promise."""

    def __init__(self) -> None:
        self.domains = {"width": Integer(1, 8), "activation": Categorical(("relu", "gelu"))}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        width = int(architecture.choices["width"])
        inputs = task.channels * task.height * task.width
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.Linear(width, task.classes))


class NoDomains(Good):
    def __init__(self) -> None:
        pass


class Raises(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        raise ZeroDivisionError("no such network")


class NotAModule(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return super().build(architecture, task).forward  # type: ignore[return-value]


class WrongShape(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(super().build(architecture, task), nn.Linear(task.classes, 7))


class FixedInput(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(7, task.classes))


class Frozen(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return super().build(architecture, task).requires_grad_(False)


class Detached(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(super().build(architecture, task), Detach())


class Detach(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


class LazyMutation(Good):
    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        return itertools.repeat(parent.choices)


class WildMutation(Good):
    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        return Architecture(self.name, {**parent.choices, "width": 99})


class WildCrossover(Good):
    def crossover(self, a: Architecture, b: Architecture, rng: Random) -> Architecture:
        return Architecture(self.name, {"width": a.choices["width"]})


class NeverSettles(Good):
    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        other = "gelu" if choices["activation"] == "relu" else "relu"
        return {**choices, "activation": other}


class RawSample(Good):
    """Makes its architectures directly, past its own canonical form."""

    def canonical(self, choices: Mapping[str, Value]) -> Mapping[str, Value]:
        return {**choices, "activation": "relu"}

    def sample(self, rng: Random) -> Architecture:
        return Architecture(self.name, {"width": rng.randint(1, 8), "activation": "gelu"})


class OwnRandomness(Good):
    def sample(self, rng: Random) -> Architecture:
        return super().sample(Random())


class BadPoint(Good):
    points = {"odd": {"width": 4, "activation": "sine"}}  # noqa: RUF012


class NoDomain(Good):
    def __init__(self) -> None:
        self.domains = {"width": [1, 2, 3]}  # type: ignore[dict-item]


class StrangeCondition(Good):
    def __init__(self) -> None:
        super().__init__()
        self.conditions = {"depth": lambda choices: True}


class BadRule(Good):
    def __init__(self) -> None:
        super().__init__()
        self.rules = {"it is not too deep": lambda choices: choices["depth"] < 3}


class StuckChoice(Good):
    """Mutates the width alone."""

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        while True:
            yield self.changed(parent, "width", rng)


class OneParent(Good):
    def crossover(self, a: Architecture, b: Architecture, rng: Random) -> Architecture:
        return b


class OwnMutation(Good):
    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        return super().mutants(parent, Random())


class RandomChild(Good):
    """Gives up on its parent at once."""

    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        return self.sample(rng)


class RandomChildUnderLimits(Good):
    """Gives up on its parent where others say that there is no child."""

    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        try:
            return super().mutate(parent, rng)
        except InfeasibleConstraints:
            return self.sample(rng)

    def mutants(self, parent: Architecture, rng: Random) -> Iterator[Mapping[str, Value]]:
        return itertools.repeat({**parent.choices, "width": int(parent.choices["width"]) % 8 + 1})


class TooSmall(Good):
    def size(self) -> int:
        return 3


class Fickle(Good):
    """A width that nobody chose."""

    def __init__(self) -> None:
        super().__init__()
        self._built = 0

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        self._built += 1
        return nn.Sequential(nn.Linear(1, self._built), super().build(architecture, task))


class OnlyColours(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, task.channels, 1), super().build(architecture, task))


class FailsWhenLarge(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        network = super().build(architecture, task)
        large = architecture.choices == {"width": 8, "activation": "gelu"}
        return nn.Sequential(network, nn.Linear(1, 1)) if large else network

    def sample(self, rng: Random) -> Architecture:
        return self.architecture({"width": rng.randint(1, 7), "activation": "relu"})


class OnTheCPU(Good):
    """Adds a tensor that it makes anew."""

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(super().build(architecture, task), AddsOnes(torch.float32))


class InSinglePrecision(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(super().build(architecture, task), AddsOnes(None))


class AddsOnes(nn.Module):
    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._dtype is None:
            return x + torch.ones(x.shape, dtype=torch.float32, device=x.device)
        return x + torch.ones(x.shape, dtype=x.dtype, device="cpu")


class InPlace(Good):
    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(nn.ReLU(inplace=True), super().build(architecture, task))


class WrongCost(Good):
    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        return {"params": 1, "flops": 2}


class MissingCost(Good):
    counted = ("params", "flops", "joules")

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        network = self.build(architecture, task)
        return {name: count(network, task) for name, count in cost.COSTS.items()}


class UnlimitedSample(Good):
    """Draws by itself, and so past the limits."""

    def sample(self, rng: Random) -> Architecture:
        return self.unlimited.sample(rng) if self.limits else super().sample(rng)


class UnlimitedMutation(Good):
    def mutate(self, parent: Architecture, rng: Random) -> Architecture:
        return SearchSpace.mutate(self.unlimited, parent, rng)


class RaisingCrossover(Good):
    """A child that exceeds the limits is an error to it."""

    def crossover(self, a: Architecture, b: Architecture, rng: Random) -> Architecture:
        wider = max(int(each.choices["width"]) for each in (a, b))
        activation = rng.choice((a, b)).choices["activation"]
        width = rng.choice((wider, min(8, wider + 1)))
        return self.architecture({"width": width, "activation": activation})


BROKEN = {
    NoDomains: "domains: the space declares none",
    Raises: r"build: .* raises ZeroDivisionError: no such network",
    NotAModule: "build: returns method, not a torch module",
    WrongShape: r"forward: .* must give logits of shape \(2, 10\)",
    FixedInput: "forward: .* raises RuntimeError",
    Frozen: "build: .* has no parameter to train",
    Detached: "backward: no parameter of .* gets a gradient",
    LazyMutation: "mutate: the child equals its parent",
    WildMutation: "mutate: gives an architecture outside the space: .*'width'.*99",
    WildCrossover: "crossover: gives an architecture outside the space: .*'activation' is missing",
    NeverSettles: "canonical: applied twice",
    RawSample: "sample: gives an architecture that is not canonical",
    OwnRandomness: "sample: two generators of one seed",
    BadPoint: "points: 'odd' is not in the space: .*'activation'",
    NoDomain: "domains: 'width' is .*must be a Categorical or an Integer",
    StrangeCondition: "conditions: 'depth' is no choice of the space",
    BadRule: "rules: that of 'it is not too deep' raises KeyError",
    RandomChild: "mutate: gives a child that mutants does not yield; override mutants, which",
    RandomChildUnderLimits: "mutate: gives a child that mutants does not yield; override mutants",
    UnlimitedSample: "sample: exceeds a limit on params; override draws, which yields choices, in",
    UnlimitedMutation: "mutate: exceeds a limit on params; override mutants, which yields choices",
    RaisingCrossover: "crossover: raises under a limit on params: .*; override crossovers, which",
    StuckChoice: "mutate: never changes 'activation'",
    OneParent: "crossover: the child is always the same parent",
    OwnMutation: "mutate: two generators of one seed",
    TooSmall: "size: says 3, but more architectures than that were drawn",
    Fickle: "build: .* gives a different network each time",
    OnlyColours: "forward: .* raises RuntimeError",
    FailsWhenLarge: "forward: .*'gelu'.* raises RuntimeError",
    OnTheCPU: "costs: counting raises .*RuntimeError: .*make new tensors by",
    InSinglePrecision: "it gives torch.float32 on meta",
    InPlace: "forward: .* changes the images in place",
    WrongCost: "costs: says 1 params, the network of .* has",
    MissingCost: "costs: gives no 'joules', which counted names",
}


def test_the_kit_accepts_a_good_space() -> None:
    assert check_space(Good()) == []


@pytest.mark.parametrize(
    ("space", "sentence"), BROKEN.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_the_kit_names_what_is_broken(space: type[SearchSpace], sentence: str) -> None:
    problems = check_space(space())
    assert problems
    for problem in problems:
        assert "\n" not in problem.strip()
    assert any(re.search(sentence, problem) for problem in problems), problems


def test_a_point_may_exceed_what_is_searched_but_not_what_there_is() -> None:
    space = Good()
    space.points = {"huge": {"width": 9, "activation": "relu"}}
    assert space.point("huge").choices["width"] == 9
    with pytest.raises(InvalidArchitecture, match="width"):
        space.architecture(space.points["huge"])
    with pytest.raises(InvalidArchitecture, match="sine"):
        BadPoint().point("odd")
