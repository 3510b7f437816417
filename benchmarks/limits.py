"""Whether searches within a limit come near to it, where the best networks are.

    python -m benchmarks.limits

Two kinds of problems. The spaces ``plain_cnn`` and ``mbconv`` as they are, at most 50,000
parameters, with a made-up accuracy: three points for every doubling of the parameters, less what
the network's shape, which of its choices are high beside the others, is from one that the seed
drew, and the noise of a training. And the tables of ``benchmarks.recorded``, really trained, with
the limit at the median of their networks. Shown are the share of the proposals after the tenth
that are within ten per cent of the limit, and the value, without noise, of the best one that keeps
it; and for comparison the same of searches that are not limited, whose larger networks are no
candidates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from statistics import fmean, median

import click

from benchmarks import recorded
from benchmarks.multi_fidelity import source
from benchmarks.search_quality import Figures, Summary, completed, machine, print_row
from evonas.architecture import Architecture
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Limit, Objective, Trial

TASK = Task(channels=3, height=32, width=32, classes=100)
LIMIT = 50_000
DOUBLING, SHAPE, NOISE = 3.0, 30.0, 1.0  # points
FIRST = 10  # proposals, which are random
NEAR = 0.9
Value = Callable[[Architecture, float], float]  # of an architecture with so many parameters


@dataclass(frozen=True)
class Problem:
    """Where to search.

    Attributes:
        title: What it is.
        space: What to search, without a limit.
        limit: Most parameters.
        task: What is counted for.
        value: For a seed, the values of architectures.
        noise: Standard deviation of what is observed.
    """

    title: str
    space: SearchSpace
    limit: float
    task: Task
    value: Callable[[int], Value]
    noise: float = 0.0


class Noisy(Evaluator):
    """The value and what is observed of it."""

    metrics = ("observed", "value", "params")

    def __init__(self, context: Context, problem: Problem) -> None:
        super().__init__(context)
        self._task, self._noise = problem.task, problem.noise
        self._value = problem.value(context.seed)

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        architecture = trial.architecture
        params = self.context.space.costs(architecture, self._task)["params"]
        value = self._value(architecture, params)
        noise = Random(f"{self.context.seed}/{architecture.id}").gauss(0, self._noise)
        return {"observed": value + noise, "value": value, "params": params}


def shaped(space: SearchSpace) -> Callable[[int], Value]:
    """Values by size and shape."""
    scales = {name: domain for name, domain in space.domains.items() if domain.ordered}

    def value(seed: int) -> Value:
        rng = Random(f"shape/{seed}")
        wanted = centered({name: rng.random() for name in scales})
        weights = {name: rng.expovariate(1) for name in scales}

        def of(architecture: Architecture, params: float) -> float:
            heights = {
                name: domain.index(architecture.choices[name]) / max(1, domain.size - 1)
                for name, domain in scales.items()
            }
            shape = centered(heights)
            off = sum(weights[name] * (shape[name] - wanted[name]) ** 2 for name in scales)
            return DOUBLING * math.log2(params) - SHAPE * off / sum(weights.values())

        return of

    return value


def centered(heights: Mapping[str, float]) -> dict[str, float]:
    """Differences from the mean."""
    mean = fmean(heights.values())
    return {name: height - mean for name, height in heights.items()}


def of_table(name: str) -> Problem:
    """A recorded table."""
    rows, space = recorded.read(name), recorded.SPACES[name]()
    limit = median(row["params"] for row in rows.values())
    within = [row for row in rows.values() if row["params"] <= limit]
    near = sum(row["params"] >= NEAR * limit for row in within) / len(within)
    best = max(within, key=lambda row: row["full"])
    title = (
        f"{name}.csv, at most {limit:,.0f} parameters: {near:.2f} of the networks are near, "
        f"the best, {100 * best['full']:.2f}, has {best['params']:,.0f}"
    )

    def value(architecture: Architecture, params: float) -> float:
        return 100 * rows[recorded.key(architecture)]["full"]

    return Problem(title, space, limit, recorded.TASK, lambda seed: value)


def problems() -> Iterator[Problem]:
    """All of them."""
    for space in (PlainCNN(3, 128), MBConv()):
        title = f"{space.name}, made up, at most {LIMIT:,} parameters"
        yield Problem(title, space, LIMIT, TASK, shaped(space), NOISE)
    for name in recorded.SPACES:
        yield of_table(name)


def found(
    problem: Problem, name: str, limited: bool, trials: int, seed: int
) -> tuple[float, float | None]:
    """The share near the limit, and the best within it, if there is any."""
    bounds = {"params": Limit(max=problem.limit)} if limited else {}
    space = problem.space.limited(bounds, problem.task)
    evaluator = Noisy(Context(space, None, "cpu", seed), problem)
    strategy = source(name)(space, (Objective("observed"),))
    done = [trial.metrics for trial in completed(strategy, evaluator, trials, seed)]
    near = [NEAR * problem.limit <= m["params"] <= problem.limit for m in done[FIRST:]]
    within = [metrics for metrics in done if metrics["params"] <= problem.limit]
    best = max(within, key=lambda metrics: metrics["observed"], default=None)
    return fmean(near), None if best is None else best["value"]


@click.command(help=__doc__.partition("\n")[0])
@click.option("--strategies", default="random,evolution,guided_evolution", show_default=True)
@click.option("--trials", type=click.IntRange(FIRST + 1), default=60, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=20, show_default=True)
def main(strategies: str, trials: int, seeds: int) -> None:
    click.echo(machine())
    figures: dict[str, Figures] = {}
    for problem in problems():
        click.echo(f"\n{problem.title}; {trials} trials, {seeds} seeds")
        print_row("", ["near the limit", "best within"])
        rows = figures[problem.title] = {}
        for name in strategies.split(","):
            for limited in (True, False):
                label = name if limited else f"{name}, no limit"
                each = [found(problem, name, limited, trials, seed) for seed in range(seeds)]
                near = Summary([share for share, _ in each])
                best = Summary([value for _, value in each if value is not None])
                print_row(label, [near.text(2), best.text(2)])
                rows[label] = {"near": near.to_json(), "best": best.to_json()}
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
