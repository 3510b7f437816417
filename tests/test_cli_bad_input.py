"""Bad input: one line, the exit code of its kind, and nothing written."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_helper import RECIPE, STRATEGY, evonas, nothing_written, plugin, refused, run
from PIL import Image

from evonas.architecture import Architecture
from evonas.recipe.registry import REFUSED
from evonas.runs.journal import JOURNAL, Journal, read_journal
from evonas.trial import TrialState

pytestmark = pytest.mark.faults(
    "input: a mistake in recipe, data or arguments is a line, and nothing is written"
)


@pytest.fixture(autouse=True)
def _recipe() -> None:
    Path("r.yaml").write_text(RECIPE)


# --- the recipe -----------------------------------------------------------------------------------


def evolution(population: int, tournament: int) -> str:
    options = f"population_size: {population}, tournament_size: {tournament}"
    return f"strategy={{name: aging_evolution, {options}}}"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["objectives.latency=min"], "latency, of: {…}}. Known: val_accuracy, val_bal"),
        (["constraints.latency.max=5"], "constraints.latency: evaluation 'train' gives no such"),
        (["constraints.latncy.max=5"], "Did you mean 'latency'?"),
        (
            ["strategy={name: nsga2, population_size: 3}"],
            "population_size: Input should be greater than or equal to 4",
        ),
        (
            ["evaluation={name: latency, runs: 0, of: {name: train}}"],
            "evaluation.runs: Input should be greater than or equal to 1, not 0",
        ),
        (
            ["evaluation={name: reduced, of: {name: latency, of: {name: train}}}"],
            "latency is to be that of the whole network",
        ),
        (
            ["evaluation={name: extrapolate, of: {name: supernet, of: train}}"],
            "evaluation.of: supernet ignores the share of a training that extrapolate gives it",
        ),
        (
            ["evaluation={name: inherit, of: {name: zero_cost, training: false, of: train}}"],
            "evaluation.of: zero_cost ignores the weights that inherit gives it",
        ),
        (
            [
                "evaluation={name: latency, of: {name: extrapolate, of: "
                "{name: extrapolate, of: train}}}"
            ],
            "evaluation.of.of: extrapolate ignores the share of a training that extrapolate gives",
        ),
        (["seeed=1"], "r.yaml: seeed: unknown key. Did you mean 'seed'?"),
        (["budget.trails=1"], "budget.trails: unknown key. Did you mean 'trials'?"),
        (["strategy.name=radnom"], "unknown strategy 'radnom'. Did you mean 'random'?"),
        (["space.name=plain_cn"], "unknown space 'plain_cn'. Did you mean 'plain_cnn'?"),
        (["evaluation.name=trian"], "unknown evaluator 'trian'. Did you mean 'train'?"),
        (["evaluation={name: reduced, of: trian}"], "Did you mean 'train'?"),
        (["executor.name=serail"], "unknown executor 'serail'. Did you mean 'serial'?"),
        (["tracking.name=mlfow"], "unknown tracker 'mlfow'. Did you mean 'mlflow'?"),
        (["dataset.name=digit"], "unknown data set 'digit'. Did you mean 'digits'?"),
        (["objectives={val_acuracy: max}"], "Did you mean 'val_accuracy'?"),
        (["objectives.val_accuracy=up"], "objectives.val_accuracy"),
        (["objectives={}"], "objectives"),
        (["evaluation.epoch=1"], "evaluation.epoch: unknown key. Did you mean 'epochs'?"),
        (["evaluation={name: reduced, of: {name: train, epoch: 1}}"], "evaluation.of.epoch"),
        (["evaluation={name: reduced}"], "evaluation.of: is missing"),
        (["executor.workers=3"], "executor.workers: unknown key"),
        (["seed=many"], "seed: Input should be a valid integer"),
        (["budget.trials=few"], "budget.trials: Input should be a valid integer"),
        (["evaluation.epochs=1.5"], "evaluation.epochs"),
        (["space.max_depth=deep"], "space.max_depth"),
        (["executor.device=3"], "executor.device"),
        (["executor.device=gpu"], "device 'gpu' is not one of"),
        (["name=a/b"], "name"),
        (["evaluation.epochs=0"], "evaluation.epochs: Input should be greater than or equal to 1"),
        (["evaluation.batch_size=-1"], "evaluation.batch_size"),
        (["evaluation.learning_rate=0"], "evaluation.learning_rate"),
        (["evaluation.optimizer=adma"], "evaluation.optimizer"),
        (["space.max_depth=0"], "space.max_depth"),
        ([evolution(2, 3)], "population_size: 2 is smaller than tournament_size 3"),
        ([evolution(0, 0)], "strategy.population_size: Input should be greater than or equal to 1"),
        ([evolution(5, 2), "objectives={val_accuracy: max, params: min}"], "takes one, not 2"),
        (["budget.trials=0"], "budget.trials"),
        (["budget.trials=-3"], "budget.trials"),
        (["budget={minutes: 0}"], "budget.minutes"),
        (["budget={effort: 0}"], "budget.effort: Input should be greater than 0"),
        (
            ["budget={effort: 2}", "evaluation={name: supernet, of: train}"],
            "budget.effort: with evaluation 'supernet' trials train nothing, so that effort alone "
            "would never end the run; give trials or minutes as well",
        ),
        (
            [
                *("budget={effort: 2}", "evaluation={name: latency, of: train}"),
                "constraints.latency.max=5",
            ],
            "budget.effort: a trial beyond constraints.latency trains nothing, so that effort "
            "alone would never end the run; give trials or minutes as well",
        ),
        (["budget.trials=null"], "budget: give trials, minutes or effort, or several"),
        (["constraints.params={min: 5, max: 3}"], "min 5 is greater than max 3"),
        (
            ["constraints.parms.max=5"],
            "and space 'plain_cnn' counts no such cost. Did you mean 'params'? Known: "
            "params, flops, peak_memory, val_accuracy",
        ),
        (
            ["space=backbone", "constraints.peak_memory.max=5"],
            "constraints.peak_memory: evaluation 'train' gives no such metric, and space "
            "'backbone' counts no such cost. Known: params, flops, val_accuracy",
        ),
        (["constraints.params={}"], "give min, max or both"),
        (["constraints.params.max=10"], "params at most 10 (nearest found: "),
        (["constraints.flops.min=1e15"], "flops at least 1,000,000,000,000,000 (nearest found: "),
        (["dataset=null", "evaluation={name: train}"], "dataset"),
        (["dataset.validation=0"], "dataset.validation"),
        (["dataset.validation=0.0001"], "dataset.validation: cannot hold out a validation split"),
        (["tracking={name: mlflow, uri: file:///x}"], "tracking.uri"),
        (["seed"], "must be KEY=VALUE"),
        (["=1"], "must be KEY=VALUE"),
        (["budget.trials.x=1"], "budget.trials has no keys"),
        (["budget.trials=["], "not YAML"),
        (["a\nb=["], "not YAML"),
        (["se\ned=1"], "unknown key"),
        (["sed=1", "budget.trials=0", "space=null"], "; "),
    ],
)
def test_wrong_recipes(overrides: list[str], complaint: str) -> None:
    with nothing_written():
        refused(run(*overrides), 2, complaint)


def test_the_recipe_itself_is_right() -> None:
    """Else the tests above would prove little."""
    result = run(more=["--run-dir", "out"])
    assert result.exit_code == 0, result.output
    _, events = read_journal(Path("out"))
    assert [event.proposal.stage for event in events] == ["search"] * 2 + ["final"] * 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not empty"),
        (b"- a\n- b", "not list"),
        (b"a: [b", "not YAML"),
        (b"name: x\n\tseed: 1", "not YAML"),
        (b"[" * 3000, "nested too deeply"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        (b"seed: 1\nseed: 2", "key 'seed' is there twice"),
        (b"on: 1", "key True must be text"),
        (b"a: !!python/object/apply:os.mkdir [pwned]", "python/object/apply"),
        (b"a: &a [*a]", "not plain data"),
        (b"a: &a [x]\nb: [" + b"*a, " * 50 + b"]", "aliases"),
        (b"a: !!bool maybe", "not YAML"),
        (b"#" * 2_000_000, "too many for a recipe"),
    ],
)
def test_what_is_no_recipe(content: bytes, complaint: str) -> None:
    Path("r.yaml").write_bytes(content)
    with nothing_written():
        refused(run(), 2, complaint)


@pytest.mark.parametrize("path", ["nothing.yaml", ".", "r.yaml/x", "n" * 300])
def test_no_recipe_there(path: str) -> None:
    with nothing_written():
        refused(evonas("run", path), 2, f"recipe {path}: ")


# --- the data -------------------------------------------------------------------------------------


def arrays(**changes: object) -> None:
    labels = np.arange(30) % 3
    images = np.zeros((30, 8, 8, 1), np.uint8)
    whole = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels, **changes}
    np.savez("data.npz", **whole)  # type: ignore[arg-type]


class Bomb:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.path.abspath("executed"),)


def npz_pickled() -> None:
    arrays(y_train=np.array([Bomb()] * 30, dtype=object))


def npz_is_a_pickle() -> None:
    Path("data.npz").write_bytes(pickle.dumps(Bomb()))


def npz_truncated() -> None:
    arrays()
    Path("data.npz").write_bytes(Path("data.npz").read_bytes()[:1500])


def npz_labels_out_of_range() -> None:
    arrays(y_test=np.arange(30))


def npz_label_enormous() -> None:
    arrays(y_train=np.full(30, 10**9))


def npz_one_array() -> None:
    with Path("data.npz").open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: None, "no file"),
        (npz_pickled, "allow_pickle"),
        (npz_is_a_pickle, "cannot be read"),
        (npz_truncated, "cannot be read"),
        (npz_labels_out_of_range, "out of range for 3 classes"),
        (npz_label_enormous, "number classes from 0"),
        (npz_one_array, "use np.savez"),
        (lambda: arrays(x_train=np.zeros((30, 8, 8, 1))), "must be uint8"),
    ],
)
def test_wrong_npz(make: Callable[[], None], complaint: str) -> None:
    make()
    with nothing_written():
        refused(run("dataset={name: npz, path: data.npz}"), 2, complaint)


def images(per_class: int = 5) -> None:
    for name in "ab":
        Path("images", name).mkdir(parents=True)
        for i in range(per_class):
            Image.new("L", (8, 8), i).save(Path("images", name, f"{i}.png"))


def images_broken() -> None:
    images()
    Path("images/b/3.png").write_bytes(Path("images/b/3.png").read_bytes()[:40])


def images_empty_class() -> None:
    images()
    Path("images/c").mkdir()


def images_of_many_sizes() -> None:
    images()
    Image.new("L", (9, 9)).save("images/a/0.png")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: None, "no folder"),
        (lambda: Path("images").mkdir(), "a folder per class"),
        (images_empty_class, "images/c: the class folder holds no images"),
        (images_broken, "strict, but skipped 1 file: 1 broken (b/3.png)"),
        (images_of_many_sizes, "dataset.size"),
        (lambda: images(1), "cannot hold out a test split"),
    ],
)
def test_wrong_image_folder(make: Callable[[], None], complaint: str) -> None:
    make()
    with nothing_written():
        refused(run("dataset={name: image_folder, path: images, strict: true}"), 2, complaint)


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, closed)
        monkeypatch.setenv(name.upper(), closed)
    with nothing_written():
        refused(run("dataset=cifar100"), 2, "--set dataset.path=FOLDER")


# --- the run folder -------------------------------------------------------------------------------


@pytest.fixture
def done() -> Path:
    """A run folder with the journal of another recipe's run."""
    folder = Path("earlier")
    folder.mkdir()
    with Journal(folder) as journal:
        journal.begin({"version": "0", "recipe": "another", "data": None, "started": 0.0})
    return folder


def test_the_run_folder_of_another_recipe(done: Path) -> None:
    with nothing_written():
        refused(run(more=["--run-dir", done]), 2, "holds a run of another recipe")


def test_the_run_folder_of_the_same_recipe() -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    with nothing_written():
        result = run(more=["--run-dir", "out"])
        refused(result, 4, "out holds a run already; go on with: evonas resume out")


def test_the_run_folder_is_in_use_here() -> None:
    Path("out").mkdir()
    with Journal(Path("out")), nothing_written():
        refused(run(more=["--run-dir", "out"]), 4, f"out is in use by process {os.getpid()}")


HOLD = """
import sys
from pathlib import Path
from evonas.runs.journal import Journal

with Journal(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_run_folder_is_in_use_by_another_process() -> None:
    Path("out").mkdir()
    command = [sys.executable, "-c", HOLD, "out"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with nothing_written():
            refused(run(more=["--run-dir", "out"]), 4, f"in use by process {holder.pid}")
        holder.communicate()
    assert run(more=["--run-dir", "out"]).exit_code == 0


@pytest.mark.parametrize("folder", ["r.yaml", "r.yaml/below", "r.yaml/far/below"])
def test_a_run_folder_that_cannot_be(folder: str) -> None:
    with nothing_written():
        refused(run(more=["--run-dir", folder]), 5, f"run folder {folder}")


@pytest.mark.faults("5: damaged files of a run folder are named or made anew")
def test_a_damaged_journal() -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    journal = Path("out", JOURNAL)
    journal.write_bytes(journal.read_bytes().replace(b'"seq"', b'"sqe"', 1))
    with nothing_written():
        refused(run(more=["--run-dir", "out"]), 5, "record 0 is damaged")
        refused(evonas("resume", "out"), 5, "record 0 is damaged")
        refused(evonas("sync", "out"), 5, "record 0 is damaged")


@pytest.mark.faults("8: a working directory that is gone is a line")
def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = "import os; os.rmdir(os.getcwd()); from evonas.__main__ import main; main(['list'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "evonas: the working directory is gone; go to one that is there\n",
    )


def test_what_the_journal_says_must_be_of_its_run() -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    header, events = read_journal(Path("out"))

    def said(**choices: int) -> None:
        journal = Path("out", JOURNAL)
        journal.unlink()
        with Journal(Path("out")) as anew:
            anew.begin(header)
            for event in events:
                own = Architecture("plain_cnn", {**event.architecture.choices, **choices})
                anew.append(replace(event, proposal=replace(event.proposal, architecture=own)))

    said(c1=7)
    refused(evonas("resume", "out"), 2, "of trial 0 choice 'c1': 7 is outside")
    said(width=8)
    refused(evonas("resume", "out"), 2, "choice 'width' is not declared")
    said()
    with Journal(Path("out")) as journal:
        journal.append(replace(events[0], number=1, state=TrialState.FAILED))
    refused(evonas("resume", "out"), 2, "trial 1 ends, and was never begun")
    for state, complaint in (
        (TrialState.RUNNING, "begins again after"),
        (events[1].state, "twice"),
    ):
        said()
        with Journal(Path("out")) as journal:
            journal.append(replace(events[1], state=state))
        refused(evonas("report", "out"), 5, complaint)


def test_the_recipe_must_be_that_of_the_journal() -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    path = Path("out", "recipe.yaml")
    path.write_text(path.read_text().replace("val_accuracy: max", "latency: min"))
    refused(evonas("report", "out"), 2, "completed without 'latency'")


def test_no_file_beside_the_journal_ends_in_a_traceback() -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    Path("out", "environment.txt").write_bytes(b"# torch: \xff\n")
    assert evonas("report", "out").exit_code == 0
    for name, key, wrong in (
        ("incumbent/test.json", "interval", [1]),
        ("incumbent/test.json", "accuracy", "good"),
        ("incumbent/architecture.json", "blocks", [{"name": 1}]),
        ("incumbent/architecture.json", "choices", {"c1": []}),
        ("incumbent/architecture.json", "task", {"channels": 1}),
        ("incumbent/architecture.json", "classes", ["a"]),
    ):
        path = Path("out", name)
        whole = path.read_text()
        path.write_text(json.dumps({**json.loads(whole), key: wrong}))
        command = (
            ("report", "out")
            if key in ("interval", "accuracy", "blocks")
            else ("predict", "out", ".")
        )
        refused(evonas(*command), 5, f"{name}: is damaged")
        path.write_text(whole)


DAMAGE = ["", "garbage{", "[1, 2]", '{"a": 1}', "null", "[" * 100_000]


@pytest.mark.faults("5: damaged files of a run folder are named or made anew")
def test_damaged_files_beside_the_journal_are_named_or_made_anew() -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    whole = {name: Path("out", name).read_bytes() for name in ("final.json", "report.json")}
    for name, content in whole.items():
        for damage in DAMAGE:
            Path("out", name).write_text(damage)
            with nothing_written():
                refused(evonas("report", "out"), 5, f"{name}: is damaged")
            resumed = evonas("resume", "out")
            assert resumed.exit_code == 0, (name, damage, resumed.output)
            # The seconds that the test took are others.
            assert Path("out", name).read_bytes()[:100] == content[:100], (name, damage)


@pytest.mark.parametrize("name", ["draws.json", "mlflow.json"])
@pytest.mark.faults("5: damaged files of a run folder are named or made anew")
def test_damaged_files_that_nothing_depends_on_do_not_matter(name: str) -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    for damage in DAMAGE:
        Path("out", name).write_text(damage)
        for command in ("resume", "sync", "report"):
            assert evonas(command, "out").exit_code == 0, (damage, command)


@pytest.mark.faults("5: damaged files of a run folder are named or made anew")
def test_a_damaged_description_of_the_network_is_named() -> None:
    assert run(more=["--run-dir", "out"]).exit_code == 0
    for damage in DAMAGE[:4]:
        Path("out/incumbent/architecture.json").write_text(damage)
        for command in (("export", "out"), ("predict", "out", "r.yaml"), ("scale", "out")):
            done = evonas(*command)
            assert done.exit_code in (2, 5), (damage, command, done.output)
            assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("command", ["resume", "sync"])
@pytest.mark.parametrize("folder", ["nowhere", ".", "r.yaml"])
def test_no_run_to_go_on_with(command: str, folder: str) -> None:
    with nothing_written():
        refused(evonas(command, folder), 2, f"{folder} holds no run")


def test_resume_changes_only_what_may_grow(done: Path) -> None:
    with nothing_written():
        refused(evonas("resume", done, "--set", "seed=3"), 2, "may change budget, ")
        refused(evonas("resume", done), 2, "recipe.yaml: No such file")


# --- plugins and environment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def (:", "SyntaxError"),
        ("raise RuntimeError('sorry')", "RuntimeError: sorry"),
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("", "found none"),
        (STRATEGY + "class Two(RandomSearch): pass", "found Mine, Two"),
    ],
)
@pytest.mark.faults("6: a plugin that does not load is named")
def test_broken_plugins(text: str, complaint: str) -> None:
    plugin(text)
    with nothing_written():
        result = run("strategy.name=mine")
        refused(result, 6, complaint)
        assert "plugins/strategies/mine.py: " in result.output


@pytest.mark.faults("6: a plugin that does not load is named")
def test_a_plugin_whose_options_cannot_be_read() -> None:
    plugin(STRATEGY + "    def __init__(self, space, objectives, x: 'Nowhere' = 1): pass")
    with nothing_written():
        refused(run("strategy.name=mine"), 6, "annotations of Mine")


@pytest.mark.faults("6: a plugin that does not load is named")
def test_two_of_one_name() -> None:
    plugin(STRATEGY, "random")
    plugin(STRATEGY, "mine", "a")
    plugin(STRATEGY, "mine", "b")
    with nothing_written():
        refused(run("strategy.name=random"), 6, "'random' is there twice: built-in and ")
        twice = run("strategy.name=mine", more=["--plugins", "a", "--plugins", "b"])
        refused(twice, 6, "'mine' is there twice: ")


@pytest.mark.faults("19: --no-plugins refuses code that is not installed")
def test_code_that_is_not_installed_is_refused_if_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(REFUSED, "")  # put back at the end: workers are to see it
    plugin(STRATEGY)
    with nothing_written():
        for name in ("mine", "os:PathLike"):
            more = ("run", "r.yaml", "--set", f"strategy.name={name}")
            refused(evonas("--no-plugins", *more), 6, "and --no-plugins is given")


@pytest.mark.faults("9: resume finds the plugins of another working directory, and says so")
def test_code_that_a_run_folder_names_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(STRATEGY, "foreign", "there/plugins")
    more = ["--plugins", "there/plugins", "--run-dir", "there/run"]
    assert run("strategy.name=foreign", "budget.trials=1", more=more).exit_code == 0
    del sys.modules["evonas_plugins.strategies.foreign"]
    resumed = evonas("resume", "there/run")
    assert resumed.exit_code == 0, resumed.output
    path = Path("there/plugins/strategies/foreign.py").absolute()
    assert f"evonas: imports {path}, as the run's journal says" in resumed.stderr
    monkeypatch.chdir("there")  # here they are one's own
    del sys.modules["evonas_plugins.strategies.foreign"]
    assert "imports" not in evonas("resume", "run").stderr


@pytest.mark.faults("19: recipe.tmp is not written through a link")
def test_a_file_is_not_written_through_a_link_that_somebody_laid() -> None:
    Path("victim").write_text("as it was")
    Path("run").mkdir()
    Path("run/recipe.tmp").symlink_to("../victim")
    refused(run(more=["--run-dir", "run"]), 5, "run/recipe.yaml: ")
    assert Path("victim").read_text() == "as it was"


def test_no_plugins_folder() -> None:
    with nothing_written():
        refused(run(more=["--plugins", "nowhere"]), 2, "--plugins nowhere: no such folder")
        refused(run(more=["--plugins", "r.yaml"]), 2, "--plugins r.yaml: no such folder")


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("no_such_module_anywhere:X", "ModuleNotFoundError"),
        ("evonas.strategies.random:Nobody", "AttributeError"),
        ("evonas.spaces.plain_cnn:PlainCNN", "not a Strategy"),
    ],
)
def test_references_to_nothing(reference: str, complaint: str) -> None:
    with nothing_written():
        refused(run(f"strategy.name={reference}"), 6, complaint)


def test_a_broken_plugin_does_not_disturb_a_run_and_a_good_one_runs() -> None:
    plugin("raise RuntimeError", "broken")
    plugin(STRATEGY)
    result = run("strategy.name=mine", more=["--run-dir", "out"])
    assert result.exit_code == 0, result.output


def test_a_module_of_the_working_directory_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_own_strategy.py").write_text(STRATEGY)
    result = run("strategy.name=my_own_strategy:Mine", more=["--run-dir", "out"])
    sys.modules.pop("my_own_strategy", None)
    assert result.exit_code == 0, result.output


def test_a_device_that_is_not_there() -> None:
    with nothing_written():
        refused(run("executor.device=cuda:99"), 6, "device 'cuda:99' is wanted")


# --- the other commands ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["list", "strategis"], "unknown kind 'strategis'"),
        (["list", "--plugins", "nowhere"], "no such folder"),
        (["show", "plain_cn"], "Did you mean 'plain_cnn'?"),
        (["show", "plain_cnn/smal"], "Did you mean 'small'?"),
        (["show", "plain_cnn/small", "--input", "3x32"], "--input 3x32: must be"),
        (["check", "spase", "x"], "unknown kind 'spase'"),
        (["check", "strategy", "radnom"], "Did you mean 'random'?"),
        (["check", "tracker", "consol"], "unknown tracker 'consol'. Did you mean 'console'"),
        (["check", "evaluator", "tabular"], "evaluation.path: is missing"),
    ],
)
def test_other_commands(arguments: list[str], complaint: str) -> None:
    with nothing_written():
        refused(evonas(*arguments), 2, complaint)


def test_debug_shows_the_traceback() -> None:
    result = evonas("--debug", "run", "nothing.yaml")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("evonas: recipe nothing.yaml")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of a size that may change, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: str) -> Path:
        how = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{how}size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system may be mounted here: {error}")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size", "goes_on"), [("4k", "run"), ("12k", "run"), ("28k", "resume"), ("200k", "resume")]
)
@pytest.mark.faults("4: a disk that is full at any point loses nothing")
def test_a_disk_that_is_full_at_any_point_loses_nothing(
    size: str, goes_on: str, small_disk: Callable[[str], Path]
) -> None:
    folder = small_disk(size) / "out"
    full = run(more=["--run-dir", folder])
    assert full.exit_code == 5
    last = full.output.splitlines()[-1]  # what ran before says so
    assert last.startswith(f"evonas: {folder}")
    assert "No space left on device" in last
    assert not list(folder.rglob("*.tmp"))
    small_disk("50M")
    again = evonas("resume", folder) if goes_on == "resume" else run(more=["--run-dir", folder])
    assert again.exit_code == 0, again.output
    assert (folder / "incumbent" / "network.pt2").exists()
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ("def ask(self, rng): raise ValueError('no idea')", "cannot ask: ValueError: no idea"),
        ("def ask(self, rng): return 7", "cannot ask: TypeError: it returned int, not a Proposal"),
        ("def ask(self, rng): return self.space.sample(rng)", "it returned Architecture, not"),
        ("def ask(self, rng): raise SystemExit(0)", "cannot ask: SystemExit: 0"),
        (
            "def ask(self, rng): return self.new(rng)\n    def tell(self, trial): 1 / 0",
            "cannot be told: ZeroDivisionError",
        ),
    ],
)
@pytest.mark.faults("6: a strategy that raises or asks for what is not ends the run, and is named")
def test_a_strategy_that_fails_ends_the_run_and_is_named(methods: str, complaint: str) -> None:
    Path("plugins/strategies").mkdir(parents=True)
    text = f"from evonas import Strategy\n\nclass Mine(Strategy):\n    {methods}\n"
    Path("plugins/strategies/mine.py").write_text(text)
    done = run("strategy=mine", more=["--run-dir", "out"])
    assert done.exit_code == 6, done.output
    last = done.output.splitlines()[-1]
    assert last.startswith("evonas: evonas_plugins.strategies.mine:Mine ")
    assert complaint in last
    assert "(plugins/strategies/mine.py, line " in last
    assert read_journal(Path("out"))[0]  # what was begun can be resumed, with a better plugin


TRACKER = """
from pathlib import Path
from evonas.trackers.base import Tracker

def work(step):
    assert not Path("full").exists() or Path("full").read_text() != step, "no room"

class Mine(Tracker):
    def start(self, run, events): work("start")
    def record(self, trial): work("record")
    def close(self, report): work("close")
"""


@pytest.mark.parametrize("step", ["start", "record", "close"])
@pytest.mark.faults("6: a tracker that raises ends the run, and is named; nothing is lost")
def test_a_tracker_that_fails_is_named_and_the_run_goes_on_later(step: str) -> None:
    plugin(TRACKER, kind="trackers")
    Path("full").write_text(step)
    done = run("tracking=mine", more=["--run-dir", "out"])
    assert done.exit_code == 6, done.output
    last = done.output.splitlines()[-1]
    assert last.startswith(f"evonas: evonas_plugins.trackers.mine:Mine cannot {step}: Assertion")
    Path("full").unlink()
    again = evonas("resume", "out")
    assert again.exit_code == 0, again.output
