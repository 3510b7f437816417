"""What is installed is enough: from an empty folder, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

SHORT = ("budget.trials=2", "evaluation.epochs=1", "evaluation.final_epochs=1")


def run(*command: str | Path, folder: Path) -> str:
    hidden = {"PYTHONPATH", "PYTHONHOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, folder=ROOT)
    return folder


@pytest.mark.slow
def test_what_is_in_them(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    templates = ("commands/templates/my_space.py", "commands/templates/recipe.yaml.jinja")
    for name in ("py.typed", "recipes/digits_evo.yaml", *templates):
        assert f"evonas/{name}" in names
    assert not any(name.startswith(("tests/", "plugins/", "mlruns/")) for name in names)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "recipes/digits_evo.yaml", "tests/test_wheel.py", "Makefile"} <= names


@pytest.mark.slow
def test_a_bare_environment_runs_the_wheel(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=tmp_path)
    # The packages that it needs are those of this environment: gigabytes, else, from the network.
    own = run(python, "-c", "import site; print(site.getsitepackages()[0])", folder=tmp_path)
    Path(own.strip(), "needs.pth").write_text(str(Path(np.__file__).parents[1]))
    empty = tmp_path / "empty"
    empty.mkdir()
    evonas = python.parent / "evonas"
    assert run(evonas, "--version", folder=empty) == run(
        python, "-m", "evonas", "--version", folder=empty
    )
    place = run(python, "-c", "import evonas; print(evonas.__file__)", folder=empty)
    assert Path(place.strip()).is_relative_to(tmp_path)
    assert "digits_evo" in run(evonas, "list", "recipes", folder=empty)
    sets = [part for setting in SHORT for part in ("--set", setting)]
    run(evonas, "run", "digits_evo", *sets, "--run-dir", "out", folder=empty)
    assert (empty / "out" / "incumbent" / "network.pt2").is_file()
