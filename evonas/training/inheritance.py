"""A network's first weights from a relative's: by name, wherever the tensors overlap.

Function-preserving where that is possible, after Net2Net (Chen, Goodfellow and Shlens, ICLR 2016)
and network morphism (Wei et al., ICML 2016): what reads a channel that the relative lacks starts
at zero, so a widened network computes what the narrow one did; a block that the relative lacks
starts as the identity if its module has a method ``become_identity``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class CanBecomeIdentity(Protocol):
    """A block that can start, or nearly, by passing on what comes in."""

    def become_identity(self) -> None:
        """Set the weights in place; no-op where the shapes do not allow it."""


@torch.no_grad()
def transplant(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> float:
    """Copy a relative's weights into a freshly built network, in place.

    Channels are cropped from the end, or the new ones keep their fresh weights; kernels are
    cropped or padded with zeros round their centre.

    Args:
        network: Freshly built.
        weights: The relative's ``state_dict``.

    Returns:
        Share of the network's parameters that came from the relative, 0…1.
    """
    trainable = {name for name, _ in network.named_parameters()}
    copied = 0
    for name, tensor in network.state_dict().items():
        source = weights.get(name)
        if source is not None and source.ndim == tensor.ndim:
            count = _overlay(tensor, source.to(tensor.device, tensor.dtype))
            copied += count if name in trainable else 0
    _begin_new_blocks(network, tuple(weights))
    total = sum(parameter.numel() for parameter in network.parameters())
    return copied / total if total else 0.0


def rename(
    weights: Mapping[str, torch.Tensor], parts: Mapping[str, str | None]
) -> dict[str, torch.Tensor]:
    """A relative's weights under the names of the network that takes them.

    Args:
        weights: By the relative's names.
        parts: The relative's name of a direct part by the network's; None: it has no such part.
            Others keep their names.
    """
    sources = set(parts.values())
    renamed = {}
    for name, tensor in weights.items():
        part, dot, rest = name.partition(".")
        if part not in sources and part not in parts:
            renamed[name] = tensor
        for ours in (ours for ours, theirs in parts.items() if theirs == part):
            renamed[ours + dot + rest] = tensor
    return renamed


def _begin_new_blocks(module: nn.Module, names: tuple[str, ...], prefix: str = "") -> None:
    """Have the outermost blocks of which the relative has nothing start as the identity."""
    for part, child in module.named_children():
        path = f"{prefix}{part}."
        if any(name.startswith(path) for name in names):
            _begin_new_blocks(child, names, path)
        elif isinstance(child, CanBecomeIdentity):
            child.become_identity()


def _overlay(target: torch.Tensor, source: torch.Tensor) -> int:
    """Copy the overlap; returns the number of elements copied.

    Axes: outputs, inputs, then the kernel's. Rows of new outputs keep their fresh values.
    """
    sizes = zip(target.shape, source.shape, strict=True)
    pairs = [_overlap(*pair, centred=axis > 1) for axis, pair in enumerate(sizes)]
    to, start = zip(*pairs, strict=True) if pairs else ((), ())
    if target.ndim > 1:
        target[to[0]] = 0  # new inputs and the rim of a larger kernel add nothing at first
    target[to] = source[start]
    return target[to].numel()


def _overlap(target: int, source: int, centred: bool) -> tuple[slice, slice]:
    """Where two sides of these lengths overlap, centred or from the beginning."""
    size = min(target, source)
    to, start = ((target - size) // 2, (source - size) // 2) if centred else (0, 0)
    return slice(to, to + size), slice(start, start + size)
