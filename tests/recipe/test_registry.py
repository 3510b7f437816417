from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evonas.errors import PluginError, UnknownComponent
from evonas.recipe.registry import KINDS, Registry
from evonas.spaces.plain_cnn import PlainCNN
from evonas.strategies.random import RandomSearch

GOOD = """
from evonas.strategies.random import RandomSearch

class Mine(RandomSearch):
    '''A strategy of my own.'''
"""

Plugin = Callable[..., Registry]


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Write a strategy into tmp_path/plugins."""

    def write(text: str, name: str = "mine", kind: str = "strategies") -> Registry:
        folder = tmp_path / "plugins" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        return Registry((tmp_path / "plugins",))

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_loads(kind: str) -> None:
    registry = Registry()
    assert registry.origins(kind)
    for name in registry.origins(kind):
        assert issubclass(registry.find(kind, name), KINDS[kind].load_contract())


def test_the_folders_shared_files_are_no_components() -> None:
    assert not {"base", "operations", "__init__"} & set(Registry().origins("space"))
    with pytest.raises(UnknownComponent):
        Registry().find("space", "base")


def test_unknown_names_the_nearest() -> None:
    with pytest.raises(UnknownComponent, match=r"unknown strategy 'radnom'\. Did you mean") as e:
        Registry().find("strategy", "radnom")
    assert e.value.exit_code == 2
    assert "Did you mean 'random'? Known: " in str(e.value)
    assert "tpe" in str(e.value)
    with pytest.raises(UnknownComponent) as e:
        Registry().find("strategy", "")
    assert "Did you mean" not in str(e.value)


def test_a_plugin_is_found(plugin: Plugin) -> None:
    registry = plugin(GOOD)
    cls = registry.find("strategy", "mine")
    assert issubclass(cls, RandomSearch)
    assert registry.find("strategy", "mine") is cls
    (origin,) = registry.origins("strategy")["mine"]
    assert origin.endswith("plugins/strategies/mine.py")


def test_a_relative_folder_is_the_same_plugin(plugin: Plugin, tmp_path: Path) -> None:
    absolute = plugin(GOOD)
    relative = Registry((Path("plugins"),))
    assert relative.find("strategy", "mine") is relative.find("strategy", "mine")
    assert relative.find("strategy", "mine") is absolute.find("strategy", "mine")


def test_plugins_of_one_name_in_different_folders_are_different(tmp_path: Path) -> None:
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder / "strategies").mkdir(parents=True)
        (tmp_path / folder / "strategies" / "mine.py").write_text(GOOD + f"    where = {folder!r}")
        found.append(Registry((Path(folder),)).find("strategy", "mine"))
    assert [cls.where for cls in found] == ["a", "b"]


def test_hidden_and_private_files_are_no_plugins(plugin: Plugin) -> None:
    plugin("raise SystemError", "_shared")
    registry = plugin("raise SystemError", "._mine")
    assert set(registry.origins("strategy")) == set(Registry().origins("strategy"))


def test_a_plugins_space_has_the_name_of_its_file(plugin: Plugin) -> None:
    text = "from evonas.spaces.plain_cnn import PlainCNN\nclass Other(PlainCNN):\n    pass\n"
    cls = plugin(text, "my_space", "spaces").find("space", "my_space")
    assert cls.name == "my_space"
    assert PlainCNN.name == "plain_cnn"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def (:", "SyntaxError"),
        ("raise KeyError('no luck')", "KeyError: 'no luck'"),
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("x = 1", "exactly one concrete Strategy, found none"),
        ("from evonas.strategies.random import RandomSearch", "found none"),
        ("from evonas.strategies.base import Strategy\nclass A(Strategy): pass", "found none"),
        (GOOD + "\nclass Two(RandomSearch): pass\n", "found Mine, Two"),
        ("\0", "Error"),
        ("# coding: nonsense", "SyntaxError"),
    ],
)
def test_a_broken_plugin_names_its_file(plugin: Plugin, text: str, complaint: str) -> None:
    registry = plugin(text)
    with pytest.raises(PluginError, match=r"plugins/strategies/mine\.py: ") as caught:
        registry.find("strategy", "mine")
    assert complaint in str(caught.value)
    assert caught.value.exit_code == 6


def test_a_broken_plugin_disturbs_nobody_else(plugin: Plugin) -> None:
    plugin("raise RuntimeError", "broken")
    registry = plugin(GOOD)
    assert registry.find("strategy", "random") is RandomSearch
    assert registry.find("strategy", "mine").__name__ == "Mine"
    assert "broken" in registry.origins("strategy")


def test_a_repaired_plugin_loads(plugin: Plugin) -> None:
    with pytest.raises(PluginError):
        plugin("raise RuntimeError").find("strategy", "mine")
    assert plugin(GOOD).find("strategy", "mine").__name__ == "Mine"


def test_nothing_is_imported_until_it_is_named(plugin: Plugin, tmp_path: Path) -> None:
    registry = plugin(f"open({str(tmp_path / 'imported')!r}, 'w')\n" + GOOD)
    registry.origins("strategy")
    registry.find("strategy", "random")
    assert not (tmp_path / "imported").exists()
    registry.find("strategy", "mine")
    assert (tmp_path / "imported").exists()


def test_the_name_of_a_built_in_is_taken(plugin: Plugin) -> None:
    registry = plugin(GOOD, "random")
    with pytest.raises(PluginError, match=r"'random' is there twice: built-in and .*random\.py"):
        registry.find("strategy", "random")
    assert registry.find("strategy", "tpe").__name__ == "TPE"


def test_two_plugins_of_one_name(plugin: Plugin, tmp_path: Path) -> None:
    plugin(GOOD)
    second = tmp_path / "more" / "strategies"
    second.mkdir(parents=True)
    (second / "mine.py").write_text(GOOD)
    registry = Registry((tmp_path / "plugins", tmp_path / "more"))
    with pytest.raises(PluginError, match=r"twice: .*plugins/.*mine\.py and .*more/.*mine\.py"):
        registry.find("strategy", "mine")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module on the path, in no plugins folder."""
    name = f"elsewhere_{os.getpid()}_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(GOOD + "\nnumber = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_module_and_class(module: str) -> None:
    cls = Registry().find("strategy", f"{module}:Mine")
    assert (cls.__module__, cls.__name__) == (module, "Mine")
    sys.modules.pop(module)


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("no_such_module_anywhere:X", "ModuleNotFoundError"),
        ("evonas.strategies.random:Nobody", "AttributeError"),
        ("evonas.spaces.plain_cnn:PlainCNN", "not a Strategy"),
        ("json:loads", "not a Strategy"),
        (":X", "ValueError"),
        (":", "ValueError"),
        ("..x:y", "TypeError"),
    ],
)
def test_a_reference_to_nothing(reference: str, complaint: str) -> None:
    with pytest.raises(PluginError, match=complaint) as caught:
        Registry().find("strategy", reference)
    assert reference in str(caught.value)


def test_a_registry_travels_to_workers(plugin: Plugin) -> None:
    registry = plugin(GOOD)
    assert pickle.loads(pickle.dumps(registry)) == registry


def test_a_plugins_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownComponent, match=r"The plugins folder .*/gone is not there"):
        Registry((tmp_path / "gone",)).find("space", "mine")
