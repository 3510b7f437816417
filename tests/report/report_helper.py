"""Made-up histories, and what a browser would find in the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

from evonas.architecture import Architecture
from evonas.report import page
from evonas.trackers.base import Report, RunInfo
from evonas.trial import Objective, Proposal, Trial, TrialState
from evonas.trials import Trials

ACCURACY = Objective("val_accuracy")
RECIPE = {
    "name": "pets",
    "seed": 3,
    "space": {"name": "mbconv", "max_width": 64},
    "strategy": {"name": "tpe"},
    "dataset": {"name": "npz", "path": "a.npz"},
    "evaluation": {"name": "train", "epochs": 4},
    "constraints": {"params": {"max": 20000.0}},
    "budget": {"trials": 9},
}


def run_info(folder: Path, *objectives: Objective) -> RunInfo:
    environment = {"evonas": "1", "python": "3", "devices": "cpu", "cpus": "2"}
    source = {"command": "evonas run pets", "user": "ada"}
    return RunInfo(
        "pets", folder, RECIPE, objectives or (ACCURACY,), environment, 1e9, source=source
    )


def history(count: int, seed: int = 0) -> list[Trial]:
    """Trials whose choice ``matters`` decides, whose ``noise`` does not, each fifth one failed."""
    rng, ended = Random(seed), []
    for number in range(count):
        choices: dict[str, Any] = {
            "matters": rng.randint(1, 4),
            "kind": rng.choice(["a", "b"]),
            "noise": rng.random(),
        }
        parents = (number // 2,) if number > 1 else ()
        proposal = Proposal(Architecture("mbconv", choices), parents=parents)
        accuracy = 0.5 + 0.1 * choices["matters"] + 0.01 * rng.random()
        metrics = {"val_accuracy": accuracy, "params": 1000.0 * choices["matters"] + number}
        trial = Trial(number, proposal, TrialState.COMPLETE, metrics, ((1, metrics),), 2.0)
        if number % 5 == 4:
            trial = trial.failed(f"ValueError: </script> {number % 10}\nTraceback of {number}", 2.0)
        ended.append(replace(trial, elapsed=2.0 * number + 2, effort=0.25))
    return ended


def report_of(events: list[Trial], *objectives: Objective, **more: Any) -> Report:
    trials = Trials(objectives or (ACCURACY,), events)
    said = {"incumbent": trials.best, "front": trials.front(), "hypervolume": trials.hypervolume}
    return Report("finished", "the budget is spent", trials.counts(), 61.0, **{**said, **more})


class Page(HTMLParser):
    """Headings, texts and DATA of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.headings, self._tags = "", [], [""]
        self.data: dict[str, Any] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._tags[-1] == "script":
            if data.startswith("{"):
                self.data = json.loads(data)
        elif self._tags[-1] == "h2":
            self.headings.append(data)
        elif self._tags[-1] != "style":
            self.text += re.sub(r"\s+", " ", data)


def written(folder: Path, events: list[Trial], report: Report, *objectives: Objective) -> Page:
    return Page(page.text(run_info(folder, *objectives), events, report))
