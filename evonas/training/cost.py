"""What a network costs, counted without allocating or computing anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evonas.architecture import Architecture
from evonas.spaces.base import SearchSpace
from evonas.task import Task


def params(network: nn.Module, task: Task) -> float:
    """Number of parameters, frozen ones among them."""
    return float(sum(p.numel() for p in network.parameters()))


def flops(network: nn.Module, task: Task) -> float:
    """Floating-point operations of one image's forward pass, by torch's FlopCounterMode.

    Convolutions and matrix products count, at two operations per multiply-add; normalisation,
    activation and pooling do not. Papers often call the number of multiply-adds, half of it, FLOPs.
    """
    device = next((p.device for p in network.parameters()), torch.device("meta"))
    training = network.training
    network.eval()  # a batch of one has no statistics to normalise by
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *task.input_shape, device=device))
    network.train(training)
    return float(counter.get_total_flops())


COSTS: Mapping[str, Callable[[nn.Module, Task], float]] = {"params": params, "flops": flops}


def count(
    space: SearchSpace,
    architecture: Architecture,
    task: Task,
    names: tuple[str, ...] = tuple(COSTS),
) -> dict[str, float]:
    """Cost of an architecture before it is built for real.

    The space's own count where it has one, in less than a millisecond; else that of a network on
    the meta device, which takes tens of them.
    """
    known = space.cost(architecture, task)
    if known is not None:
        return {name: float(getattr(known, name)) for name in names}
    with torch.device("meta"):
        network = space.build(architecture, task)
    return {name: COSTS[name](network, task) for name in names}
