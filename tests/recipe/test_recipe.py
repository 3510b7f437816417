from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evonas.errors import RecipeError
from evonas.recipe import reading
from evonas.recipe.schema import Recipe

MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "space": "plain_cnn",
    "strategy": {"name": "aging_evolution", "population_size": 5},
    "evaluation": {"name": "train", "epochs": 1},
    "budget": {"trials": 1},
}
TEXT = """
name: tiny
space: plain_cnn
strategy: {name: aging_evolution, population_size: 5}
evaluation: {name: train, epochs: 1}
budget: {trials: 1}
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def valid(**changes: Any) -> Recipe:
    return reading.validate({**MINIMAL, **changes}, "here")


def with_set(*overrides: str, **changes: Any) -> Recipe:
    return reading.validate(reading.apply({**MINIMAL, **changes}, overrides), "here")


def test_load_gives_defaults_and_short_forms(tmp_path: Path) -> None:
    loaded = reading.load(write(tmp_path, TEXT), ["dataset=digits"])
    assert loaded.space.name == "plain_cnn"
    assert loaded.space.options == {}
    assert loaded.strategy.options == {"population_size": 5}
    assert loaded.dataset is not None
    assert loaded.dataset.name == "digits"
    assert (loaded.seed, loaded.executor.name, loaded.tracking.name) == (0, "serial", "mlflow")
    assert loaded.objectives == {"val_accuracy": "max"}
    assert loaded == valid(dataset="digits")


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        valid().seed = 1


def test_dump_is_read_back_as_the_same_recipe() -> None:
    given = valid(dataset="digits", constraints={"params": {"max": 5e4}}, executor="processes")
    again = reading.validate(given.dump(), "dump")
    assert again == given
    assert again.digest == given.digest


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "+1e-3", "0.001", "1.0e-3"])
def test_every_way_to_write_a_float_is_one(text: str) -> None:
    assert reading.parse_yaml(f"a: {text}", "t") == {"a": 0.001}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a mapping of sections, not empty"),
        ("# nothing\n", "not empty"),
        ("- name: x\n", "not list"),
        ("just text", "not str"),
        ("a: [b", "not YAML"),
        ("name: tiny\n\tseed: 1", "not YAML"),
        ("[" * 3000, "nested too deeply"),
        ("{a: " * 3000, "nested too deeply"),
        ("a: 1\nb: 2\na: 3", "key 'a' is there twice"),
        ("a: {b: 1, b: 2}", "key 'b' is there twice"),
        ("on: 1", "key True must be text"),
        ("1: x", "key 1 must be text"),
        ("? [a, b]\n: 1", "must be text"),
        ("a: !!python/object/apply:os.system ['touch pwned']", "python/object/apply"),
        ("a: !!python/name:os.system", "python/name"),
        ("a: &a [*a]", "not plain data"),
        ("a: &a {b: *a}", "not plain data"),
        ("a: !!bool maybe", "not YAML"),
        ("a: !!timestamp soon", "not YAML"),
        ('a: !!int ""', "not YAML"),
        ("a: 2026-99-99", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: 1\n---\na: 2", "not YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"name: caf\xe9", "not UTF-8"),
        ("#" * 2_000_000, "50,000 bytes are too many"),
        ("seed: 0x" + "f" * 5000, "more than 64 bits"),
        ("seed: 18446744073709551616", "more than 64 bits"),
    ],
)
def test_what_is_no_recipe_is_said_in_one_line(
    tmp_path: Path, text: str | bytes, complaint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        reading.load(write(tmp_path, text))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    start = time.perf_counter()
    with pytest.raises(RecipeError, match="aliases"):
        reading.load(write(tmp_path, "\n".join(lines)))
    assert time.perf_counter() - start < 5


def test_a_few_aliases_are_fine() -> None:
    assert reading.parse_yaml("a: &a {x: 1}\nb: *a\nc: *a", "t")["c"] == {"x": 1}


@pytest.mark.parametrize("make", [Path, lambda p: Path(p).mkdir() or Path(p)])
def test_absent_or_a_folder(tmp_path: Path, make: Any) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.yaml"):
        reading.load(make(str(tmp_path / "nothing.yaml")))


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + TEXT.lstrip().replace("\n", "\r\n").encode()
    assert reading.load(write(tmp_path, data)) == valid()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seeed": 1}, "seeed: unknown key. Did you mean 'seed'?"),
        ({"budget": {"trails": 3}}, "budget.trails: unknown key. Did you mean 'trials'?"),
        ({"constraints": {"params": {"maxx": 3}}}, "constraints.params.maxx: unknown key"),
        ({"constraints": {"parms": 3}}, "constraints.parms: "),
        ({"constraints": {"params": {}}}, "constraints.params: give min, max or both"),
        ({"constraints": {"params": {"min": 5, "max": 3}}}, "min 5 is greater than max 3"),
        ({"constraints": {"params": {"max": 0}}}, "constraints.params.max"),
        ({"budget": {}}, "budget: give trials, minutes or effort, or several"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"budget": {"minutes": 0}}, "budget.minutes"),
        ({"budget": {"minutes": float("nan")}}, "budget.minutes"),
        ({"budget": {"minutes": float("inf")}}, "budget.minutes"),
        ({"budget": {"trials": 1, "max_failures": 0}}, "budget.max_failures"),
        ({"seed": "many"}, "seed: Input should be a valid integer"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"seed": None}, "seed"),
        ({"name": "a/b"}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"space": None}, "space"),
        ({"space": 3}, "space"),
        ({"strategy": {}}, "strategy.name: is missing"),
        ({"strategy": {"name": 3}}, "strategy.name"),
        ({"objectives": {}}, "objectives"),
        ({"objectives": ["val_accuracy"]}, "objectives"),
        ({"objectives": {"val_accuracy": "up"}}, "objectives.val_accuracy"),
        ({"dataset": {"name": "digits", "validation": 1}}, "dataset.validation"),
        ({"dataset": {"name": "digits", "test": 0}}, "dataset.test"),
        ({"dataset": {"name": "digits", "size": 2}}, "dataset.size"),
        ({"se\ned": 1}, "'se\\ned': unknown key"),
    ],
)
def test_mistakes_name_their_key(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        valid(**changes)
    assert str(caught.value).startswith("here: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_in_one_line() -> None:
    with pytest.raises(RecipeError) as caught:
        reading.validate({"name": "x", "sed": 1, "budget": {"trials": 0}, "space": "s"}, "here")
    message = str(caught.value)
    for part in ("sed: unknown", "budget.trials:", "strategy: is missing", "evaluation: is missi"):
        assert part in message
    assert "\n" not in message


def test_set_reads_the_value_as_yaml() -> None:
    given = with_set(
        "seed=7",
        "budget.minutes=1e-1",
        "budget.trials=null",
        "objectives={params: min, val_accuracy: max}",
        "name = spaced out ",
    )
    assert given.seed == 7
    assert (given.budget.trials, given.budget.minutes) == (None, 0.1)
    assert list(given.objectives) == ["params", "val_accuracy"]
    assert given.name == "spaced out"


def test_set_in_order_and_without_touching_its_input() -> None:
    content = {"seed": 1, "budget": {"trials": 1}}
    assert reading.apply(content, ["seed=2", "seed=3", "budget.trials=4"]) == {
        "seed": 3,
        "budget": {"trials": 4},
    }
    assert content == {"seed": 1, "budget": {"trials": 1}}


def test_set_makes_absent_sections() -> None:
    given = with_set("constraints.params.max=5")
    assert given.constraints["params"].max == 5
    assert given.constraints["params"].min is None


def test_set_another_component_drops_the_options_of_the_one_before() -> None:
    assert with_set("strategy.name=random").strategy.options == {}
    kept = with_set("strategy.name=aging_evolution").strategy.options
    assert kept == {"population_size": 5}
    given = with_set("strategy.name=tpe", "strategy.startup_trials=3")
    assert given.strategy.options == {"startup_trials": 3}


def test_set_another_data_set_keeps_its_section() -> None:
    given = with_set("dataset.name=npz", dataset={"name": "digits", "path": "x", "seed": 4})
    assert given.dataset is not None
    assert (given.dataset.name, given.dataset.path, given.dataset.seed) == ("npz", Path("x"), 4)
    given = with_set("dataset.name=npz", dataset={"name": "mine", "delimiter": ";", "size": 8})
    assert given.dataset is not None
    assert (given.dataset.size, given.dataset.options) == (8, {}), (
        "what was the other's own is gone"
    )


def test_set_another_executor_keeps_the_device() -> None:
    before = {"name": "processes", "device": "cpu", "workers": 2}
    given = with_set("executor.name=serial", executor=before)
    assert (given.executor.device, given.executor.options) == ("cpu", {})


def test_set_an_option_of_a_short_form() -> None:
    given = with_set("space.max_depth=2")
    assert (given.space.name, given.space.options) == ("plain_cnn", {"max_depth": 2})
    assert with_set("space.name=mbconv").space.name == "mbconv"


def test_set_a_wrapped_component() -> None:
    wrapped = {"name": "reduced", "of": {"name": "train", "epochs": 2}}
    given = with_set("evaluation.of.epochs=9", evaluation=wrapped)
    assert given.evaluation.options["of"] == {"name": "train", "epochs": 9}
    given = with_set("evaluation.of.name=tabular", evaluation=wrapped)
    assert given.evaluation.options["of"] == {"name": "tabular"}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("seed", "must be KEY=VALUE"),
        ("", "must be KEY=VALUE"),
        ("=1", "must be KEY=VALUE"),
        ("a..b=1", "must be KEY=VALUE"),
        (".seed=1", "must be KEY=VALUE"),
        ("seeed=1", "Did you mean 'seed'?"),
        ("budget.trails=1", "Did you mean 'trials'?"),
        ("budget.trials.x=1", "budget.trials has no keys"),
        ("budget.trials=[", "not YAML"),
        ("budget.trials=[\n1", "not YAML"),
        ("seed=1: 2: 3", "not YAML"),
        ("seed=!!python/name:os.system", "not YAML"),
        ("seed=" + "[" * 3000, "nested too deeply"),
    ],
)
def test_set_on_nothing(override: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_set(override)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "budget.trials=99",
        "budget.minutes=3",
        "executor.name=processes",
        "executor.device=cpu",
        "tracking.name=console",
    ],
)
def test_digest_ignores_what_does_not_change_the_search(override: str) -> None:
    assert with_set(override).digest == valid().digest


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "space=mbconv",
        "strategy.population_size=6",
        "strategy.name=random",
        "evaluation.epochs=2",
        "dataset=digits",
        "objectives.params=min",
        "constraints.params.max=5",
    ],
)
def test_digest_sees_what_does(override: str) -> None:
    assert with_set(override).digest != valid().digest


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    turned = dict(reversed(MINIMAL.items()))
    assert reading.validate(turned, "here").digest == valid().digest


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("seed=0x" + "f" * 5000, "more than 64 bits"),
        ("seed=" + "1:" * 5000 + "1", "more than 64 bits"),
        ("space=" + "[" * 60_000, "50,000 bytes are too many"),
        ("name=" + "x" * 40_000, "at most 100 characters"),
    ],
)
def test_no_setting_is_too_long_to_be_refused_in_a_line(override: str, complaint: str) -> None:
    content = {
        "name": "a",
        "space": "s",
        "strategy": "t",
        "evaluation": "e",
        "budget": {"trials": 1},
    }
    with pytest.raises(RecipeError, match=complaint) as caught:
        reading.validate(reading.apply(content, [override]), "recipe")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("seed", [2**64, pytest.param(10**5000, id="long")])
def test_numbers_of_a_script_have_64_bits_too(seed: int) -> None:
    with pytest.raises(RecipeError, match="plain data"):
        reading.apply({"seed": seed}, ())


def test_half_a_surrogate_is_no_text_of_a_recipe() -> None:
    with pytest.raises(RecipeError, match="plain data"):
        reading.apply({"name": "\ud800"}, ())


def test_a_recipe_that_could_not_be_read_again_is_not_begun() -> None:
    given = valid(start_from=[f"run-{number}" for number in range(6000)])
    with pytest.raises(RecipeError, match="too many"):
        reading.text(given)
