"""Transfer learning: networks begin with weights that were trained on something else.

A stage is a direct part of a network that has parameters, in order: for torchvision's ResNets
conv1, bn1, layer1, …, fc. The last one, the classifier, is never transferred. Tensors are found by
name, so weights of torchvision and timm are for spaces that build networks of torchvision and timm;
where shapes differ, the overlap is copied, as from a parent (``inheritance.py``).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from evonas.errors import DataError, RecipeError, did_you_mean
from evonas.training.inheritance import transplant

_OURS = "1."  # before the names in ``incumbent/weights.safetensors``; ``0.`` is normalisation


def stages(network: nn.Module) -> list[nn.Module]:
    """The direct parts of a network that have parameters, in order."""
    return [part for part in network.children() if any(True for _ in part.parameters())]


def read(init: str) -> dict[str, torch.Tensor]:
    """Read the weights that an option ``init`` names.

    Args:
        init: ``torchvision:NAME`` (the default weights of a model), ``timm:NAME``, or a file:
            ``.safetensors``, such as a run's ``incumbent/weights.safetensors``, or a state_dict
            that torch saved.

    Returns:
        By name, on the CPU.

    Raises:
        RecipeError: There is no such model.
        DataError: The weights cannot be had: no network, no such file, a damaged one, no timm.
    """
    source, _, name = init.partition(":")
    if source == "torchvision":
        return _torchvision(name)
    if source == "timm":
        return _timm(name)
    return _file(Path(init))


def begin(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> float:
    """Copy what has the same name, but for the last stage, in place; see ``transplant``.

    Returns:
        Share of the network's parameters that were copied, 0…1.

    Raises:
        ValueError: Nothing has the same name.
    """
    last = {id(tensor) for stage in stages(network)[-1:] for tensor in stage.parameters()}
    fresh = {name for name, tensor in network.named_parameters() if id(tensor) in last}
    share = transplant(network, {n: t for n, t in weights.items() if n not in fresh})
    if not share:
        raise ValueError("evaluation.init: has no tensor of a name that the network has")
    return share


def freeze(network: nn.Module, count: int) -> None:
    """Exclude the first ``count`` stages from training.

    Raises:
        ValueError: No stage would be left.
    """
    parts = stages(network)
    if count and count >= len(parts):
        raise ValueError(f"evaluation.freeze: {count} of {len(parts)} stages leave none to train")
    for part in parts[:count]:
        part.requires_grad_(False)


def _torchvision(name: str) -> dict[str, torch.Tensor]:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise RecipeError(
            f"evaluation.init: torchvision has no {name!r}{did_you_mean(name, known)}"
        )
    weights = models.get_model_weights(name).DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the hash is another one
        raise DataError(
            f"evaluation.init: {name} is not in {folder} and cannot be fetched from {weights.url}: "
            f"{error}; give the path of a file instead"
        ) from error


def _timm(name: str) -> dict[str, torch.Tensor]:
    try:
        import timm
    except ImportError as error:
        raise DataError(
            "evaluation.init: timm is not installed: pip install 'evonas[timm]'"
        ) from error
    known = timm.list_models(pretrained=True)
    if name not in known:
        raise RecipeError(f"evaluation.init: timm has no {name!r}{did_you_mean(name, known)}")
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(f"evaluation.init: timm cannot fetch {name}: {error}") from error


def _file(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"evaluation.init: {path} cannot be read: {reason}") from error
    if not isinstance(weights, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        raise DataError(f"evaluation.init: {path} holds no state_dict, tensors by name")
    if {"0.mean", "0.std"} <= weights.keys():
        return {n.removeprefix(_OURS): t for n, t in weights.items() if n.startswith(_OURS)}
    return dict(weights)
