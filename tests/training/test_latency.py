"""Latency: a median of warm runs, timed as the device needs it."""

from __future__ import annotations

import time
from random import Random
from statistics import median

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.latency import between, timings

TASK = Task(channels=3, height=8, width=8, classes=4)


class Slow(nn.Module):
    """Takes its time, the first runs longest; remembers what it was given."""

    def __init__(self, *seconds: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.seconds, self.calls = seconds, 0
        self.seen: list[tuple[tuple[int, ...], bool, bool, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds[min(self.calls, len(self.seconds) - 1)])
        self.calls += 1
        last = images.is_contiguous(memory_format=torch.channels_last)
        self.seen.append(
            (tuple(images.shape), last, self.training, torch.is_inference_mode_enabled())
        )
        return self.bias


def test_it_is_the_median_of_the_warm_runs() -> None:
    network = Slow(0.2, 0.2, 0.01, 0.3, 0.01, 0.01, 0.01)
    milliseconds = median(timings(network, TASK, "cpu", batch_size=3, runs=5, warmup=2))
    assert 10 <= milliseconds < 150
    assert network.calls == 7
    assert set(network.seen) == {((3, 3, 8, 8), True, False, True)}
    assert network.training, "as before"


def test_it_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    timings(Slow(0.0), TASK, "cpu", runs=1, warmup=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("space", [PlainCNN(1, 8), MBConv(1, 8), NASBench201(4, 1)])
def test_networks_of_real_spaces_are_measured(space: SearchSpace) -> None:
    network = space.build(space.sample(Random(0)), TASK)
    assert median(timings(network, TASK, "cpu", runs=3, warmup=1)) > 0


class Device:
    """A device with a clock of its own: work is queued, and takes no time of the caller's."""

    def __init__(self) -> None:
        self.now, self.waited = 0.0, 0

    def work(self, milliseconds: float) -> None:
        self.now += milliseconds


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.at = device, -1.0

    def record(self) -> None:
        self.at = self.device.now

    def synchronize(self) -> None:
        self.device.waited += 1

    def elapsed_time(self, end: Event) -> float:
        assert self.device.waited == 1, "an event that was not waited for has no time yet"
        return end.at - self.at


def test_a_gpu_notes_the_times_itself_and_is_waited_for_once() -> None:
    device, lengths = Device(), iter([5.0, 7.0, 6.0])
    device.work(100.0)  # the warm-up
    events = [Event(device) for _ in range(4)]
    times = between(events, lambda: device.work(next(lengths)))  # type: ignore[arg-type]
    assert times == [5.0, 7.0, 6.0]
    assert device.waited == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_on_a_gpu_cuda_is_asked_for_its_events(device: str) -> None:
    """On images without data, which need no GPU; events do."""
    seen: list[torch.device] = []

    class Remembers(nn.Module):
        def forward(self, images: torch.Tensor) -> None:
            seen.append(images.device)

    with (
        FakeTensorMode(),
        pytest.raises((RuntimeError, AssertionError), match=r"(?i)cuda|nvidia|device"),
    ):
        timings(Remembers(), TASK, device, warmup=3)
    index = int(device.partition(":")[2] or 0)
    assert seen == [torch.device("cuda", index)] * 3, "warm, but never timed by the clock"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    space = PlainCNN(1, 8)
    network = space.build(space.sample(Random(0)), TASK)
    assert 0 < median(timings(network, TASK, "cuda")) < 1000
