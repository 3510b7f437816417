"""The manual: its links lead somewhere, its examples work, its reference is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT
from test_layers import ORDER

from evonas import errors
from evonas.__main__ import main
from evonas.commands import explaining
from evonas.recipe import reading
from evonas.recipe.registry import Registry

DOCS = ROOT / "docs"
PAGES = [*(ROOT / f for f in ("README.md", "CONTRIBUTING.md", "plugins/README.md"))]
PAGES += sorted(DOCS.glob("*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
KINDS = {"spaces": "space", "strategies": "strategy", "evaluators": "evaluator"}
KINDS |= {
    "datasets": "dataset",
    "pruning": "pruning",
    "executors": "executor",
    "trackers": "tracker",
}


def examples() -> dict[str, str]:
    """Files of plugins that the manual shows, each under a heading with its path."""
    text = (DOCS / "plugins.md").read_text()
    pattern = r"### [^\n]*`plugins/(\w+/\w+)\.py`\n+```python\n(.*?)```"
    return dict(re.findall(pattern, text, re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_recipes_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(
        r"evonas (?:run|sweep) (?:recipes/)?([a-z]\w*)\b(?![./])", page.read_text()
    ):
        assert name in reading.shipped() or name.isupper(), name


def test_the_recipe_reference_is_up_to_date() -> None:
    made = explaining.reference()
    assert (DOCS / "recipe.md").read_text() == made, "python -m evonas.commands.explaining"


def test_every_command_is_told_of() -> None:
    told = set(re.findall(r"`evonas (\w+)", (DOCS / "cli.md").read_text()))
    assert told == set(main.commands)


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    assert set(re.findall(r"\w+\.md", nav)) == {page.name for page in DOCS.glob("*.md")}


@pytest.mark.parametrize(
    ("page", "kind"),
    [("strategies", "strategy"), ("evaluations", "evaluator"), ("spaces", "space")],
)
def test_every_component_is_told_of(page: str, kind: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    for name in Registry().origins(kind):
        assert f"`{name}`" in text, f"docs/{page}.md has no row on {name}"


@pytest.mark.parametrize("kind", ["dataset", "pruning", "executor", "tracker"])
def test_what_recipes_may_name_is_told_of(kind: str) -> None:
    text = (DOCS / "recipes.md").read_text()
    for name in Registry().origins(kind):
        assert re.search(rf"\b{name}\b", text), f"docs/recipes.md does not name {kind} {name}"


def test_every_recipe_has_its_row() -> None:
    text = (DOCS / "recipes.md").read_text()
    for name in reading.shipped():
        assert f"`{name}`" in text, f"docs/recipes.md has no row on {name}"


def test_every_exit_code_is_told_of() -> None:
    text = (DOCS / "symptoms.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    for code in {cls.exit_code for cls in classes if hasattr(cls, "exit_code")}:
        assert f"exit code {code}" in text, f"docs/symptoms.md has no row on exit code {code}"


def test_the_rooms_are_in_their_order() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    rooms = [name.removesuffix(".py") for row in rows for name in re.findall(r"`([\w.]+)/?`", row)]
    assert tuple(rooms) == ORDER


def test_every_kind_of_plugin_is_shown() -> None:
    shown = {path.partition("/")[0] for path in examples()}
    assert shown == KINDS.keys() - {"spaces"}  # which has a section of its own


@pytest.mark.parametrize("path", examples())
def test_the_examples_keep_their_contracts(path: str) -> None:
    folder, _, name = path.partition("/")
    file = Path("plugins", f"{path}.py")
    file.parent.mkdir(parents=True)
    file.write_text(examples()[path])
    done = CliRunner().invoke(main, ["check", KINDS[folder], name])
    assert done.exit_code == 0, done.output


def test_the_example_of_a_space_works() -> None:
    text = (DOCS / "plugins.md").read_text()
    code = re.findall(r"```python\n(.*?class MyNets.*?)```", text, re.DOTALL)[0]
    file = Path("plugins/spaces/my_nets.py")
    file.parent.mkdir(parents=True)
    file.write_text(code)
    done = CliRunner().invoke(main, ["check", "space", "my_nets", "--recipe", "digits_evo"])
    assert done.exit_code == 0, done.output


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in lines}
