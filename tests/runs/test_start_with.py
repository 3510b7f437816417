"""Runs that begin with known networks: what the recipe says, what is told, and after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sessions_helper import trials

from evonas.__main__ import main
from evonas.errors import RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.recipe.schema import Recipe
from evonas.runs import run
from evonas.runs.journal import JOURNAL
from evonas.spaces.cnn import CNN
from evonas.trial import TrialState


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
    path = tmp_path / "images.npz"
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return path


def recipe(images: Path, **sections: Any) -> Recipe:
    given = {
        "name": "known",
        "dataset": {"name": "npz", "path": str(images)},
        "space": {"name": "cnn", "max_depth": 2, "max_width": 32},
        "strategy": {"name": "successive_halving", "eta": 3, "min_fidelity": 0.34},
        "evaluation": {"name": "train", "epochs": 3, "batch_size": 16},
        "constraints": {"params": {"max": 8000}},
        "start_with": ["conv4", "vgg"],
        "budget": {"trials": 6},
        "tracking": "console",
    }
    return reading.validate({**given, **sections}, "test")


def test_the_first_trials_are_known_networks_as_wide_as_the_limits_allow(
    images: Path, tmp_path: Path
) -> None:
    outcome = run.start(recipe(images), Registry(), tmp_path / "run")
    first = trials(outcome.run_dir)
    assert [t.architecture.choices["depth1"] for t in first[:4]] == [1] * 4
    assert [t.architecture for t in first[:2]] == [t.architecture for t in first[2:4]]
    assert [t.proposal.resume_from for t in first[:4]] == [None, None, 0, 1]
    for trial in first[:2]:
        assert trial.state is TrialState.COMPLETE
        assert 4000 < trial.metrics["params"] <= 8000
    assert "known networks: " in (outcome.run_dir / "report.json").read_text()


@pytest.mark.slow
def test_after_a_kill_it_goes_on_as_if_nothing_had_happened(images: Path, tmp_path: Path) -> None:
    whole = run.start(recipe(images), Registry(), tmp_path / "whole").run_dir
    for lines in (2, 4, 6, 9):
        cut = tmp_path / f"cut{lines}"
        cut.mkdir()
        (cut / reading.FILE).write_text((whole / reading.FILE).read_text())
        text = (whole / JOURNAL).read_text().splitlines(keepends=True)[:lines]
        (cut / JOURNAL).write_text("".join(text))
        run.resume(cut)
        assert [(t.proposal, t.state) for t in trials(cut)] == [
            (t.proposal, t.state) for t in trials(whole)
        ]


def test_a_network_of_ones_own_is_taken_as_it_is(images: Path, tmp_path: Path) -> None:
    own = {**CNN().points["vgg"], "width3": 24, "width4": 24, "shortcut": True}
    (tmp_path / "recipe.yaml").write_text(reading.text(recipe(images, start_with=[own])))
    read = reading.load(
        tmp_path / "recipe.yaml", ["budget.trials=1", "constraints.params.max=30000"]
    )
    first = trials(run.start(read, Registry(), tmp_path / "run").run_dir)[0]
    assert first.architecture.choices == own


def test_a_network_that_fits_at_no_width_is_left_out_with_a_note(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        reading.text(recipe(images, constraints={"params": {"max": 1500}}, start_with=["resnet"]))
    )
    arguments = ["run", str(tmp_path / "recipe.yaml"), "--run-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*arguments, "--set", "budget.trials=1"])
    assert result.exit_code == 0, result.output
    assert "left out: resnet, too large at any width" in result.output


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("conv5", "conv4"),
        ({"depth1": 1}, "choice 'activation' is missing"),
        (3, "start_with"),
        (["conv4", 7], "start_with: 7 is neither a network's name nor its choices"),
    ],
)
def test_what_is_not_there_ends_the_run_before_it_begins(
    images: Path, tmp_path: Path, given: object, complaint: str
) -> None:
    with pytest.raises(RecipeError) as refusal:
        run.start(recipe(images, start_with=given), Registry(), tmp_path / "run")
    assert "start_with" in str(refusal.value)
    assert complaint in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_the_search_depends_on_them(images: Path) -> None:
    given = recipe(images)
    assert given.digest != recipe(images, start_with="conv4").digest
    assert recipe(images, start_with="conv4").start_with == ["conv4"]
