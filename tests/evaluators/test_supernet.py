"""The supernet evaluator: trained once, whoever asks first; killed, damaged and resumed."""

from __future__ import annotations

import fcntl
import itertools
import shutil
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import evaluators_helper as helper
import pytest
import torch
from torch import nn

from evonas.architecture import Architecture, Categorical
from evonas.errors import RecipeError
from evonas.evaluators.parts.one_shot import Shared
from evonas.evaluators.supernet import SinglePathOneShot
from evonas.evaluators.train import Train
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.plain_cnn import PlainCNN
from evonas.testing import check_evaluator
from evonas.training.checkpoints import read_weights, write_weights
from evonas.trial import Limit, Proposal, Trial

SPACE = PlainCNN(2, 8)
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 20, "calibration_batches": 2}


def make(run_dir: Path | None = None, **changes: Any) -> SinglePathOneShot:
    """A supernet of small plain networks; ``changes`` of the context, or else options."""
    of_context = {
        name: changes.pop(name) for name in ("space", "seed", "data", "weights") if name in changes
    }
    world = helper.context(**{"space": SPACE, **of_context}, run_dir=run_dir)
    return SinglePathOneShot(world, lambda c: Train(c, epochs=1), **{**OPTIONS, **changes})


def trial(seed: int = 0, number: int = 0) -> Trial:
    return Trial(number, Proposal(SPACE.sample(Random(seed))))


def scores(evaluator: SinglePathOneShot) -> list[Mapping[str, float]]:
    return [helper.evaluate(evaluator, trial(seed))[0] for seed in range(4)]


def checkpoint(run_dir: Path) -> Path:
    return run_dir / "weights" / "supernet.safetensors"


class NoSupernet(SearchSpace):
    """One network, and no supernet."""

    def __init__(self) -> None:
        self.domains = {"one": Categorical((1,))}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(task.classes))


class Killed(BaseException):
    """Stands for a signal that ends the process between two steps."""


def killed_after(
    evaluator: SinglePathOneShot, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let it train the supernet for some epochs and a step of the next."""
    draws = 0
    steps = len(helper.data().train) // 20
    sample = SPACE.sample

    def sample_or_die(rng: Random) -> Any:
        nonlocal draws
        draws += 1
        if draws > 16 + epochs * steps + 1:  # the digest takes sixteen
            raise Killed
        return sample(rng)

    with monkeypatch.context() as patch:
        patch.setattr(SPACE, "sample", sample_or_die)
        with pytest.raises(Killed):
            helper.evaluate(evaluator, trial())


def test_it_keeps_the_contract() -> None:
    of = partial(Train, epochs=1)
    assert check_evaluator(partial(SinglePathOneShot, of=of, **OPTIONS), SPACE) == []


def test_metrics_are_those_of_the_architecture() -> None:
    evaluator = make()
    helper.evaluate(evaluator, trial(9))
    for seed in range(4):
        metrics, curve = helper.evaluate(evaluator, trial(seed))
        assert set(metrics) == set(evaluator.metrics)
        counted = SPACE.costs(trial(seed).architecture, helper.data().task)
        assert {name: metrics[name] for name in counted} == counted
        assert curve == []


def test_the_trial_that_has_it_trained_reports_every_epoch(tmp_path: Path) -> None:
    _, curve = helper.evaluate(make(tmp_path), trial())
    assert [step for step, _ in curve] == [1, 2, 3]
    assert all(metrics.keys() == {"shared_loss"} for _, metrics in curve)
    assert helper.evaluate(make(tmp_path), trial())[1] == [], "it was loaded"


def test_what_was_reported_is_kept(tmp_path: Path) -> None:
    """A report may end the trial, as a pipe that closes does."""

    def die(step: int, metrics: Mapping[str, float]) -> None:
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        make(tmp_path).evaluate(trial(), die)
    metrics, curve = helper.evaluate(make(tmp_path), trial())
    assert [step for step, _ in curve] == [3]
    assert metrics == helper.evaluate(make(), trial())[0]


def test_paths_are_within_the_limits() -> None:
    task = helper.data().task
    limited = SPACE.limited({"params": Limit(max=2000)}, task)
    evaluator = make(space=limited)
    paths = [evaluator._path(f"0/{step}") for step in range(20)]
    assert all(SPACE.costs(path, task)["params"] <= 2000 for path in paths)
    assert len({path.id for path in paths}) > 10
    assert any(SPACE.costs(SPACE.sample(Random(n)), task)["params"] > 2000 for n in range(20))


def test_it_learns_what_can_be_learnt() -> None:
    """A third is chance; the data are learnable, the networks tiny."""
    accuracies = [s["val_accuracy"] for s in scores(make(epochs=20, data=helper.data(300)))]
    assert min(accuracies) > 0.6


def test_a_score_depends_on_supernet_and_architecture_alone() -> None:
    one, other = make(), make()
    first = scores(one)
    torch.manual_seed(5)
    assert [helper.evaluate(other, trial(s, number=9))[0] for s in (3, 2, 1, 0)] == first[::-1]
    assert scores(one) == first
    state = torch.random.get_rng_state()
    helper.evaluate(make(), trial())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_seed_is_another_supernet() -> None:
    one, other = (make(seed=seed)._trained.state_dict() for seed in (0, 1))
    assert not any(torch.equal(one[name], other[name]) for name in one if one[name].ndim > 1)


def test_it_is_trained_once_for_all_who_share_a_run_folder(tmp_path: Path) -> None:
    first = scores(make(tmp_path))
    before = checkpoint(tmp_path).stat()
    assert scores(make(tmp_path)) == first == scores(make())
    assert checkpoint(tmp_path).stat().st_mtime_ns == before.st_mtime_ns


def test_while_one_trains_the_others_wait_and_then_load(tmp_path: Path) -> None:
    """The test holds the lock, as a process would that is training, and then puts its result."""
    expected = scores(make(tmp_path / "done"))
    path = checkpoint(tmp_path / "waiting")
    path.parent.mkdir(parents=True)
    results: list[list[Mapping[str, float]]] = []
    waiting = threading.Thread(target=lambda: results.append(scores(make(tmp_path / "waiting"))))
    with path.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        shutil.copy(checkpoint(tmp_path / "done"), path)
        copied = path.stat().st_ino
    waiting.join()
    assert results == [expected]
    assert path.stat().st_ino == copied  # a second training would have replaced the file


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_training_that_was_cut_off_goes_on(
    epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(make(tmp_path), epochs, monkeypatch)
    if epochs:
        assert read_weights(checkpoint(tmp_path))[1]["epochs"] == str(epochs)
    resumed, trained = make(tmp_path), []
    train_epoch = resumed._train_epoch

    def recorded(training: Shared, epoch: int) -> float:
        trained.append(epoch)
        return train_epoch(training, epoch)

    monkeypatch.setattr(resumed, "_train_epoch", recorded)
    assert scores(resumed) == scores(make())
    assert trained == list(range(epochs, 3))
    weights = make()._trained.state_dict()
    assert all(torch.equal(weights[n], t) for n, t in resumed._trained.state_dict().items())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "no_metadata"])
def test_a_damaged_checkpoint_is_said_and_trained_anew(damage: str, tmp_path: Path) -> None:
    expected = scores(make(tmp_path))
    path = checkpoint(tmp_path)
    good = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(good[:-20])
        case "flipped":
            path.write_bytes(good[:-20] + bytes([good[-20] ^ 1]) + good[-19:])
        case "empty":
            path.write_bytes(b"")
        case "foreign":
            path.write_bytes(b"not of this kind" * 100)
        case "no_metadata":
            write_weights(path, read_weights(path)[0], {})
    with pytest.warns(RuntimeWarning, match="training the supernet anew"):
        assert scores(make(tmp_path)) == expected
    assert read_weights(path)[1]["epochs"] == "3"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"epochs": 2},
        {"learning_rate": 0.05},
        {"augmentation": "none"},
        {"space": PlainCNN(2, 12)},
        {"data": helper.data(100)},
        {"data": helper.data().subset(0.5, 0)},
    ],
    ids=lambda changes: "".join(changes),
)
def test_a_supernet_of_other_settings_is_not_taken(changes: dict[str, Any], tmp_path: Path) -> None:
    scores(make(tmp_path))
    with pytest.warns(RuntimeWarning, match="other settings"):
        scores(make(tmp_path, **changes))


def test_every_augmentation_augments(tmp_path: Path) -> None:
    trained = []
    for name in ("none", "crop", "standard", "v1", "v2"):
        scores(make(tmp_path / name, augmentation=name))
        tensors, _ = read_weights(tmp_path / name / "weights" / "supernet.safetensors")
        trained.append(torch.cat([tensor.flatten() for tensor in tensors.values()]))
    for one, other in itertools.combinations(trained, 2):
        assert not torch.equal(one, other)


def test_calibration_and_the_inner_evaluator_change_no_supernet(tmp_path: Path) -> None:
    scores(make(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores(make(tmp_path, calibration_batches=1))


def test_the_winner_is_trained_from_scratch_by_the_inner_evaluator(tmp_path: Path) -> None:
    evaluator = make(weights=helper.kept(tmp_path))
    winner = helper.final(space=SPACE)
    alone = Train(helper.context(SPACE), epochs=1)
    assert helper.evaluate(evaluator, winner) == helper.evaluate(alone, winner)
    assert "_supernet" not in vars(evaluator)  # it takes none of its weights
    assert "test_accuracy" in evaluator.test(winner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"evaluation\.epochs: .*not 0"),
        ({"batch_size": 0}, r"evaluation\.batch_size: .*not 0"),
        ({"calibration_batches": 0}, r"evaluation\.calibration_batches: .*not 0"),
        ({"learning_rate": 0.0}, r"evaluation\.learning_rate: .*not 0"),
        ({"weight_decay": 1.0}, r"evaluation\.weight_decay: .*not 1"),
        ({"data": None}, "needs a dataset"),
        ({"space": NoSupernet()}, r"evaluation\.name: .*offers no supernet"),
    ],
)
def test_mistakes_are_refused_before_any_training(options: dict[str, Any], message: str) -> None:
    world = {name: options[name] for name in options if name in ("data", "space")}
    rest = {name: value for name, value in options.items() if name not in world}
    with pytest.raises(RecipeError, match=message):
        helper.make(
            SinglePathOneShot, helper.context(**{"space": SPACE, **world}), helper.Untrained, **rest
        )
