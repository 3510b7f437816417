"""What evonas does on a GPU, in one go: a JSON line as each part ends, so a cut-off run tells, too.

    python -m benchmarks.gpu --cifar10 cifar10.npz --cifar100 cifar100.npz
    python -m benchmarks.gpu --device cpu --tiny          the same on a CPU, to see that it runs

In this order, within ``--minutes``:

1. ``machine``: the card, its driver, versions.
2. ``tests``: those that only a GPU can pass.
3. ``throughput``: images per second of (a) the bare training step, recorded as a CUDA graph, on one
   fixed batch: the limit; (b) evonas's ``fit`` with shifts and flips; (c) torchvision's transforms,
   a DataLoader with a worker per core and the eager step. In turns (a), (b), (a), (b), then (c);
   (b) is what its epochs but the first take, validation included.
4. ``workers``: (b) of the smallest network, summed over 1, 2, 4, 8, 16 processes on the GPU,
   without and with NVIDIA's MPS.
5. ``latency``: medians and quartiles, batches of 1 and 128, beside FLOPs.
6. ``fast``: the recipe cifar10_fast: seconds of training and test accuracy.
7. ``main``: the recipe cifar100_evo for the time that is left, with its final training.

Without ``--cifar10`` and ``--cifar100`` the images are noise, and parts 6 and 7 are left out,
unless ``--tiny``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import evonas
from benchmarks.throughput import MEAN, STD, TASK, Pictures, images_of, mbconv, plain
from evonas.executors.parts.gpus import Service
from evonas.spaces.cifar_resnet import CIFARResNet
from evonas.training.data import Split
from evonas.training.graphs import Replayed, recorder
from evonas.training.latency import timings
from evonas.training.loop import Normalize, Settings, autocast, fit, parameter_groups

SETTINGS = Settings(3, 512, "sgd", 0.05, 5e-4, 0.1, "standard")
BATCHES, WORKERS = (512, 1024), (1, 2, 4, 8, 16)
TURNS = 3
# By name: others of the tests import what a machine for measuring need not have.
GPU_TESTS = ("tests/training/test_gpu.py",)
LOADED = 40  # batches of the DataLoader that are timed, after as many that are not


def resnet20() -> nn.Module:
    """ResNet-20 of CIFAR: 269,722 parameters with ten classes."""
    space = CIFARResNet()
    return space.build(space.point("resnet20"), TASK)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "plain_cnn/small": plain,
    "mbconv/model4": mbconv,
    "cifar_resnet/resnet20": resnet20,
}


def told(part: str, **content: Any) -> None:
    """Print a line."""
    print(json.dumps({"part": part, **content}), flush=True)


class Clock:
    """The time that is left of some minutes."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def minutes(self) -> float:
        """That are left."""
        return (self._end - time.monotonic()) / 60


def machine(device: torch.device) -> None:
    """1. What it is measured on."""
    card = driver = None
    if device.type == "cuda":
        card = torch.cuda.get_device_name(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    told(
        "machine",
        device=card or platform.processor() or platform.machine(),
        driver=driver,
        cuda=torch.version.cuda,
        torch=torch.__version__,
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        date=time.strftime("%Y-%m-%d"),
    )


def tests() -> None:
    """2. Those that need a GPU."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *GPU_TESTS],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    told("tests", rc=run.returncode, summary=lines[-1:], failed=failed, errors=run.stderr[-500:])


class Contest:
    """Ways to train one network, with batches of one size.

    Args:
        make: The network.
        split: Images on the CPU.
        device: Where to train.
        batch_size: Images a step.
    """

    def __init__(
        self, make: Callable[[], nn.Module], split: Split, device: torch.device, batch_size: int
    ) -> None:
        self._make, self._split, self._device = make, split, device
        self._resident = split.to(str(device))
        self._normalize = Normalize(torch.tensor(MEAN), torch.tensor(STD)).to(device)
        self._batch_size, self._steps = batch_size, len(split) // batch_size

    def limit(self) -> float:
        """(a) Images per second."""
        network = self._network().to(memory_format=torch.channels_last)
        images = self._normalize(self._resident.images[: self._batch_size].permute(0, 3, 1, 2))
        labels = self._resident.labels[: self._batch_size]
        bare = self._step(network)
        record = recorder(self._device)
        step = Replayed(bare, record) if record else bare
        for _ in range(5):
            step(images, labels)
        self._wait()
        start = time.perf_counter()
        for _ in range(self._steps):
            step(images, labels)
        self._wait()
        return self._steps * self._batch_size / (time.perf_counter() - start)

    def ours(self) -> float:
        """(b) Images per second."""
        times = epochs(self._network(), self._resident, self._normalize, self._batch_size)
        return self._steps * self._batch_size / median(times)

    def usual(self) -> float:
        """(c) Images per second."""
        pictures = Pictures(self._split.images.numpy(), self._split.labels.numpy())
        loader = torch.utils.data.DataLoader(
            pictures,
            self._batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=len(os.sched_getaffinity(0)),
            pin_memory=self._device.type == "cuda",
        )
        step, start, count = self._step(self._network()), 0.0, 0
        timed = min(LOADED, self._steps // 2)
        for number, (images, labels) in enumerate(loader):
            if number == timed:
                self._wait()
                start = time.perf_counter()
            step(images.to(self._device), labels.to(self._device))
            count += number >= timed
            if count == timed:
                break
        self._wait()
        return count * self._batch_size / (time.perf_counter() - start)

    def _step(self, network: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], tuple[()]]:
        groups = parameter_groups(network, SETTINGS)
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True, fused=True)
        precision, _ = autocast(self._device)

        def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[()]:
            optimizer.zero_grad(set_to_none=True)
            with precision():
                loss = F.cross_entropy(network(images), labels, label_smoothing=0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return ()

        return step

    def _network(self) -> nn.Module:
        torch.manual_seed(0)
        return self._make().to(self._device).train()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def epochs(
    network: nn.Module, train: Split, normalize: Normalize, batch_size: int, count: int = 3
) -> list[float]:
    """Seconds of each epoch of ``fit`` but the first, in which a step is recorded."""
    ends: list[float] = []
    val = Split(train.images[:batch_size], train.labels[:batch_size])
    settings = replace(SETTINGS, epochs=count, batch_size=batch_size)
    fit(network, train, val, normalize, settings, 0, lambda *_: ends.append(time.perf_counter()))
    return [end - begin for begin, end in pairwise(ends)]


def throughput(split: Split, device: torch.device, clock: Clock, least: float) -> None:
    """3. While there are more minutes left than ``least``."""
    for batch_size in BATCHES:
        for name, make in NETWORKS.items():
            if clock.minutes < least:
                return
            contest = Contest(make, split, device, min(batch_size, len(split) // 2))
            turns = [(contest.limit(), contest.ours()) for _ in range(TURNS)]
            limit, ours = (median(side) for side in zip(*turns, strict=True))
            usual = contest.usual()
            told(
                "throughput",
                network=name,
                batch=batch_size,
                limit=round(limit),
                evonas=round(ours),
                dataloader=round(usual),
                of_limit=round(median(b / a for a, b in turns), 3),
                over_dataloader=round(ours / usual, 2),
            )


def _work(device: str, split: Split, count: int, barrier: Any, results: Any) -> None:
    """Train in a process of its own; tell how many images a second it had."""
    torch.set_num_threads(1)
    resident = split.to(device)
    normalize = Normalize(torch.tensor(MEAN), torch.tensor(STD)).to(torch.device(device))
    batch_size = min(512, len(split) // 2)
    epochs(plain().to(device), resident, normalize, batch_size, 1)  # warm
    barrier.wait()
    start = time.perf_counter()
    epochs(plain().to(device), resident, normalize, batch_size, count)
    seconds = time.perf_counter() - start
    results.put(count * (len(split) // batch_size * batch_size) / seconds)


def workers(split: Split, device: torch.device, clock: Clock, least: float, most: int) -> None:
    """4. A recording in each training counts in."""
    for served in (False, True):
        with service(served and device.type == "cuda") as serves:
            if served and not serves:
                return
            sums: dict[int, int] = {}
            for number in (n for n in WORKERS if n <= most):
                if clock.minutes < least:
                    break
                context = multiprocessing.get_context("spawn")
                barrier, results = context.Barrier(number), context.Queue()
                work = (str(device), split, 10, barrier, results)
                processes = [context.Process(target=_work, args=work) for _ in range(number)]
                for process in processes:
                    process.start()
                try:
                    sums[number] = round(sum(results.get(timeout=120) for _ in processes))
                finally:
                    for process in processes:
                        process.join(10)
                        process.kill()
            told("workers", mps=serves, images_per_second=sums)


@contextmanager
def service(wanted: bool) -> Iterator[bool]:
    """NVIDIA's MPS meanwhile, for the processes that are started now; says whether it is there."""
    mps = Service()
    serves = wanted and mps.start()
    before = dict(os.environ)
    os.environ.update(mps.env)
    try:
        yield serves
    finally:
        os.environ.clear()
        os.environ.update(before)
        mps.close()


def latencies(device: torch.device) -> None:
    """5. Of networks by rising FLOPs."""
    for batch_size in (1, 128):
        rows = {}
        for name, make in NETWORKS.items():
            times = timings(make(), TASK, str(device), batch_size)
            rows[name] = [round(t, 4) for t in quantiles(times, method="inclusive")]
        told("latency", batch=batch_size, milliseconds_quartiles=rows)


def recipe(part: str, name: str, folder: Path, overrides: Mapping[str, Any]) -> None:
    """6 and 7. A recipe: how long it took, and what came out."""
    start = time.perf_counter()
    run = evonas.run(f"recipes/{name}.yaml", overrides, run_dir=folder / name)
    report = run.report()
    incumbent = report.incumbent
    told(
        part,
        recipe=name,
        seconds=round(time.perf_counter() - start, 1),
        trials=report.trials,
        choices=dict(incumbent.architecture.choices) if incumbent else None,
        params=incumbent.metrics.get("params") if incumbent else None,
        final={key: round(value, 4) for key, value in report.final.items()},
    )


def tiny(folder: Path) -> Path:
    """Images to be told apart by their colours, as a data set of the size of a thumb."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 200), ("test", 40)):
        labels = np.arange(count) % 4
        images = rng.integers(0, 120, (count, 32, 32, 3), dtype=np.uint8)
        images += (40 * np.arange(4, dtype=np.uint8))[labels][:, None, None, None]
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / "tiny.npz", **arrays)
    return folder / "tiny.npz"


@click.command()
@click.option("--cifar10", type=click.Path(path_type=Path, exists=True), help="An .npz file.")
@click.option("--cifar100", type=click.Path(path_type=Path, exists=True), help="An .npz file.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--minutes", default=11.0, show_default=True, help="In all.")
@click.option("--tiny", "small", is_flag=True, help="A few hundred images, a few seconds each.")
def main(
    cifar10: Path | None, cifar100: Path | None, device: str, minutes: float, small: bool
) -> None:
    """Measure and print."""
    clock, place = Clock(minutes), torch.device(device)
    with tempfile.TemporaryDirectory(prefix="evonas-gpu-") as name:
        folder = Path(name)
        ten = hundred = tiny(folder) if small else None
        ten, hundred = ten or cifar10, hundred or cifar100
        split = images_of(None if small else cifar10, 256 if small else 50_000)
        machine(place)
        tests()
        # The main job is what counts: it gets no less than half of the time.
        throughput(split, place, clock, 0.65 * minutes)
        workers(split, place, clock, 0.55 * minutes, 2 if small else 16)
        latencies(place)
        common = {"dataset.name": "npz", "executor.device": device, "tracking.name": "console"}
        if ten:
            few = {"evaluation.final_epochs": 1, "evaluation.batch_size": 32} if small else {}
            recipe("fast", "cifar10_fast", folder, {**common, "dataset.path": str(ten), **few})
        if hundred:
            few = {"budget.trials": 2, "evaluation.final_epochs": 1} if small else {}
            time_left = {"budget.minutes": max(0.2, clock.minutes - 0.5)}
            sets = {**common, "dataset.path": str(hundred), **time_left, **few}
            recipe("main", "cifar100_evo", folder, sets)


if __name__ == "__main__":
    main()
