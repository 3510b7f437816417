"""Kill search and workers at random, again and again, and resume: nothing may be lost.

    python -m benchmarks.soak --executor processes --minutes 20
    python -m benchmarks.soak --executor folder
    python -m benchmarks.soak --executor ray          # on a local cluster; the search is killed

One run of 40 short trials after another; at random moments the search or one of the processes that
it started is killed by ``kill -9``, and the search resumed. After each run must hold: as many
trials as the budget says, each number once, none running, none failed but by a worker that was
killed twice with it, and no process left. It prints a line a run and ends with 1 at the first that
breaks this.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import click

from evonas.executors.parts.fork_server import descendants
from evonas.runs.journal import JOURNAL, read_journal
from evonas.trial import TrialState

TRIALS = 40
EVALUATOR = '''
import time
from evonas import Evaluator

class Short(Evaluator):
    """The number of channels, after a moment."""
    metrics = ("value",)

    def evaluate(self, trial, report):
        time.sleep(0.3)
        return {"value": float(sum(trial.architecture.choices.values()))}
'''
RECIPE = f"""
name: soak
space: plain_cnn
strategy: {{name: aging_evolution, population_size: 6, tournament_size: 2}}
evaluation: short
objectives: {{value: max}}
budget: {{trials: {TRIALS}}}
tracking: console
"""
EXECUTORS = {
    "processes": "{name: processes, workers: 2}",
    "folder": "{name: folder, lease: 5}",
    "ray": "{name: ray, address: local, workers: 2}",
}


def begin(*arguments: str) -> subprocess.Popen[bytes]:
    with Path("log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "evonas", *arguments], stdout=log, stderr=log
        )


def killed(run_dir: Path, executor: str, rng: Random) -> Counter[str]:
    """One run, from start to end; how often what was killed."""
    kills: Counter[str] = Counter()
    helpers: list[subprocess.Popen[bytes]] = []
    search = go_on(run_dir, executor)
    while True:
        if "folder" in executor:
            helpers = [helper for helper in helpers if helper.poll() is None]
            while len(helpers) < 2:
                helpers.append(begin("worker", str(run_dir), "--workers", "1"))
        with suppress(subprocess.TimeoutExpired):
            if search.wait(rng.uniform(3, 15)) == 0 or "ray" not in executor:
                break
            kills["cluster"] += 1  # its head was killed, and the search went with it
            search = go_on(run_dir, executor)
            continue
        workers = [helper.pid for helper in helpers] or descendants(search.pid)
        if rng.random() < 0.5 or not workers:
            search.kill()
            search.wait()
            kills["search"] += 1
            search = go_on(run_dir, executor)
        else:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
            kills["worker"] += 1
    for helper in helpers:
        helper.wait(120)
    return kills


def go_on(run_dir: Path, executor: str) -> subprocess.Popen[bytes]:
    """Begin a run, or resume it if it has begun."""
    if (run_dir / JOURNAL).exists() and read_journal(run_dir)[0]:
        return begin("resume", str(run_dir))
    more = ("--run-dir", str(run_dir), "--set", f"executor={executor}")
    return begin("run", "recipe.yaml", *more)


def complaint(run_dir: Path) -> str:
    """What does not hold of a run that ended."""
    _, events = read_journal(run_dir)
    ended = [event for event in events if event.state is not TrialState.RUNNING]
    if sorted(event.number for event in ended) != list(range(TRIALS)):
        return f"ended: {sorted(event.number for event in ended)}"
    reasons = [str(event.error) for event in ended if event.state is not TrialState.COMPLETE]
    if strange := [reason for reason in reasons if not reason.startswith("worker ")]:
        return strange[0]
    deadline = time.monotonic() + 10
    while left := [pid for pid in descendants(os.getpid()) if alive(pid)]:
        if time.monotonic() > deadline:
            return f"processes left: {left}"
        time.sleep(0.1)
    return ""


def alive(pid: int) -> bool:
    with suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


@click.command(help=__doc__.partition("\n")[0])
@click.option("--executor", type=click.Choice(list(EXECUTORS)), default="processes")
@click.option("--minutes", default=20.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(executor: str, minutes: float, seed: int) -> None:
    rng, end = Random(seed), time.monotonic() + 60 * minutes
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.chdir(folder)
    Path("plugins/evaluators").mkdir(parents=True)
    Path("plugins/evaluators/short.py").write_text(EVALUATOR)
    Path("recipe.yaml").write_text(RECIPE)
    runs, total = 0, Counter[str]()
    while time.monotonic() < end:
        run_dir = folder / f"run{runs}"
        kills = killed(run_dir, EXECUTORS[executor], rng)
        wrong = complaint(run_dir)
        click.echo(f"run {runs}: killed {dict(kills)}: {wrong or 'nothing lost'}")
        if wrong:
            click.echo(f"see {folder}")
            sys.exit(1)
        runs, total = runs + 1, total + kills
    click.echo(f"{executor}: {runs} runs, killed {dict(total)}, nothing lost")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
