"""The winner's network as an MLflow model: loaded, served and registered from there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import logging
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from evonas import files

NAME = "network"
_DIGEST = "evonas.sha256"
_ABOUT, _PROGRAM = "architecture.json", "network.pt2"
_PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "torch")
_CODE = Path(__file__).with_name("classifier.py")


def log(client: MlflowClient, experiment_id: str, run_id: str, folder: Path) -> LoggedModel | None:
    """Log the network of a folder as the model of a run, unless it is there.

    The client is told where, and nothing of MLflow's global state is touched: a run may go on
    within a program that uses MLflow for itself.

    Args:
        client: Of the store.
        experiment_id: The run's.
        run_id: The run.
        folder: With ``network.pt2`` and ``architecture.json``.

    Returns:
        The model; None if the folder has no network.
    """
    if not (folder / _PROGRAM).exists():
        return None
    digest = hashlib.sha256((folder / _PROGRAM).read_bytes()).hexdigest()
    of_run = [m for m in _models(client, experiment_id) if m.source_run_id == run_id]
    for model in of_run:
        if model.status != LoggedModelStatus.READY:  # what an attempt left that was cut off
            client.delete_logged_model(model.model_id)
        elif model.tags.get(_DIGEST) == digest:
            _put_out(client, run_id, model)
            return model
    made = client.create_logged_model(
        experiment_id, NAME, run_id, tags={_DIGEST: digest}, model_type="classifier"
    )
    with TemporaryDirectory() as place:
        _save(Path(place, "model"), folder, made.model_id, run_id)
        client.log_model_artifacts(made.model_id, str(Path(place, "model")))
    client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    _put_out(client, run_id, made)
    return made


def _put_out(client: MlflowClient, run_id: str, model: LoggedModel) -> None:
    """Make it an output of the run, which a store takes once only."""
    outputs = client.get_run(run_id).outputs
    if all(
        output.model_id != model.model_id for output in (outputs and outputs.model_outputs) or ()
    ):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])


def register(client: MlflowClient, name: str, model: LoggedModel, run_id: str) -> None:
    """Make the model the newest version of a registered one, unless it is one of its versions."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not "models:/ID", which MLflow would look for in the store of its global state.
    source = model.artifact_location
    versions = client.search_model_versions(f"name = '{name}'")
    if all(version.source != source for version in versions):
        client.create_model_version(name, source, run_id, model_id=model.model_id)


def _models(client: MlflowClient, experiment_id: str) -> list[LoggedModel]:
    found = client.search_logged_models([experiment_id], f"name = '{NAME}'")
    models = list(found)
    while found.token:
        found = client.search_logged_models(
            [experiment_id], f"name = '{NAME}'", page_token=found.token
        )
        models += found
    return models


def _save(path: Path, folder: Path, model_id: str, run_id: str) -> None:
    import pandas as pd  # as pyfunc below, it takes its time, and not every run ends with a network
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    about = files.load(folder / _ABOUT, dict[str, Any]) or {}
    signature = ModelSignature(
        Schema([ColSpec(DataType.binary, "image")]),
        Schema(
            [
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Array(DataType.double), "probabilities"),
            ]
        ),
    )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of type hints, which the signature makes needless
        pyfunc.save_model(
            path,
            mlflow_model=Model(model_id=model_id, run_id=run_id),
            python_model=str(_CODE),
            artifacts={"network": str(folder / _PROGRAM)},
            signature=signature,
            input_example=pd.DataFrame({"image": [_blank(about["preprocessing"])]}),
            metadata={"classes": about["classes"], "preprocessing": about["preprocessing"]},
            pip_requirements=[f"{p}=={_version(p)}" for p in _PACKAGES],
        )


def _blank(form: dict[str, Any]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new(form["mode"], (form["width"], form["height"])).save(file, "PNG")
    return file.getvalue()


def _version(package: str) -> str:
    """Installed version, as an index knows it: without the mark of a build for a device."""
    return importlib.metadata.version(package).partition("+")[0]
