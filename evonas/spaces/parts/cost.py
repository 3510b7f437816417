"""What a network costs, counted without allocating or computing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
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


_UNDRAWN = (nn.Flatten, nn.Identity, nn.Dropout, nn.ReLU)  # beside blocks they say nothing


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


def outline(network: nn.Module, task: Task) -> list[dict[str, Any]]:
    """The network's blocks, one after another, as a person would draw them.

    Returns:
        Of each block: ``name``; ``what`` it is made of; ``shape`` of its output without the batch;
        number of its ``params``. Blocks are the network's children, in the order in which they
        are first computed; one that is a row of three or more of a kind gives these.
    """
    rows: list[dict[str, Any]] = []

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        shape = list(output.shape[1:]) if isinstance(output, torch.Tensor) else []
        own = {"name": name, "what": _made_of(module), "shape": shape}
        rows.append({**own, "params": int(params(module, task))})

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in _blocks(network)]
    _run(network, task, nullcontext())
    for hook in hooks:
        hook.remove()
    return rows


def _blocks(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in network.named_children():
        inner = list(child.children())
        if len(inner) >= 3 and len({type(module) for module in inner}) == 1:
            yield from _blocks(child, f"{prefix}{name} ")
        elif not isinstance(child, _UNDRAWN):
            yield f"{prefix}{name}", child


def _made_of(module: nn.Module) -> str:
    """The layers that do its work: convolutions with their kernels, matrix products, poolings."""
    words = []
    for leaf in module.modules():
        if isinstance(leaf, nn.Conv2d):
            kernel = "×".join(map(str, leaf.kernel_size))
            grouped = "depthwise " if leaf.groups == leaf.in_channels > 1 else ""
            words.append(f"{kernel} {grouped or ('grouped ' if leaf.groups > 1 else '')}conv")
        elif isinstance(leaf, nn.Linear):
            words.append("linear")
        elif isinstance(leaf, nn.MultiheadAttention):
            words.append("attention")
        elif "Pool" in type(leaf).__name__:
            words.append("average pool" if "Avg" in type(leaf).__name__ else "max pool")
    counts = Counter(words)
    shown = [f"{n} × {word}" if n > 1 else word for word, n in list(counts.items())[:4]]
    return ", ".join(shown) or type(module).__name__.lstrip("_")


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
