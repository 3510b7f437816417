"""One run in one MLflow store, as its journal says; what was sent before is sent no second time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException

from evonas.trackers.base import Report, RunInfo
from evonas.trackers.parts import entries, model, store, views
from evonas.trackers.parts.state import FILE, State
from evonas.trial import Trial, TrialState
from evonas.trials import Trials

_EARLY = ("recipe.yaml", "environment.txt")  # files that are there, and wanted, from the start
_NETWORK = "incumbent"  # the folder of the winner's


class Mirror:
    """Written synchronously. After an error make a new one.

    Args:
        uri: The store.
        run: What is mirrored.
        events: Of its journal.
        experiment: Name of the experiment; empty: the recipe's.
        run_name: Empty: recipe, strategy and seed.
        tags: The user's own.
        register: Name of the registered model that the network is a version of; empty: of none.

    Attributes:
        run_id: The run's in MLflow.
    """

    def __init__(
        self,
        uri: str,
        run: RunInfo,
        events: Sequence[Trial],
        experiment: str,
        run_name: str,
        tags: Mapping[str, str],
        register: str,
    ) -> None:
        self._uri, self._run, self._tags, self._register = uri, run, tags, register
        self._experiment = experiment or run.name
        self._name = run_name or entries.run_name(run)
        self._client = store.client_of(uri)
        self._state = State.of(run.run_dir, store.public(uri))
        # Events before this place may be in the store; those to come no earlier mirror has seen.
        self._doubtful = len(events)
        own = self._state.run_id and self._state.events <= len(events)  # else: another journal's
        if not own or not self._goes_on():
            self._begin()
        # What was refused is tried again, and what stands behind it is found to be there.
        self._state.events = min([self._state.events, *self._state.refused])
        self._state.refused.clear()
        self._trials = Trials(run.objectives, events[: self._state.events])

    @property
    def run_id(self) -> str:
        """The run's id in MLflow."""
        return self._state.run_id

    def send(self, events: Sequence[Trial]) -> Iterator[bool]:
        """Mirror the events that are not; yields for each trial that ended whether it was sent."""
        try:
            while (place := self._state.events) < len(events):
                if events[place].state is not TrialState.RUNNING:
                    yield self._send(events[place], place)
                self._state.events += 1
        finally:  # once, for a flush of the disk takes its time; what a kill leaves out is in doubt
            self._remember()

    def _send(self, trial: Trial, place: int) -> bool:
        try:
            self._log_progress(trial)
            return self._log_trial(trial, place < self._doubtful)
        except MlflowException as error:
            if error.error_code != store.REFUSED:
                raise
            print(
                f"MLflow refuses {entries.trial_name(trial)} ({store.first_line(error)})",
                file=sys.stderr,
            )
            self._state.refused.append(place)
            return False

    def _log_progress(self, trial: Trial) -> None:
        """A point of the run's curves after every trial of the search that ended.

        Its step is the number of ended trials: so runs that go side by side, and means over seeds,
        are compared after as many trials each.
        """
        self._trials.add(trial)
        if trial.proposal.stage == "search":
            values, step = entries.progress(self._trials), len(self._trials.ended)
            self._log(self.run_id, entries.points(values, self._end(trial), step))

    def _log_trial(self, trial: Trial, doubtful: bool) -> bool:
        """Send a trial that ended; whether the store lacked it, or some of it."""
        tags, end = entries.trial_tags(trial, self._run, self._name, self.run_id), self._end(trial)
        begin = end - int(trial.seconds * 1000)
        stored = self._children(trial.proposal.stage, trial.number) if doubtful else []
        place = self._state.experiment_id
        child = stored[0] if stored else self._client.create_run(place, begin, tags)
        if child.info.status in entries.STATUS.values():
            return False
        metrics = entries.trial_metrics(trial, self._run.objectives, begin, end)
        self._log(child.info.run_id, metrics, entries.trial_params(trial))
        self._client.set_terminated(child.info.run_id, entries.STATUS[trial.state], end)
        return True

    def _children(self, stage: str, number: int) -> list[Run]:
        own = {entries.PARENT: self.run_id, entries.STAGE: stage, entries.TRIAL: number}
        return self._search({key: str(value) for key, value in own.items()})

    def _search(self, tags: Mapping[str, str]) -> list[Run]:
        """The runs of the experiment with these tags."""
        return list(self._client.search_runs([self._state.experiment_id], entries.having(tags)))

    def finish(self, report: Report) -> None:
        """Send the run's results, tags, files and network, and end it."""
        tags = {"evonas.status": report.status, "evonas.reason": report.reason}
        tags |= {"evonas.incumbent": str(report.incumbent.number)} if report.incumbent else {}
        tags |= {"evonas.remarks": "\n".join(report.remarks)} if report.remarks else {}
        tags[entries.NOTE] = entries.description(self._run, report)
        for name, text in entries.short_tags(tags).items():
            self._client.set_tag(self.run_id, name, text)
        self._mark(report)
        paths = self._files()
        # The run ended when its folder was last written to: the same end sent twice counts once.
        times = [self._run.started + report.seconds, *(path.stat().st_mtime for path in paths)]
        self._log(self.run_id, entries.points(entries.results(report), int(max(times) * 1000), 0))
        self._upload(paths)
        self._log_network()
        self._client.set_terminated(self.run_id, entries.STATUS[report.status])

    def cut_off(self) -> None:
        """End a run that did not end by itself, with what there is of its files."""
        self._client.set_tag(self.run_id, "evonas.reason", "cut off; evonas resume goes on")
        self._upload(self._files())
        self._client.set_terminated(self.run_id, "KILLED")

    def _mark(self, report: Report) -> None:
        """Tag the best trial and the front's, and those that were no more."""
        best = {report.incumbent.number} if report.incumbent else set()
        front = {trial.number for trial in report.front} if len(report.front) > 1 else set()
        for key, numbers in ((entries.BEST, best), (entries.FRONT, front)):
            before = self._search({entries.PARENT: self.run_id, key: "true"})
            tagged = {int(run.data.tags[entries.TRIAL]): run.info.run_id for run in before}
            for number in tagged.keys() - numbers:
                self._client.delete_tag(tagged[number], key)
            for number in numbers - tagged.keys():
                for run in self._children("search", number):
                    self._client.set_tag(run.info.run_id, key, "true")

    def _files(self) -> list[Path]:
        """What the store is given: not the trials' weights, nor itself if it is in the folder."""
        aside = {"lock", FILE, "weights"}
        if (path := store.file_of(self._uri)) and path.parent == self._run.run_dir:
            aside |= {store.ARTIFACTS, *(file.name for file in path.parent.glob(f"{path.name}*"))}
        folder = sorted(self._run.run_dir.iterdir())
        return [p for p in folder if p.name not in aside and p.suffix != ".tmp"]

    def _upload(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), path.name)
            else:
                self._client.log_artifact(self.run_id, str(path))

    def _log_network(self) -> None:
        folder = self._run.run_dir / _NETWORK
        network = model.log(self._client, self._state.experiment_id, self.run_id, folder)
        if network is not None and self._register:
            model.register(self._client, self._register, network, self.run_id)

    def _goes_on(self) -> bool:
        """Whether the run that is remembered is still there; if so, it runs again."""
        try:
            self._client.update_run(self.run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code not in store.NO_SUCH_RUN:
                raise
            return False
        return True

    def _begin(self) -> None:
        """Make the run, or find that of an attempt whose answer was lost."""
        place = store.experiment(self._client, self._experiment, self._uri)
        begin = int(self._run.started * 1000)
        tags = entries.run_tags(self._run, self._name, self._tags)
        same = self._client.search_runs([place], f"attributes.start_time = {begin}")
        folder = tags[entries.RUN_DIR]
        run = next((r for r in same if r.data.tags.get(entries.RUN_DIR) == folder), None)
        if run is None:
            self._doubtful = 0
            if self._run.sweep:
                tags[entries.PARENT] = self._sweep(place, begin)
            run = self._client.create_run(place, begin, tags)
        # Of one that was found a budget, say, may have changed, which MLflow would refuse.
        params = entries.run_params(self._run)
        self._log(run.info.run_id, [], [p for p in params if p.key not in run.data.params])
        self._log_dataset(run.info.run_id)
        self._state = State(
            store.public(self._uri), place, run.info.run_id, view=self._share_view(place)
        )
        self._upload([path for path in self._files() if path.name in _EARLY])
        self._remember()

    def _sweep(self, experiment_id: str, begin: int) -> str:
        """The run that those of the sweep are nested in; the first of them makes it."""
        name = self._run.sweep
        tags = {entries.KIND: "sweep", entries.SWEEP: name}
        found = self._client.search_runs([experiment_id], entries.having(tags))
        tags |= {"mlflow.runName": name, "mlflow.user": self._run.source.get("user", "")}
        made = found[0] if found else self._client.create_run(experiment_id, begin, tags)
        self._client.set_terminated(made.info.run_id)  # it has nothing to do by itself
        return str(made.info.run_id)

    def _log_dataset(self, run_id: str) -> None:
        """The images as MLflow's input of the run: its column and its filter know them by name."""
        section = self._run.recipe.get("dataset")
        if section and self._run.data:
            source = str(section.get("path", ""))
            images = Dataset(section["name"], self._run.data[:36], "local", source)
            use = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run_id, [DatasetInput(images, use)])

    def _share_view(self, experiment_id: str) -> bool:
        """Give the experiment its leaderboard; whether the store took it."""
        try:
            self._client.set_experiment_tag(experiment_id, views.TAG, views.state(self._run))
        except MlflowException as error:
            if error.error_code != store.REFUSED:
                raise
            return False
        return True

    def _remember(self) -> None:
        self._state.store(self._run.run_dir)

    def _end(self, trial: Trial) -> int:
        """When it ended, in ms, by the journal: what is sent twice is the same and counts once."""
        return int((self._run.started + trial.elapsed) * 1000)

    def _log(self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param] = ()) -> None:
        """``log_batch`` within MLflow's limits: 1,000 entries a call, 100 of them parameters."""
        while metrics or params:
            self._client.log_batch(run_id, metrics[:800], params[:100], synchronous=True)
            metrics, params = metrics[800:], params[100:]
