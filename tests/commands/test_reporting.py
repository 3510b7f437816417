"""``evonas report``: at any time, of what the run folder says."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helper import evonas

from evonas.runs.journal import Journal

QUICK = ("budget.trials=2", "evaluation.epochs=1", "evaluation.final_epochs=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = [word for s in (*QUICK, "tracking=console") for word in ("--set", s)]
    assert evonas("run", "digits_evo", "--run-dir", str(folder), *settings).exit_code == 0
    return folder


def test_a_finished_run_is_reported_as_it_was(finished: Path) -> None:
    path = finished / "report.html"
    before = path.read_text()
    path.unlink()
    done = evonas("report", str(finished))
    assert (done.exit_code, done.output) == (0, f"{path}\n")
    assert path.read_text() == before


def test_a_run_that_goes_on(finished: Path) -> None:
    with Journal(finished):
        assert evonas("report", str(finished)).exit_code == 0
        assert "Running: this is how far it is" in (finished / "report.html").read_text()
    assert evonas("report", str(finished)).exit_code == 0
    assert "Finished: the budget is spent" in (finished / "report.html").read_text()


def test_a_run_that_was_cut_off(finished: Path) -> None:
    said = (finished / "report.json").read_bytes()
    (finished / "report.json").unlink()
    assert evonas("report", str(finished)).exit_code == 0
    (finished / "report.json").write_bytes(said)
    page = (finished / "report.html").read_text()
    assert "Cut off: it ended before its time; evonas resume goes on with it" in page
    assert "The best so far: trial" in page


def test_no_run() -> None:
    done = evonas("report", ".")
    assert done.exit_code == 2
    assert "holds no run" in done.output
