"""The import direction of DESIGN.md, held by a walk over every file's imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import evonas

PACKAGE = Path(evonas.__file__).parent
# A module may import from layers above its own line and from its own folder.
LAYERS = [
    {"errors", "atomic"},
    {"architecture", "task", "objective", "devices"},
    {"trial"},
    {"spaces", "strategies", "training", "constraints", "pruning", "hypervolume"},
    {"evaluators", "trackers", "history"},
    {"executors", "search", "report", "retraining", "incumbents", "audit"},
    {"registry", "recipe", "options", "testing"},
    {"assemble"},
    {"ending", "warm_start"},
    {"run", "catalogue"},
    {"scaling", "sampling", "scaffold", "templates"},
    {"cli"},
]
# Within a layer: who may import whom beside itself.
SIBLINGS = {
    ("scaffold", "templates"),
    ("strategies", "spaces"),
    ("strategies", "constraints"),
    ("training", "spaces"),
    ("constraints", "spaces"),
    ("search", "executors"),
    ("options", "recipe"),
    ("retraining", "executors"),
    ("incumbents", "retraining"),
    ("audit", "retraining"),
}
ONLY_IN = {
    "mlflow": {"trackers/mlflow.py"},
    "ray": {"executors/ray.py"},
    "deap": {
        "hypervolume.py",
        *(
            f"strategies/{name}.py"
            for name in ("aging_evolution", "evolution", "guided_evolution", "nsga2", "operators")
        ),
    },
    "optuna": {"strategies/tpe.py", "pruning.py"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, only_top: bool = False) -> set[str]:
    """Names of the modules that a file imports, outside ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in tree.body if only_top else ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = str(node.module)
            found |= {f"evonas.{a.name}" for a in node.names} if base == "evonas" else {base}
    return found


def part(path: Path) -> str:
    """The layer's name of a file: its folder in the package, or its own stem."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_layers(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    for module in imports(path):
        if not module.startswith("evonas."):
            continue
        target = module.split(".")[1]
        if target in (own, "__version__"):
            continue
        allowed = level(target) < level(own) or (own, target) in SIBLINGS
        assert allowed, f"{own} must not import {target}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_files(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(module.split(".")[0] == library for module in imports(path))
    }
    assert users <= ONLY_IN[library]


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "strategies").glob("*.py")), ids=lambda p: p.stem
)
def test_strategies_need_no_torch(path: Path) -> None:
    assert not any(module.split(".")[0].startswith("torch") for module in imports(path, True))
