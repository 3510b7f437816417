"""How fast the training loop is, beside the arithmetic alone and the loop that most people write.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --cifar10 cifar10.npz

For a plain, an MBConv and a residual network, images per second of

(a) forward, backward and step on one fixed batch that rests on the device: the limit;
(b) evonas's ``fit``, with shifts and flips, all that happens between two epochs included;
(c) a torchvision data set, its transforms on the CPU, and a DataLoader with a worker per core.

They take turns (a), (b), (a), (c); ratios are medians over the turns. (b) is compared with the mean
of the two (a), between which it lies; these two over one another are the control, which shows how
far the ratios can be trusted. The optimizer is the same in all, and the memory format channels_last
in (a) and (b), which is part of what (b) does better than (c).
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import click
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models.resnet import BasicBlock, ResNet

from evonas.spaces.base import Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.data import Split
from evonas.training.loop import Normalize, Settings, fit, parameter_groups

TASK = Task(channels=3, height=32, width=32, classes=10)
BATCH = 128
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # of CIFAR-10, in 0…255
SETTINGS = Settings(1, BATCH, "sgd", 0.05, 5e-4, 0.1, "standard")


def plain() -> nn.Module:
    """``plain_cnn/small``: 6,666 parameters with ten classes."""
    space = PlainCNN()
    return space.build(space.point("small"), TASK)


def mbconv() -> nn.Module:
    """``mbconv/model4``: 41,458 parameters with ten classes."""
    space = MBConv()
    return space.build(space.point("model4"), TASK)


def residual() -> nn.Module:
    """The first half of a ResNet of torchvision's, for small images: 307,000 parameters."""
    network: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.layer3 = network.layer4 = nn.Sequential()
    network.fc = nn.Linear(128, 10)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "mbconv": mbconv,
    "resnet": residual,
}
SMALL = ("plain", "mbconv")


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """What torchvision.datasets.CIFAR10 does: PIL images, a transform for each."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._images, self._labels = images, labels
        mean, std = (tuple(v / 255 for v in values) for values in (MEAN, STD))
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), int(self._labels[index])


class Contest:
    """Three ways to train one network for one epoch."""

    def __init__(self, make: Callable[[], nn.Module], split: Split, device: torch.device) -> None:
        self._make, self._device = make, device
        self._split = split.to(str(device))
        self._normalize = Normalize(torch.tensor(MEAN), torch.tensor(STD)).to(device)
        self._steps = len(split) // BATCH
        pictures = Pictures(split.images.numpy(), split.labels.numpy())
        self._loader = DataLoader(
            pictures,
            BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=len(os.sched_getaffinity(0)),
            pin_memory=device.type == "cuda",
            persistent_workers=True,
        )
        for _ in self._loader:  # the workers start now
            break

    def limit(self) -> float:
        """(a) Seconds."""
        network = self._network().to(memory_format=torch.channels_last)
        optimizer = self._optimizer(network)
        images = self._normalize(self._split.images[:BATCH].permute(0, 3, 1, 2))
        labels = self._split.labels[:BATCH]
        return self._timed(
            lambda: self._epoch(network, optimizer, ((images, labels),) * self._steps)
        )

    def ours(self) -> float:
        """(b) Seconds; one batch of validation images is scored at the end."""
        network = self._network()
        val = Split(self._split.images[:1], self._split.labels[:1])
        return self._timed(
            lambda: fit(
                network, self._split, val, self._normalize, SETTINGS, 0, lambda step, metrics: None
            )
        )

    def usual(self) -> float:
        """(c) Seconds."""
        network = self._network()
        optimizer = self._optimizer(network)
        return self._timed(lambda: self._epoch(network, optimizer, self._loader))

    def _epoch(self, network: nn.Module, optimizer: torch.optim.Optimizer, batches: object) -> None:
        cuda = self._device.type == "cuda"
        for images, labels in batches:  # type: ignore[attr-defined]
            images = images.to(self._device, non_blocking=True)
            labels = labels.to(self._device, non_blocking=True)
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=cuda):
                loss = F.cross_entropy(network(images), labels, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def _network(self) -> nn.Module:
        torch.manual_seed(0)
        return self._make().to(self._device).train()

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(network, SETTINGS)
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True, fused=True)

    def _timed(self, train: Callable[[], object]) -> float:
        self._synchronize()
        start = time.perf_counter()
        train()
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def spread(ratios: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = quantiles(ratios, method="inclusive")
    return f"{middle:.3f} ({low:.3f}…{high:.3f})"


def images_of(path: Path | None, count: int) -> Split:
    """Training images of a file, or noise."""
    if path is None:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = rng.integers(0, 10, count)
    else:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["x_train"][:count], file["y_train"][:count]
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


@click.command()
@click.option("--cifar10", type=click.Path(path_type=Path), help="An .npz file; else noise.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--steps", default=12, type=click.IntRange(min=2), help="A turn, of 128 images.")
@click.option("--repeats", default=5, type=click.IntRange(min=2), help="Turns; plain: 5 times.")
def main(cifar10: Path | None, device: str, steps: int, repeats: int) -> None:
    """Measure and print; the last line is JSON."""
    count = steps * BATCH
    split = images_of(cifar10, count)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {device}, ")
    print(f"{torch.get_num_threads()} threads, {repeats} turns of {steps} batches of {BATCH}\n")
    print(
        "img/s:      limit    evonas  DataLoader   of limit (quartiles)   control (quartiles)  over"
    )
    of_limit, over, controls = {}, {}, {}
    for name, make in NETWORKS.items():
        contest = Contest(make, split, torch.device(device))
        ways = (contest.limit, contest.ours, contest.limit, contest.usual)
        for way in ways:
            way()  # warm-up
        number = 5 * repeats if name == "plain" else repeats  # whose turns are short
        turns = [[way() for way in ways] for _ in range(number)]
        limit = median(turn[i] for turn in turns for i in (0, 2))
        ours, usual = (median(turn[i] for turn in turns) for i in (1, 3))
        ratios = [(turn[0] + turn[2]) / 2 / turn[1] for turn in turns]
        control = [turn[0] / turn[2] for turn in turns]
        of_limit[name], controls[name] = median(ratios), median(control)
        over[name] = median(turn[3] / turn[1] for turn in turns)
        print(
            f"{name:<8} {count / limit:8,.0f} {count / ours:9,.0f} {count / usual:11,.0f}"
            f"   {spread(ratios)}   {spread(control)}  {over[name]:.2f}",
            flush=True,
        )
    print(
        json.dumps(
            {
                "of_limit": round(median(of_limit.values()), 3),
                "over_dataloader": round(median(over[name] for name in SMALL), 2),
                "by_network": {
                    name: {
                        "of_limit": round(of_limit[name], 3),
                        "control": round(controls[name], 3),
                        "over_dataloader": round(over[name], 2),
                    }
                    for name in NETWORKS
                },
            }
        )
    )


if __name__ == "__main__":
    main()
