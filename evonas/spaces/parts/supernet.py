"""A supernet: the weights of all of a space's networks, shared by name and leading corner.

One-shot search with single paths follows Guo et al., SPOS, ECCV 2020; narrow layers that use the
first channels of wide ones follow Yu et al., Slimmable Neural Networks, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import gt
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture

if TYPE_CHECKING:
    from evonas.spaces.base import SearchSpace, Task

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Supernet(nn.Module):
    """One parameter for every name that a parameter has in any of the covering networks.

    It has the largest shape of that name, dimension by dimension; a smaller network uses its
    leading corner. So a space that names its modules by position and kind shares what should be
    shared, and no block is written twice. A path is built for each forward pass, which costs some
    milliseconds, a few per cent of a training step.

    Args:
        space: Builds the networks; names of tensors must not depend on the depth of other parts.
        task: What they must fit.
        covering: Architectures that together have every name, and every name's largest sizes.
    """

    def __init__(self, space: SearchSpace, task: Task, covering: Sequence[Architecture]) -> None:
        super().__init__()
        self._space, self._task = space, task
        self._shared = nn.ParameterDict()
        for architecture in covering:
            for name, parameter in space.build(architecture, task).named_parameters():
                self._cover(_key(name), parameter.detach())

    def _cover(self, key: str, initial: torch.Tensor) -> None:
        """Grow a shared parameter to a tensor's size and set its corner to the tensor."""
        old = self._shared[key].detach() if key in self._shared else initial
        if old.ndim != initial.ndim:
            raise InvalidArchitecture(
                f"space {self._space.name!r}: two kinds of tensor are named {key!r}"
            )
        sizes = [max(pair) for pair in zip(old.shape, initial.shape, strict=True)]
        grown = initial.new_zeros(sizes)
        for part in (old, initial):
            _corner(grown, part.shape).copy_(part)
        self._shared[key] = nn.Parameter(grown)

    def forward(
        self,
        images: torch.Tensor,
        architecture: Architecture,
        factors: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The logits (N, classes) of an architecture's network for images (N, C, H, W).

        Batch normalisation uses the statistics of the batch, in training and in evaluation: running
        ones would mix those of all paths.

        Args:
            images: A batch.
            architecture: The path.
            factors: By the names of the network's modules: what their outputs are multiplied by.
        """
        network = self._space.build(architecture, self._task)
        for name, factor in (factors or {}).items():
            network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, factor=factor: factor * output
            )
        for module in network.modules():
            if isinstance(module, BATCH_NORMS):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
        tensors: dict[str, Any] = {n: b.to(images.device) for n, b in network.named_buffers()}
        tensors |= {n: self._slice(n, p.shape) for n, p in network.named_parameters()}
        logits: torch.Tensor = functional_call(network.train(self.training), tensors, (images,))
        return logits

    def extract(self, architecture: Architecture) -> nn.Module:
        """A network of its own, on the CPU, with copies of the shared weights.

        The running statistics of batch normalisation are those of a new network.
        """
        network = self._space.build(architecture, self._task)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(self._slice(name, parameter.shape))
        return network

    def _slice(self, name: str, shape: torch.Size) -> torch.Tensor:
        """The part of a shared parameter that a network of that shape uses: a view."""
        shared = self._shared.get(_key(name), None)
        if shared is None or shared.ndim != len(shape) or any(map(gt, shape, shared.shape)):
            raise InvalidArchitecture(
                f"space {self._space.name!r}: its supernet holds no {name} of shape {tuple(shape)}"
            )
        return shared if shared.shape == shape else _corner(shared, shape)


def _key(name: str) -> str:
    """A parameter's name without the dots, which a module allows in no name."""
    return name.replace(".", "/")


def _corner(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return tensor[tuple(slice(size) for size in shape)]
