"""From a finished run to files that run elsewhere, and from pictures to classes."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cli_helper import evonas
from conftest import ROOT
from PIL import Image

from evonas import load
from evonas.errors import DataError, EvonasError, HistoryError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import network
from evonas.runs import run as runs
from evonas.runs.scores import Confusion

CLASSES = ("blue", "green", "red")
TRAIN = {"name": "train", "epochs": 3, "batch_size": 16, "learning_rate": 0.05}
INHERIT = {"name": "inherit", "of": TRAIN}
ORIENTATION = 0x0112  # the EXIF tag


def draw(folder: Path, count: int = 40, seed: int = 0) -> None:
    """Pictures of many sizes, brighter in their class's channel; of some the phone was turned."""
    rng = np.random.default_rng(seed)
    for channel, name in ((2, "blue"), (1, "green"), (0, "red")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (20 + number % 7, 24, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            picture = Image.fromarray(pixels)
            exif = picture.getexif()
            exif[ORIENTATION] = 6 if number % 2 else 1
            picture.save(folder / name / f"{number}.png", exif=exif)


def content(pictures: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "dataset": {"name": "image_folder", "path": str(pictures), "size": 16, "validation": 0.2},
        "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 16},
        "strategy": {"name": "random"},
        "evaluation": INHERIT,
        "budget": {"trials": 3},
        "final": {"top": 2},
        "executor": {"name": "serial", "device": "cpu"},
        "tracking": "console",
        **changes,
    }


def start(given: Mapping[str, Any], folder: Path) -> Path:
    return runs.start(reading.validate(given, "here"), Registry(), folder).run_dir


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    draw(folder)
    return folder


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(content(pictures), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def done(*arguments: str | Path) -> str:
    result = evonas(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(code: int, complaint: str, *arguments: str | Path) -> None:
    result = evonas(*arguments)
    assert result.exit_code == code, result.output
    assert len(result.output.splitlines()) == 1, result.output
    assert result.stderr.startswith("evonas: ")
    assert re.search(complaint, result.stderr), result.stderr


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_the_winner_is_exported_without_its_data(form: str, run_dir: Path, pictures: Path) -> None:
    stored = reading.load(run_dir / reading.FILE).dump()
    stored["dataset"]["path"] = "/gone"
    (run_dir / reading.FILE).write_text(json.dumps(stored))
    said = done("export", run_dir, "--format", form)
    path = run_dir / "incumbent" / f"network.{form}"
    assert said.startswith(f"wrote {path} (")
    found, file = network.find(run_dir), network.find(path)
    described = json.loads((run_dir / "incumbent" / "architecture.json").read_text())
    assert found.about == file.about == described
    assert found.classes == CLASSES
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    expected = found.predict(images)
    assert expected.sum(1) == pytest.approx(1, abs=1e-6)
    assert file.predict(torch.from_numpy(images)) == pytest.approx(expected, abs=1e-5)


def test_the_suffix_says_the_format(run_dir: Path, tmp_path: Path) -> None:
    done("export", run_dir, "--output", tmp_path / "a.onnx")
    assert network.find(tmp_path / "a.onnx").classes == CLASSES
    refused(2, r"must end in \.pt2", "export", run_dir, "--format", "pt2", "--output", "a.onnx")
    refused(2, r"must end in \.pt2 or \.onnx", "export", run_dir, "--output", "a.tflite")


def test_int8_says_its_accuracy(run_dir: Path) -> None:
    said = done("export", run_dir, "--int8").splitlines()
    path = run_dir / "incumbent" / "network.int8.onnx"
    assert said[0].startswith(f"wrote {path} (")
    assert (found := re.fullmatch(r"validation accuracy (\S+); .* float32 (\S+)", said[2]))
    metrics = network.read(run_dir).about["metrics"]
    assert float(found[2]) == pytest.approx(metrics["val_accuracy"], abs=1e-4)
    assert float(found[1]) >= float(found[2]) - 0.1
    about = network.find(path).about
    assert (about["precision"], about["classes"]) == ("int8", list(CLASSES))
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "QuantizeLinear" in kinds
    refused(2, "--int8 needs --format onnx", "export", run_dir, "--int8", "--format", "pt2")


def test_other_trials_are_exported_too(run_dir: Path) -> None:
    winner = network.read(run_dir).about["trial"]
    stages = {}
    for number in {0, 1, 2} - {winner}:
        done("export", run_dir, "--trial", str(number))
        found = network.find(run_dir / f"trial_{number}.pt2")
        assert found.about["trial"] == number
        assert found.classes == CLASSES
        stages[number] = found.about["stage"]
    assert sorted(stages.values()) == ["final", "search"]  # the best two were trained for good
    refused(2, "no trial 3 among 3", "export", run_dir, "--trial", "3")


def test_a_trial_without_a_final_needs_its_own_weights(run_dir: Path) -> None:
    winner = network.read(run_dir).about["trial"]
    shutil.rmtree(run_dir / "weights")
    for number in {0, 1, 2} - {winner}:
        complaint = rf"trial {number} left no weights .*is not there.*final: \{{top: N\}}"
        refused(2, complaint, "export", run_dir, "--trial", str(number))
    done("export", run_dir, "--trial", str(winner))


def test_before_the_end_there_is_no_winner(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "incumbent")
    for command in (["export", run_dir], ["predict", run_dir, "a.png"]):
        refused(2, "has no trained winner yet; go on with: evonas resume", *command)
    done("export", run_dir, "--trial", "1")  # by its own weights, and the data's statistics


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    refused(2, "holds no run", "export", tmp_path)
    refused(2, "holds no run", "predict", tmp_path, "a.png")


def test_damage_is_one_line(run_dir: Path) -> None:
    weights = run_dir / "incumbent" / "weights.safetensors"
    whole = weights.read_bytes()
    for harmed in (whole[:-9], whole[:-9] + bytes(9), b""):
        weights.write_bytes(harmed)
        refused(2, r"weights\.safetensors: (is damaged|cannot be read)", "export", run_dir)
    weights.unlink()
    refused(2, "trains no network that it could keep", "export", run_dir)
    (run_dir / "incumbent" / "architecture.json").write_text("{")
    refused(5, r"architecture\.json: is damaged", "export", run_dir)


def test_a_space_that_changed_is_one_line(run_dir: Path) -> None:
    path = run_dir / "incumbent" / "architecture.json"
    about = json.loads(path.read_text())
    about["choices"]["c1"] += 4
    path.write_text(json.dumps(about))
    refused(2, "do not fit the network that space 'plain_cnn' builds", "export", run_dir)


def test_a_disk_that_is_full(run_dir: Path) -> None:
    path = run_dir / "incumbent" / "network.pt2"
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # EFBIG, much as ENOSPC
    try:
        refused(5, r"network\.pt2: File too large", "export", run_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_places_that_cannot_be_written(run_dir: Path) -> None:
    refused(5, r"no/a\.pt2: No such file", "export", run_dir, "--output", "no/a.pt2")
    Path("a.onnx").mkdir()
    refused(5, r"a\.onnx: Is a directory", "export", run_dir, "--output", "a.onnx")


def test_without_onnx_it_says_what_to_install(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("export", run_dir, "--format", "onnx")
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    install = r"pip install 'evonas\[onnx\]'"
    refused(6, install, "export", run_dir, "--format", "onnx")
    refused(6, install, "predict", run_dir / "incumbent" / "network.onnx", "a.png")
    done("export", run_dir)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"evaluation": {"name": "supernet", "epochs": 2, "batch_size": 12, "of": TRAIN}},
            marks=pytest.mark.slow,
        ),
        {"evaluation": {"name": "reduced", "data": 0.5, "width": 0.5, "of": INHERIT}},
        pytest.param(
            {
                "evaluation": {"name": "extrapolate", "share": 0.5, "of": TRAIN},
                "objectives": {"val_accuracy_extrapolated": "max"},
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda changes: changes["evaluation"]["name"],
)
def test_runs_of_wrappers_are_exported(
    changes: Mapping[str, Any], pictures: Path, tmp_path: Path
) -> None:
    run_dir = start(content(pictures, **changes, final={"top": 1}), tmp_path / "run")
    done("export", run_dir, "--format", "onnx")
    found = network.read(run_dir)
    other = min({0, 1} - {found.about["trial"]})
    refused(2, "left no weights", "export", run_dir, "--trial", str(other))


def test_choices_of_the_training_do_no_harm(pictures: Path, tmp_path: Path) -> None:
    space = {"name": "plain_cnn", "max_depth": 1, "training": {"learning_rate": [0.02, 0.05]}}
    run_dir = start(content(pictures, space=space, final={}), tmp_path / "run")
    done("export", run_dir)
    about = network.find(run_dir / "incumbent" / "network.pt2").about
    assert "training.learning_rate" in about["choices"]


# --- predict --------------------------------------------------------------------------------------


def test_pictures_become_classes(finished: Path, pictures: Path) -> None:
    lines = done("predict", finished, pictures / "red" / "1.png", pictures / "blue" / "2.png")
    first, second = lines.splitlines()
    assert first.startswith(f"{pictures / 'red' / '1.png'}  ")
    shares = [float(word) for word in first.split()[2::2]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=2e-4)
    assert len(second.split()) == 7
    assert len(done("predict", finished, pictures / "red" / "1.png", "--top", "1").split()) == 3


def test_they_are_prepared_as_in_training(finished: Path, pictures: Path) -> None:
    """The test split's pictures, by name, give the matrix that the run counted on its arrays."""
    names = (finished / "test_images.txt").read_text().split()
    paths = [pictures / name for name in names]
    predictions = json.loads(done("predict", finished, *paths, "--json"))["predictions"]
    labels = [CLASSES.index(path.parent.name) for path in paths]
    guesses = [CLASSES.index(row["class"]) for row in predictions]
    counted = json.loads((finished / "incumbent" / "test.json").read_text())
    assert Confusion.of(CLASSES, labels, guesses).to_json() == counted
    final = json.loads((finished / "final.json").read_text())
    assert counted["accuracy"] == pytest.approx(final["metrics"]["test_accuracy"])


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_folders_of_classes_give_a_score(form: str, run_dir: Path, tmp_path: Path) -> None:
    draw(tmp_path / "new", count=5, seed=1)
    done("export", run_dir, "--format", form)
    source = run_dir / "incumbent" / f"network.{form}"
    said = done("predict", source, tmp_path / "new", "--csv", "out.csv").splitlines()
    assert said[0].startswith("accuracy ")
    assert said[-5].split() == list(CLASSES)
    assert said[-1] == "wrote out.csv (15 pictures)"
    with Path("out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [name for name in CLASSES for _ in range(5)]
    right = sum(row["label"] == row["class"] for row in rows)
    assert f"{right} of 15" in said[0]
    report = json.loads(done("predict", source, tmp_path / "new", "--json"))
    assert report["scores"]["accuracy"] == pytest.approx(right / 15)
    assert report["scores"]["images"] == 15


def test_what_cannot_be_read_is_passed_over(finished: Path, tmp_path: Path) -> None:
    draw(tmp_path / "new", count=1)
    (tmp_path / "new" / "red" / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "new" / "readme.txt").write_text("hello")
    os.mkfifo(tmp_path / "new" / "fifo")
    result = evonas("predict", finished, tmp_path / "new", "absent.png", tmp_path / "new" / "fifo")
    assert result.exit_code == 0
    said = set(result.stderr.splitlines())
    assert said == {
        f"skipped {tmp_path}/new/red/broken.png: broken",
        f"skipped {tmp_path}/new/readme.txt: no picture",
        f"skipped {tmp_path}/new/fifo: no regular file",
        "skipped absent.png: not there",
    }
    assert len([line for line in result.stdout.splitlines() if ".png  " in line]) == 3
    refused(
        2, r"no picture to look at \(absent\.png: not there\)", "predict", finished, "absent.png"
    )
    (tmp_path / "empty").mkdir()
    refused(2, "the folder is empty", "predict", finished, tmp_path / "empty")


def test_a_folder_with_a_network_alone(finished: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "incumbent", tmp_path / "kept")
    picture = pictures / "red" / "3.png"
    assert done("predict", tmp_path / "kept", picture) == done("predict", finished, picture)


def test_files_of_another_kind(finished: Path, pictures: Path) -> None:
    picture = pictures / "red" / "1.png"
    refused(2, "neither a run folder nor a file", "predict", picture, picture)
    refused(2, "no such file", "predict", "none.pt2", picture)
    Path("a.pt2").write_bytes((finished / "incumbent" / "network.pt2").read_bytes()[:5000])
    refused(2, r"a\.pt2: is damaged", "predict", "a.pt2", picture)


# --- Python, the card, and the documents ----------------------------------------------------------


def test_the_module_can_be_trained_further(finished: Path) -> None:
    found = network.read(finished)
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    loss = torch.nn.functional.cross_entropy(found.module.train()(images), torch.arange(6) % 3)
    loss.backward()
    assert all(parameter.grad is not None for parameter in found.module.parameters())


def test_a_run_in_python_predicts(finished: Path, pictures: Path) -> None:
    run = load(finished)
    paths = [pictures / "red" / "1.png", str(pictures / "blue" / "1.png")]
    frame = run.predict(paths)
    assert list(frame.columns) == list(CLASSES)
    assert [str(path) for path in frame.index] == [str(path) for path in paths]
    said = json.loads(done("predict", finished, *paths, "--json"))["predictions"]
    for row, (_, shares) in zip(said, frame.iterrows(), strict=True):
        assert dict(shares) == pytest.approx(row["probabilities"], abs=1e-6)
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    assert run.predict(pixels).shape == (2, 3)
    assert isinstance(run.network(), torch.nn.Sequential)
    Path("broken.png").write_bytes(b"x")
    for name, complaint in (("broken.png", "broken"), ("none.png", "no such file")):
        with pytest.raises(DataError, match=f"{name}: {complaint}"):
            run.predict([name])


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 16, 16), (2, 3, 16, 16), (16, 16, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], finished: Path) -> None:
    found = network.read(finished)
    with pytest.raises(DataError, match=r"images must be uint8, \(N, 16, 16, 3\)"):
        found.predict(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"not torch\.float32"):
        found.predict(np.zeros((2, 16, 16, 3), np.float32))
    assert found.predict(np.zeros((0, 16, 16, 3), np.uint8)).shape == (0, 3)


def test_the_card_says_what_the_files_say(finished: Path) -> None:
    card = (finished / "incumbent" / "MODEL_CARD.md").read_text()
    counted = json.loads((finished / "incumbent" / "test.json").read_text())
    low, high = counted["interval"]
    for phrase in (
        f"{counted['accuracy']:.4f}, 95 % interval {low:.3f} to {high:.3f} (Wilson)",
        "76 training, 20 validation, 24 test images of 16×16 colour",
        "| search space | plain_cnn |",
        "| parameters |",
        "| size of network.pt2 |",
        "| latency of one image |",
        "| blue | 8 |",
        "evonas export run --format onnx",
        "torch.export.load",
    ):
        assert phrase in card


def snippet(document: str, library: str) -> str:
    """The piece of Python in a document that loads a network by a library."""
    found: Callable[[str], list[str]] = re.compile(r"```python\n(.*?)```", re.DOTALL).findall
    (code,) = [c for c in found((ROOT / document).read_text()) if library in c and "Image" in c]
    return code


@pytest.mark.parametrize(
    ("document", "library", "form", "absent"),
    [
        ("docs/network.md", "torch.export", "pt2", ("evonas", "onnxruntime")),
        ("docs/network.md", "onnxruntime", "onnx", ("evonas", "torch")),
    ],
)
def test_the_documents_lines_classify_without_evonas(
    document: str, library: str, form: str, absent: tuple[str, ...], run_dir: Path, pictures: Path
) -> None:
    done("export", run_dir, "--format", form, "--output", f"network.{form}")
    shutil.copy(pictures / "green" / "1.png", "picture.jpg")  # it lies on its side
    block = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = block + snippet(document, library)
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    expected = done("predict", run_dir, "picture.jpg").split()[1:]
    given = [tuple(reversed(line.split())) for line in result.stdout.splitlines()]
    assert [name for name, _ in given] == expected[::2]
    for (_, share), own in zip(given, expected[1::2], strict=True):
        assert float(share) == pytest.approx(float(own), abs=2e-4)


def test_errors_have_their_class(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(HistoryError):
        network.read(tmp_path)
    with pytest.raises(EvonasError):
        network.find(tmp_path / "nowhere")
