"""How long a network's forward pass takes: measured, on the device that it runs on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from evonas.spaces.base import Task


def timings(
    network: nn.Module,
    task: Task,
    device: str,
    batch_size: int = 1,
    runs: int = 30,
    warmup: int = 10,
) -> list[float]:
    """Milliseconds of a batch's forward pass, of each warm run.

    In evaluation mode and float32, channels last, images on the device. What else runs there at
    the time counts in: measure with the serial executor, or with one worker per device, and
    compare figures of one device and one number of threads only.

    Args:
        network: Moved to the device; its training mode is put back.
        task: Shape of the images.
        device: "cpu", timed by the clock, or "cuda", "cuda:1", timed by CUDA's events.
        batch_size: Images in the batch.
        runs: Timed runs.
        warmup: Runs before them.
    """
    place = torch.device(device)
    training = network.training
    network.to(memory_format=torch.channels_last).to(place).eval()
    images = torch.rand(batch_size, *task.input_shape, generator=torch.Generator().manual_seed(0))
    images = images.to(place, memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(warmup):
            network(images)
        if place.type == "cuda":
            with torch.cuda.device(place):  # whose stream the events are noted in
                events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
                times = between(events, lambda: network(images))
        else:
            clock = [time.perf_counter()]
            for _ in range(runs):
                network(images)
                clock.append(time.perf_counter())
            times = [1000 * (end - begin) for begin, end in pairwise(clock)]
    network.train(training)
    return times


def between(events: Sequence[torch.Event], forward: Callable[[], object]) -> list[float]:
    """Milliseconds between events with a call between each: the device is waited for once."""
    events[0].record()
    for event in events[1:]:
        forward()
        event.record()
    events[-1].synchronize()
    return [begin.elapsed_time(end) for begin, end in pairwise(events)]
