"""The page about a run: what it says, and what it has for its charts."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from report_helper import ACCURACY, history, report_of, run_info, written

from evonas.report import page
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

PARAMS = Objective("params", "min")


def test_it_says_what_was_done(tmp_path: Path) -> None:
    events = history(12)
    found = written(tmp_path, events, report_of(events))
    for said in (
        *(
            "tpe · mbconv · npz · seed 3",
            "evonas run pets",
            "parameters max 20,000",
            "max_width 64",
        ),
        *("Finished: the budget is spent. 10 complete, 2 failed", "1 min 1 s of search"),
    ):
        assert said in found.text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in [
        (tag, attributes) for tag, attributes in found.tags
    ]


def test_it_asks_nothing_of_the_network(tmp_path: Path) -> None:
    events = history(12)
    found = written(tmp_path, events, report_of(events))
    for tag, attributes in found.tags:
        assert tag not in ("img", "link", "iframe"), tag
        assert "src" not in attributes


def test_the_headline_is_the_test_accuracy_with_its_interval(tmp_path: Path) -> None:
    (tmp_path / "incumbent").mkdir()
    test = {"interval": [0.9, 0.95], "images": 360, "accuracy": 0.925}
    (tmp_path / "incumbent" / "test.json").write_text(json.dumps(test))
    block = {"name": "stem", "what": "3×3 conv", "shape": [8, 4, 4], "params": 1234}
    (tmp_path / "incumbent" / "architecture.json").write_text(json.dumps({"blocks": [block]}))
    events = history(12)
    final = {"val_accuracy": 0.9, "val_accuracy_std": 0.01, "test_accuracy": 0.925}
    found = written(tmp_path, events, report_of(events, final=final))
    assert "92.50 %" in found.text
    assert "95 % interval 90.00 % to 95.00 %, 360 images" in found.text
    assert "90.00 % ± 1.00 %" in found.text
    assert "8 × 4 × 4" in found.text
    assert "1,234" in found.text


def test_an_interval_is_of_the_network_that_was_kept(tmp_path: Path) -> None:
    (tmp_path / "incumbent").mkdir()
    test = {"interval": [0.88, 0.94], "images": 360, "accuracy": 0.915}
    (tmp_path / "incumbent" / "test.json").write_text(json.dumps(test))
    events = history(12)
    found = written(tmp_path, events, report_of(events, final={"test_accuracy": 0.925}))
    assert "test accuracy, mean of the trainings; 91.50 % of the one kept; 95 %" in found.text


def test_trials_too_short_to_be_seen_have_no_lanes(tmp_path: Path) -> None:
    events = [replace(trial, seconds=1e-4) for trial in history(12)]
    found = written(tmp_path, events, report_of(events))
    assert "Who ran when" not in found.headings


def test_best_so_far_never_falls_in_the_order_of_ending(tmp_path: Path) -> None:
    events = sorted(history(40), key=lambda trial: trial.number ^ 1)
    data = written(tmp_path, events, report_of(events)).data["progress"]
    values = [point["value"] for point in data["best"]]
    assert all(a <= b for a, b in pairwise(values))
    assert [row["trials"] for row in data["best"]] == sorted(r["trials"] for r in data["best"])
    assert len(data["rows"]) == data["all"] == 40
    assert sum(row["state"] == "failed" for row in data["rows"]) == 8
    assert data["best"][-1]["effort"] == 10


def test_only_a_front_of_several_objectives_is_called_one(tmp_path: Path) -> None:
    events = history(12)
    one = written(tmp_path, events, report_of(events))
    assert "Quality and size" in one.headings
    both = (ACCURACY, PARAMS)
    two = written(tmp_path, events, report_of(events, *both), *both)
    assert "The Pareto front" in two.headings
    front = Trials(both, events).front()
    drawn = {row["n"] for row in two.data["against"]["rows"] if row["front"]}
    assert drawn == {trial.number for trial in front}
    assert len(two.data["progress"]["volumes"]) == 1


def test_names_are_no_markup(tmp_path: Path) -> None:
    events = history(12)
    choices = {**events[0].architecture.choices, "</script>": "<b>"}
    architecture = replace(events[0].architecture, choices=choices)
    events[0] = replace(events[0], proposal=replace(events[0].proposal, architecture=architecture))
    text = page.text(run_info(tmp_path), events, report_of(events))
    assert text.count("</script>") == 3  # the page's own
    assert "<b></td>" not in text


def test_failures_are_grouped_and_folded(tmp_path: Path) -> None:
    events = history(40)
    found = written(tmp_path, events, report_of(events))
    assert "Failed: 8" in found.headings
    assert sum(tag == "details" for tag, _ in found.tags) == 2
    assert "4 ×" in found.text
    assert "Traceback of 4" in found.text
    assert "Traceback of 14" not in found.text


def test_finalists_are_a_table_and_their_curves_are_drawn(tmp_path: Path) -> None:
    events = history(12)
    for seed, accuracy in enumerate((0.7, 0.8)):
        own = Proposal(events[3].architecture, parents=(3,), repeat=seed, stage="final")
        curve = tuple((step, {"val_accuracy": accuracy * step / 3}) for step in (1, 2, 3))
        metrics = {"val_accuracy": accuracy, "params": 5.0}
        final = Trial(seed, own, TrialState.COMPLETE, metrics, curve, 5.0, None, 40.0 + 5 * seed)
        events.append(final)
    found = written(tmp_path, events, report_of(events, final={"val_accuracy": 0.75}))
    assert "75.00 % ± 7.07 %" in found.text
    assert found.text.count("75.00 %") == 4  # tile, metrics, finalists, leaderboard: means
    assert {row["training"] for row in found.data["curves"]} == {
        "trial 3, seed 0",
        "trial 3, seed 1",
    }
    assert {row["state"] for row in found.data["lanes"]} == {"complete", "failed", "final"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_run_that_hardly_began(tmp_path: Path, count: int) -> None:
    events = history(count)
    found = written(tmp_path, events, replace(report_of(events), status="running"))
    assert "Running" in found.text
    assert ("The search" in found.headings) == (count > 0)


def test_nothing_completed(tmp_path: Path) -> None:
    events = [trial.failed("no") for trial in history(3)]
    found = written(tmp_path, events, report_of(events))
    assert "Failed: 3" in found.headings
    assert "How good the trials are" not in found.headings


def test_many_trials_are_thinned_out_but_for_the_best_and_the_front(tmp_path: Path) -> None:
    events = history(4000)
    text = page.text(run_info(tmp_path), events, report_of(events))
    assert len(text) < 5e6
    data = written(tmp_path, events, report_of(events)).data
    assert len(data["progress"]["rows"]) < data["progress"]["all"] == 4000
    best = Trials((ACCURACY,), events).best
    assert best is not None
    assert best.number in {row["n"] for row in data["progress"]["rows"]}
