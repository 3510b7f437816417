"""What a network costs, counted without allocating or computing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from evonas.errors import InvalidArchitecture
from evonas.recipe.registry import told

if TYPE_CHECKING:
    from evonas.spaces.base import Task


def params(network: nn.Module, task: Task) -> float:
    """Number of parameters, frozen ones among them."""
    return float(sum(p.numel() for p in network.parameters()))


def flops(network: nn.Module, task: Task) -> float:
    """Floating-point operations of one image's forward pass, by torch's FlopCounterMode.

    Convolutions and matrix products count, at two operations per multiply-add; normalisation,
    activation and pooling do not. Papers often call the number of multiply-adds, half of it, FLOPs.
    """
    counter = FlopCounterMode(display=False)
    _run(network, task, counter)
    return float(counter.get_total_flops())


def receptive_field(network: nn.Module, task: Task) -> int:
    """Pixels a side of the image that an output of the last convolution or pooling can see.

    The theoretical field along the height, of the longest path, were the image infinite; a global
    pooling is left out, and so is what mixes positions by matrix products (attention).
    """
    fields = _Fields()
    _run(network, task, fields)
    return fields.largest


def _run(network: nn.Module, task: Task, watch: AbstractContextManager[object]) -> None:
    """Send one empty image through, watched."""
    device = next((p.device for p in network.parameters()), torch.device("meta"))
    training = network.training
    network.eval()  # a batch of one has no statistics to normalise by
    with torch.no_grad(), watch:
        network(torch.empty(1, *task.input_shape, device=device))
    network.train(training)


class _Fields(TorchDispatchMode):
    """Follows what every tensor sees of the first one: the field, and the pixels of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 1
        self._seen: dict[int, tuple[torch.Tensor, int, int]] = {}  # keeps tensors, so ids stay

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [a for a in tree_leaves(args) if isinstance(a, torch.Tensor)]
        seen = [self._seen[id(t)][1:] for t in inputs if id(t) in self._seen]
        field, jump = max(seen, default=(1, 1))
        first = next(iter(tree_leaves(out)), None)
        if isinstance(first, torch.Tensor) and first.ndim == 4:
            kernel, stride = _window(func, args)
            field, jump = field + (kernel - 1) * jump, jump * stride
            self.largest = max(self.largest, field)
            self._seen[id(first)] = (first, field, jump)
        return out


def _window(func: Any, args: tuple[Any, ...]) -> tuple[int, int]:
    """Size and stride of what slides over the image, along the height."""
    name = func.overloadpacket.__name__
    if name == "convolution":
        _, weight, _, stride, _, dilation, *_ = args
        return int(dilation[0]) * (weight.shape[2] - 1) + 1, int(stride[0])
    if name in ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"):
        _, kernel, *rest = args
        stride = rest[0] if rest and rest[0] else kernel
        dilation = rest[2] if name.startswith("max") and len(rest) > 2 else [1]
        return int(dilation[0]) * (kernel[0] - 1) + 1, int(stride[0])
    return 1, 1


COSTS: Mapping[str, Callable[[nn.Module, Task], float]] = {"params": params, "flops": flops}


def of_built(
    build: Callable[[], nn.Module], task: Task, names: Iterable[str] = tuple(COSTS)
) -> dict[str, float]:
    """Costs, by their names in ``COSTS``, of a network that is built on the meta device.

    Raises:
        InvalidArchitecture: If no image of the task can be sent through it.
    """
    with torch.device("meta"):
        network = build()
    try:
        return {name: COSTS[name](network, task) for name in names}
    except (RuntimeError, ValueError) as error:  # torch's, for maps that become too small
        raise impossible(task, error) from error


def impossible(task: Task, error: Exception, choices: str = "", where: str = "") -> Exception:
    """The error for a network that is built but takes no image of the task."""
    shape = "x".join(map(str, task.input_shape))
    return InvalidArchitecture(
        f"forward: {choices}{' ' if choices else ''}raises {told(error)}, of {shape} images{where}"
    )
