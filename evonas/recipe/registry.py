"""Find a component by kind and name: built-in, entry point, plugins folder, or ``module:Class``.

Nothing is imported until it is named. A component that does not load fails the run that names it
and no other; two components of one kind and name are an error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evonas.errors import PluginError, UnknownComponent


@dataclass(frozen=True)
class Kind:
    """A kind of component.

    Attributes:
        folder: Of the built-in ones in ``evonas``, of a plugin's, and the entry points' group.
        contract: The class that ``base.py`` in that folder defines.
    """

    folder: str
    contract: str

    def load_contract(self) -> type[Any]:
        """The class, imported now: rooms above this one define it."""
        contract: type[Any] = getattr(
            importlib.import_module(f"evonas.{self.folder}.base"), self.contract
        )
        return contract


KINDS: Mapping[str, Kind] = {
    "space": Kind("spaces", "SearchSpace"),
    "strategy": Kind("strategies", "Strategy"),
    "evaluator": Kind("evaluators", "Evaluator"),
    "executor": Kind("executors", "Executor"),
    "tracker": Kind("trackers", "Tracker"),
}


@dataclass(frozen=True)
class Registry:
    """Where components are looked for beside the built-in ones and the entry points.

    Attributes:
        plugins: Folders that hold ``spaces/NAME.py``, ``strategies/NAME.py`` and so on.
    """

    plugins: tuple[Path, ...] = ()

    def origins(self, kind: str) -> dict[str, list[str]]:
        """Every known name of a kind and where it comes from; imports nothing."""
        folder_name = KINDS[kind].folder
        found: dict[str, list[str]] = {}
        package = importlib.import_module(f"evonas.{folder_name}")
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "base" and not module.ispkg:
                found.setdefault(module.name, []).append("built-in")
        for entry in importlib.metadata.entry_points(group=f"evonas.{folder_name}"):
            found.setdefault(entry.name, []).append(f"entry point {entry.value}")
        for folder in self.plugins:
            for path in sorted((folder.absolute() / folder_name).glob("[!_.]*.py")):
                found.setdefault(path.stem, []).append(str(path))
        return found

    def find(self, kind: str, name: str) -> type[Any]:
        """The class of a component.

        Args:
            kind: One of ``KINDS``.
            name: A known name, or ``module:Class``.

        Raises:
            UnknownComponent: If there is none of that name.
            PluginError: If there are two, or it does not load.
        """
        if ":" in name:
            return self._from_reference(kind, name, f"{kind} {name!r}")
        origins = self.origins(kind)
        if name not in origins:
            raise UnknownComponent(kind, name, origins)
        if len(origins[name]) > 1:
            raise PluginError(f"{kind} {name!r} is there twice: {' and '.join(origins[name])}")
        origin = origins[name][0]
        if origin.startswith("entry point "):
            return self._from_reference(kind, origin.removeprefix("entry point "), origin)
        if origin == "built-in":
            module = importlib.import_module(f"evonas.{KINDS[kind].folder}.{name}")
        else:
            module = _load(f"evonas_plugins.{KINDS[kind].folder}.{name}", Path(origin))
        return _only_class(kind, module, origin)

    def _from_reference(self, kind: str, reference: str, origin: str) -> type[Any]:
        module_name, _, class_name = reference.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        # Importing runs anybody's code: whatever it raises is that plugin's fault, and is named.
        except (Exception, SystemExit) as error:
            raise PluginError(f"{origin}: {type(error).__name__}: {error}") from error
        contract = KINDS[kind].load_contract()
        if not (isinstance(found, type) and issubclass(found, contract)):
            raise PluginError(f"{origin}: not a {contract.__name__}")
        return found


def _load(name: str, path: Path) -> ModuleType:
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution, so that its dataclasses find their module
    try:
        spec.loader.exec_module(module)
    # As above: anybody's code.
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _only_class(kind: str, module: ModuleType, origin: str) -> type[Any]:
    """The one concrete class of the contract that the module defines."""
    contract = KINDS[kind].load_contract()
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, contract)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise PluginError(
            f"{origin}: {module.__name__} must define exactly one concrete "
            f"{contract.__name__}, found {names}"
        )
    return classes[0]
