"""The run's winner, trained for good and kept: what a user takes away."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evonas import history
from evonas.errors import StorageError
from evonas.evaluators.base import Evaluator, Final
from evonas.trial import Trial

if TYPE_CHECKING:
    from torch import nn

    from evonas.task import Task

FINAL = "final.json"
FOLDER = "incumbent"


def conclude(
    evaluator: Evaluator, trial: Trial, run_dir: Path, note: Callable[[str], None]
) -> dict[str, float]:
    """Measure the winner for good, once: what ``final.json`` says of this trial is kept.

    Writes ``final.json`` and, if there is a network, ``incumbent/`` with ``architecture.json``,
    ``weights.safetensors`` and ``network.pt2``, a torch.export program that needs torch alone. The
    network takes images in 0…255: ``0.`` among the weights' names is its normalisation.

    Returns:
        The final metrics, the test split's among them; empty if the evaluator has none to add.
    """
    if (metrics := stored(run_dir, trial.number)) is not None:
        return metrics
    note(f"the search is over; measuring trial {trial.number} for good")

    def report(step: int, metrics: Mapping[str, float]) -> None:
        note(f"  step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))

    final = evaluator.finish(trial, report)
    if final is None:
        return {}
    try:
        _keep(final, trial, run_dir, evaluator, note)
        record = {"trial": trial.number, "metrics": dict(final.metrics), "curve": final.curve}
        history.write_whole(run_dir / FINAL, json.dumps(record, default=dict))
    except OSError as error:
        raise StorageError(f"{run_dir}: {error.strerror}; evonas resume does it again") from error
    return dict(final.metrics)


def stored(run_dir: Path, trial: int) -> dict[str, float] | None:
    """Final metrics of an earlier session, if it measured this trial."""
    path = run_dir / FINAL
    record = json.loads(path.read_text()) if path.exists() else {}
    return dict(record["metrics"]) if record.get("trial") == trial else None


def _keep(
    final: Final, trial: Trial, run_dir: Path, evaluator: Evaluator, note: Callable[[str], None]
) -> None:
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    described: dict[str, object] = {
        **trial.architecture.to_json(),
        "trial": trial.number,
        "metrics": dict(final.metrics),
    }
    data = evaluator.context.data
    if data is not None:
        described |= {"task": vars(data.task), "classes": data.classes}
    history.write_whole(folder / "architecture.json", json.dumps(described, indent=2))
    if final.network is not None and data is not None:
        _keep_network(final.network, data.task, folder, note)


def _keep_network(
    network: nn.Module, task: Task, folder: Path, note: Callable[[str], None]
) -> None:
    import torch
    from safetensors.torch import save_file

    network.eval()
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    state = {
        name: t.clone(memory_format=torch.contiguous_format)
        for name, t in network.state_dict().items()
    }
    save_file(state, folder / "weights.safetensors")
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
