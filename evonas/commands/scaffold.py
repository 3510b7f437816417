"""``evonas new``: a working component and its test, to be changed."""

from __future__ import annotations

import keyword
from pathlib import Path

import evonas
from evonas import files
from evonas.commands import templates
from evonas.errors import RecipeError, StorageError
from evonas.recipe.registry import KINDS, Registry

_TEMPLATES = Path(templates.__file__).parent


def new(kind: str, name: str, folder: Path, registry: Registry) -> list[Path]:
    """Write a component, such as ``spaces/NAME.py``, and ``tests/test_NAME.py``.

    Args:
        kind: ``space``, ``strategy``, ``evaluator`` or ``dataset``.
        name: Of the component: a lower-case Python name, as it will stand in recipes.
        folder: The plugins folder; it is made if it is not there.
        registry: The known components: the name must be none of theirs.

    Returns:
        What was written.

    Raises:
        RecipeError: If the name or the folder will not do.
        StorageError: If a file is there already, or the disk does not take it.
    """
    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        raise RecipeError(f"new {kind} {name}: must be a lower-case Python name, such as my_{kind}")
    if origins := registry.origins(kind).get(name):
        raise RecipeError(f"new {kind} {name}: there is one of that name: {origins[0]}")
    if folder.absolute().resolve() == Path(evonas.__file__).parent:
        raise RecipeError(
            f"--plugins {folder}: that is evonas itself, where files import otherwise; begin "
            f"with a copy of one of {KINDS[kind].folder}/ (CONTRIBUTING.md)"
        )
    component, test = f"my_{kind}.py", f"test_my_{kind}.py"
    texts = {
        folder / KINDS[kind].folder / f"{name}.py": _TEMPLATES / component,
        folder / "tests" / f"test_{name}.py": _TEMPLATES / test,
    }
    for path in texts:
        if path.exists():
            raise StorageError(f"{path}: is there already")
    for path, template in texts.items():
        with files.blamed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_renamed(template.read_text(), kind, name))
    return list(texts)


def _renamed(text: str, kind: str, name: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("_"))
    title = name.replace("_", " ").upper()
    text = text.replace(f"My{kind.capitalize()}", camel).replace(f"my_{kind}", name)
    return text.replace(f"MY {kind.upper()}", title)
