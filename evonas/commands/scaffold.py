"""``evonas new``: a working component and its test, to be changed."""

from __future__ import annotations

import keyword
from pathlib import Path

from evonas.commands import templates
from evonas.errors import RecipeError, StorageError
from evonas.recipe.registry import Registry

_TEMPLATES = Path(templates.__file__).parent


def new_space(name: str, folder: Path, registry: Registry) -> list[Path]:
    """Write ``spaces/NAME.py`` and ``tests/test_NAME.py`` into a plugins folder.

    Args:
        name: Of the space: a lower-case Python name, as it will stand in recipes.
        folder: The plugins folder; it is made if it is not there.
        registry: The known components: the name must be none of theirs.

    Returns:
        What was written.

    Raises:
        RecipeError: If the name will not do.
        StorageError: If a file is there already, or the disk does not take it.
    """
    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        raise RecipeError(f"new space {name}: must be a lower-case Python name, such as my_space")
    if origins := registry.origins("space").get(name):
        raise RecipeError(f"new space {name}: there is one of that name: {origins[0]}")
    texts = {
        folder / place / f"{template.replace('my_space', name)}.py": _TEMPLATES / f"{template}.py"
        for place, template in (("spaces", "my_space"), ("tests", "test_my_space"))
    }
    for path in texts:
        if path.exists():
            raise StorageError(f"{path}: is there already")
    for path, template in texts.items():
        _write(path, _renamed(template.read_text(), name))
    return list(texts)


def _renamed(text: str, name: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("_"))
    title = name.replace("_", " ").upper()
    return text.replace("MySpace", camel).replace("my_space", name).replace("MY SPACE", title)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
