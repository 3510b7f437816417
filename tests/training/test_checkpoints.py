"""Weights on the disk: what comes back is what was written, or nothing with a warning."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import a_disk_of
from torch import nn

from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.checkpoints import (
    BadWeights,
    Checkpoint,
    Checkpoints,
    Continued,
    read_weights,
    write_weights,
)
from evonas.trial import Proposal, Trial

SPACE = PlainCNN(1, 8)
Tensors = Mapping[str, torch.Tensor]


def trial(
    number: int = 3, fidelity: float = 1.0, resume_from: int | None = None, seed: int = 0
) -> Trial:
    architecture = SPACE.sample(Random(seed))
    return Trial(number, Proposal(architecture, fidelity, resume_from=resume_from))


def network(seed: int = 0) -> nn.Module:
    """A convolution, its normalisation with a counter, and an empty buffer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    made.register_buffer("nothing", torch.empty(0, 3))
    return made


def same(found: Tensors, wanted: Tensors) -> bool:
    return found.keys() == wanted.keys() and all(
        found[n].dtype == wanted[n].dtype
        and found[n].shape == wanted[n].shape
        and torch.equal(found[n], wanted[n])
        for n in wanted
    )


# One file.


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(5).to(torch.bfloat16),
        torch.randn(5).to(torch.float16),
        torch.tensor(7),
        torch.tensor(1.5, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.empty(0),
        torch.empty(3, 0, 2, dtype=torch.int64),
        torch.tensor([float("nan"), float("inf"), -0.0]),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(6, 4).T,
        torch.randn(10)[::3],
        torch.ones(()).expand(4, 4),
        nn.Parameter(torch.randn(2, 2)),
    ],
    ids=lambda t: f"{str(t.dtype).removeprefix('torch.')}{tuple(t.shape)}",
)
def test_every_tensor_comes_back_to_the_bit(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = tmp_path / "some.safetensors"
    write_weights(path, {"t": tensor}, {"what": "ein Gewicht, schön"})
    found, about = read_weights(path)
    assert about == {"what": "ein Gewicht, schön"}
    assert (found["t"].dtype, found["t"].shape) == (tensor.dtype, tensor.shape)
    whole = tensor.detach().contiguous().reshape(-1)
    assert torch.equal(found["t"].reshape(-1).view(torch.uint8), whole.view(torch.uint8))
    assert found["t"].is_contiguous()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    write_weights(tmp_path / "none.safetensors", {}, {})
    assert read_weights(tmp_path / "none.safetensors") == ({}, {})


def test_tied_weights_come_back_under_both_names(tmp_path: Path) -> None:
    weight = torch.randn(3, 3)
    write_weights(tmp_path / "t.safetensors", {"a": weight, "b": weight, "c": weight[:2]}, {})
    found, _ = read_weights(tmp_path / "t.safetensors")
    assert same(found, {"a": weight, "b": weight, "c": weight[:2]})


def test_what_is_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_weights(path, {"a": torch.ones(1000)}, {})
    found, _ = read_weights(path)
    write_weights(path, {"a": torch.zeros(1000)}, {})
    path.unlink()
    found["a"] += 1
    assert found["a"].sum() == 2000


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    old, new = {"a": torch.ones(1000)}, {"a": torch.zeros(9000)}
    write_weights(path, old, {})
    with a_disk_of(20_000), pytest.raises(OSError, match="File too large"):
        write_weights(path, new, {})
    assert same(read_weights(path)[0], old)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no draft is left"


# Damage. Whatever happens to a file, `load` gives what was saved, or None with a warning.


def kept(folder: Path, numbers: int = 1) -> tuple[Checkpoints, Path]:
    checkpoints = Checkpoints(folder, 1.0)
    for number in range(3, 3 + numbers):
        checkpoints.save(trial(number, seed=number), network(number), 7 + number)
    return checkpoints, folder / "trial_3.safetensors"


def loaded(checkpoints: Checkpoints, number: int = 3) -> Checkpoint | None:
    """What is loaded; None exactly if there was one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.load(number, trial(seed=3).architecture.id)
    assert [w.category for w in caught] == ([] if found else [RuntimeWarning])
    assert all("training from scratch" in str(w.message) for w in caught)
    return found


def test_weights_and_epochs_come_back(tmp_path: Path) -> None:
    checkpoints, _ = kept(tmp_path / "not" / "yet")
    found = loaded(checkpoints)
    assert found is not None
    assert found.epochs == 10
    assert same(found.weights, network(3).state_dict())


def test_the_later_save_counts(tmp_path: Path) -> None:
    checkpoints, _ = kept(tmp_path)
    checkpoints.save(trial(seed=3), network(9), 1)
    found = loaded(checkpoints)
    assert found is not None
    assert found.epochs == 1
    assert same(found.weights, network(9).state_dict())


def test_a_file_cut_off_anywhere_is_no_file(tmp_path: Path) -> None:
    checkpoints, path = kept(tmp_path)
    whole, rng = path.read_bytes(), Random(0)
    for cut in [0, 1, 7, 8, 9, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))]:
        path.write_bytes(whole[:cut])
        assert loaded(checkpoints) is None, cut


def test_a_longer_file_is_no_file(tmp_path: Path) -> None:
    checkpoints, path = kept(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert loaded(checkpoints) is None


def test_a_flipped_bit_anywhere_is_noticed_or_says_the_same(tmp_path: Path) -> None:
    checkpoints, path = kept(tmp_path)
    whole, rng = path.read_bytes(), Random(0)
    head = 8 + int.from_bytes(whole[:8], "little")
    wanted, lost = network(3).state_dict(), 0
    places = [*range(head), *(rng.randrange(head, len(whole)) for _ in range(100))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        found = loaded(checkpoints)
        lost += found is None
        # White space in the header may be another one.
        assert found is None or (found.epochs == 10 and same(found.weights, wanted)), place
    assert lost > 0.9 * len(places)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"F32"', b'"I32"'), (b'"epochs":"10"', b'"epochs":"90"'), (b'"epochs"', b'"epocks"')],
    ids=["another dtype", "other epochs", "no epochs"],
)
def test_a_header_that_says_something_else_is_noticed(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    checkpoints, path = kept(tmp_path)
    whole = path.read_bytes()
    assert whole.count(old) >= 1
    path.write_bytes(whole.replace(old, new))
    assert loaded(checkpoints) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"not a file of weights" * 50, b"{}"])
def test_what_is_no_safetensors_file_is_no_file(tmp_path: Path, content: bytes) -> None:
    checkpoints, path = kept(tmp_path)
    path.write_bytes(content)
    assert loaded(checkpoints) is None


def test_a_file_that_evonas_did_not_write_is_no_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    checkpoints, path = kept(tmp_path)
    save_file(dict(network(3).state_dict()), path, {"trial": "3", "epochs": "7"})
    assert loaded(checkpoints) is None


def test_a_missing_file_a_folder_and_another_trials_file_are_no_file(tmp_path: Path) -> None:
    checkpoints, path = kept(tmp_path, 2)
    assert loaded(checkpoints, 99) is None
    path.unlink()
    assert loaded(checkpoints) is None
    path.with_name("trial_4.safetensors").rename(path)
    assert loaded(checkpoints) is None
    path.unlink()
    path.mkdir()
    assert loaded(checkpoints) is None


def test_the_architecture_matters_if_asked_for(tmp_path: Path) -> None:
    checkpoints, _ = kept(tmp_path)
    assert checkpoints.load(3) is not None
    with pytest.warns(RuntimeWarning, match="are those of another architecture"):
        assert checkpoints.load(3, "another") is None


# What is kept.


def sized(folder: Path, sizes: Mapping[int, int], keep_gb: float) -> Checkpoints:
    """Files of about so many kilobytes for trials of these numbers."""
    checkpoints = Checkpoints(folder, keep_gb)
    for number, size in sizes.items():
        checkpoints.save(trial(number), nn.Linear(250 * size, 1, bias=False), 1)
    return checkpoints


def numbers(folder: Path) -> set[int]:
    return {int(path.stem.removeprefix("trial_")) for path in folder.glob("trial_*.safetensors")}


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    checkpoints = sized(tmp_path, dict.fromkeys(range(4), 100), 0.00025)
    assert numbers(tmp_path) == {0, 1, 2, 3}, "nothing goes before a trial begins"
    assert checkpoints.load(0) is not None
    checkpoints.make_room(9)
    assert numbers(tmp_path) == {0, 3}


def test_a_trial_that_is_run_again_finds_what_it_found_the_first_time(tmp_path: Path) -> None:
    checkpoints = sized(tmp_path, dict.fromkeys(range(3), 100), 0.00025)
    checkpoints.make_room(3)
    first = numbers(tmp_path)
    checkpoints.save(trial(3), nn.Linear(25_000, 1, bias=False), 1)  # and then the run is killed
    checkpoints.make_room(3)
    assert numbers(tmp_path) == first == {1, 2}


def test_finals_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1e-9)
    final = replace(trial(2), proposal=replace(trial(2).proposal, stage="final"))
    checkpoints.save(final, network(1), 5)
    checkpoints.save(trial(2), network(2), 6)
    checkpoints.make_room(3)
    assert numbers(tmp_path) == set()
    assert same(checkpoints.read(2, stage="final").weights, network(1).state_dict())


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_allowed_and_what_was_used_last_stays(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    sizes = {number: rng.randrange(1, 60) for number in range(8)}
    limit = rng.randrange(1, 200)
    checkpoints = sized(tmp_path, sizes, limit * 1e3 / 1e9)
    used = list(sizes)
    for number in rng.sample(used, rng.randrange(8)):
        checkpoints.load(number)
        used.remove(number)
        used.append(number)
    bytes_of = {n: (tmp_path / f"trial_{n}.safetensors").stat().st_size for n in sizes}
    checkpoints.make_room(9)
    left = numbers(tmp_path)
    kept = [number for number in used if number in left]
    assert kept == used[len(used) - len(kept) :], "those used last"
    assert sum(bytes_of[n] for n in kept) <= limit * 1e3
    if len(kept) < len(used):
        lost = used[len(used) - len(kept) - 1]
        assert bytes_of[lost] + sum(bytes_of[n] for n in kept) > limit * 1e3


def test_foreign_files_and_an_absent_folder_are_let_alone(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "absent", 1.0).make_room(1)
    assert not (tmp_path / "absent").exists()
    foreign = {"supernet.safetensors", "supernet.lock", "notes.txt", "trial_1.json"}
    for name in foreign:
        (tmp_path / name).write_text("keep me")
    sized(tmp_path, {1: 1}, 1e-9).make_room(2)
    assert {path.name for path in tmp_path.iterdir()} == foreign


def test_a_full_disk_fails_the_save_and_keeps_what_was(tmp_path: Path) -> None:
    checkpoints, _ = kept(tmp_path)
    with a_disk_of(100), pytest.raises(OSError, match="File too large"):
        checkpoints.save(trial(seed=3), network(5), 99)
    found = loaded(checkpoints)
    assert found is not None
    assert found.epochs == 10
    assert len(list(tmp_path.iterdir())) == 1


def test_a_draft_has_the_name_of_its_process(tmp_path: Path) -> None:
    """Two workers that write the same file never write into one draft."""
    (tmp_path / f"trial_3.{os.getpid() + 1}.tmp").write_text("another process is writing")
    checkpoints, _ = kept(tmp_path)
    assert loaded(checkpoints) is not None
    assert len(list(tmp_path.iterdir())) == 2


# A trial that goes on from its lower rung.


def rung(folder: Path, epochs: int = 4) -> tuple[Continued, nn.Module]:
    continued, lower = Continued(Checkpoints(folder, 1.0)), network(1)
    continued.end(lower, trial(5, fidelity=0.25), epochs)
    return continued, lower


def test_a_trial_goes_on_from_its_lower_rung(tmp_path: Path) -> None:
    continued, lower = rung(tmp_path)
    higher = network(2)
    assert continued.start(higher, trial(9, resume_from=5), 12) == 8
    assert same(higher.state_dict(), lower.state_dict())
    assert continued.start(higher, trial(9, resume_from=5), 4) == 1, "one epoch at least"
    assert continued.start(higher, trial(9, resume_from=5), 2) == 1


def test_a_trial_without_a_lower_rung_starts_as_it_is(tmp_path: Path) -> None:
    continued, _ = rung(tmp_path)
    fresh = network(2)
    assert continued.start(fresh, trial(5), 12) == 12
    assert same(fresh.state_dict(), network(2).state_dict())


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: Checkpoints(path.parent, 1.0).save(trial(5, seed=1), network(1), 4),
        lambda path: write_weights(path, network(1).state_dict(), {"trial": "6", "epochs": "4"}),
    ],
    ids=["lost", "torn", "another architecture", "another trial"],
)
def test_a_lost_rung_means_all_epochs(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    continued, _ = rung(tmp_path)
    harm(tmp_path / "trial_5.safetensors")
    fresh = network(2)
    with pytest.warns(RuntimeWarning, match="training from scratch"):
        assert continued.start(fresh, trial(9, resume_from=5), 12) == 12
    assert same(fresh.state_dict(), network(2).state_dict())


def test_full_fidelity_leaves_nothing(tmp_path: Path) -> None:
    continued, lower = rung(tmp_path)
    continued.end(lower, trial(6, fidelity=1.0), 12)
    assert numbers(tmp_path) == {5}


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="is not there"):
        read_weights(tmp_path / "absent.safetensors")
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(BadWeights, match="cannot be read"):
        read_weights(tmp_path / "empty.safetensors")
