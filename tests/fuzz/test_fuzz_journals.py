"""What a run folder holds: its journal, record by record and byte by byte, and the files beside."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import yaml
from click.testing import CliRunner
from fuzz_helper import change, changed, changes, damage, damaged, edits, made, small_run, target
from hypothesis import strategies as st
from PIL import Image

from evonas import load
from evonas.__main__ import main
from evonas.architecture import Architecture
from evonas.executors.base import Executor
from evonas.executors.parts.exchange import Answer, Exchange, Reported
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import journal
from evonas.runs import run as runs
from evonas.runs.assemble import Assembly, assemble
from evonas.runs.journal import Journal, read_journal
from evonas.runs.search import Search
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Objective, Trial
from evonas.trials import Trials

__all__ = ["small_run"]  # a fixture

HEADER = {
    "format": 2,
    "version": "0.1.0",
    "started": 1795822411.8,
    "source": {"command": "evonas", "user": "a"},
    "recipe": "ae24389abb6d0559",
    "data": "d8e703282c9ecec7",
    "fidelities": [1.0],
    "sweep": "",
    "threads": 1,
    "plugins": [],
    "taken": 0,
}
CHOICES = {"k1": 1, "k2": 1, "k3": 1, "k4": 1, "c1": 4, "c2": 8, "c3": 8, "c4": 4}


def _trial(number: int, state: str, metrics: dict[str, float], **more: Any) -> dict[str, Any]:
    architecture = {"space": "plain_cnn", "choices": {**CHOICES, "c1": 4 + number % 2 * 4}}
    return {
        "number": number,
        "proposal": {
            "architecture": architecture,
            "fidelity": 1.0,
            "parents": [0] * (number > 0),
            "resume_from": None,
            "repeat": 0,
            "stage": "search",
        },
        "state": state,
        "metrics": metrics,
        "curve": [[1, metrics]] if metrics else [],
        "seconds": 0.2,
        "error": None,
        "elapsed": 0.3 + number,
        "origin": None,
        "effort": 1.0,
        **more,
    }


def _records() -> list[Any]:
    records: list[Any] = [HEADER]
    for number in range(3):
        records.append(_trial(number, "running", {}))
        records.append(_trial(number, "complete", {"val_accuracy": 0.1 * number, "params": 100.0}))
    records.append(_trial(3, "running", {}))
    records.append(_trial(3, "failed", {}, error="ValueError: no\nTraceback"))
    return records


RECORDS = _records()
RECIPE = """\
name: small
space: {name: plain_cnn, max_depth: 1, max_width: 8}
strategy: random
evaluation: train
dataset: digits
budget: {trials: 5}
tracking: console
"""


def _bytes(records: list[Any]) -> bytes:
    """As the journal writes them: right checksums, whatever they say."""
    lines = []
    for number, record in enumerate(records):
        try:
            lines.append(journal._line(number, record))
        except ValueError:  # NaN, which no journal holds
            lines.append(json.dumps({"seq": number, "crc": "", "event": record}).encode() + b"\n")
    return b"".join(lines)


@target(0.1, data=damaged([_bytes(RECORDS)]))
def test_journal_bytes(data: bytes) -> None:
    _read(data)


@target(0.12, records=changed([RECORDS]))
def test_journal_records(records: Any) -> None:
    _read(_bytes(records) if isinstance(records, list) else json.dumps(records).encode())


def _read(data: bytes) -> None:
    (Path() / journal.JOURNAL).write_bytes(data)
    with Journal(Path()) as held:
        header, events = held.header, list(held.events)
    assert read_journal(Path()) == (header, events)
    for trial in events:
        assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
    Trials((Objective("val_accuracy"),), events).front()


@target(0.005, records=changed([RECORDS]))
def test_run_of_records(records: Any) -> None:
    _read(_bytes(records) if isinstance(records, list) else json.dumps(records).encode())
    Path("recipe.yaml").write_text(RECIPE)
    run = load(".")
    assert repr(run)
    run.trials  # noqa: B018  (made when asked for)
    run.best  # noqa: B018
    run.front  # noqa: B018


@target(0.12, data=changed([{"space": "plain_cnn", "choices": CHOICES}]))
def test_architecture(data: Any) -> None:
    space = PlainCNN(max_depth=1, max_width=8)
    try:
        data = json.loads(json.dumps(data))
    except ValueError:  # more digits than JSON writes
        return
    architecture = Architecture.from_json(data)
    architecture.id  # noqa: B018
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    space.architecture(architecture.choices)


COMMANDS = {
    "report": ["report", "run"],
    "compare": ["compare", "run", "run"],
    "predict": ["predict", "run", "picture.png"],
    "sync": ["sync", "run"],
    "scale": ["scale", "run", "--phi", "1"],
    "sample": ["sample", "run", "--complexity", "0.3,0.3,0.4"],
}
FILES = [
    "history.jsonl",
    "recipe.yaml",
    "final.json",
    "report.json",
    "audit.json",
    "draws.json",
    "environment.txt",
    "incumbent/architecture.json",
    "incumbent/test.json",
    "incumbent/weights.safetensors",
    "lock",
    "mlflow.json",
]


@target(
    0.002,
    name=st.sampled_from(FILES),
    command=st.sampled_from(sorted(COMMANDS)),
    edits=made(edits),
    changes=made(changes),
)
def test_run_folder(small_run: Path, name: str, command: str, edits: Any, changes: Any) -> None:
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree(small_run, "run")
    if not Path("picture.png").exists():
        Image.new("L", (8, 8)).save("picture.png")
    path = Path("run") / name
    data = path.read_bytes() if path.exists() else b"{}"
    if name == "recipe.yaml" and len(changes) % 2:
        path.write_text(yaml.safe_dump(change(yaml.safe_load(data), changes)))
    elif name == "history.jsonl" and len(changes) % 2:
        records = change([json.loads(line)["event"] for line in data.splitlines()], changes)
        path.write_bytes(_bytes(records) if isinstance(records, list) else b"")
    elif name.endswith(".json") and len(changes) % 2:
        path.write_text(json.dumps(change(json.loads(data), changes)))
    else:
        path.write_bytes(damage(data, edits))
    done = CliRunner().invoke(main, COMMANDS[command])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 2, 3, 4, 5, 6), done.output


@target(
    0.02,
    folder=st.sampled_from(["open", "taken", "reports", "answers", "ended", "workers"]),
    name=st.sampled_from(
        ["search-0-0", "search-0-0@a", "audit-1-2@b-c", "final--1-0", "x", "search-1-1.tmp", "@"]
    ),
    data=st.one_of(
        changed(
            [
                {"trial": RECORDS[1], "watched": True},
                RECORDS[2],
                {"step": 1, "metrics": {"a": 1.0}},
                {"step": 1, "stop": False},
                {"slots": 2},
            ]
        ).map(lambda value: json.dumps(value).encode()),
        damaged([json.dumps({"trial": RECORDS[1], "watched": True}).encode()]),
    ),
)
def test_exchange(folder: str, name: str, data: bytes) -> None:
    exchange = Exchange(Path("work").absolute())
    shutil.rmtree(exchange.path, ignore_errors=True)
    exchange.make()
    (exchange.path / folder / f"{name}.json").write_bytes(data)
    exchange.workers()
    for place, shape in (("reports", Reported), ("answers", Answer), ("ended", Trial)):
        for key, worker in exchange.entries(place).items():
            exchange.read(shape, place, key, worker)
    exchange.take("a")


@functools.cache
def _assembly(strategy: str, pruned: bool) -> Assembly:
    recipe = yaml.safe_load(RECIPE) | {"strategy": strategy}
    return assemble(
        reading.validate(recipe | ({"pruning": "median"} if pruned else {}), "recipe"),
        Registry(),
        Path("run"),
    )


@pytest.fixture(scope="module")
def assemblies() -> dict[tuple[str, bool], Assembly]:
    """By strategy, and whether curves are looked at."""
    return {(name, pruned): _assembly(name, pruned) for name in RESUMED for pruned in (True, False)}


RESUMED = [
    "random",
    "aging_evolution",
    "tpe",
    "hyperband",
    "local_search",
    "guided_evolution",
    "reinforce",
]


@target(0.005, records=changed([RECORDS]), strategy=st.sampled_from(RESUMED), pruned=st.booleans())
def test_told(assemblies: Any, records: Any, strategy: str, pruned: bool) -> None:
    """What a resumed search tells its strategy, down to the next proposal."""
    assembly = assemblies[strategy, pruned]
    Path(journal.JOURNAL).write_bytes(_bytes(records) if isinstance(records, list) else b"")
    with Journal(Path()) as held:
        if held.header:
            held.header |= {"recipe": assembly.recipe.digest, "data": assembly.fingerprint}
        runs._check_begun(Path(), held.header)
        runs._check(Path(), held.header, held.events, assembly)
        asked, executor = assembly.strategy(), cast(Executor, None)  # nothing is submitted
        Search(asked, executor, assembly.budget, 0, held.events, watcher=assembly.pruner())
        asked.ask(Random(0))
