"""Zero-cost proxies: scores of a network at initialisation, from one batch and no training.

The settings are those of Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021).
A higher score is meant to promise a better network; whether it does is to be measured for each
space. ``benchmarks/zero_cost.py`` compares them with the number of parameters. What it found stands
in each docstring: on 100 cells of NAS-Bench-201, 192 plain CNNs and 192 MBConv networks, "ahead" or
"behind" if that holds in 95 % of the bootstrap samples, else "level" (``docs/results.md``).

Every proxy takes a network in float32, normalised images (N, C, H, W) and labels (N,) on the
network's device. It works on a copy: the network's weights, statistics and gradients stay as they
are. A proxy that has no finite value for a network raises ``Undefined``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

Proxy = Callable[[nn.Module, torch.Tensor, torch.Tensor], float]

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMALISING = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_RECTIFIERS = (nn.ReLU, nn.ReLU6)
_STABILISER = 1e-5  # Mellor et al. add it to every eigenvalue.
_WORD = 64  # Bits of an int64, the sign's among them.


class Undefined(ArithmeticError):
    """The proxy has no finite value for this network."""


def synflow(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Natural logarithm of the synaptic flow (Tanaka et al., NeurIPS 2020).

    Sum of |w · ∂R/∂w| over the weights of convolutions and linear layers, where R is the sum of
    the outputs for an image of ones, with the absolute values of all parameters. Normalisation is
    left out, or it would undo the flow. The sum grows by orders of magnitude with every layer,
    hence float64, and a logarithm, which keeps the order. Only the shape of ``images`` is used.

    Beside the number of parameters: level on cells, behind on plain CNNs and MBConv.
    """
    twin = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
    for module in twin.modules():
        if isinstance(module, _NORMALISING):
            module.register_forward_hook(lambda _, inputs, output: inputs[0])
    flow = twin(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    weights = _weights(twin)
    total = _saliency(weights, _gradients(flow, weights)).item()
    if not 0 < total < math.inf:
        raise Undefined(f"synflow: the flow through the network is {total}")
    return math.log(total)


def snip(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Sum of |w · ∂L/∂w| over the weights (Lee et al., ICLR 2019); L is the cross-entropy.

    Beside the number of parameters: level on cells, behind on plain CNNs and MBConv.
    """
    weights, gradients = _loss_gradients(network, images, labels)
    return _finite("snip", _saliency(weights, gradients))


def grad_norm(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Euclidean norm of the cross-entropy's gradient, layer by layer, summed over the layers.

    Beside the number of parameters: level on cells, behind on plain CNNs and MBConv.
    """
    _, gradients = _loss_gradients(network, images, labels)
    return _finite("grad_norm", torch.stack([g.norm() for g in gradients]).sum())


def jacob_cov(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """How little the gradients at different images have in common.

    The first version of Mellor et al.'s score, "Neural Architecture Search without Training"
    (2020): minus the sum of log(v) + 1/v over the eigenvalues v of the correlation between the
    images' gradients of the summed outputs. At most -N, which it is if they are uncorrelated.

    Beside the number of parameters: level on cells, behind on plain CNNs and MBConv.
    """
    inputs = images.detach().clone().requires_grad_()
    (jacobian,) = _gradients(_twin(network)(inputs.clone()).sum(), [inputs])
    correlation = torch.corrcoef(jacobian.flatten(1).double())
    if not correlation.isfinite().all():
        raise Undefined("jacob_cov: an image has no gradient, or one that is not finite")
    eigenvalues = torch.linalg.eigvalsh(correlation) + _STABILISER
    return _finite("jacob_cov", -(eigenvalues.log() + 1 / eigenvalues).sum())


def naswot(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Logarithm of the determinant of K (Mellor et al., ICML 2021).

    K[i, j] counts the rectifiers, ``nn.ReLU`` or ``nn.ReLU6``, that are on for both images i and j
    or off for both. Rectifiers that are called as functions are not seen.

    Beside the number of parameters: level on cells and plain CNNs, behind on MBConv.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def count(on: torch.Tensor) -> None:
        on = on.float()
        off = 1 - on
        kernel.add_(on @ on.T + off @ off.T)

    _watch_rectifiers(network, images, count)
    if not kernel.any():
        raise Undefined("naswot: the network calls no nn.ReLU or nn.ReLU6 module")
    if int(torch.linalg.matrix_rank(kernel, hermitian=True)) < len(images):
        raise Undefined("naswot: the rectifiers do not tell the images of the batch apart")
    return _finite("naswot", torch.linalg.slogdet(kernel).logabsdet)


def zico(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Gradients that are large and agree between batches (Li et al., "ZiCo", ICLR 2023).

    Sum over the layers of log Σ E|g| / std(g), where Σ goes over a layer's weights and g is the
    cross-entropy's gradient in one of them; mean and standard deviation are over two batches, the
    halves of the one that is given. As in the authors' own program, the deviation is that of the
    gradient with its sign, and weights and layers whose gradient does not vary are left out.

    Beside the number of parameters: level on cells, behind on plain CNNs and MBConv.
    """
    parts = zip(images.chunk(2), labels.chunk(2), strict=True)
    gradients = [_loss_gradients(network, *part)[1] for part in parts]
    sums = []
    for layer in zip(*gradients, strict=True):
        batches = torch.stack(layer).double()
        mean, deviation = batches.abs().mean(0), batches.std(0, correction=0)
        varies = deviation != 0
        if varies.any():
            sums.append((mean[varies] / deviation[varies]).sum())
    if not sums:
        raise Undefined("zico: no gradient differs between the halves of the batch")
    return _finite("zico", torch.stack(sums).log().sum())


def swap(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Number of sample-wise activation patterns (Peng et al., "SWAP-NAS", ICLR 2024).

    A unit behind a rectifier, ``nn.ReLU`` or ``nn.ReLU6``, is on for some of the images and off for
    the others: that is its pattern. Counted are the different patterns in the network. Without the
    paper's factor that prefers a given size: a limit on ``params`` says the same more plainly.

    Beside the number of parameters: level on cells and plain CNNs, behind on MBConv.
    """
    patterns: list[torch.Tensor] = []
    _watch_rectifiers(network, images, lambda on: patterns.append(_patterns(on)))
    if not patterns:
        raise Undefined("swap: the network calls no nn.ReLU or nn.ReLU6 module")
    return float(len(torch.cat(patterns).unique(dim=0)))


def norms(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Stable ranks of normalised maps, times how evenly convolutions spread their weights.

    Σ ‖M‖F² / ‖M‖2² over the normalisation layers, times Σ ‖W‖1 / ‖W‖2 over the convolutions. M is
    what a layer puts out for the batch, a matrix of channels by images and positions, with its
    Frobenius and its spectral norm; W are a convolution's weights, as one vector. Tensors of zeros
    add nothing. Written after the formula alone, as a comparison of proxies gives it, so what M
    and W are there is our reading.

    Beside the number of parameters: ahead on cells, behind on plain CNNs and MBConv.
    """
    twin = _twin(network)
    ranks: list[torch.Tensor] = []

    def measure(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ranks.append(_stable_rank(output, -1 if isinstance(module, nn.LayerNorm) else 1))

    for module in twin.modules():
        if isinstance(module, _NORMALISING):
            module.register_forward_hook(measure)
    with torch.no_grad():
        twin(images.clone())  # the first module may work in place
        weights = [m.weight.double() for m in twin.modules() if isinstance(m, _CONVOLUTIONS)]
        spreads = [w.abs().sum() / w.norm() for w in weights if w.any()]
    if not ranks or not spreads:
        raise Undefined("norms: the network has no normalisation layer or no convolution")
    return _finite("norms", torch.stack(ranks).sum() * torch.stack(spreads).sum())


PROXIES: Mapping[str, Proxy] = {
    proxy.__name__: proxy
    for proxy in (synflow, snip, grad_norm, jacob_cov, naswot, zico, swap, norms)
}


def _twin(network: nn.Module) -> nn.Module:
    """A copy that normalises by the batch, as at the first step of training."""
    return copy.deepcopy(network).train()


def _weights(network: nn.Module) -> list[torch.Tensor]:
    weights = [module.weight for module in network.modules() if isinstance(module, _WEIGHTED)]
    if not weights:
        raise Undefined("the network has no convolution and no linear layer")
    return weights


def _loss_gradients(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights, and the gradient of the cross-entropy in each of them."""
    twin = _twin(network)
    weights = _weights(twin)
    logits = twin(images.clone())  # the first module may work in place
    return weights, _gradients(F.cross_entropy(logits, labels), weights)


def _watch_rectifiers(
    network: nn.Module, images: torch.Tensor, see: Callable[[torch.Tensor], None]
) -> None:
    """Hand on, for every call of a rectifier, which units are on: booleans (images, units)."""
    twin = _twin(network)
    for module in twin.modules():
        if isinstance(module, _RECTIFIERS):  # seen before its call, for it may work in place
            module.register_forward_pre_hook(lambda _, inputs: see((inputs[0] > 0).flatten(1)))
    with torch.no_grad():
        twin(images.clone())  # the first module may work in place


def _patterns(on: torch.Tensor) -> torch.Tensor:
    """The different columns of booleans (images, units), as int64 (patterns, words)."""
    words = []
    for images in on.long().split(_WORD):
        word = torch.zeros_like(images[0])
        for bit in images:
            word = word << 1 | bit
        words.append(word)
    different: torch.Tensor = torch.stack(words, dim=1).unique(dim=0)
    return different


def _stable_rank(output: torch.Tensor, channels: int) -> torch.Tensor:
    """Squared Frobenius norm over squared spectral norm, of channels by all else; 0 for zeros."""
    matrix = output.detach().movedim(channels, 0).flatten(1).double()
    # The Gram matrix has the squared singular values, and is small however many positions.
    gram = matrix @ matrix.T
    if not gram.isfinite().all():
        raise Undefined("norms: a normalisation layer's output is not finite")
    squares: torch.Tensor = torch.linalg.eigvalsh(gram)
    return squares.sum() / squares[-1] if squares[-1] != 0 else squares[-1]


def _gradients(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients of a scalar; zeros where it does not depend on an input."""
    if not output.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    return list(torch.autograd.grad(output, inputs, allow_unused=True, materialize_grads=True))


def _saliency(weights: list[torch.Tensor], gradients: list[torch.Tensor]) -> torch.Tensor:
    pairs = zip(weights, gradients, strict=True)
    return torch.stack([(w.detach() * gradient).abs().sum() for w, gradient in pairs]).sum()


def _finite(name: str, value: torch.Tensor) -> float:
    score = value.item()
    if not math.isfinite(score):
        raise Undefined(f"{name}: {score} is not a finite number")
    return score
