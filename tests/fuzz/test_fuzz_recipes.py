"""Recipes: their text, what they hold, and ``--set``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY_SPACES
from fuzz_helper import JUNK, changed, damaged, target
from hypothesis import strategies as st

from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs import sweep
from evonas.runs.assemble import Parts, assemble

TEXTS = [path.read_bytes() for path in reading.shipped().values()]
CONTENTS = [yaml.safe_load(text) for text in TEXTS]
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


@target(0.08, data=damaged(TEXTS, WORDS))
def test_recipe_text(data: bytes) -> None:
    path = Path("recipe.yaml")
    path.write_bytes(data)
    reading.load(path).dump()


@target(0.12, content=changed(CONTENTS))
def test_recipe_content(content: Any) -> None:
    recipe = reading.validate(reading.apply({"": content}, ())[""], "recipe")
    if recipe.sweep:
        sweep.members(recipe)
    assert reading.validate(recipe.dump(), "recipe").dump() == recipe.dump()


def _text(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # more digits than Python writes
        return hex(value)


KEY = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.text(max_size=12))
VALUE = st.one_of(
    JUNK.map(_text),
    st.text(max_size=20),
    st.text(alphabet="{}[]:,&*!|>'\"%@`#-? \n\t0123456789abexXn.~", max_size=30),
    damaged(TEXTS, WORDS).map(lambda text: text[:400].decode(errors="replace")),
)


@target(
    0.2,
    content=st.sampled_from(CONTENTS),
    sets=st.lists(st.builds("{}={}".format, KEY, VALUE) | VALUE, min_size=1, max_size=3),
)
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


@target(0.003, content=changed(SMALL))
def test_assembled(warm: None, content: Any) -> None:
    recipe = reading.validate(reading.apply({"": content}, ())[""], "recipe")
    assemble(recipe, Registry(), Path("run"))


@target(0.001, content=changed(CONTENTS))
def test_options(content: Any) -> None:
    recipe = reading.validate(reading.apply({"": content}, ())[""], "recipe")
    Parts(recipe, Registry()).resolved()
