"""Muon: momentum whose steps are made orthogonal, for the kernels of convolutions and the like."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

SCALE = 0.2  # The learning rate of orthogonal steps is that of the rest times this.
_MOMENTUM = 0.95  # Of the orthogonal steps.
# The quintic that pushes all singular values to about 1, and how often; Jordan chose them.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.SGD):
    """Muon for the groups with ``orthogonal``, SGD with Nesterov's momentum for the others.

    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024. A kernel is a
    matrix here, outputs by all else (torch's own Muon, of 2.9, takes nothing but matrices). Its
    steps are of one length whatever the gradient, so their learning rate is another: ``SCALE``.

    Args:
        groups: As torch.optim takes them.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        groups = [
            group | {"momentum": 0.0, "nesterov": False} if group["orthogonal"] else group
            for group in groups
        ]
        super().__init__(groups, momentum=0.9, nesterov=True, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Replace the gradients of kernels by orthogonal ones, then step along all of them."""
        for group in self.param_groups:
            for kernel in group["params"] if group["orthogonal"] else ():
                gradient, state = kernel.grad, self.state[kernel]
                if gradient is None:  # nothing was learnt of it
                    continue
                if "mean_gradient" not in state:
                    state["mean_gradient"] = torch.zeros_like(gradient)
                mean = state["mean_gradient"]
                mean.mul_(_MOMENTUM).add_(gradient)
                gradient.add_(mean, alpha=_MOMENTUM)
                gradient.copy_(orthogonalized(gradient.flatten(1)).view_as(gradient))
        loss: float | None = super().step(closure)
        return loss


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the nearest orthogonal matrix: all singular values about 1, by Newton and Schulz.

    Args:
        matrix: (outputs, inputs).

    Returns:
        The same shape, times the root of outputs by inputs if there are more outputs.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T * (matrix.shape[0] / matrix.shape[1]) ** 0.5 if tall else x
