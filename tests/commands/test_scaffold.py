"""``evonas new space``: what it writes works as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evonas.cli import main
from evonas.commands import catalogue, scaffold
from evonas.errors import RecipeError, StorageError
from evonas.recipe.registry import Registry


def evonas(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_a_new_space_keeps_the_contract_and_passes_its_test(tmp_path: Path) -> None:
    result = evonas("new", "space", "wavy_nets")
    assert result.exit_code == 0
    assert catalogue.check(Registry((tmp_path / "plugins",)), "space", "wavy_nets") == []
    text = (tmp_path / "plugins" / "spaces" / "wavy_nets.py").read_text()
    assert "class WavyNets(SearchSpace)" in text
    assert "my_space" not in text.lower()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "plugins/tests"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stdout


def test_it_says_how_to_go_on() -> None:
    said = evonas("new", "space", "wavy_nets", "--plugins", "mine").stdout
    assert "evonas check space wavy_nets --plugins mine" in said
    assert evonas("show", "wavy_nets", "--plugins", "mine").exit_code == 0


def test_a_space_is_never_overwritten() -> None:
    assert evonas("new", "space", "wavy_nets").exit_code == 0
    again = evonas("new", "space", "wavy_nets")
    assert again.exit_code == 2
    assert "there is one of that name" in again.stderr
    Path("plugins/spaces/wavy_nets.py").unlink()
    with pytest.raises(StorageError, match=r"test_wavy_nets\.py: is there already"):
        scaffold.new_space("wavy_nets", Path("plugins"), Registry())
    assert not Path("plugins/spaces/wavy_nets.py").exists()


@pytest.mark.parametrize("name", ["3nets", "Nets", "my-nets", "class", "plain_cnn", "a/b"])
def test_names_that_will_not_do(name: str) -> None:
    with pytest.raises(RecipeError, match=f"new space {name}"):
        scaffold.new_space(name, Path("plugins"), Registry())
    assert not Path("plugins").exists()
