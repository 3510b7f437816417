"""Plugins that go wrong in every way, and odd files, names and outputs: one line, never a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helper import RECIPE, STRATEGY, evonas, nothing_written, plugin, refused, run
from PIL import Image
from safetensors.torch import save_file

from evonas.executors.parts.fork_server import descendants
from evonas.recipe import registry
from evonas.runs.journal import read_journal

pytestmark = pytest.mark.faults("6: a plugin that goes wrong is found before the first trial")

EVONAS = (sys.executable, "-m", "evonas")


@pytest.fixture(autouse=True)
def _recipe() -> None:
    Path("r.yaml").write_text(RECIPE)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes are too long for a test."""
    monkeypatch.setattr(registry, "_PATIENCE", 2.0)


# --- plugins --------------------------------------------------------------------------------------

UNPRINTABLE = """
class Odd(BaseException):
    def __str__(self):
        raise RuntimeError("no words")

raise Odd
"""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("raise KeyboardInterrupt", "raises KeyboardInterrupt; nobody sent one"),
        ("raise GeneratorExit", "GeneratorExit"),
        (UNPRINTABLE, "Odd: (which cannot be printed)"),
        ("while True: pass", "TimeoutError: not done after 2 seconds"),
        ("import time\ntime.sleep(1e6)", "TimeoutError: not done after 2 seconds"),
        (
            "while True:\n    try:\n        while True: pass\n    except: pass",
            "TimeoutError: not done after 2 seconds",
        ),
    ],
)
def test_a_plugin_that_goes_wrong_when_it_is_imported(text: str, complaint: str) -> None:
    plugin(text)
    with nothing_written():
        done = run("strategy=mine")
        refused(done, 6, complaint)
        assert "plugins/strategies/mine.py" in done.output


SPACE = """
import torch
from evonas.architecture import Categorical, Integer
from evonas.spaces.base import SearchSpace
from torch import nn

class Mine(SearchSpace):
    def __init__(self):
        {init}
        self.domains = {{"width": {domain}}}

    def build(self, architecture, task):
        width = architecture.choices["width"]
        {build}
        head = nn.Linear(width, task.classes)
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(nn.Conv2d(task.channels, width, 3), pool, nn.Flatten(), head)
"""
LOOPING = """class Looping(nn.Module):
            def forward(self, x):
                while True: pass
        return Looping()"""


def space(build: str = "pass", init: str = "pass", domain: str = "Integer(4, 16)") -> None:
    plugin(SPACE.format(build=build, init=init, domain=domain), kind="spaces")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("limits", [(), ("constraints.params.max=500",)], ids=["free", "limited"])
@pytest.mark.parametrize(
    ("faults", "complaint"),
    [
        ({"build": "raise ValueError('no')"}, "raises ValueError: no"),
        ({"build": "raise SystemExit(0)"}, "raises SystemExit: 0"),
        ({"build": "raise KeyboardInterrupt"}, "raises KeyboardInterrupt; nobody sent one"),
        ({"build": "raise GeneratorExit"}, "raises GeneratorExit"),
        ({"build": "return None"}, "returns NoneType, not a torch module"),
        ({"build": "return nn.Sequential()"}, "without parameters"),
        ({"build": "return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))"}, "not (2, 3)"),
        ({"build": "return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))"}, "leaves the shape"),
        ({"build": "while True: pass"}, "TimeoutError: not done after 2 seconds"),
        ({"build": "while width > 14: pass"}, "TimeoutError: not done after 2 seconds"),
        ({"build": LOOPING}, "TimeoutError: not done after 2 seconds"),
        ({"init": "raise SystemExit(0)"}, "cannot be made: SystemExit: 0"),
        ({"init": "raise KeyboardInterrupt"}, "raises KeyboardInterrupt; nobody sent one"),
        ({"init": "while True: pass"}, "cannot be made: TimeoutError"),
        ({"init": "return"}, "the space declares none"),
    ],
)
def test_a_space_that_goes_wrong(
    faults: dict[str, str], complaint: str, limits: tuple[str, ...]
) -> None:
    space(**faults)
    with nothing_written():
        done = run("space=mine", *limits)
        refused(done, 6, complaint)
        assert "mine" in done.output


@pytest.mark.faults("14: choices that no journal can give back are refused in a sentence")
@pytest.mark.parametrize(
    ("domain", "complaint"),
    [
        ("Categorical(((1, 2), (3, 4)))", "not (1, 2) of type tuple"),
        ("Categorical((torch.tensor(1), 2))", "of type Tensor"),
        ("Categorical((__import__('numpy').int64(1), 2))", "not np.int64(1) of type int64"),
        ("Categorical((__import__('numpy').True_, False))", "not np.True_ of type bool"),
        ("Categorical((float('nan'), 1.0))", "finite numbers, not nan"),
        ("Categorical((None, 1))", "not None of type NoneType"),
        ("Integer(2.0, 9)", "low must be a whole number, not 2.0"),
        ("Integer(2, 9, step=0.5)", "step must be a whole number, not 0.5"),
        ("(1, 2)", "it must be a Categorical or an Integer"),
    ],
)
def test_choices_that_are_none(domain: str, complaint: str) -> None:
    space(domain=domain)
    with nothing_written():
        refused(run("space=mine"), 6, complaint)


@pytest.mark.faults("14: True, 1 and 1.0 are three choices, before and after a resume")
@pytest.mark.parametrize("strategy", ["tpe", "guided_evolution"])
def test_true_and_one_and_one_point_zero(strategy: str) -> None:
    width = "width = 4 if width is True else 5 if type(width) is int else 6"
    space(build=width, domain="Categorical((True, 1, 1.0))")
    options = ["space=mine", f"strategy={{name: {strategy}, startup_trials: 1}}"]
    assert run(*options, "budget.trials=2", more=["--run-dir", "out"]).exit_code == 0
    resumed = evonas("resume", "out", "--set", "budget.trials=3")
    assert resumed.exit_code == 0, resumed.output
    tried = [str(event.architecture.choices["width"]) for event in read_journal(Path("out"))[1]]
    assert {"True", "1", "1.0"} == set(tried)


NEW = "return self.new(rng)"
OTHER = "from dataclasses import replace; import numpy as np; return replace(self.new(rng), {})"


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        ("raise KeyboardInterrupt", "raises KeyboardInterrupt; nobody sent one"),
        ("raise GeneratorExit", "cannot ask: GeneratorExit"),
        (OTHER.format("architecture='x'"), "it proposed 'x', which is no Architecture"),
        (
            "from evonas import Architecture, Proposal; return Proposal(Architecture('x', {}))",
            "it proposed what is not in the space: choice",
        ),
        (OTHER.format("fidelity='x'"), "it proposed fidelity='x'"),
        (OTHER.format("fidelity=float('nan')"), "it proposed fidelity=nan"),
        (OTHER.format("fidelity=-1"), "it proposed fidelity=-1"),
        (OTHER.format("fidelity=np.float32(1)"), "it proposed fidelity=np.float32(1.0)"),
        (OTHER.format("parents=(99,)"), "it proposed parents=(99,)"),
        (OTHER.format("parents='abc'"), "it proposed parents='abc'"),
        (OTHER.format("parents=(np.int64(0),)"), "it proposed parents=(np.int64(0),)"),
        (OTHER.format("resume_from=7"), "it proposed resume_from=7"),
        (OTHER.format("repeat=object()"), "it proposed repeat=<object"),
        (OTHER.format("stage='final'"), "it proposed stage='final'"),
    ],
)
@pytest.mark.faults("6: a strategy that raises or asks for what is not ends the run, and is named")
def test_a_strategy_that_asks_for_what_is_not(ask: str, complaint: str) -> None:
    plugin(f"from evonas import Strategy\n\nclass Mine(Strategy):\n    def ask(self, rng): {ask}\n")
    done = run("strategy=mine", more=["--run-dir", "out"])
    assert done.exit_code == 6, done.output
    last = done.output.splitlines()[-1]
    assert complaint in last
    assert "plugins/strategies/mine.py, line " in last
    plugin("from evonas import Strategy\n\nclass Mine(Strategy):\n    def ask(self, rng): " + NEW)
    sys.modules.pop("evonas_plugins.strategies.mine")
    resumed = evonas("resume", "out")
    assert resumed.exit_code == 0, resumed.output


@pytest.mark.faults("21: a space edited between run and resume: what changed, in a line")
@pytest.mark.parametrize("strategy", ["tpe", "aging_evolution", "random"])
@pytest.mark.parametrize(
    ("domain", "complaint"),
    [
        ("Categorical((8, 9))", "'width': 4 is outside"),
        ("Integer(4, 16), 'norm': Categorical((False, True))", "'norm' is missing"),
    ],
)
def test_a_space_that_was_edited(strategy: str, domain: str, complaint: str) -> None:
    space(domain="Categorical((4,))")
    settings = ("space=mine", f"strategy={strategy}", "budget.trials=1")
    assert run(*settings, more=["--run-dir", "out"]).exit_code == 0
    space(domain=domain)
    del sys.modules["evonas_plugins.spaces.mine"]
    with nothing_written():
        done = evonas("resume", "out", "--set", "budget.trials=5")
        refused(done, 2, "space 'mine' has changed since the run began: of trial 0 choice ")
        assert complaint in done.output


# --- names, files and outputs ---------------------------------------------------------------------


@pytest.mark.faults("19: --set nested 300 deep is a line")
@pytest.mark.parametrize("depth", [20, 300, 2000])
def test_recipes_nested_without_end(depth: int) -> None:
    nested = {
        "space": "[" * depth + "]" * depth,
        "tracking": "{a: " * depth + "1" + "}" * depth,
        "sweep": "{seed: " + "[" * depth + "]" * depth + "}",
        "evaluation": "{name: reduced, of: " * depth + "train" + "}" * depth,
        "evaluation." + "of." * depth + "name": "reduced",
    }
    for key, value in nested.items():
        with nothing_written():
            refused(run(f"{key}={value}"), 2, "nested too deeply")


@pytest.mark.faults("19: a FIFO, a socket or a device among the pictures is passed over")
def test_what_is_no_file_among_the_pictures() -> None:
    for name in "ab":
        Path("images", name).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8, 8), i).save(Path("images", name, f"{i}.png"))
    os.mkfifo("images/a/fifo.png")
    os.mkfifo("images/b/fifo")
    Path("images/b/zero.png").symlink_to("/dev/zero")
    found = evonas("data", "r.yaml", "--set", "dataset={name: image_folder, path: images}")
    assert found.exit_code == 0, found.output
    assert "skipped 3 files" in found.output
    assert "2 classes: a 8, b 8" in found.output


@pytest.mark.faults("19: a run folder whose name is not UTF-8 is one as any other")
def test_a_run_folder_whose_name_is_not_utf_8() -> None:
    folder = os.fsdecode(b"run\xff")
    mlflow = ("tracking={name: mlflow, uri: 'sqlite:///m.db'}",)
    done = run(*mlflow, more=["--run-dir", folder])
    assert done.exit_code == 0, done.output
    for command in ("resume", "sync", "report"):
        again = evonas(command, folder)
        assert again.exit_code == 0, again.output
    assert Path(folder, "report.html").exists()


@pytest.mark.faults("19: a working directory named w%41d keeps what is its own")
def test_a_working_directory_with_a_percent_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("w%41d", "w ?#"):
        Path(name).mkdir()
        Path(name, "r.yaml").write_text(RECIPE)
        with monkeypatch.context() as there:
            there.chdir(name)
            done = run("tracking=mlflow", more=["--run-dir", "out"])
            assert done.exit_code == 0, done.output
            assert evonas("sync", "out").exit_code == 0
            assert list(Path("mlruns/artifacts").rglob("report.html"))
    assert sorted(os.listdir()) == ["r.yaml", "w ?#", "w%41d"]


@pytest.mark.faults("19: standard output on a full device is a line and exit code 5")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    "arguments", [("list",), ("run", "r.yaml", "--run-dir", "out"), ("run", "r.yaml", "--json")]
)
def test_output_on_a_full_device(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*EVONAS, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5, done.stderr
    assert done.stderr.splitlines()[-1] == "evonas: the output: No space left on device"
    assert "Traceback" not in done.stderr
    if "out" in arguments:
        assert evonas("resume", "out").exit_code == 0


@pytest.mark.faults("19: weights with NaN, cut off, or a folder in their place are named")
def test_weights_that_are_none() -> None:
    train = "evaluation={name: train, epochs: 1, init: WEIGHTS}"
    Path("folder.pt").mkdir()
    Path("folder.safetensors").mkdir()
    os.mkfifo("fifo.pt")
    save_file({"conv.weight": torch.full((2, 2), np.nan)}, "nan.safetensors")
    torch.save({"conv.weight": torch.full((2, 2), np.inf)}, "inf.pt")
    Path("cut.safetensors").write_bytes(Path("nan.safetensors").read_bytes()[:40])
    names = ("folder.pt", "folder.safetensors", "fifo.pt", "nan.safetensors", "inf.pt")
    for name in (*names, "cut.safetensors", "none.pt"):
        with nothing_written():
            refused(run(train.replace("WEIGHTS", name)), 2, f"evaluation.init: {name}")
    assert run(more=["--run-dir", "out"]).exit_code == 0
    weights = Path("out/incumbent/weights.safetensors")
    save_file({"0.mean": torch.full((1,), np.nan)}, weights)
    commands = (("predict", "out", "r.yaml"), ("export", "out", "--format", "onnx"))
    for command in commands:
        refused(evonas(*command), 2, "weights.safetensors")
    weights.unlink()
    weights.mkdir()
    for command in commands:
        refused(evonas(*command), 2, "weights.safetensors")


@pytest.mark.faults("19: evonas list imports no plugin")
def test_a_list_imports_nothing() -> None:
    plugin("open('imported', 'w')\n" + STRATEGY)
    for command in (("list",), ("list", "strategy")):
        listed = evonas(*command)
        assert listed.exit_code == 0
        assert "mine" in listed.output
    assert not Path("imported").exists()


# --- signals --------------------------------------------------------------------------------------

HANGING = """
import time
from evonas.evaluators.base import Evaluator

class Mine(Evaluator):
    metrics = ("value",)
    reports = ("value",)

    def __init__(self, context, seconds: float = 600.0):
        super().__init__(context)
        self.seconds = seconds

    def evaluate(self, trial, report):
        for step in range(1, 101):
            report(step, {"value": float(trial.number)})
            time.sleep(self.seconds / 100)
        return {"value": 1.0}
"""


@pytest.fixture
def hanging() -> list[str]:
    """Settings of a run whose trials take ten minutes."""
    plugin(HANGING, kind="evaluators")
    settings = ("evaluation=mine", "objectives={value: max}", "dataset=null")
    return [part for setting in settings for part in ("--set", setting)]


@contextmanager
def begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, which does not outlive the test."""
    command = [*EVONAS, "run", "r.yaml", "--run-dir", "out", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def journal(folder: Path, states: int) -> None:
    """Wait until so many events are in it."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        path = folder / "history.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") > states:
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder} has no {states} events")


@pytest.mark.faults(
    "10: SIGINT while a trial hangs: it is ended after the grace, and goes on later"
)
def test_an_interrupted_run_waits_no_longer_than_its_grace(hanging: list[str]) -> None:
    grace = ("--set", "executor={name: serial, grace: 1}")
    with begun(*hanging, *grace) as process:
        journal(Path("out"), 1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=180)
    assert process.returncode == 128 + signal.SIGINT, said
    assert [event.state for event in read_journal(Path("out"))[1]] == ["running"]


@pytest.mark.faults("12: SIGTERM to every process of a run interrupts its trials, and fails none")
def test_a_signal_to_every_process_of_a_run(hanging: list[str]) -> None:
    two = ("--set", "executor={name: processes, workers: 2, grace: 1}", "--set", "budget.trials=4")
    with begun(*hanging, *two) as process:
        journal(Path("out"), 2)
        time.sleep(2)  # both trials are in their workers
        for pid in (*descendants(process.pid), process.pid):
            os.kill(pid, signal.SIGTERM)
        _, said = process.communicate(timeout=180)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert [event.state for event in read_journal(Path("out"))[1]] == ["running"] * 2


@pytest.mark.slow
@pytest.mark.faults("11: trials that report are ended when budget.minutes is over by a tenth")
def test_a_trial_longer_than_the_budget(hanging: list[str]) -> None:
    done = evonas("run", "r.yaml", "--run-dir", "out", *hanging, "--set", "budget={minutes: 0.1}")
    assert "the budget is spent" in done.output
    _, events = read_journal(Path("out"))
    assert [event.state for event in events] == ["running", "pruned"]
    assert events[-1].elapsed < 60


@pytest.mark.slow
@pytest.mark.faults("11: trials that are not done when budget.minutes is over are ended")
def test_a_trial_that_tells_nothing_is_ended_too(hanging: list[str]) -> None:
    plugin(HANGING.replace("report(step", "(lambda *_: None)(step"), kind="evaluators")
    done = evonas("run", "r.yaml", "--run-dir", "out", *hanging, "--set", "budget={minutes: 0.1}")
    assert done.exit_code == 3
    _, events = read_journal(Path("out"))
    assert [event.state for event in events] == ["running", "failed"]
    assert events[-1].elapsed < 60
