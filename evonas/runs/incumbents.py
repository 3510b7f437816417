"""The run's winner, trained for good, tested once, and kept: what a user takes away."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import nn

from evonas import files
from evonas.errors import StorageError
from evonas.evaluators.base import Evaluator
from evonas.runs.retraining import Retraining, criterion, weights_path
from evonas.spaces.base import Task
from evonas.training.checkpoints import read_weights, write_weights
from evonas.trial import Objective, Trial, TrialState

FINAL = "final.json"
FOLDER = "incumbent"


class AllFailed(Exception):
    """No training for good succeeded; says why the first did not."""


@dataclass(frozen=True)
class Terms:
    """How the winner is found.

    Attributes:
        top: Trials of the search's ranking that are trained for good.
        seeds: Trainings of each.
        flip: Whether the test split is scored on images and their mirror images together.
    """

    top: int = 1
    seeds: int = 1
    flip: bool = False


class Mirrored(nn.Module):
    """The mean of the logits of an image and of its mirror image (test-time augmentation)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) to (N, classes)."""
        logits: torch.Tensor = self.network(images) + self.network(images.flip(3))
        return logits / 2


def conclude(
    evaluator: Evaluator,
    objectives: Sequence[Objective],
    ranking: Sequence[Trial],
    retraining: Retraining,
    terms: Terms,
    run_dir: Path,
    note: Callable[[str], None],
) -> tuple[int, dict[str, float]]:
    """Train the best of the search for good; the best of these meets the test split, once.

    Writes ``final.json`` and ``incumbent/`` with ``architecture.json`` and, if there is a network,
    ``weights.safetensors`` and ``network.pt2``, a torch.export program that needs torch alone. The
    network takes images in 0…255: ``0.`` among the weights' names is its normalisation. Of several
    seeds it is the one with the best validation score.

    Args:
        evaluator: Tests networks.
        objectives: The first is what retrained networks are compared by, if they have it, else
            their validation accuracy.
        ranking: Completed trials, the best first.
        retraining: Trains them.
        terms: How many of them, how often.
        run_dir: The run folder; what it holds of an earlier session for the same terms is kept.
        note: Told how it goes.

    Returns:
        Number of the winning trial, and its final metrics: means over the seeds, ``*_std`` their
        standard deviations. Empty if the evaluator has none to add.

    Raises:
        AllFailed: If no training succeeded.
        StorageError: If the disk does not take the results.
        retraining.Stopped: If the user wants to stop.
    """
    candidates = list(ranking[: terms.top])
    asked = {**vars(terms), "candidates": [trial.number for trial in candidates]}
    if (known := stored(run_dir)) is not None and known["terms"] == asked:
        return known["trial"], known["metrics"]
    results = retraining.run(candidates, range(terms.seeds), weights=False)
    winner, runs = _best(candidates, results, objectives)
    # What an earlier session trained has its figures, but no weights any more: the winner's count.
    again = retraining.run([winner], runs, weights=True)
    _, runs = _best([winner], again, objectives)
    try:
        metrics = _measure(evaluator, winner, runs, retraining.folder, terms, run_dir, note)
        if not metrics:
            return winner.number, {}
        record = {"trial": winner.number, "metrics": metrics, "terms": asked}
        files.write(run_dir / FINAL, json.dumps(record).encode())
    except OSError as error:
        raise StorageError(f"{run_dir}: {error.strerror}; evonas resume does it again") from error
    retraining.forget_weights()
    return winner.number, metrics


def stored(run_dir: Path) -> dict[str, Any] | None:
    """What an earlier session concluded: ``trial``, ``metrics`` and ``terms``."""
    path = run_dir / FINAL
    return dict(json.loads(path.read_text())) if path.exists() else None


def _best(
    candidates: Sequence[Trial],
    results: Mapping[tuple[int, int], Trial],
    objectives: Sequence[Objective],
) -> tuple[Trial, dict[int, Trial]]:
    """The candidate with the best mean over its seeds, and its trainings by seed."""
    done: dict[int, dict[int, Trial]] = {}
    for (number, seed), ended in results.items():
        if ended.state is TrialState.COMPLETE:
            done.setdefault(number, {})[seed] = ended
    if not done:
        raise AllFailed(next(iter(results.values())).error or "no reason was given")

    def score(trial: Trial) -> float:
        runs = done[trial.number].values()
        by = criterion(objectives, next(iter(runs)).metrics)
        return fmean(by.key(run.metrics) for run in runs) if by else 0.0

    winner = max((trial for trial in candidates if trial.number in done), key=score)
    return winner, done[winner.number]


def _measure(
    evaluator: Evaluator,
    winner: Trial,
    runs: Mapping[int, Trial],
    weights: Path,
    terms: Terms,
    run_dir: Path,
    note: Callable[[str], None],
) -> dict[str, float]:
    """Test the winner's networks and keep the best of them; empty if there is nothing to say."""
    tested: dict[int, dict[str, float]] = {}
    networks: dict[int, nn.Module] = {}
    for seed, run in runs.items():
        path = weights_path(weights, winner.number, seed)
        network = evaluator.network(winner.architecture) if path.exists() else None
        if network is not None:
            network.load_state_dict(read_weights(path)[0])
            networks[seed] = network
            network = Mirrored(network) if terms.flip else network
        tested[seed] = {**run.metrics, **evaluator.test(winner.architecture, network)}
    metrics = _means(list(tested.values()))
    if not metrics:
        return {}
    by = criterion((Objective("val_accuracy"),), next(iter(tested.values())))
    kept = max(tested, key=lambda seed: by.key(tested[seed]) if by else 0.0)
    _keep(winner, metrics, {str(seed): found for seed, found in tested.items()}, run_dir, evaluator)
    data = evaluator.context.data
    if kept in networks and data is not None:
        _keep_network(networks[kept].cpu(), data.task, run_dir / FOLDER, note)
    return metrics


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric, and the standard deviation of the accuracies if there are several."""
    metrics: dict[str, float] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        metrics[name] = fmean(values)
        if len(values) > 1 and name.endswith("accuracy"):
            metrics[f"{name}_std"] = stdev(values)
    return metrics


def _keep(
    winner: Trial,
    metrics: Mapping[str, float],
    seeds: Mapping[str, Mapping[str, float]],
    run_dir: Path,
    evaluator: Evaluator,
) -> None:
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    described: dict[str, object] = {
        **winner.architecture.to_json(),
        "trial": winner.number,
        "metrics": dict(metrics),
        "seeds": seeds,
    }
    data = evaluator.context.data
    if data is not None:
        described |= {"task": vars(data.task), "classes": data.classes}
    files.write(folder / "architecture.json", json.dumps(described, indent=2).encode())


def _keep_network(
    network: nn.Module, task: Task, folder: Path, note: Callable[[str], None]
) -> None:
    network.eval()
    (folder / "network.pt2").unlink(missing_ok=True)  # an earlier winner's
    write_weights(folder / "weights.safetensors", network.state_dict(), {})
    example = torch.zeros(2, *task.input_shape)
    any_batch = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=any_batch)
    # A space builds anybody's code: what cannot be exported was measured and is kept all the same.
    except Exception as error:
        note(
            f"no network.pt2, torch.export refuses the network: {str(error).partition(chr(10))[0]}"
        )
        return
    with warnings.catch_warnings():  # about tensors that share storage; they are saved all the same
        warnings.simplefilter("ignore", UserWarning)
        torch.export.save(program, folder / "network.pt2")
