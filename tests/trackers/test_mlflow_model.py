"""The winner's network in MLflow: loaded, served and registered without evonas."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import pyfunc
from mlflow.tracking import MlflowClient
from PIL import Image
from torch import nn

from evonas.spaces.base import Task
from evonas.trackers.parts import model, store
from evonas.training import programs
from evonas.training.loop import Normalize

TASK = Task(3, 10, 8, 3)  # higher than wide: exchanging the two shows
CLASSES = ["blue", "green", "red"]


def network(folder: Path, seed: int = 0) -> Path:
    """A folder as a run leaves it."""
    about = {"classes": CLASSES, "preprocessing": programs.preprocessing(TASK)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 10 * 8, 3))
    normalize = Normalize(torch.full((3,), 100.0), torch.full((3,), 50.0))
    folder.mkdir(exist_ok=True)
    program = programs.program(nn.Sequential(normalize, head).eval(), TASK, about, "pt2")
    (folder / "network.pt2").write_bytes(program)
    (folder / "architecture.json").write_text(json.dumps(about))
    return folder


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(TASK.height, TASK.width, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def run(uri: str) -> tuple[MlflowClient, str, str]:
    client = store.client_of(uri)
    experiment = store.experiment(client, "e", uri)
    return client, experiment, client.create_run(experiment).info.run_id


def loaded(uri: str, reference: str) -> Any:
    """As somebody does who has MLflow and no evonas."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        return pyfunc.load_model(reference)


def test_it_says_of_pictures_what_the_network_says(
    uri: str, run: tuple[MlflowClient, str, str], tmp_path: Path
) -> None:
    client, experiment, run_id = run
    folder = network(tmp_path / "incumbent")
    assert model.log(client, experiment, run_id, folder) is not None
    pictures = [picture(seed) for seed in range(4)]
    given = pd.DataFrame({"image": pictures})
    answer = loaded(uri, f"runs:/{run_id}/network").predict(given)
    images = np.stack([np.array(Image.open(io.BytesIO(data))) for data in pictures])
    program = torch.export.load(folder / "network.pt2").module()
    expected = program(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).softmax(1)
    assert np.allclose(answer["probabilities"].tolist(), expected.detach())
    assert answer["class"].tolist() == [CLASSES[i] for i in expected.argmax(1)]
    assert np.allclose(answer["probability"], expected.detach().max(1).values)


def test_its_metadata_say_how_pictures_become_images(
    uri: str, run: tuple[MlflowClient, str, str], tmp_path: Path
) -> None:
    client, experiment, run_id = run
    model.log(client, experiment, run_id, network(tmp_path / "incumbent"))
    about = loaded(uri, f"runs:/{run_id}/network").metadata
    assert about.metadata["classes"] == CLASSES
    assert about.metadata["preprocessing"] == programs.preprocessing(TASK)
    assert about.signature.inputs.input_names() == ["image"]
    assert about.saved_input_example_info is not None


def test_a_run_has_its_network_once_and_the_latest_wins(
    uri: str, run: tuple[MlflowClient, str, str], tmp_path: Path
) -> None:
    client, experiment, run_id = run
    folder = network(tmp_path / "incumbent")
    # What an attempt leaves that was cut off.
    client.create_logged_model(experiment, model.NAME, run_id)
    first = model.log(client, experiment, run_id, folder)
    again = model.log(client, experiment, run_id, folder)
    assert first is not None
    assert again is not None
    assert first.model_id == again.model_id
    assert [m.model_id for m in client.search_logged_models([experiment])] == [first.model_id]
    other = model.log(client, experiment, run_id, network(folder, seed=1))
    assert other is not None
    given = pd.DataFrame({"image": [picture(0)]})
    one, two = (
        loaded(uri, reference).predict(given)["probability"][0]
        for reference in (f"runs:/{run_id}/network", f"models:/{other.model_id}")
    )
    assert one == two
    assert one != loaded(uri, f"models:/{first.model_id}").predict(given)["probability"][0]


def test_a_folder_without_a_network(run: tuple[MlflowClient, str, str], tmp_path: Path) -> None:
    assert model.log(*run, tmp_path) is None


def test_a_registered_model_has_a_version_for_every_network(
    uri: str, run: tuple[MlflowClient, str, str], tmp_path: Path
) -> None:
    client, experiment, run_id = run
    for seed in (0, 0, 1):
        logged = model.log(client, experiment, run_id, network(tmp_path / "incumbent", seed))
        assert logged is not None
        model.register(client, "pets", logged, run_id)
    versions = client.search_model_versions("name = 'pets'")
    assert {int(version.version) for version in versions} == {1, 2}
    answer = loaded(uri, "models:/pets/2").predict(pd.DataFrame({"image": [picture(0)]}))
    assert answer["class"][0] in CLASSES


@pytest.mark.slow
def test_it_is_served(run: tuple[MlflowClient, str, str], uri: str, tmp_path: Path) -> None:
    """``mlflow models serve``: a picture in base64 in, its class out."""
    import base64
    import os
    import socket

    client, experiment, run_id = run
    model.log(client, experiment, run_id, network(tmp_path / "incumbent"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"runs:/{run_id}/network"]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"]
    server = subprocess.Popen(command, env={**os.environ, "MLFLOW_TRACKING_URI": uri})
    body = {
        "dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(picture(0)).decode()]]}
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        for _ in range(120):
            try:
                answer = json.load(urllib.request.urlopen(request, timeout=20))
                break
            except ConnectionError:
                time.sleep(0.5)
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionError):
                    raise
                time.sleep(0.5)
        (row,) = answer["predictions"]
        assert row["class"] in CLASSES
        assert sum(row["probabilities"]) == pytest.approx(1)
    finally:
        server.terminate()
        server.wait()
