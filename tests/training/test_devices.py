import pytest
import torch

from evonas.errors import PluginError, RecipeError
from evonas.training.devices import Placement, available, choose, cores, fault, placements

GPUS = ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("auto", GPUS, GPUS),
        ("auto", ("cpu",), ("cpu",)),
        ("cpu", GPUS, ("cpu",)),
        ("cuda", GPUS, GPUS),
        ("cuda:1", GPUS, ("cuda:1",)),
    ],
)
def test_choose(wanted, there, chosen):
    assert choose(wanted, there) == chosen


@pytest.mark.parametrize(("wanted", "there"), [("cuda", ("cpu",)), ("cuda:2", GPUS)])
def test_a_gpu_that_is_not_there_is_an_error_of_the_environment(wanted, there):
    with pytest.raises(PluginError, match=f"'{wanted}' is wanted") as caught:
        choose(wanted, there)
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:x", "cuda1", ""])
def test_a_device_that_cannot_be_is_an_error_of_the_recipe(wanted):
    with pytest.raises(RecipeError, match="not one of auto"):
        choose(wanted, GPUS)


def test_one_worker_per_gpu_which_sees_only_that():
    assert placements(GPUS, None, 1, cores=8, visible=None) == (
        Placement("cuda", {"CUDA_VISIBLE_DEVICES": "0"}, threads=4),
        Placement("cuda", {"CUDA_VISIBLE_DEVICES": "1"}, threads=4),
    )


def gpus(*args, **kwargs):
    return [p.env["CUDA_VISIBLE_DEVICES"] for p in placements(*args, **kwargs)]


def test_workers_are_dealt_round_robin():
    assert gpus(GPUS, None, 2, cores=8, visible=None) == ["0", "1", "0", "1"]
    assert gpus(GPUS, 3, 1, cores=8, visible=None) == ["0", "1", "0"]
    assert gpus(GPUS, 1, 2, cores=8, visible=None) == ["0"]


def test_gpus_are_named_as_the_machine_names_them():
    assert gpus(GPUS, None, 1, cores=8, visible="4,5") == ["4", "5"]
    assert gpus(("cuda:1",), None, 1, cores=8, visible="4, 5") == ["5"]
    assert gpus(("cuda",), None, 1, cores=8, visible="GPU-8a") == ["GPU-8a"]


@pytest.mark.parametrize("visible", ["4", "4,"])
def test_a_gpu_outside_the_visible_ones_is_refused(visible):
    with pytest.raises(PluginError, match="'cuda:1' is not among"):
        placements(GPUS, None, 1, cores=8, visible=visible)


@pytest.mark.parametrize(
    ("cores", "workers", "placed", "threads"),
    [
        (1, None, 1, None),
        (4, None, 4, 1),
        (32, None, 8, 4),
        (4, 1, 1, None),
        (4, 3, 3, 1),
        (2, 5, 5, 1),
    ],
)
def test_the_cpu_has_a_worker_per_core_and_they_share_the_cores(cores, workers, placed, threads):
    expected = Placement("cpu", {"CUDA_VISIBLE_DEVICES": ""}, threads)
    assert placements(("cpu",), workers, 1, cores, visible="4,5") == (expected,) * placed


def test_the_default_fits_this_machine():
    assert cores() >= 1
    assert choose("auto", available()) == available()


def test_a_device_that_is_full_works_and_one_that_is_not_there_does_not(monkeypatch):
    assert fault("cpu") == ""
    if not torch.cuda.is_available():
        assert "cuda" in fault("cuda:7").lower() or "nvidia" in fault("cuda:7").lower()

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(torch, "ones", full)
    assert fault("cuda") == ""
