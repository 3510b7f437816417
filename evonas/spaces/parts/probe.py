"""A network tried out before anything is trained: built twice, and sent two images through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.parameter import is_lazy

from evonas.architecture import Architecture, Categorical, Integer
from evonas.errors import EvonasError, PluginError
from evonas.recipe.registry import blamed, in_time, place, told
from evonas.spaces.parts import cost

if TYPE_CHECKING:
    from evonas.spaces.base import SearchSpace, Task

_PARAMS, _FLOPS = 1e7, 1e9  # A network with more of either is tried without memory.
_DRAWN = 3  # So many random points, and the two extremes, are counted to find small and large.


def declared(space: SearchSpace) -> Iterator[str]:
    """What is wrong with the domains, conditions and rules of a space, in sentences."""
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
            # Anybody's code, as in ``Probe``.
            except (Exception, SystemExit) as error:
                where = place(space.builder, error, "__init__")
                yield f"{kind}: that of {name!r} raises {told(error)} ({where})"
                return


def points(space: SearchSpace, task: Task, rng: Random) -> list[Architecture]:
    """A random point of a space, the smallest and the largest that a few looks find.

    Raises:
        InfeasibleConstraints: If nothing within the limits is found.
        PluginError: Whatever a plugin's space raises.
    """
    drawn = [space.sample(rng) for _ in range(_DRAWN)]
    if space.limits is not None:  # the search's draws are counted, not these
        space.limits.drawn = space.limits.accepted = 0
    found = [*drawn, *filter(None, (extreme(space, end) for end in (0, -1)))]

    def size(point: Architecture) -> float:
        # What counting raises is said when the network is tried, as for one in the middle.
        with blamed(space.builder, "cannot count", timed=True), suppress(Exception, SystemExit):
            return next(iter(space.costs(point, task).values()), 0.0)
        return 0.0

    ordered = sorted(found, key=size)
    chosen = {point.id: point for point in (drawn[0], ordered[0], ordered[-1])}
    return list(chosen.values())


def extreme(space: SearchSpace, end: int) -> Architecture | None:
    """The point with every choice at one end of its domain (0 or -1); None if it is not valid."""
    return space.valid({name: domain.values()[end] for name, domain in space.domains.items()})


class Probe:
    """One network, tried out: a large one with shapes alone, which takes no memory.

    Args:
        space: What builds it.
        architecture: Which one.
        task: For which images and classes.

    Attributes:
        large: Whether the network was built with shapes alone, and has no numbers.
        network: The network.
        other: Another one of the same architecture; of a large one the same.
        images: Two random images, (2, channels, height, width).
        logits: What the network made of them, in training mode; None where that cannot be told
            without numbers.
        alone: What it made of the first, in evaluation mode; likewise.
        in_place: Whether it changed the images.

    Raises:
        InvalidArchitecture: If the network is built, but takes no image of the task.
        PluginError: Whatever else is wrong: a sentence, with the file and line of the space.
    """

    def __init__(self, space: SearchSpace, architecture: Architecture, task: Task) -> None:
        self.space, self.architecture, self.task = space, architecture, task
        self.choices = dict(architecture.choices)
        self.large = self._is_large()
        self.logits: Any = None
        self.alone: Any = None
        self.in_place = False
        fake = FakeTensorMode(allow_non_fake_inputs=True) if self.large else nullcontext()
        with torch.random.fork_rng(devices=[]), fake:
            self.network = self._built()
            self.other = self.network if self.large else self._built()  # smaller ones tell as much
            self._compare()
            self.images = torch.randn(2, *task.input_shape)
            self._run()
            self._check_logits()

    def fault(self, sentence: str) -> PluginError:
        """The error that says so, and where the space's ``build`` begins."""
        return PluginError(f"{sentence} ({place(self.space.builder)})")

    def _is_large(self) -> bool:
        """Counted on the meta device."""
        # What is raised is raised again, and told, when it is built.
        with self._blamed("build"), suppress(Exception, SystemExit):
            with torch.device("meta"):
                network = self.space.build(self.architecture, self.task)
            too_many = cost.params(network, self.task) > _PARAMS
            return too_many or cost.flops(network, self.task) > _FLOPS
        return False

    def _built(self) -> nn.Module:
        with self._blamed("build"):
            network = self.space.build(self.architecture, self.task)
        if not isinstance(network, nn.Module):
            end = "; end it with return" if network is None else ""
            raise self.fault(f"build: returns {type(network).__name__}, not a torch module{end}")
        if not any(True for _ in network.parameters()):
            raise self.fault("build: gives a network without parameters, which nothing can train")
        for name, tensor in network.state_dict().items():
            if is_lazy(tensor):
                raise self.fault(f"build: leaves the shape of {name!r} open; say it")
        return network

    def _compare(self) -> None:
        shapes, again = (
            {name: tensor.shape for name, tensor in network.state_dict().items()}
            for network in (self.network, self.other)
        )
        if shapes != again:
            raise self.fault(f"build: {self.choices} gives a different network each time")
        if {p.device.type for p in self.network.parameters()} - {"cpu"}:
            raise self.fault("build: puts parameters on a device; evonas does that")

    def _run(self) -> None:
        given = self.images.clone()
        with self._blamed("forward"):
            try:
                self.logits = self.network(given)
                self.alone = self.network.eval()(self.images[:1].clone())
            except (DataDependentOutputException, DynamicOutputShapeException):
                return
            except (RuntimeError, ValueError) as error:  # torch's, where maps become too small
                where = f" ({place(self.space.builder, error)})"
                raise cost.impossible(self.task, error, str(self.choices), where) from error
        self.in_place = not self.large and not torch.equal(given, self.images)

    def _check_logits(self) -> None:
        for images, logits in ((2, self.logits), (1, self.alone)):
            wanted = (images, self.task.classes)
            is_tensor = isinstance(logits, torch.Tensor)
            shape = tuple(logits.shape) if is_tensor else type(logits).__name__
            if logits is not None and shape != wanted:
                raise self.fault(
                    f"forward: {self.choices} must give logits of shape {wanted}, not {shape}"
                )
        if self.task.classes > 1 and not self.large and _are_shares(self.alone):
            raise self.fault("forward: gives probabilities, not logits; leave out the softmax")

    @contextmanager
    def _blamed(self, doing: str) -> Iterator[None]:
        """Whatever the space raises is its fault, and told with its line; evonas's errors pass."""
        try:
            with in_time():
                yield
        except (EvonasError, KeyboardInterrupt):
            raise
        # Anybody's code, which may even want to leave.
        except BaseException as error:
            raise PluginError(
                f"{doing}: {self.choices} raises {told(error)} ({place(self.space.builder, error)})"
            ) from error


def _are_shares(logits: torch.Tensor) -> bool:
    """Whether every row is of non-negative numbers that sum to 1."""
    whole = torch.allclose(logits.sum(dim=1), torch.ones(len(logits)), atol=1e-4)
    return whole and bool((logits >= 0).all())
