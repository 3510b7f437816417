"""``evonas new``: what it writes works as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helper import evonas
from conftest import ROOT

from evonas.commands import scaffold
from evonas.errors import RecipeError, StorageError
from evonas.recipe.registry import Registry

KINDS = {
    "space": "class WavyNets(SearchSpace)",
    "strategy": "class WavyNets(Strategy)",
    "evaluator": "class WavyNets(Evaluator)",
    "dataset": "class WavyNets(Dataset)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_new_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    assert evonas("new", kind, "wavy_nets").exit_code == 0
    checked = evonas("check", kind, "wavy_nets")
    at = " (at 3x16x16)" if kind == "space" else ""
    assert (checked.stdout, checked.exit_code) == (f"{kind} wavy_nets: ok{at}\n", 0)
    (written,) = (tmp_path / "plugins").glob("[!t]*/*.py")
    text = written.read_text()
    assert KINDS[kind] in text
    assert text.startswith('"""WAVY NETS: ')
    assert f"my_{kind}" not in text.lower()


def test_what_is_new_passes_its_test() -> None:
    for kind in KINDS:
        assert evonas("new", kind, f"my_own_{kind}").exit_code == 0
    assert pytest.main(["-q", "-p", "no:cacheprovider", "plugins/tests"]) == pytest.ExitCode.OK


def test_a_search_of_new_components_alone(tmp_path: Path) -> None:
    for kind in KINDS:
        assert evonas("new", kind, f"my_own_{kind}").exit_code == 0
    sections = {"evaluator": "evaluation"}
    sets = [f"{sections.get(kind, kind)}=my_own_{kind}" for kind in KINDS]
    sets += ["budget.trials=2", "evaluation.epochs=1", "tracking=console", "executor=serial"]
    arguments = [part for each in sets for part in ("--set", each)]
    done = evonas("run", str(ROOT / "recipes" / "digits_evo.yaml"), *arguments)
    assert done.exit_code == 0, done.output
    assert "worst_class" in done.output


def test_it_says_how_to_go_on() -> None:
    said = evonas("new", "space", "wavy_nets", "--plugins", "mine").stdout
    assert "evonas check space wavy_nets --plugins mine" in said
    assert "--set space.name=wavy_nets --plugins mine" in said
    other = evonas("new", "evaluator", "wavy_nets", "--plugins", "more").stdout
    assert "--set evaluation.name=wavy_nets --plugins more" in other
    assert evonas("show", "wavy_nets", "--plugins", "mine").exit_code == 0


def test_the_package_itself_is_no_folder_of_plugins() -> None:
    folder = Path(scaffold.__file__).parents[1]
    refused = evonas("new", "strategy", "annealing", "--plugins", str(folder))
    assert refused.exit_code == 2
    assert "that is evonas itself" in refused.stderr
    assert not (folder / "strategies" / "annealing.py").exists()


def test_a_space_is_never_overwritten() -> None:
    assert evonas("new", "space", "wavy_nets").exit_code == 0
    again = evonas("new", "space", "wavy_nets")
    assert again.exit_code == 2
    assert "there is one of that name" in again.stderr
    Path("plugins/spaces/wavy_nets.py").unlink()
    with pytest.raises(StorageError, match=r"test_wavy_nets\.py: is there already"):
        scaffold.new("space", "wavy_nets", Path("plugins"), Registry())
    assert not Path("plugins/spaces/wavy_nets.py").exists()


@pytest.mark.parametrize("name", ["3nets", "Nets", "my-nets", "class", "plain_cnn", "a/b"])
def test_names_that_will_not_do(name: str) -> None:
    with pytest.raises(RecipeError, match=f"new space {name}"):
        scaffold.new("space", name, Path("plugins"), Registry())
    assert not Path("plugins").exists()


def test_other_kinds_are_not_written() -> None:
    refused = evonas("new", "tracker", "wavy_nets")
    assert refused.exit_code == 2
    assert "'space', 'strategy', 'evaluator', 'dataset'" in refused.stderr
