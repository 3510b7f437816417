"""Networks as files that run without evonas: torch.export's ``.pt2``, and ONNX.

Both take any number of images (N, channels, height, width) of 0…255, uint8, and give logits
(N, classes); a ``.pt2`` takes float32 as well. Normalisation is inside. So is one JSON that says
all else: size, class names, how a picture becomes such an image, metrics.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from evonas import files
from evonas.architecture import Value
from evonas.errors import DataError, PluginError
from evonas.spaces.base import Task
from evonas.training.loop import Normalize

JSON = "evonas.json"  # The name of the description inside the files.
FORMATS = ("pt2", "onnx")
_CALIBRATION_BATCH = 32  # images
_EXTRA = "pip install 'evonas[onnx]'"


class _Task(BaseModel):
    """A ``Task`` that some network may have."""

    model_config = ConfigDict(extra="forbid")

    channels: Annotated[int, Field(ge=1, le=1024)]
    height: Annotated[int, Field(ge=1, le=8192)]
    width: Annotated[int, Field(ge=1, le=8192)]
    classes: Annotated[int, Field(ge=1, le=10**6)]


class Description(BaseModel):
    """What must be right in the JSON that goes with a network; more may stand there."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    space: str = ""
    choices: dict[str, Value] = {}
    trial: int | None = None
    metrics: dict[str, float] = {}
    task: _Task | None = None
    classes: list[str] = []

    @model_validator(mode="after")
    def _named(self) -> Description:
        if self.task is not None and len(self.classes) != self.task.classes:
            raise ValueError("as many names as classes are needed")
        return self

    def plain(self) -> dict[str, Any]:
        """As it stood there; a task that was null is left out."""
        return self.model_dump(exclude_unset=True, exclude={"task"} if self.task is None else None)


class Refused(Exception):
    """The exporter cannot do this network; says why in one line."""


def preprocessing(task: Task) -> dict[str, Any]:
    """How a picture becomes an image of the network's, in steps that have one meaning."""
    return {
        "orientation": "as the EXIF tag says",
        "mode": "L" if task.channels == 1 else "RGB",
        "cut": "the largest centred rectangle of the proportions width : height",
        "width": task.width,
        "height": task.height,
        "resample": "bicubic",
        "layout": "NCHW",
        "dtype": "uint8",
        "range": [0, 255],
        "normalisation": "inside the network",
    }


def program(network: nn.Sequential, task: Task, about: Mapping[str, Any], form: str) -> bytes:
    """A network as a file.

    Args:
        network: ``Normalize`` and the network proper in a row, in inference mode, on the CPU.
        task: What it does.
        about: The JSON that goes inside.
        form: One of ``FORMATS``.

    Raises:
        Refused: If torch cannot export the network.
        PluginError: If the packages for ONNX are missing.
    """
    need(form)
    normalize = network[0]
    assert isinstance(normalize, Normalize)
    whole = nn.Sequential(_Arithmetic(normalize.mean, normalize.std), *network[1:]).eval()
    text = json.dumps(about)
    name, write = ("torch.export", _pt2) if form == "pt2" else ("torch.onnx.export", _onnx)
    try:
        with _quiet():
            return write(whole, task, text)
    # A space builds anybody's code, and torch says no in many ways.
    except Exception as error:
        raise Refused(f"{name} refuses the network: {_line(error)}") from error


def quantized(content: bytes, images: torch.Tensor) -> bytes:
    """An ONNX file in eight-bit integers, weights by channel, activations by what images cause.

    Args:
        content: The file in float32.
        images: To calibrate with: uint8, (N, channels, height, width).

    Raises:
        Refused: If onnxruntime cannot do it.
    """
    quantization = _package("onnxruntime.quantization")
    preparation = _package("onnxruntime.quantization.shape_inference")

    batches = ({"images": batch.numpy()} for batch in images.split(_CALIBRATION_BATCH))
    reader = SimpleNamespace(get_next=lambda: next(batches, None))
    with TemporaryDirectory() as folder, _quiet():  # its functions take files
        whole, simple, small = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
        whole.write_bytes(content)
        try:
            preparation.quant_pre_process(whole, simple, skip_symbolic_shape=True)
            quantization.quantize_static(simple, small, reader, per_channel=True)
        # So does onnxruntime.
        except Exception as error:
            raise Refused(f"onnxruntime does not quantise the network: {_line(error)}") from error
        return small.read_bytes()


def need(form: str) -> None:
    """Raise PluginError if a format needs packages that are not there."""
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            _package(name)


def read(path: Path) -> tuple[nn.Module, Mapping[str, Any]]:
    """A network from such a file, and its description, from inside or from beside.

    The network takes uint8 images, (N, channels, height, width), on the CPU.

    Raises:
        DataError: If it is no such file, or damaged.
        PluginError: If onnxruntime is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix not in (".pt2", ".onnx"):
        raise DataError(f"{path}: neither a run folder nor a file .pt2 or .onnx")
    network, text = _read_pt2(path) if path.suffix == ".pt2" else _read_onnx(path)
    return network, _about(path, text)


class _Arithmetic(Normalize):
    """``Normalize`` for export: without a cast, so that the program is not bound to one dtype."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


def _pt2(network: nn.Module, task: Task, about: str) -> bytes:
    file, example = io.BytesIO(), torch.zeros(2, *task.input_shape)
    batches = {0: torch.export.Dim("batch")}
    exported = torch.export.export(network, (example,), dynamic_shapes=(batches,))
    torch.export.save(exported, file, extra_files={JSON: about})
    return file.getvalue()


def _onnx(network: nn.Module, task: Task, about: str) -> bytes:
    example = torch.zeros(2, *task.input_shape, dtype=torch.uint8)
    exported = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    model.metadata_props.add(key=JSON, value=about)
    content: bytes = model.SerializeToString()
    return content


def _read_pt2(path: Path) -> tuple[nn.Module, str]:
    inside = {JSON: ""}
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: is damaged, or no network of torch.export") from error
    try:
        with _quiet():
            network = torch.export.load(path, extra_files=inside).module()
    # A sound archive may hold anything, and torch fails wherever it stumbles.
    except Exception as error:
        raise DataError(f"{path}: no network of torch.export: {_line(error)}") from error
    return network, inside[JSON]


class _OnnxRuntime(nn.Module):
    """An ONNX network as a torch module, for inference."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session, self._name = session, session.get_inputs()[0].name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (logits,) = self._session.run(None, {self._name: images.numpy()})
        return torch.from_numpy(logits)


def _read_onnx(path: Path) -> tuple[nn.Module, str]:
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised as well
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Each of onnxruntime's errors is a class of its own under Exception.
    except Exception as error:
        raise DataError(f"{path}: is damaged, or no network in ONNX: {_line(error)}") from error
    taken = session.get_inputs()[0].type
    if taken != "tensor(uint8)":
        raise DataError(f"{path}: takes {taken}, not images of uint8")
    return _OnnxRuntime(session), session.get_modelmeta().custom_metadata_map.get(JSON, "")


def _about(path: Path, text: str) -> Mapping[str, Any]:
    """The description inside, or that of the folder in which a run left its network."""
    beside = [path.with_suffix(".json"), path.parent / "architecture.json"]
    try:
        if not text:
            text = next(file.read_text() for file in beside if file.is_file())
        about = Description.model_validate_json(text).plain()
        task = Task(**about["task"])
    except StopIteration:
        raise DataError(
            f"{path}: no class names inside, nor beside it in {beside[0].name}"
        ) from None
    except KeyError as error:
        raise DataError(f"{path}: its description cannot be read: no {error}") from error
    except (OSError, ValueError) as error:
        reason = files.mistake(error) if isinstance(error, ValidationError) else _line(error)
        raise DataError(f"{path}: its description cannot be read: {reason}") from error
    return {"preprocessing": preprocessing(task), **about}


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PluginError(f"ONNX needs the package {name}, which is missing; {_EXTRA}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings: exporters tell of shared storage, of their own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
