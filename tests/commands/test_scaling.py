"""Compound scaling: EfficientNets come out of B0; a run's incumbent is trained larger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_helper import evonas, plugin
from torchvision import models

from evonas.architecture import Architecture
from evonas.commands import scaling
from evonas.commands.scaling import Factors, Request
from evonas.errors import EvonasError, HistoryError, RecipeError
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import run

REGISTRY = Registry()
EFFICIENTNET = Factors(1.2, 1.1, 1.15)
# Factors of width and depth, and pixels, as published.
PUBLISHED = {
    "b1": (1.0, 1.1, 240),
    "b2": (1.1, 1.2, 260),
    "b3": (1.2, 1.4, 300),
    "b4": (1.4, 1.8, 380),
    "b5": (1.6, 2.2, 456),
    "b6": (1.8, 2.6, 528),
    "b7": (2.0, 3.1, 600),
}
SMALL = """
name: small
dataset: {name: digits, validation: 0.2}
space: {name: plain_cnn, max_depth: 2, max_width: 16}
strategy: random
evaluation: {name: train, epochs: 1, final_epochs: 1, batch_size: 256}
constraints: {params: {max: 4000}}
budget: {trials: 2}
executor: {name: serial, device: cpu}
tracking: console
"""


PICKY = """
from evonas import Evaluator
from evonas.evaluators.base import Infeasible

class Picky(Evaluator):
    metrics = ("value",)

    def evaluate(self, trial, report):
        if self.context.data.task.height > 8:
            raise Infeasible({"value": 0.0})
        return {"value": 1.0}

    def test(self, trial):
        return {"test_accuracy": 1.0}
"""


def b0() -> scaling.Scaled:
    return scaling.source(REGISTRY, "mobilenet/efficientnet_b0", "3x224x224", 1000)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(SMALL)
    run.start(reading.load(tmp_path / "r.yaml"), REGISTRY, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", PUBLISHED)
def test_efficientnets_are_exact(name: str) -> None:
    width, depth, pixels = PUBLISHED[name]
    scaled = Request(depth=depth, width=width, resolution=pixels).answer(b0(), EFFICIENTNET)
    meta = models.get_model_weights(f"efficientnet_{name}")["IMAGENET1K_V1"].meta
    assert scaled.costs["params"] == meta["num_params"]
    assert scaled.task.input_shape == (3, pixels, pixels)


def test_phi_multiplies_all_three() -> None:
    scaled = Request(phi=2).answer(b0(), Factors(1.3, 1.1, 1.2))
    factors = scaled.factors
    assert factors.depth == pytest.approx(1.69)
    assert factors.width == pytest.approx(1.21)
    assert factors.resolution == pytest.approx(1.44)
    assert scaled.task.input_shape == (3, round(224 * 1.44), round(224 * 1.44))
    assert Request(phi=0).answer(b0(), EFFICIENTNET).architecture == b0().architecture


@pytest.mark.parametrize("times", [1.0, 2.0, 3.7, 16.0])
def test_flops_are_met_as_nearly_as_rounding_allows(times: float) -> None:
    before = b0().costs["flops"]
    scaled = Request(flops=f"{times}x").answer(b0(), EFFICIENTNET)
    assert scaled.costs["flops"] / before == pytest.approx(times, rel=0.1)
    by_number = Request(flops=str(times * before)).answer(b0(), EFFICIENTNET)
    assert by_number.architecture == scaled.architecture


def test_the_grid_doubles_the_flops_in_about_every_way() -> None:
    rules = list(scaling.grid())
    assert len(rules) > 10
    for rule in rules:
        assert rule.depth * rule.width**2 * rule.resolution**2 == pytest.approx(2, abs=0.1001)
    assert Factors(1.2, 1.1, 1.2) in rules


def test_any_space_that_declares_depth_and_width() -> None:
    for point in ("resnet/resnet18", "plain_cnn/small", "mbconv/model5"):
        source = scaling.source(REGISTRY, point, "3x32x32", 10)
        larger = Request(phi=1).answer(source, EFFICIENTNET)
        assert larger.costs["flops"] > source.costs["flops"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "give one of"),
        ({"phi": 1.0, "flops": "2x"}, "give one of"),
        ({"phi": 1.0, "width": 2.0}, "give one of"),
    ],
)
def test_a_request_is_one_thing(request_: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Request(**request_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "unknown space 'nonsense'"),
        (("mobilenet/nonsense",), "unknown network of mobilenet 'nonsense'"),
        (("mobilenet/mobilenet_v2", "--flops", "much"), "--flops much"),
        (("mobilenet/mobilenet_v2", "--flops", "0.5x"), "is not between"),
        (("mobilenet/mobilenet_v2", "--rule", "1.2,1.1"), "--rule 1.2,1.1"),
        (("mobilenet/mobilenet_v2", "--rule", "1.2,.9,1"), "none less than 1"),
        (("mobilenet/mobilenet_v2", "--rule", "nan,1,1"), "--rule nan"),
        (("mobilenet/mobilenet_v2", "--flops", "nan"), "is not between"),
        (("mobilenet/mobilenet_v2", "--phi", "nan"), "must be finite"),
        (("backbone/features",), "declares no choice with role"),
        (("mobilenet/mobilenet_v2", "--input", "224"), "--input 224"),
        (("mobilenet/mobilenet_v2", "--train", "x"), "only what a run found can be trained"),
        (("mobilenet/mobilenet_v2", "--grid"), "only what a run found can be trained"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    phi = () if {"--flops", "--phi"} & set(arguments) else ("--phi", "1")
    result = evonas("scale", *arguments, *phi)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_line_says_what_changed_and_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "b1.json"
    factors = ("--width", "1.0", "--depth", "1.1", "--resolution", "240")
    result = evonas("scale", "mobilenet/efficientnet_b0", *factors, "--output", file)
    assert result.exit_code == 0
    assert "7,794,184" in result.stdout
    assert "3×240×240" in result.stdout
    assert "depth2 = 3 (was 2)" in result.stdout
    described = json.loads(file.read_text())
    space = b0().space
    assert space.costs(Architecture.from_json(described), b0().task)["params"] == 7_794_184
    assert described["task"]["height"] == 240


def test_an_incumbent_is_scaled_trained_and_kept(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "larger"
    result = evonas("scale", finished, "--phi", "2", "--train", out)
    assert result.exit_code == 0, result.stderr
    assert "test_accuracy" in result.stdout
    found = json.loads((out / "incumbent" / "architecture.json").read_text())
    before = json.loads((finished / "incumbent" / "architecture.json").read_text())
    assert found["task"]["height"] == round(8 * 1.15**2)
    assert found["metrics"]["params"] > before["metrics"]["params"]
    assert (out / "incumbent" / "network.pt2").stat().st_size > 0
    assert evonas("scale", finished, "--phi", "2", "--train", out).exit_code == 2


def test_the_rule_is_searched_with_the_runs_own_evaluation(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = (Factors(2.0, 1.0, 1.0), Factors(1.0, 1.0, 1.4))
    monkeypatch.setattr(scaling, "grid", lambda: iter(few))
    notes: list[str] = []
    best = scaling.search_rule(scaling.source(REGISTRY, str(finished), "", 1), notes.append)
    accuracies = [float(note.rpartition(" ")[2]) for note in notes]
    assert best == few[accuracies.index(max(accuracies))]


def test_a_rule_whose_network_breaks_a_limit_of_the_evaluation_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "grid", lambda: iter([Factors(1.0, 1.0, 1.4)]))
    plugin(PICKY, "picky", kind="evaluators")
    own = {"evaluation": "picky", "objectives": {"value": "max"}}
    recipe = reading.validate({**yaml.safe_load(SMALL), **own}, "r.yaml")
    run.start(recipe, Registry((Path("plugins"),)), tmp_path / "run")
    notes: list[str] = []
    with pytest.raises(HistoryError, match="every evaluation of the grid failed"):
        scaling.search_rule(scaling.source(REGISTRY, str(tmp_path / "run"), "", 1), notes.append)
    assert notes == ["--rule 1,1,1.4 fails: pruned"]


def test_a_folder_that_is_there_is_refused_before_the_grid(finished: Path) -> None:
    result = evonas("scale", finished, "--phi", "1", "--grid", "--train", finished)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "exists already" in result.stderr


def test_a_folder_that_holds_no_run(tmp_path: Path) -> None:
    result = evonas("scale", tmp_path, "--phi", "1")
    assert result.exit_code == 2
    assert "holds no run" in result.stderr


def test_a_run_without_an_incumbent(finished: Path) -> None:
    (finished / "incumbent" / "architecture.json").unlink()
    with pytest.raises(HistoryError, match="no incumbent yet"):
        scaling.source(REGISTRY, str(finished), "", 1)


def test_a_space_without_roles() -> None:
    source = scaling.source(REGISTRY, "plain_cnn/small", "3x32x32", 10)
    source.space.domains = {}
    with pytest.raises(EvonasError, match="declares no choice with role"):
        scaling.scale(source, Factors(2.0, 1.0, 1.0))
