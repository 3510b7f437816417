"""What there is, shown to a person."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES, ROOT

from evonas.commands import catalogue
from evonas.errors import UnknownComponent
from evonas.recipe.registry import KINDS, Registry

REGISTRY = Registry()


def plugins(**files: str) -> Registry:
    folder = Path("plugins/spaces")
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return Registry((folder.parent,))


def test_every_kind_is_listed() -> None:
    listed = catalogue.lists(REGISTRY, None)
    assert list(listed) == [*(kind.folder for kind in KINDS.values()), "recipes"]
    recipes = {row.name for row in listed.pop("recipes")}
    assert recipes == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert {"mbconv", "nasbench201", "plain_cnn", "resnet"} < {row.name for row in listed["spaces"]}
    for row in (row for rows in listed.values() for row in rows):
        assert row.origin == "built-in"
        assert row.summary.endswith(".")
        assert "does not load" not in row.summary


@pytest.mark.parametrize("kind", ["space", "spaces"])
def test_one_kind_is_listed(kind: str) -> None:
    assert list(catalogue.lists(REGISTRY, kind)) == ["spaces"]


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownComponent, match=r"unknown kind 'spase'\. Did you mean 'space'"):
        catalogue.lists(REGISTRY, "spase")


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_is_read_as_it_would_be_imported(kind: str) -> None:
    registry = Registry((ROOT / "plugins",))
    for row in catalogue.components(registry, kind):
        if row.origin != "built-in" and f"{KINDS[kind].folder}/{row.name}" not in EXAMPLES:
            continue  # a user's own
        first = (inspect.getdoc(registry.find(kind, row.name)) or "").partition("\n")[0]
        assert row.summary == first.replace("``", "`")


def test_a_broken_plugin_hides_no_other() -> None:
    broken = {"syntax": "def (:", "binary": "\0", "raises_on_import": "1 / 0"}
    rows = {row.name: row for row in catalogue.components(plugins(**broken), "space")}
    assert rows["mbconv"].summary.endswith(".")
    assert rows["syntax"].summary.startswith("does not load: ")
    assert rows["binary"].summary.startswith("does not load: ")
    assert rows["raises_on_import"].summary == ""  # it is not imported: evonas doctor does that
    assert all(rows[name].origin.endswith(f"{name}.py") for name in broken)


def test_a_name_taken_twice_is_listed_twice() -> None:
    rows = catalogue.components(plugins(mbconv="'''Mine.'''"), "space")
    twice = [row for row in rows if row.name == "mbconv"]
    assert len(twice) == 2
    assert all("is there twice" in row.summary for row in twice)


def test_a_list_needs_no_torch() -> None:
    code = (
        "import sys; from evonas.__main__ import main; main(['list'], standalone_mode=False); "
        "assert not {'torch', 'mlflow', 'optuna', 'deap'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
