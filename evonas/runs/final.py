"""Final trainings: the best of a search, trained once more in full; the best of these is tested."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evonas import files
from evonas.errors import StorageError
from evonas.recipe.schema import FinalSection
from evonas.runs import export
from evonas.runs.session import Session
from evonas.training.checkpoints import BadWeights
from evonas.trial import Objective, Proposal, Trial, TrialState

FILE = "final.json"


@dataclass(frozen=True)
class Conclusion:
    """What final trainings ended with.

    Attributes:
        trial: Number of the winner, of the search.
        metrics: Means over its seeds.
        terms: What was asked for: a change of it concludes anew.
    """

    trial: int
    metrics: dict[str, float]
    terms: dict[str, Any]


class AllFailed(Exception):
    """No final training succeeded; says why the first did not."""


def conclude(
    session: Session, ranking: Sequence[Trial], terms: FinalSection, retry: bool = False
) -> tuple[int, dict[str, float]]:
    """Train the best of the search; the best of these meets the test split, once.

    Writes ``final.json`` and ``incumbent/`` (see ``export.keep``).

    Args:
        session: The run's; what its journal and folder hold for the same terms is kept.
        ranking: Completed trials of the search, the best first.
        terms: How many of them, how often.
        retry: Whether failed trainings are begun again: the user may have mended why.

    Returns:
        Number of the winning trial of the search, and its final metrics: means over the seeds,
        ``*_std`` their standard deviations. Empty if the evaluator has none to add.

    Raises:
        AllFailed: If no training succeeded.
        StorageError: If the disk does not take the results.
        Stopped: If the user wants to stop.
    """
    candidates = list(ranking[: terms.top])
    asked = {
        **terms.model_dump(exclude={"networks"}),
        "candidates": [trial.number for trial in candidates],
    }
    try:
        known = stored(session.folder)
    except StorageError as error:  # its trainings are in the journal, so that it costs a test
        session.note(f"{error}; it is made anew")
        known = None
    if known is not None and known.terms == asked:
        return known.trial, known.metrics
    if session.assembly.evaluator.finals:
        winner, runs = _train(session, candidates, terms, retry)
    else:
        winner, runs = candidates[0], candidates[:1]
    tested = _test(session, runs)
    metrics = _means(list(tested.values()))
    if not metrics:
        return winner.number, {}
    by = criterion((Objective("val_accuracy"),), next(iter(tested.values())))
    best = max(runs, key=lambda run: by.key(tested[run.proposal.repeat]) if by else 0.0)
    try:
        export.keep(session, winner, metrics, tested, best)
        record = Conclusion(winner.number, metrics, asked)
        files.write(session.folder / FILE, json.dumps(vars(record)).encode())
    except OSError as error:
        raise StorageError(
            f"{session.folder}: {error.strerror}; evonas resume does it again"
        ) from error
    return winner.number, metrics


def stored(folder: Path) -> Conclusion | None:
    """What an earlier session concluded.

    Raises:
        StorageError: If the file is damaged.
    """
    return files.load(folder / FILE, Conclusion)


def criterion(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> Objective | None:
    """What final trainings are compared by: the first objective, else validation accuracy."""
    candidates = (objectives[0], Objective("val_accuracy"))
    return next((o for o in candidates if o.metric in metrics), None)


def _train(
    session: Session, candidates: Sequence[Trial], terms: FinalSection, retry: bool
) -> tuple[Trial, list[Trial]]:
    """The candidate with the best mean over its seeds, and its completed trainings."""
    proposals = [
        Proposal(trial.architecture, parents=(trial.number,), repeat=seed, stage="final")
        for trial in candidates
        for seed in range(terms.seeds)
    ]
    if retry:
        known = session.trials("final").latest.values()
        session.begin_again([trial for trial in known if trial.state is TrialState.FAILED])
    results = session.train(proposals)
    runs: dict[str, list[Trial]] = {}
    for run in results:
        if run.state is TrialState.COMPLETE:
            runs.setdefault(run.architecture.id, []).append(run)
    if not runs:
        raise AllFailed(results[0].error or "no reason was given")

    def score(trial: Trial) -> float:
        own = runs[trial.architecture.id]
        by = criterion(session.assembly.objectives, own[0].metrics)
        return fmean(by.key(run.metrics) for run in own) if by else 0.0

    winner = max((trial for trial in candidates if trial.architecture.id in runs), key=score)
    return winner, runs[winner.architecture.id]


def _test(session: Session, runs: Sequence[Trial]) -> dict[int, dict[str, float]]:
    """By seed: what the winner's trainings gave, and its networks on the test split.

    A training whose weights were lost since is repeated first.
    """
    evaluator = session.assembly.evaluator
    tested: dict[int, dict[str, float]] = {}
    for run in runs:
        try:
            scores = evaluator.test(run)
        except BadWeights as error:
            session.note(f"{error}; training it again")
            session.begin_again([run])
            (again,) = session.train([run.proposal])
            try:
                scores = evaluator.test(again)
            except BadWeights as lost:  # just written: it is the disk
                raise StorageError(str(lost)) from lost
        own = {**run.metrics, "seconds": run.seconds} if evaluator.finals else {}
        tested[run.proposal.repeat] = {**own, **scores}
    return tested


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric, and the standard deviation of the accuracies if there are several."""
    metrics: dict[str, float] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        metrics[name] = fmean(values)
        if len(values) > 1 and name.endswith("accuracy"):
            metrics[f"{name}_std"] = stdev(values)
    return metrics
