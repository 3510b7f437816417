"""Compound scaling: a found network made larger in depth, width and resolution at once.

Tan and Le, EfficientNet, ICML 2019: for a coefficient φ the depth is multiplied by α^φ, the width
by β^φ, the resolution by γ^φ, with α·β²·γ² near 2, so that φ more means 2^φ times the FLOPs.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from evonas import files
from evonas.architecture import Architecture
from evonas.commands import showing
from evonas.errors import HistoryError, InvalidArchitecture, RecipeError
from evonas.executors.base import run_trial
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import export, final
from evonas.runs.assemble import Assembly, Parts, assemble
from evonas.runs.journal import Journal, read_header
from evonas.runs.run import registry_of
from evonas.runs.session import Session
from evonas.spaces.base import SearchSpace, Task
from evonas.trackers.base import Report, RunInfo, Tracker, headline
from evonas.training import devices
from evonas.training.programs import Description
from evonas.trial import Proposal, Trial, TrialState

_LARGEST = 10.0  # At this φ there are a thousand times the FLOPs.
_STEPS = 2**30  # The interval from 0 to the largest φ is searched as finely as that.
_NEAR = 0.1  # So far α·β²·γ² of the grid may be from 2.
_TENTHS = tuple(1 + n / 10 for n in range(11))


class Factors(NamedTuple):
    """What depth, width and resolution are multiplied by; as a rule, what a φ of 1 gives."""

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    def __str__(self) -> str:
        return ",".join(f"{factor:g}" for factor in self)

    def power(self, phi: float) -> Factors:
        """What this rule gives for a φ."""
        return Factors(*(factor**phi for factor in self))


_UNSCALED = Factors()


@dataclass(frozen=True)
class Scaled:
    """A network at some scale: to be built with the space, not searched.

    Attributes:
        space: Builds it.
        architecture: The network.
        task: What it is made for.
        run_dir: The run that found the original; None for a named point.
        factors: How much larger it is than the original.
    """

    space: SearchSpace
    architecture: Architecture
    task: Task
    run_dir: Path | None = None
    factors: Factors = _UNSCALED

    @cached_property
    def costs(self) -> Mapping[str, float]:
        """Parameters and FLOPs, and what else the space counts."""
        return self.space.costs(self.architecture, self.task)

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``Architecture.from_json`` reads the architecture in it."""
        costs = {name: self.costs[name] for name in ("params", "flops")}
        content = {**self.architecture.to_json(), "task": vars(self.task)}
        return {**content, "factors": self.factors._asdict(), "metrics": costs}


@dataclass(frozen=True)
class Request:
    """How much larger: exactly one of φ, FLOPs (``2x`` or a number), and factors by themselves.

    Raises:
        RecipeError: If it is not one.
    """

    phi: float | None = None
    flops: str | None = None
    depth: float | None = None
    width: float | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        factors = any(v is not None for v in (self.depth, self.width, self.resolution))
        if sum((self.phi is not None, self.flops is not None, factors)) != 1:
            raise RecipeError(
                "scale: give one of --phi, --flops, and --depth, --width, --resolution together"
            )
        for name in ("phi", "depth", "width"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise RecipeError(f"--{name} {value}: must be finite")

    def answer(self, original: Scaled, rule: Factors) -> Scaled:
        """The scaled network."""
        if self.phi is not None:
            return scale(original, rule.power(self.phi))
        if self.flops is not None:
            return to_flops(original, self.flops, rule)
        resolution = (self.resolution or original.task.height) / original.task.height
        return scale(original, Factors(self.depth or 1.0, self.width or 1.0, resolution))


def parse_rule(text: str) -> Factors:
    """A rule from three numbers and commas.

    Raises:
        RecipeError: If it is not that, or one is less than 1.
    """
    try:
        depth, width, resolution = map(float, text.split(","))
    except ValueError:
        raise RecipeError(f"--rule {text}: must be three numbers, such as 1.2,1.1,1.15") from None
    if not all(1 <= factor < math.inf for factor in (depth, width, resolution)):
        raise RecipeError(f"--rule {text}: numbers must be finite, and none less than 1")
    return Factors(depth, width, resolution)


def source(registry: Registry, reference: str, shape: str, classes: int) -> Scaled:
    """The incumbent of a run folder, or a point as SPACE/NAME.

    Args:
        registry: Where spaces come from.
        reference: Which.
        shape: Of a point's input, such as ``3x224x224``.
        classes: Of a point's task.

    Raises:
        EvonasError: If there is no such thing.
    """
    folder = Path(reference)
    if not folder.is_dir():
        space, architecture = showing.find_point(registry, reference)
        return Scaled(space, architecture, showing.parse_task(shape, classes))
    header = read_header(folder)
    about = files.load(folder / export.FOLDER / export.ABOUT, Description)
    if about is None:
        raise HistoryError(f"{folder} has no incumbent yet; evonas resume {folder} goes on")
    content = about.plain()
    if "task" not in content:
        raise HistoryError(f"{folder} was a run without images: there is nothing to build")
    space = Parts(reading.load(folder / reading.FILE), registry_of(header)).searched()
    architecture = space.reference(Architecture.from_json(content).choices)
    return Scaled(space, architecture, Task(**content["task"]), folder)


def scale(original: Scaled, factors: Factors) -> Scaled:
    """Scale by factors, such as EfficientNet's published ones.

    Raises:
        RecipeError: If the space does not declare what is depth or width.
    """
    try:
        larger = original.space.scaled(original.architecture, factors.width, factors.depth)
    except InvalidArchitecture as error:
        raise RecipeError(f"scale: {error}") from error
    height, width = (
        max(1, round(side * factors.resolution))
        for side in (original.task.height, original.task.width)
    )
    task = replace(original.task, height=height, width=width)
    return replace(original, architecture=larger, task=task, factors=factors)


def to_flops(original: Scaled, flops: str, rule: Factors) -> Scaled:
    """The φ ≥ 0 whose FLOPs come nearest to a number, or to times such as ``2x``, by bisection.

    Raises:
        RecipeError: If it is neither, less than the network has, or out of reach.
    """

    def at(step: int) -> Scaled:
        return scale(original, rule.power(_LARGEST * step / _STEPS))

    least, most = original.costs["flops"], at(_STEPS).costs["flops"]
    try:
        target = float(flops.removesuffix("x")) * (least if flops.endswith("x") else 1)
    except ValueError:
        raise RecipeError(f"--flops {flops}: must be a number, or times such as 2x") from None
    if not least <= target <= most:
        raise RecipeError(
            f"--flops: {target:,.0f} is not between the network's {least:,.0f} and {most:,.0f}, "
            f"its FLOPs at φ = {_LARGEST:g}"
        )
    above = bisect_right(range(_STEPS), target, key=lambda step: at(step).costs["flops"])
    return min((at(above - 1), at(above)), key=lambda near: abs(near.costs["flops"] - target))


def grid() -> Iterator[Factors]:
    """Every rule in steps of a tenth that about doubles the FLOPs."""
    for depth, width, resolution in itertools.product(_TENTHS, repeat=3):
        if abs(depth * width**2 * resolution**2 - 2) <= _NEAR:
            yield Factors(depth, width, resolution)


def search_rule(original: Scaled, note: Callable[[str], None]) -> Factors:
    """The rule of the grid whose network at φ = 1 is best by the run's own evaluation.

    Raises:
        RecipeError: For a point that no run found: there is nothing to evaluate with.
        HistoryError: If no evaluation succeeded.
    """
    scores: dict[Factors, float] = {}
    for number, rule in enumerate(grid()):
        scaled = scale(original, rule)
        assembly = _assembly(scaled, _run_of(original))
        objective = assembly.objectives[0]
        trial = run_trial(assembly.evaluator, Trial(number, Proposal(scaled.architecture)))
        if trial.state is TrialState.COMPLETE:
            note(f"--rule {rule}: {objective.metric} {trial.metrics[objective.metric]:.4f}")
            scores[rule] = objective.key(trial.metrics)
        else:
            reason = (trial.error or str(trial.state)).strip().splitlines()[-1]
            note(f"--rule {rule} fails: {reason}")
    if not scores:
        raise HistoryError("scale: every evaluation of the grid failed")
    return max(scores, key=scores.__getitem__)


def check_trainable(original: Scaled, folder: Path) -> None:
    """Raise RecipeError if there are no images to train on, or the folder is there already."""
    _run_of(original)
    if folder.exists():
        raise RecipeError(f"--train {folder}: exists already")


def train(scaled: Scaled, folder: Path, note: Callable[[str], None]) -> dict[str, float]:
    """Train a scaled network in full on the run's images, test it once, and keep it.

    Writes ``incumbent/`` as a run does, and a journal of the training.

    Args:
        scaled: What to train, of a run's incumbent.
        folder: Where to.
        note: Told how it goes.

    Returns:
        The final metrics.
    """
    assembly = _assembly(scaled, folder)
    with files.blamed(folder):
        folder.mkdir(parents=True)
    trial = Trial(0, Proposal(scaled.architecture), TrialState.COMPLETE)
    terms = assembly.recipe.final.model_copy(update={"top": 1})
    with Journal(folder) as journal:
        journal.begin({"scaled_from": str(scaled.run_dir), "recipe": assembly.recipe.digest})
        session = Session(assembly, folder, journal, (_Notes(note),), lambda: False)
        try:
            with devices.cpu_threads(assembly.threads()):
                _, metrics = final.conclude(session, [trial], terms)
        except final.AllFailed as error:
            raise HistoryError(f"scale: the training failed: {error}") from error
    return metrics


class _Notes(Tracker):
    """Passes on what a person wants to know, and nothing else."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def step(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> None:
        shown = headline(metrics, ())
        values = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        self._note(f"  step {step}: {values}")

    def draws(self, drawn: int, accepted: int) -> None:
        pass

    def note(self, message: str) -> None:
        self._note(message)

    def start(self, run: RunInfo, events: Sequence[Trial]) -> None:
        pass

    def record(self, trial: Trial) -> None:
        if trial.state is TrialState.RUNNING:
            self._note(f"training the network, seed {trial.proposal.repeat}")

    def close(self, report: Report) -> None:
        pass


def _run_of(scaled: Scaled) -> Path:
    if scaled.run_dir is None:
        raise RecipeError("scale: only what a run found can be trained; give its folder")
    return scaled.run_dir


def _assembly(scaled: Scaled, folder: Path) -> Assembly:
    """The run's own parts, for images of the scaled size and without its limits."""
    run_dir, task = _run_of(scaled), scaled.task
    if task.height != task.width:
        raise RecipeError(f"scale: {task.height}×{task.width} pixels; only squares can be trained")
    content = reading.load(run_dir / reading.FILE).dump()
    content["dataset"]["size"] = task.height
    content.pop("constraints", None)
    _enlarge(content["evaluation"], scaled.factors.resolution)
    recipe = reading.validate(content, str(run_dir / reading.FILE))
    return assemble(recipe, registry_of(read_header(run_dir)), folder)


def _enlarge(section: dict[str, Any] | None, factor: float) -> None:
    """Evaluations that reduce the resolution reduce the larger one likewise."""
    while section is not None:
        if section["name"] == "reduced" and section.get("resolution"):
            section["resolution"] = round(section["resolution"] * factor)
        section = section.get("of")


def table(original: Scaled, scaled: Scaled) -> str:
    """What changed, for a person."""
    f = scaled.factors
    rows = [f"depth × {f.depth:.4g}, width × {f.width:.4g}, resolution × {f.resolution:.4g}"]
    rows += [f"{'':<6}{'parameters':>16}{'FLOPs':>20}   input"]
    for name, each in (("from", original), ("to", scaled)):
        shape = "×".join(map(str, each.task.input_shape))
        params, flops = each.costs["params"], each.costs["flops"]
        rows.append(f"{name:<6}{params:>16,.0f}{flops:>20,.0f}   {shape}")
    old = original.architecture.choices
    for name, value in scaled.architecture.choices.items():
        if value != old[name]:
            rows.append(f"  {name} = {value} (was {old[name]})")
    return "\n".join(rows)
