"""The import order of CONTRIBUTING.md, held by a walk over every file's imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import evonas

PACKAGE = Path(evonas.__file__).parent
# Whoever stands here may import from what stands before it, and from its own folder.
ORDER = (
    *("errors", "files", "architecture", "trial", "trials", "recipe", "spaces", "training"),
    *("datasets", "strategies", "evaluators", "executors", "trackers", "report", "runs"),
    *("testing", "commands", "__main__"),
)
ONLY_IN = {
    "mlflow": {"trackers"},
    "ray": {"executors/ray.py"},
    "deap": {"trials.py", "strategies"},
    "optuna": {"strategies", "runs/pruning"},
}
FILES = sorted(  # but what every room is imported from, and templates, which import as plugins do
    path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" and path.parent.name != "templates"
)


def imports(path: Path, only_top: bool = False) -> set[str]:
    """Names of the modules that a file imports, types alone among them."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if only_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = str(node.module)
            found |= {f"evonas.{a.name}" for a in node.names} if base == "evonas" else {base}
    return found


def room(path: Path) -> str:
    """A file's folder in the package, or its own stem."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_order(path: Path) -> None:
    own = room(path)
    for module in imports(path):
        if not module.startswith("evonas.") or module == "evonas.__version__":
            continue
        target = module.split(".")[1]
        assert target in ORDER, f"{module}: only plugins import from evonas; name the file"
        assert target == own or ORDER.index(target) < ORDER.index(own), (
            f"{own} must not import {target}"
        )


def test_the_top_floor_has_eight_files_and_eleven_rooms() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert files == {*ORDER, "__init__"} - rooms
    assert (len(files), len(rooms)) == (8, 11)


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_files(library: str) -> None:
    for path in FILES:
        if any(module.split(".")[0] == library for module in imports(path)):
            inside = path.relative_to(PACKAGE)
            assert set(map(str, (inside, *inside.parents))) & ONLY_IN[library], path


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "strategies").rglob("*.py")), ids=lambda p: p.stem
)
def test_strategies_need_no_torch(path: Path) -> None:
    assert not any(module.split(".")[0].startswith("torch") for module in imports(path, True))


def test_templates_import_what_the_package_exports() -> None:
    exported = {f"evonas.{name}" for name in (*evonas.__all__, "testing")}
    for path in (PACKAGE / "commands" / "templates").glob("*.py"):
        own = {module for module in imports(path) if module.startswith("evonas")}
        assert own <= exported, path
