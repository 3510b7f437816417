"""What a recipe may say: its sections, their keys, and the ranges of the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from evonas.architecture import Value


def refuse_bool(value: Any) -> Any:
    """Raise ValueError for true and false, which pydantic takes for the numbers 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"must not be {str(value).lower()}")
    return value


class _Model(BaseModel):
    # The text below a key describes it: ``evonas recipe`` shows it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, value: Any, field: ValidationInfo) -> Any:
        """A key that is no switch is never true or false, and pydantic would read true as 1."""
        switch = cls.model_fields[str(field.field_name)].annotation is bool
        return value if switch else refuse_bool(value)


class Component(_Model):
    """A component by name, with its options; ``space: mbconv`` is short for its name alone."""

    model_config = ConfigDict(extra="allow")

    name: str
    """A built-in component, a plugin's file, or ``module:Class``."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the section's own keys."""
        return dict(self.model_extra or {})

    @property
    def shared(self) -> dict[str, Any]:
        """Those of the section's own keys that a component may ask for by name."""
        return {}


class ExecutorSection(Component):
    """Where trials run."""

    name: str = "serial"
    """``serial``: one after another; ``processes``: side by side; ``folder`` and ``ray``: on
    other machines."""
    device: str = "auto"
    """auto (all GPUs, else the CPU), cpu, cuda (all GPUs), cuda:1, …"""


class TrackingSection(Component):
    """Who is told."""

    name: str = "mlflow"
    """Beside the terminal: ``mlflow``, or ``console`` for the terminal alone."""


class DatasetSection(Component):
    """The images: these keys are for every source, further ones are the source's own options."""

    path: Path = Path("data")
    """Folder or file to read, or to download to."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training images that the search compares networks on."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of all images that is held out where there is no test split."""
    size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Pixels a side that all images are scaled to; default: as they are."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the splits: another one splits otherwise."""

    @property
    def shared(self) -> dict[str, Any]:
        """All."""
        return self.model_dump(include=DatasetSection.model_fields.keys() - {"name"})


Searched = Literal[
    "learning_rate",
    "weight_decay",
    "label_smoothing",
    "augmentation",
    "mixup",
    "cutmix",
    "ema",
    "clip_norm",
]


class SpaceSection(Component):
    """What can be built, and what of its training is searched as well."""

    training: dict[Searched, Annotated[list[float | str], Field(min_length=2)]] | None = None
    """Options of the training that are choices: values, or a range such as ``[0.02, 0.2, log]``."""


class LimitSection(_Model):
    """Bounds of a cost or a metric, both included."""

    min: Annotated[float, Field(ge=0)] | None = None
    """Not less than this."""
    max: Annotated[float, Field(gt=0)] | None = None
    """Not more than this."""

    @model_validator(mode="after")
    def _ordered(self) -> LimitSection:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is greater than max {self.max:g}")
        return self


class BudgetSection(_Model):
    """The limit of the run; whichever is reached first ends it."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """Trials of the search, failed and pruned ones among them."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes of search and final trainings: what these will take is kept, as trials tell, but at
    most two thirds. Trials that run when it is over by a tenth are pruned; one that has reported
    nothing has failed."""
    effort: Annotated[float, Field(gt=0)] | None = None
    """What trials may train, in full trainings of the recipe: epochs times images times pixels."""
    max_failures: Annotated[int, Field(ge=1)] = 10
    """So many failed trials in a row end the run."""

    @model_validator(mode="after")
    def _some(self) -> BudgetSection:
        if self.trials is None and self.minutes is None and self.effort is None:
            raise ValueError("give trials, minutes or effort, or several")
        return self


class FinalSection(_Model):
    """How the winner is found when the search is over."""

    top: Annotated[int, Field(ge=1)] = 1
    """So many of the best trials are trained in full; the best of these wins."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """Each is trained so often, and compared by its mean."""
    flip: StrictBool = False
    """Whether the test split is scored on images and their mirror images together."""
    networks: Literal["winner", "front"] = "winner"
    """Whose networks are trained and kept: the winner's, or those of the Pareto front as well."""


class AuditSection(_Model):
    """How many trials are trained for good, to see how far the search's scores can be trusted."""

    trials: Annotated[int, Field(ge=4)]
    """Size of the sample, spread over the ranking; fewer than twelve say little."""


def _distinct(values: Any) -> Any:
    items = list(values.values()) if isinstance(values, Mapping) else values
    if isinstance(items, list) and len({json.dumps(item) for item in items}) < len(items):
        raise ValueError("one of its values is there twice")
    return values


# A list, or a mapping of labels to values where a value is too long to be called by itself.
Values = Annotated[
    Annotated[list[Any], Field(min_length=1)] | Annotated[dict[str, Any], Field(min_length=1)],
    AfterValidator(_distinct),
]


def searched(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's options, and those of what it wraps, without what finals alone follow."""
    return {
        name: searched(value) if isinstance(value, Mapping) else value
        for name, value in evaluation.items()
        if name != "final_epochs"
    }


class Recipe(_Model):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$", max_length=100)]
    """Of the experiment: run folders and MLflow's runs are called so."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of everything that is random in the run, but for the data's splits."""
    dataset: DatasetSection | None = None
    """The images."""
    space: SpaceSection
    """What can be built: a search space."""
    strategy: Component
    """What to try next: a search strategy."""
    evaluation: Component
    """How good it is: an evaluation strategy."""
    objectives: Annotated[dict[str, Literal["max", "min"]], Field(min_length=1)] = {
        "val_accuracy": "max"
    }
    """Metrics to optimise; several only with a strategy that takes several."""
    constraints: dict[str, LimitSection] = {}
    """Limits, ``{max: …}`` or ``{min: …}``, of costs (params, flops, …) and metrics."""
    pruning: Component | None = None
    """Which trials are stopped early: a pruning rule; default: none."""
    budget: BudgetSection
    """When the search ends: trials, minutes or effort, or several."""
    start_from: list[str] = []
    """Run folders, or MLflow ids of runs, whose trials are the first of this run."""
    start_with: list[str | dict[str, Value]] = []
    """Networks to try first: reference networks of the space by name (``evonas show SPACE``), each
    made as wide as the constraints allow, or all choices of one."""
    final: FinalSection = FinalSection()
    """How the winner is found when the search is over."""
    audit: AuditSection | None = None
    """Whether a sample of trials is trained in full, to see how far the ranking can be trusted."""
    executor: ExecutorSection = ExecutorSection()
    """Where trials run."""
    tracking: TrackingSection = TrackingSection()
    """Who is told."""
    sweep: dict[str, Values] = {}
    """For ``evonas sweep``: keys of the recipe, each with its values; every combination is run."""

    @field_validator("name", mode="before")
    @classmethod
    def _stripped(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @field_validator("start_from", "start_with", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value

    @field_validator("start_with", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        for item in value if isinstance(value, list) else ():
            if not isinstance(item, str | dict):
                raise ValueError(f"{item!r} is neither a network's name nor its choices")
        return value

    def dump(self) -> dict[str, Any]:
        """Plain data, as YAML and JSON can hold it."""
        data = self.model_dump(mode="json", exclude_none=True)
        return data if data["sweep"] else {k: v for k, v in data.items() if k != "sweep"}

    @property
    def digest(self) -> str:
        """Hash of what decides the search's results, and so of no name, budget or executor."""
        data = self.dump()
        for section in ("name", "budget", "final", "audit", "executor", "tracking", "sweep"):
            data.pop(section, None)
        data["evaluation"] = searched(data["evaluation"])
        for key in ("start_from", "start_with"):
            if not data[key]:
                del data[key]  # journals of earlier versions know nothing of it
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
