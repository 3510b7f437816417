"""The command line, ``evonas`` or ``python -m evonas``: parse and print, nothing else."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import IO, Any

import click

from evonas import __version__, errors


class _Group(click.Group):
    """Turns errors into one line and the exit code of their class."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except errors.EvonasError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            first, *rest = str(error).splitlines() or [type(error).__name__]
            click.echo(f"evonas: {first}", err=True)
            if rest and isinstance(error, errors.TooManyFailures):
                click.echo("\n".join(rest), err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the interpreter flushes it at exit)
            if error.errno == errno.EPIPE:  # | head
                ctx.exit(0)
            click.echo(f"evonas: {error.filename or 'the output'}: {error.strerror}", err=True)
            ctx.exit(errors.StorageError.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option("--no-plugins", is_flag=True, help="Refuse code that is neither ours nor installed.")
def main(debug: bool, no_plugins: bool) -> None:
    """Neural architecture search by evolution and its rivals."""
    if no_plugins:
        from evonas.recipe.registry import REFUSED

        os.environ[REFUSED] = "1"  # for workers, too
    try:
        sys.path.append(os.getcwd())  # so that module:Class finds modules of the working directory
    except FileNotFoundError as error:
        raise errors.RecipeError(
            "the working directory is gone; go to one that is there"
        ) from error


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _sentence(line: str) -> None:
    """Print what may be longer than a terminal is wide."""
    from evonas.trackers.console import wrapped

    width = shutil.get_terminal_size().columns
    click.echo(wrapped(line, width) if sys.stdout.isatty() else line)


def _registry(ctx: click.Context, option: click.Parameter, folders: tuple[Path, ...]) -> Any:
    from evonas.recipe.registry import Registry

    for folder in folders:
        if not folder.is_dir():
            raise errors.RecipeError(f"--plugins {folder}: no such folder")
    default = Path("plugins")
    return Registry(folders or ((default,) if default.is_dir() else ()))


_PATH = click.Path(path_type=Path)


def _recipes(ctx: click.Context, option: click.Parameter, incomplete: str) -> list[Any]:
    """What the shell offers for a recipe: files, and the names of those that evonas has."""
    from click.shell_completion import CompletionItem

    from evonas.recipe import reading

    names = [CompletionItem(name) for name in reading.shipped() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


_RECIPE = click.argument("path", metavar="RECIPE", type=_PATH, shell_complete=_recipes)
_PLUGINS = click.option(
    "--plugins",
    "registry",
    type=_PATH,
    multiple=True,
    callback=_registry,
    help="Folder with spaces/NAME.py and so on; default: ./plugins.",
)
_SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."
)


def _telling(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that run something: how they tell of it."""
    quiet = click.option("--quiet", "told", flag_value="quiet", help="Only the outcome.")
    lines = click.option(
        "--json", "told", flag_value="json", help="An object a line; the last is the outcome."
    )
    return quiet(lines(command))


def _read_by_a_program(stdout: IO[str], line: str) -> None:
    from evonas.trackers.console import unread

    try:
        click.echo(line, file=stdout)
    except BrokenPipeError:
        unread()


def _watched(
    command: str, folder: Path | None, begin: Callable[..., Any], told: str | None
) -> tuple[Any, int]:
    """Begin, on the console and with the two signals watched.

    Args:
        command: What goes on after an interruption.
        folder: What it goes on with; default: the run folder that the console is told.
        begin: Given the trackers and whom to ask whether to stop.
        told: "quiet", "json", or as people read it.

    Returns:
        What came out, and the exit code of an interruption.
    """
    from evonas.runs.run import Interruption
    from evonas.runs.session import Stopped
    from evonas.trackers.console import Console
    from evonas.trackers.parts.lines import Lines

    said: dict[str, Callable[[str], None]] = {
        "json": partial(_read_by_a_program, sys.stdout),
        "quiet": lambda line: None,
    }
    console = Lines(said[told]) if told else Console()
    interruption = Interruption(console.interrupted)
    # Anybody's code may print: where programs read, that is not for them.
    aside = redirect_stdout(sys.stderr) if told == "json" else nullcontext()
    try:
        with interruption.watching(), aside:
            outcome = begin((console,), interruption)
    except (Stopped, KeyboardInterrupt):
        console.stop()  # what is printed while the table is there is drawn over
        click.echo(f"stopped; go on with: evonas {command} {folder or console.run_dir}", err=True)
        sys.exit(_code(interruption))
    finally:
        console.stop()
    return outcome, _code(interruption)


def _code(interruption: Any) -> int:
    return 128 + (interruption.signal or signal.SIGINT)


def _run(run_dir: Path | None, begin: Callable[..., Any], told: str | None) -> None:
    """Run, print what came out unless it was told as JSON, and exit with its code."""
    from evonas.commands import outcome as outcomes

    outcome, interrupted = _watched("resume", run_dir, begin, told)
    if told != "json":
        _print(outcomes.lines(outcome))
    if outcome.report.status == "interrupted":
        sys.exit(interrupted)
    good = outcome.report.status == "finished" and outcome.report.incumbent is not None
    sys.exit(0 if good else errors.TooManyFailures.exit_code)


@main.command()
@_RECIPE
@_SET
@click.option("--run-dir", type=_PATH, help="Default: a new one in mlruns.")
@_PLUGINS
@_telling
def run(
    path: Path, overrides: tuple[str, ...], run_dir: Path | None, registry: Any, told: str | None
) -> None:
    """Run RECIPE: search, train the winner, test it, log everything.

    RECIPE is a file, or the name of one that evonas comes with (evonas list recipes).
    """
    from evonas.recipe import reading
    from evonas.runs import run as runs

    recipe = reading.load(path, overrides)
    _run(run_dir, partial(runs.start, recipe, registry, run_dir), told)


@main.command()
@click.argument("run_dir", type=_PATH)
@_SET
@_telling
def resume(run_dir: Path, overrides: tuple[str, ...], told: str | None) -> None:
    """Go on with the run in RUN_DIR.

    --set may change budget, final, audit, executor, tracking and evaluation.final_epochs.
    """
    from evonas.runs import run as runs

    _run(run_dir, partial(runs.resume, run_dir, overrides), told)


@main.command()
@click.argument("run_dir", type=_PATH)
@click.option("--workers", type=click.IntRange(1), help="Trials at once; default: by the devices.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--idle", default=30.0, show_default=True, help="Minutes to wait for a trial.")
def worker(run_dir: Path, workers: int | None, device: str, idle: float) -> None:
    """Run trials of the run in RUN_DIR, whose executor is folder, on this machine.

    It leaves when the run is finished. SIGINT, SIGTERM and SIGUSR1 have it give its trials back.
    """
    from evonas.runs import worker as working
    from evonas.runs.run import Interruption
    from evonas.runs.session import Stopped

    interruption = Interruption()
    try:
        with interruption.watching(signal.SIGUSR1):
            working.work(run_dir, workers, device, 60 * idle, click.echo, interruption)
    except (Stopped, KeyboardInterrupt):
        click.echo("stopped; its trials were given back", err=True)
        sys.exit(_code(interruption))


@main.command()
@click.argument("path", metavar="RECIPE|SWEEP_DIR", type=_PATH, shell_complete=_recipes)
@_SET
@click.option("--sweep-dir", type=_PATH, help="Default: a new one in mlruns.")
@_PLUGINS
@_telling
def sweep(
    path: Path, overrides: tuple[str, ...], sweep_dir: Path | None, registry: Any, told: str | None
) -> None:
    """Run every combination of RECIPE's sweep, and compare; SWEEP_DIR: go on with one."""
    from evonas.commands import comparing
    from evonas.recipe import reading
    from evonas.runs import sweep as sweeps

    if sweeps.holds(path):
        plan = sweeps.read(path)
    else:
        plan = sweeps.begin(reading.load(path, overrides), registry, sweep_dir)
    begin = partial(sweeps.run, plan, say=partial(click.echo, err=told is not None))
    ended, _ = _watched("sweep", plan.folder, begin, told)
    failed = [label for label, status in ended.items() if status == "failed"]
    if len(plan.run_dirs()) > 1:
        page = plan.folder / "comparison.html"
        groups = comparing.compare([str(plan.folder)], page)
        _print(comparing.lines(groups, as_json=told == "json"))
        click.echo(f"comparison: {page}", err=told == "json")
    for label in failed:
        click.echo(f"failed: {label}", err=True)
    sys.exit(errors.TooManyFailures.exit_code if len(failed) == len(ended) else 0)


@main.command()
@click.argument("runs", metavar="RUN…", nargs=-1, required=True)
@click.option("--output", type=_PATH, default=Path("comparison.html"), show_default=True)
@click.option("--uri", help="MLflow store that knows the ids; default as for evonas ui.")
@click.option("--published", type=_PATH, help="CSV of others' networks, drawn beside the winners.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def compare(
    runs: tuple[str, ...], output: Path, uri: str | None, published: Path | None, as_json: bool
) -> None:
    """Compare runs: their folders, their ids in MLflow, or the folder of a sweep.

    Runs that differ in their seed alone are a group. Writes a page, prints a table. A CSV of
    published networks has the columns source, name, params and the metric's name.
    """
    from evonas.commands import comparing

    groups = comparing.compare(runs, output, uri, published)
    _print(comparing.lines(groups, as_json))
    click.echo(f"comparison: {output}", err=as_json)


@main.command()
@click.argument("run_dir", type=_PATH)
def sync(run_dir: Path) -> None:
    """Send to MLflow what it lacks of the run in RUN_DIR."""
    from evonas.runs import run as runs

    click.echo(f"sent {runs.sync(run_dir)} trials, and how it ended, of {run_dir}")


@main.command("report")
@click.argument("run_dir", type=_PATH)
@click.option("--open", "opens", is_flag=True, help="Open it in a browser.")
def write_report(run_dir: Path, opens: bool) -> None:
    """Write RUN_DIR's report.html anew, at any time: while it runs as well."""
    from evonas.runs import run as runs

    path = runs.report(run_dir)
    click.echo(path)
    if opens:
        click.launch(path.absolute().as_uri())


@main.command("audit")
@click.argument("run_dir", type=_PATH)
@click.option("--trials", default=12, type=click.IntRange(min=4), help="Size of the sample.")
@_telling
def audit_run(run_dir: Path, trials: int, told: str | None) -> None:
    """Train a sample of RUN_DIR's trials for good: can its ranking be trusted?"""
    from evonas.runs import audit
    from evonas.runs import run as runs

    result, _ = _watched("audit", run_dir, partial(runs.examine, run_dir, trials), told)
    if result is None:
        reason = "too few trainings succeeded, or no fuller training exists"
        click.echo(f"nothing to audit: {reason}", err=told == "json")
        sys.exit(errors.TooManyFailures.exit_code)
    if told != "json":
        click.echo(audit.table(result))


@main.command()
@click.argument("run_dir", type=_PATH)
@click.option(
    "--complexity",
    required=True,
    metavar="POOLING,IDENTITY,CONVOLUTION",
    help="How much each kind of operation costs; three numbers that sum to 1.",
)
def sample(run_dir: Path, complexity: str) -> None:
    """Print the architecture that RUN_DIR's hypernetwork gives for a complexity, and its score."""
    from evonas.commands import sampling

    _print(sampling.sample(run_dir, complexity, click.echo))


@main.command("list")
@click.argument("kind", required=False)
@_PLUGINS
def list_components(kind: str | None, registry: Any) -> None:
    """List all components and recipes, or those of one kind.

    KIND is space, strategy, evaluator, dataset, pruning, executor, tracker or recipe.
    """
    from evonas.commands import catalogue

    _print(catalogue.lines(registry, kind))


@main.command()
@_RECIPE
@_SET
@click.option("--sheet", type=_PATH, help="Where to write it; default: NAME-data.png.")
@_PLUGINS
def data(path: Path, overrides: tuple[str, ...], sheet: Path | None, registry: Any) -> None:
    """Read RECIPE's data set: say what was found, and write a contact sheet of it."""
    from evonas.commands import pictures
    from evonas.recipe import reading

    recipe = reading.load(path, overrides)
    images = pictures.read(recipe, registry)
    _sentence(str(images))
    _print(f"  {line}" for line in pictures.counts(images))
    sheet = sheet or Path(f"{recipe.name}-data.png")
    pictures.sheet(images, sheet)
    click.echo(f"contact sheet: {sheet}")


@main.command()
@click.argument("reference", metavar="[KIND] NAME")
@click.argument("name", required=False, metavar="")
@click.option("--input", "shape", default="3x32x32", show_default=True, help="Of SPACE/POINT.")
@click.option("--classes", default=100, show_default=True, type=click.IntRange(min=1))
@_PLUGINS
def show(reference: str, name: str | None, shape: str, classes: int, registry: Any) -> None:
    """Show a component: what it does, its options with ranges and defaults, its paper.

    \b
    evonas show tpe                    by its name
    evonas show strategy hypernet      of one kind, where several have one of that name
    evonas show mbconv/model4          layers, parameters and FLOPs of a named network
    evonas show recipe digits_evo      a recipe that evonas comes with
    """  # noqa: D301  (click wants the character)
    from evonas.commands import showing

    click.echo(showing.show(registry, reference, name, shape, classes))


@main.command()
@click.argument("section", required=False)
def recipe(section: str | None) -> None:
    """Explain the sections of a recipe, or every key of one SECTION."""
    from evonas.commands import explaining

    _print(explaining.recipe(section))


@main.command()
@click.argument("reference", metavar="RUN_DIR|SPACE/NAME")
@click.option("--phi", type=click.FloatRange(min=0, max=10), help="About 2^phi times the FLOPs.")
@click.option("--flops", metavar="2x|NUMBER", help="Choose phi by the FLOPs wanted.")
@click.option("--depth", type=click.FloatRange(0, min_open=True), help="Factor, instead of phi.")
@click.option("--width", type=click.FloatRange(0, min_open=True), help="Factor, instead of phi.")
@click.option("--resolution", type=click.IntRange(min=1), help="Pixels, instead of phi.")
@click.option("--rule", metavar="A,B,C", default="1.2,1.1,1.15", show_default=True)
@click.option("--grid", is_flag=True, help="Search the rule with the run's own evaluation.")
@click.option("--train", type=_PATH, help="Train it for good, into a folder.")
@click.option("--output", type=_PATH, help="Write it as JSON.")
@click.option("--input", "shape", default="3x224x224", help="Of SPACE/NAME.")
@click.option("--classes", default=1000, type=click.IntRange(min=1), help="Of SPACE/NAME.")
@_PLUGINS
def scale(
    reference: str,
    rule: str,
    grid: bool,
    train: Path | None,
    output: Path | None,
    shape: str,
    classes: int,
    registry: Any,
    **wishes: Any,
) -> None:
    """Make a found or named network larger: depth, width and resolution at once.

    For a coefficient phi they are multiplied by A^phi, B^phi and C^phi of the rule.
    """
    from evonas import files
    from evonas.commands import outcome, scaling

    original = scaling.source(registry, reference, shape, classes)
    request = scaling.Request(**wishes)
    if train is not None:
        scaling.check_trainable(original, train)
    by_rule = scaling.search_rule(original, click.echo) if grid else scaling.parse_rule(rule)
    scaled = request.answer(original, by_rule)
    click.echo(scaling.table(original, scaled))
    if output is not None:
        files.store(output, json.dumps(scaled.to_json(), indent=2))
    if train is not None:
        metrics = scaling.train(scaled, train, click.echo)
        _print(outcome.metrics(metrics, "final training"))
        click.echo(f"  network      {train}/incumbent")


@main.command("export")
@click.argument("run_dir", type=_PATH)
@click.option("--format", "form", type=click.Choice(["pt2", "onnx"]), help="Default: pt2.")
@click.option("--trial", type=click.IntRange(min=0), help="Default: the winner.")
@click.option("--output", type=_PATH, help="Default: in RUN_DIR.")
@click.option("--int8", is_flag=True, help="ONNX of 8-bit integers, calibrated on training images.")
def export_network(
    run_dir: Path, form: str | None, trial: int | None, output: Path | None, int8: bool
) -> None:
    """Write the network of RUN_DIR as a file that runs without evonas.

    pt2 needs torch, onnx any runtime of that format. Class names, input size and preprocessing are
    inside, as evonas.json.
    """
    from evonas.commands import exporting

    written = exporting.export(run_dir, form, trial, output, int8)
    click.echo(f"wrote {written.path} ({written.size:,} bytes)")
    click.echo(f"its logits differ from the network's by {written.difference:.1g} at most")
    if written.accuracies is not None:
        network, file = written.accuracies
        click.echo(f"validation accuracy {file:.4f}; of the network in float32 {network:.4f}")


@main.command()
@click.argument("source", metavar="RUN_DIR|FILE", type=_PATH)
@click.argument("names", metavar="PICTURE…|FOLDER", nargs=-1, required=True, type=_PATH)
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--csv", "csv_path", type=_PATH, help="Write a line a picture to this file.")
def predict(
    source: Path, names: tuple[Path, ...], top: int, as_json: bool, csv_path: Path | None
) -> None:
    """Say which class each picture is of, by the network of RUN_DIR or an exported FILE.

    Pictures are prepared as those of the training were. If a folder's subfolders are called as the
    classes, accuracy and confusion matrix come at the end.
    """
    from evonas import files
    from evonas.commands import predicting
    from evonas.runs import network as networks

    predictions = predicting.Predictions(networks.find(source), names)
    try:
        for prediction in predictions:
            if not as_json and csv_path is None:
                click.echo(predictions.line(prediction, top))
    finally:
        for complaint in predictions.complaints():
            click.echo(complaint, err=True)
    if as_json:
        click.echo(predictions.to_json())
    elif (counts := predictions.confusion()) is not None:
        _print(counts.lines())
    if csv_path is not None:
        files.store(csv_path, predictions.to_csv())
        if not as_json:
            click.echo(f"wrote {csv_path} ({len(predictions):,} pictures)")


@main.command()
@click.argument("kind")
@click.argument("name")
@click.option(
    "--set", "options", multiple=True, metavar="KEY=VALUE", help="Set an option, as in a recipe."
)
@click.option("--input", "shape", help="Of a space: channels x height x width; default: 3x16x16.")
@click.option("--classes", type=click.IntRange(min=1), help="Of a space; default: 10.")
@click.option("--recipe", type=_PATH, help="Take input, classes and options from this recipe.")
@_PLUGINS
def check(
    kind: str,
    name: str,
    options: tuple[str, ...],
    shape: str | None,
    classes: int | None,
    recipe: Path | None,
    registry: Any,
) -> None:
    """Run the public contract kit on a component, for example: check space my_space.

    KIND is any that `evonas list` shows. Of a component with options that must be given:
    check dataset npz --set path=FILE.npz

    A space is checked at images of 3x16x16 and ten classes, unless --input, --classes or --recipe
    say for which it is meant: what works at one size may be too small at another.
    """
    from evonas.commands import catalogue, checking

    kind = catalogue.kind_of(kind)
    task, chosen = checking.meant(registry, kind, name, recipe, shape, classes)
    problems = checking.check(registry, kind, name, (*chosen, *options), task)
    for problem in problems:
        click.echo(f"{kind} {name}: {problem}")
    at = f" (at {'x'.join(map(str, task.input_shape))})" if kind == "space" else ""
    click.echo(f"{kind} {name}: {'FAILED' if problems else 'ok'}{at}")
    sys.exit(errors.PluginError.exit_code if problems else 0)


@main.command()
@click.argument("kind", type=click.Choice(["space", "strategy", "evaluator", "dataset"]))
@click.argument("name")
@click.option(
    "--plugins", type=_PATH, default=Path("plugins"), show_default=True, help="Folder to write to."
)
def new(kind: str, name: str, plugins: Path) -> None:
    """Write a working component NAME of your own and its test, to be changed."""
    from evonas.commands import scaffold
    from evonas.recipe.registry import KINDS, Registry

    for path in scaffold.new(kind, name, plugins, Registry((plugins,))):
        click.echo(f"wrote {path}")
    own = "" if plugins == Path("plugins") else f" --plugins {plugins}"
    click.echo(f"check it with: evonas check {kind} {name}{own}")
    section = KINDS[kind].section
    click.echo(f"try it with:   evonas run digits_evo --set {section}.name={name}{own}")


@main.command()
@click.argument("folder", type=_PATH)
@click.option("--minutes", default=60.0, show_default=True, type=click.FloatRange(1))
@click.option("--output", type=_PATH, help="Where to write it; default: NAME.yaml, of FOLDER.")
@click.option(
    "--pretrained/--from-scratch",
    default=None,
    help="Begin with weights trained on ImageNet, or not; default: if some are on this machine.",
)
def init(folder: Path, minutes: float, output: Path | None, pretrained: bool | None) -> None:
    """Look at the pictures in FOLDER, and write a recipe for them and the MINUTES that one has."""
    from evonas.commands import init as writing

    path, text = writing.write(folder, minutes, output, pretrained)
    for line in text.splitlines():
        if line.startswith("# ") and "evonas init" not in line:
            _sentence(line.removeprefix("# "))
    click.echo(f"wrote {path}")
    click.echo(f"look at the pictures: evonas data {path}")
    click.echo(f"run it:               evonas run {path}")


@main.command()
@_PLUGINS
def doctor(registry: Any) -> None:
    """Say whether everything is there: Python, torch, devices, memory, disk, MLflow, plugins."""
    from evonas.commands import doctor as looking

    good = True
    for finding in looking.findings(registry):
        good &= finding.good
        click.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.what:<10} {finding.text}")
    sys.exit(0 if good else errors.PluginError.exit_code)


@main.command()
@click.argument("run_dir", type=_PATH, required=False)
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--uri", help="Default: RUN_DIR's store, MLFLOW_TRACKING_URI, mlruns/mlflow.db.")
@click.option("--open", "opens", is_flag=True, help="Open the first link in a browser.")
def ui(run_dir: Path | None, port: int, uri: str | None, opens: bool) -> None:
    """Start MLflow's UI, on this machine only, and print links: leaderboards, RUN_DIR's trials.

    A store that is a server has a UI of its own: its links are printed, and that is all.
    """
    from evonas.commands import browsing

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    sys.exit(browsing.browse(run_dir, uri, port, opens, click.echo))


if __name__ == "__main__":
    main(prog_name="evonas")
