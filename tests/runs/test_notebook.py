"""``import evonas``: runs from notebooks and scripts."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pandas
import pytest

import evonas
from evonas.errors import HistoryError, RecipeError
from evonas.trial import TrialState

RECIPE = {
    "name": "tiny",
    "dataset": {"name": "digits", "validation": 0.2},
    "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 8},
    "strategy": "random",
    "evaluation": {"name": "train", "epochs": 1, "batch_size": 512},
    "budget": {"trials": 3},
    "executor": {"name": "serial", "device": "cpu"},
    "tracking": "console",
}
SCRIPT = """
import evonas

print("the script runs")
run = evonas.run(
    "digits_evo",
    {
        "budget.trials": 3, "evaluation.epochs": 1, "evaluation.final_epochs": 1,
        "executor": {"name": "processes", "device": "cpu", "workers": 2}, "tracking": "console",
    },
)
print(run)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> evonas.Run:
    return evonas.run(RECIPE, run_dir=tmp_path_factory.mktemp("runs") / "run", show=False)


def test_trials_are_a_frame(run: evonas.Run) -> None:
    frame = run.trials
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.index) == [0, 1, 2]
    assert set(frame["state"]) == {"complete"}
    assert {"val_accuracy", "params", "flops", "choice_k1", "seconds", "error"} <= set(frame)
    assert run.best is not None
    best = frame.sort_values("val_accuracy").iloc[-1]
    assert best["val_accuracy"] == run.best.metrics["val_accuracy"]


def test_best_front_and_report(run: evonas.Run) -> None:
    report = run.report()
    assert report.status == "finished"
    assert "test_accuracy" in report.final
    assert run.best == report.incumbent
    assert run.front == report.front == (run.best,)
    assert repr(run).endswith("run: 3 complete>")
    assert (run.folder / "report.html").is_file()


def test_a_run_is_looked_at_later(run: evonas.Run) -> None:
    again = evonas.load(str(run.folder))
    assert again.best == run.best
    assert again.recipe == run.recipe
    assert again.trials.equals(run.trials)
    with pytest.raises(HistoryError, match="holds no run"):
        evonas.load("nowhere")


def test_overrides_are_keys_and_values() -> None:
    sets = {"budget.trials": 1, "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 16}}
    one = evonas.run(RECIPE, sets, run_dir=Path("one"), show=False)
    assert len(one.trials) == 1
    assert one.recipe.space.options["max_width"] == 16
    assert RECIPE["budget"] == {"trials": 3}, "the recipe that was given is not changed"
    two = evonas.resume("one", {"budget.trials": 2}, show=False)
    assert len(two.trials) == 2
    with pytest.raises(RecipeError, match=r"budget\.trial: unknown key. Did you mean 'trials'"):
        evonas.run(RECIPE, {"budget.trial": 1})
    with pytest.raises(RecipeError, match="Did you mean 'digits_evo'"):
        evonas.run("digit_evo")
    assert not Path("mlruns").exists()


def test_what_is_cut_off_is_seen_as_far_as_it_came(run: evonas.Run, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "recipe.yaml").write_bytes((run.folder / "recipe.yaml").read_bytes())
    lines = (run.folder / "history.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "history.jsonl").write_bytes(b"".join(lines[:4]))  # one trial, and another began
    seen = evonas.load(cut)
    assert list(seen.trials["state"]) == ["complete", "running"]
    assert seen.best is not None
    assert seen.best.state is TrialState.COMPLETE
    with pytest.raises(HistoryError, match="has not ended"):
        seen.report()


def test_another_thread_may_run_it() -> None:
    found = []
    sets = {"budget.trials": 1}
    thread = threading.Thread(target=lambda: found.append(evonas.run(RECIPE, sets, show=False)))
    thread.start()
    thread.join()
    assert len(found[0].trials) == 1


def test_what_is_exported_is_there() -> None:
    for name in evonas.__all__:
        assert getattr(evonas, name) is not None
    assert set(evonas.__all__) <= set(dir(evonas))


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once() -> None:
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the script runs") == 1
    assert "3 complete>" in done.stdout
    assert len(list(Path("mlruns").iterdir())) == 1
    assert "Traceback" not in done.stderr


def test_a_resumed_run_may_train_its_winner_for_longer_or_shorter(
    run: evonas.Run, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "recipe.yaml").write_bytes((run.folder / "recipe.yaml").read_bytes())
    lines = (run.folder / "history.jsonl").read_bytes().splitlines(keepends=True)
    search = [line for line in lines if b'"stage":"final"' not in line]
    assert len(search) == len(lines) - 2
    (cut / "history.jsonl").write_bytes(b"".join(search))
    with pytest.raises(HistoryError, match=r"may change budget, .* and evaluation.final_epochs"):
        evonas.resume(cut, {"evaluation.epochs": 3})
    again = evonas.resume(cut, {"evaluation.final_epochs": 3}, show=False)
    assert again.trials.equals(run.trials)
    assert again.report().final != run.report().final
    assert again.recipe.evaluation.options["final_epochs"] == 3
