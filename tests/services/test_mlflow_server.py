"""Four searches at once against MLflow's server on PostgreSQL, which is killed in between.

All is done by the lines of docs/cluster.md. Run it with ``make test-services``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import services_helper as services
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from evonas.runs.journal import JOURNAL, read_journal
from evonas.trackers.parts.state import State
from evonas.trial import Trial, TrialState

pytestmark = pytest.mark.services

SEEDS = range(4)
GATED = 4  # trials of a run pass a gate together
TRIALS = 3 * GATED
RECIPE = f"""
name: services
dataset: digits
space: {{name: plain_cnn, max_depth: 1, max_width: 8}}
strategy: {{name: aging_evolution, population_size: 4, tournament_size: 2}}
evaluation: {{name: gated, of: {{name: train, epochs: 1, final_epochs: 1}}}}
budget: {{trials: {TRIALS}}}
executor: serial
"""
# So that a fault comes in the middle of every run, and no run ends before it.
EVALUATOR = f"""
import time
from collections.abc import Callable
from pathlib import Path

from evonas import Context, Evaluator, Wrapper
from evonas.evaluators.train import Train

class Gated(Wrapper):
    def __init__(self, context: Context, of: Callable[[Context], Evaluator] = Train) -> None:
        super().__init__(context, of(context))

    def score(self, trial, report):
        while not Path("gates", str(trial.number // {GATED})).exists():
            time.sleep(0.05)
        return super().score(trial, report)
"""


@dataclass
class Searches:
    """Four runs and who does their work.

    Attributes:
        folder: Where all of it is.
        server: MLflow's.
        processes: The searches by run folder.
        spoke: Processes that were seen connected to the server.
    """

    folder: Path
    server: services.MLflowServer
    processes: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    worker: subprocess.Popen[bytes] | None = None
    spoke: set[int] = field(default_factory=set)

    def begin(self) -> None:
        """Begin them all at once, the last with its trials in a worker that it did not start."""
        changes = {f"{services.HOST}:{services.PORT}": self.server.uri.removeprefix("http://")}
        _, *words = services.words("evonas run recipe.yaml --set tracking", changes)
        for seed in SEEDS:
            run_dir = self.folder / f"run{seed}"
            more = ["--run-dir", str(run_dir), "--set", f"seed={seed}"]
            more += ["--set", "executor=folder"] if seed == SEEDS[-1] else []
            self.processes[run_dir] = self._started([*words, *more])
        self.worker = self._started(["worker", str(run_dir), "--workers", "1", "--idle", "5"])

    def open_gate(self, number: int) -> None:
        (self.folder / "gates" / str(number)).touch()

    def wait_for_store(self, most: int, least: int) -> None:
        """Wait until one run has so many trials in MLflow, and all have the least number."""
        client = MlflowClient(self.server.uri)

        def there() -> bool:
            self.check_running()
            self.spoke |= services.speakers(self.server.port) - {os.getpid()}
            counts = [len(trials(client, run_dir)) for run_dir in self.processes]
            return max(counts) >= most and min(counts) >= least

        services.wait_until(there, f"{least} to {most} trials are in MLflow")

    def wait_for_journals(self, count: int) -> None:
        """Wait until so many trials of each run have ended."""

        def ended() -> bool:
            self.check_running()
            return all(len(ends(run_dir)) >= count for run_dir in self.processes)

        services.wait_until(ended, f"{count} trials have ended")

    def check_running(self) -> None:
        """They are all in the middle; what they said otherwise is in the log."""
        ended = [p for p in (*self.processes.values(), self.worker) if p and p.poll() is not None]
        assert not ended, (self.folder / "log").read_text()

    def evonas(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evonas", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True)

    def end(self) -> None:
        for process in (*self.processes.values(), *filter(None, [self.worker])):
            process.kill()
            process.wait()

    def _started(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "evonas", *words]
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)


def ends(run_dir: Path, stages: Sequence[str] = ("search",)) -> list[Trial]:
    """The trials that have ended, by the journal."""
    if not (run_dir / JOURNAL).exists():
        return []
    _, events = read_journal(run_dir)
    ended = (event for event in events if event.state is not TrialState.RUNNING)
    return [event for event in ended if event.proposal.stage in stages]


def trials(client: MlflowClient, run_dir: Path, stage: str = "search") -> list[Run]:
    """The trials of a run in MLflow that have ended."""
    state = State.of(run_dir)
    if not state.run_id:
        return []
    asked = f"tags.mlflow.parentRunId = '{state.run_id}' AND tags.`evonas.stage` = '{stage}'"
    found = client.search_runs([state.experiment_id], asked)
    return [run for run in found if run.info.status != "RUNNING"]


def check_arrived(client: MlflowClient, run_dir: Path, count: int) -> None:
    """MLflow has the run as its journal has it: all of it, once."""
    state, ended = State.of(run_dir), ends(run_dir)
    assert sorted(end.number for end in ended) == list(range(count))
    parent = client.get_run(state.run_id)
    assert parent.info.status == "FINISHED"
    assert "test_accuracy" in parent.data.metrics
    curve = client.get_metric_history(state.run_id, "ended_trials")
    assert [(point.step, point.value) for point in curve] == [(n, n) for n in range(1, count + 1)]
    stored = {int(run.data.tags["evonas.trial"]): run for run in trials(client, run_dir)}
    assert len(trials(client, run_dir)) == len(stored) == count
    for end in ended:
        run = stored[end.number]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["val_accuracy"] == end.metrics["val_accuracy"]
        assert set(run.data.params) == set(end.architecture.choices)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.MLflowServer]:
    """MLflow's server on PostgreSQL; afterwards nothing is left of either."""
    folder = tmp_path_factory.mktemp("server")
    with services.postgresql("admin's secret") as clients:
        passwords = services.make_database(clients, "admin's secret", "secret", folder)
        assert passwords.stat().st_mode & 0o777 == 0o600
        environment = {**os.environ, **clients, "PGPASSFILE": str(passwords)}
        made = services.MLflowServer(environment, folder)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def searches(
    server: services.MLflowServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Searches]:
    """Four searches that have ended; the server was killed while their trials came in."""
    folder = tmp_path_factory.mktemp("searches")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "plugins" / "evaluators").mkdir(parents=True)
    (folder / "plugins" / "evaluators" / "gated.py").write_text(EVALUATOR)
    (folder / "gates").mkdir()
    made = Searches(folder, server)
    try:
        made.begin()
        made.open_gate(0)
        made.wait_for_store(GATED, least=GATED)
        made.open_gate(1)
        made.wait_for_store(GATED + 1, least=GATED)
        server.kill()
        made.wait_for_journals(2 * GATED)
        server.start()
        made.wait_for_store(2 * GATED, least=2 * GATED)  # without anybody's doing
        made.open_gate(2)
        codes = {run_dir.name: p.wait(services.PATIENCE) for run_dir, p in made.processes.items()}
        assert set(codes.values()) == {0}, f"{codes}; see {folder}/log"
        yield made
    finally:
        made.end()


def test_all_of_every_run_arrived_though_the_server_was_killed(searches: Searches) -> None:
    client = MlflowClient(searches.server.uri)
    for run_dir in searches.processes:
        check_arrived(client, run_dir, TRIALS)
        assert len(trials(client, run_dir, "final")) == 1
    (experiment,) = {State.of(run_dir).experiment_id for run_dir in searches.processes}
    stored = client.search_runs([experiment], max_results=1000)
    assert len(stored) == len(SEEDS) * (1 + TRIALS + 1)  # with its trials and the final training
    assert {run.info.status for run in stored} == {"FINISHED"}


def test_files_come_through_the_server(searches: Searches) -> None:
    client = MlflowClient(searches.server.uri)
    for run_dir in searches.processes:
        run = client.get_run(State.of(run_dir).run_id)
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        there = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {JOURNAL, "recipe.yaml", "report.html", "incumbent"} <= there
        for name in ("recipe.yaml", "incumbent/network.pt2"):
            copy = Path(client.download_artifacts(run.info.run_id, name))
            assert copy.read_bytes() == (run_dir / name).read_bytes()
        (output,) = run.outputs.model_outputs
        files = {file.path for file in client.list_logged_model_artifacts(output.model_id)}
        assert "MLmodel" in files


def test_the_searches_alone_speak_to_the_server(searches: Searches) -> None:
    assert searches.spoke == {process.pid for process in searches.processes.values()}


def test_sync_sends_what_ended_while_the_server_was_gone(searches: Searches) -> None:
    run_dir, client = next(iter(searches.processes)), MlflowClient(searches.server.uri)
    nothing = searches.evonas("sync", str(run_dir))
    assert nothing.stdout.startswith("sent 0 trials"), nothing.stderr
    before = len(ends(run_dir, ("search", "final")))
    searches.server.kill()
    searches.open_gate(3)
    resumed = searches.evonas("resume", str(run_dir), "--set", f"budget.trials={TRIALS + 2}")
    assert resumed.returncode == 0
    assert f"MLflow at {searches.server.uri} does not answer" in resumed.stderr
    assert f"run `evonas sync {run_dir}`" in resumed.stderr
    vain = searches.evonas("sync", str(run_dir))
    assert vain.returncode == 6
    assert vain.stderr.count("\n") == 1
    searches.server.start()
    sent = [searches.evonas("sync", str(run_dir)).stdout.split()[1] for _ in range(2)]
    assert sent == [str(len(ends(run_dir, ("search", "final"))) - before), "0"]
    check_arrived(client, run_dir, TRIALS + 2)
