"""Transfer learning: networks begin with weights that were trained on something else.

A stage is a direct part of a network that has parameters, in order: for torchvision's ResNets
conv1, bn1, layer1, …, fc. The last one, the classifier, is never transferred. Tensors are found by
name, so weights of torchvision and timm are for spaces that build networks of torchvision and timm;
where shapes differ, the overlap is copied, as from a parent (``inheritance.py``).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from evonas.errors import DataError, OptionError, did_you_mean
from evonas.training.checkpoints import CHECKSUM, read_weights
from evonas.training.inheritance import transplant

_OURS = "1."  # before the names in ``incumbent/weights.safetensors``; ``0.`` is normalisation
_INSTEAD = "; give the path of a file instead"


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
        OptionError: There is no such model.
        DataError: The weights cannot be had: no network, no such file, a damaged one, no timm.
    """
    source, _, name = init.partition(":")
    if source == "torchvision":
        return _torchvision(name)
    if source == "timm":
        return _timm(name)
    return _file(Path(init))


def here(init: str) -> Path | None:
    """The file of a published network's weights, if it is on this machine; nothing is fetched.

    Args:
        init: ``torchvision:NAME`` or ``timm:NAME``, of a name that there is.
    """
    source, _, name = init.partition(":")
    if source == "torchvision":
        file = _downloaded(name)[0]
        return file if file.exists() else None
    try:
        import timm
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None) or ""
    for file_name in ("model.safetensors", "pytorch_model.bin") if repository else ():
        if isinstance(found := try_to_load_from_cache(repository, file_name), str):
            return Path(found)
    return None


def begin(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> float:
    """Copy what has the same name, but for the last stage, in place; see ``transplant``.

    Returns:
        Share of the network's parameters that were copied, 0…1.

    Raises:
        ValueError: Nothing has the same name.
    """
    # The last stage's tensors under all their names: other stages may share them.
    last = {
        id(tensor)
        for stage in stages(network)[-1:]
        for tensor in stage.state_dict(keep_vars=True).values()
    }
    state = network.state_dict(keep_vars=True)
    fresh = {name for name, tensor in state.items() if id(tensor) in last}
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

    names = models.list_models()
    if name not in names:
        raise OptionError("init", f"torchvision has no {name!r}{did_you_mean(name, names)}")
    file, weights = _downloaded(name)
    if file.exists():
        return _file(file)
    with _one_line(f"{file} is not there and cannot be fetched from {weights.url}", _INSTEAD):
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))


def _downloaded(name: str) -> tuple[Path, Any]:
    """Where torch keeps a model's default weights once they were fetched, and these."""
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name, weights


def _timm(name: str) -> dict[str, torch.Tensor]:
    try:
        import timm
    except ImportError as error:
        raise DataError(
            "evaluation.init: timm is not installed: pip install 'evonas[timm]'"
        ) from error
    if not timm.is_model_pretrained(name):
        tagged = timm.list_models(pretrained=True)  # resnet18.a1_in1k; resnet18 is known, too
        names = [*dict.fromkeys(model.partition(".")[0] for model in tagged), *tagged]
        raise OptionError("init", f"timm has no weights of {name!r}{did_you_mean(name, names)}")
    with _one_line(f"timm cannot fetch {name}", _INSTEAD):
        return dict(timm.create_model(name, pretrained=True).state_dict())


def _file(path: Path) -> dict[str, torch.Tensor]:
    if path.exists() and not path.is_file():
        raise DataError(f"evaluation.init: {path} is no file")
    with _one_line(f"{path} cannot be read"):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                checked = CHECKSUM in (file.metadata() or {})
            weights = read_weights(path)[0] if checked else load_file(path)
        else:
            try:
                weights = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:  # torch's own text says how to run its code
                raise ValueError("it is damaged, or more than a state_dict") from error
    if not isinstance(weights, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        raise DataError(f"evaluation.init: {path} holds no state_dict, tensors by name")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise DataError(f"evaluation.init: {path}: {name} has numbers that are not finite")
    if {"0.mean", "0.std"} <= weights.keys():
        return {n.removeprefix(_OURS): t for n, t in weights.items() if n.startswith(_OURS)}
    return dict(weights)


@contextmanager
def _one_line(what: str, instead: str = "") -> Iterator[None]:
    """Errors of reading and of fetching are the user's to know, in a line."""
    try:
        yield
    # Unpickling a damaged file ends in anything, and timm fetches with libraries of its own.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"evaluation.init: {what}: {reason}{instead}") from error
