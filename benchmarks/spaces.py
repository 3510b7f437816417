"""What a point of every search space costs to draw, and whether its network runs and is counted.

    python -m benchmarks.spaces --points 1000 --networks 100

A point is sampled, mutated and counted (parameters and FLOPs) without being built; the median is
wanted to be at most 10 ms. Beside it, on every hundredth point, the count on the meta device that a
space without ``costs`` of its own gets. Then as many random and as many mutated networks as
``--networks`` says are built, run forward and backward on two images, and their parameters and
FLOPs compared with the count and with torch's FlopCounterMode.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import click
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from evonas.architecture import Architecture
from evonas.commands import showing
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.parts import cost


def built(space: SearchSpace, architecture: Architecture, task: Task) -> dict[str, float]:
    """Costs of the network on the meta device."""
    return cost.of_built(lambda: space.build(architecture, task), task)


def draw(space: SearchSpace, task: Task, points: int) -> tuple[list[float], list[float]]:
    """Seconds of every point, and of every hundredth one's count on the meta device."""
    seconds, on_meta = [], []
    for n in range(points):
        rng = Random(n)
        start = time.perf_counter()
        child = space.mutate(space.sample(rng), rng)
        space.costs(child, task)
        seconds.append(time.perf_counter() - start)
        if n % 100 == 0:
            start = time.perf_counter()
            built(space, child, task)
            on_meta.append(time.perf_counter() - start)
    return seconds, on_meta


def pairs(space: SearchSpace, networks: int) -> Iterator[Architecture]:
    """Random architectures, and a mutant of each."""
    for n in range(networks):
        rng = Random(f"network/{n}")
        architecture = space.sample(rng)
        yield architecture
        yield space.mutate(architecture, rng)


def run(space: SearchSpace, architecture: Architecture, task: Task) -> str:
    """Run a network for real; what is wrong with it, or nothing."""
    torch.manual_seed(0)
    network = space.build(architecture, task)
    logits = network(torch.randn(2, *task.input_shape))
    functional.cross_entropy(logits, torch.zeros(2, dtype=torch.long)).backward()
    if logits.shape != (2, task.classes):
        return f"gives {tuple(logits.shape)}"
    if not logits.isfinite().all():
        return "gives logits that are not finite"
    if all(p.grad is None for p in network.parameters()):
        return "has no gradients"
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.randn(1, *task.input_shape))
    there = {"params": sum(p.numel() for p in network.parameters())}
    there["flops"] = counter.get_total_flops()
    counted = space.costs(architecture, task)
    wrong = any(counted[name] != value for name, value in there.items())
    return f"is counted as {counted}, not {there}" if wrong else ""


@click.command()
@click.option("--points", default=1000, help="Points that are drawn and counted, per space.")
@click.option("--networks", default=100, help="Random and mutated networks that run, per space.")
@click.option("--size", default=32, help="Pixels a side of the images.")
@click.option("--space", "names", multiple=True, help="Default: all, those of ./plugins too.")
def main(points: int, networks: int, size: int, names: tuple[str, ...]) -> None:
    """Measure, print a table, and JSON as the last line."""
    registry = Registry((Path("plugins"),))
    task = Task(channels=3, height=size, width=size, classes=10)
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, torch {torch.__version__}", end=", ")
    print(f"{torch.get_num_threads()} threads, {time.strftime('%F %R')}; milliseconds")
    print(f"{'space':<16}{'size':>10}{'median':>9}{'95 %':>9}{'meta':>9}{'ran':>7}{'wrong':>7}")
    results, wrong = {}, []
    for name in names or sorted(registry.origins("space")):
        space = showing.make_space(registry, name)
        seconds, on_meta = draw(space, task, points)
        ran = 0
        for architecture in pairs(space, networks):
            ran += 1
            if problem := run(space, architecture, task):
                wrong.append(f"{name} {dict(architecture.choices)} {problem}")
        median, meta = statistics.median(seconds), statistics.median(on_meta)
        late = sorted(seconds)[int(0.95 * len(seconds))]
        failed = sum(line.startswith(f"{name} ") for line in wrong)
        figures = "".join(f"{1000 * each:9.2f}" for each in (median, late, meta))
        print(f"{name:<16}{space.size():>10.3g}{figures}{ran:>7}{failed:>7}", flush=True)
        results[name] = {"median_ms": 1000 * median, "meta_ms": 1000 * meta, "ran": ran}
        results[name]["wrong"] = failed
    print("\n".join(wrong))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
