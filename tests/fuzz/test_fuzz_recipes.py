"""Recipes: their text, what they hold, and ``--set``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from conftest import TINY_SPACES
from fuzz_helper import changed, damage, damaged, edits, junk, made, target, text
from hypothesis import strategies as st

from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import sweep
from evonas.runs.assemble import Parts, assemble

CONTENTS = [yaml.safe_load(path.read_bytes()) for path in reading.shipped().values()]
# The short ones, for PyYAML takes its time.
TEXTS = sorted((path.read_bytes() for path in reading.shipped().values()), key=len)[:8]
WORDS = [
    *(b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system ", b"!!binary ", b"? ", b"- "),
    *(
        b"!!timestamp ",
        b"!!set ",
        b"!!omap ",
        b"!!int ",
        b"!!float ",
        b"---\n",
        b"...\n",
        b"%YAML 9\n",
    ),
    *(b"|\n", b">\n", b"\t", b"\r", b"\xef\xbb\xbf", b"\xff\xfe", b"{}", b"[]", b"~", b"1:2:3"),
    *(b"0x" + b"f" * 5000, b"9" * 5000, b".inf", b".nan", b"{a: " * 300, b"[" * 300, b"- " * 300),
]
TINY = {
    "name": "tiny",
    "dataset": {"name": "digits", "size": 8},
    "space": {"name": "plain_cnn", "max_depth": 1, "max_width": 8},
    "strategy": {"name": "aging_evolution", "population_size": 3, "tournament_size": 2},
    "evaluation": {"name": "train", "epochs": 1, "batch_size": 64, "augmentation": "crop"},
    "objectives": {"val_accuracy": "max"},
    "constraints": {"params": {"max": 20_000}},
    "budget": {"trials": 3, "minutes": 1},
    "pruning": {"name": "median"},
    "final": {"top": 1, "seeds": 1},
    "audit": {"trials": 4},
    "executor": {"name": "serial", "isolate": False, "device": "cpu"},
    "tracking": {"name": "console"},
}
KEYS = sorted({key for content in CONTENTS for key, _ in reading.flat(content)})


@target(0.03, data=damaged(TEXTS, WORDS))
def test_recipe_text(data: bytes) -> None:
    path = Path("recipe.yaml")
    path.write_bytes(data)
    reading.load(path).dump()


@target(0.12, content=changed(CONTENTS))
def test_recipe_content(content: Any) -> None:
    recipe = reading.validate(reading.apply({"": content}, ())[""], "recipe")
    if recipe.sweep:
        sweep.members(recipe)
    reading.validate(recipe.dump(), "recipe")


def _text(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # more digits than Python writes
        return hex(value)


SIGNS = "{}[]:,&*!|>'\"%@`#-? \n\t0123456789abexXn.~"


def _value(rng: Random) -> str:
    match rng.randrange(3):
        case 0:
            return _text(junk(rng))
        case 1:
            return text(rng, 30, SIGNS)
        case _:
            return damage(rng.choice(TEXTS), edits(rng, WORDS))[:400].decode(errors="replace")


def _settings(rng: Random) -> list[str]:
    keys = [rng.choice(KEYS) if rng.randrange(4) else text(rng, 12) for _ in range(3)]
    sets = [f"{key}={_value(rng)}" if rng.randrange(8) else _value(rng) for key in keys]
    return sets[: rng.randint(1, 3)]


@target(0.16, content=st.sampled_from(CONTENTS), sets=made(_settings))
def test_set(content: dict[str, Any], sets: list[str]) -> None:
    reading.validate(reading.apply(content, sets), "recipe").dump()


# One for each component, whose other parts may not fit it: that is to be said, too.
SMALL = [
    TINY,
    *({**TINY, "space": {"name": name, **TINY_SPACES[name]}} for name in sorted(TINY_SPACES)),
    *({**TINY, "strategy": name} for name in sorted(Registry().origins("strategy"))),
    *({**TINY, "evaluation": name} for name in sorted(Registry().origins("evaluator"))),
    *({**TINY, "executor": name} for name in ("processes", "folder")),
]


@pytest.fixture(scope="module")
def warm() -> None:
    """What is imported and compiled once is no input's fault."""
    assemble(reading.validate(TINY, "recipe"), Registry(), Path("run"))


@target(0.002, content=changed(SMALL))
def test_assembled(warm: None, content: Any) -> None:
    recipe = reading.validate(reading.apply({"": content}, ())[""], "recipe")
    assemble(recipe, Registry(), Path("run"))


@target(0.0005, content=changed(CONTENTS))
def test_options(content: Any) -> None:
    recipe = reading.validate(reading.apply({"": content}, ())[""], "recipe")
    Parts(recipe, Registry()).resolved()
