"""Find a component by kind and name: built-in, entry point, plugins folder, or ``module:Class``.

Nothing is imported until it is named. A component that does not load fails the run that names it
and no other; two components of one kind and name are an error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evonas.errors import EvonasError, PluginError, UnknownComponent, did_you_mean

REFUSED = "EVONAS_NO_PLUGINS"  # The variable is set if only installed code may be imported.
_PATIENCE = 120.0  # seconds that a plugin may take to be imported, made, or to build a network


@dataclass(frozen=True)
class Kind:
    """A kind of component.

    Attributes:
        folder: Of a plugin, and the entry points' group.
        contract: The class that all of them extend, ``module:Class``.
        section: Of the recipe, which names one of them.
        noun: What a person calls it, if not as the command line does.
    """

    folder: str
    contract: str
    section: str
    noun: str = ""

    @property
    def package(self) -> str:
        """Of the built-in ones."""
        return self.contract.partition(".base:")[0]

    def load_contract(self) -> type[Any]:
        """The class, imported now: rooms above this one define it."""
        contract: type[Any] = pkgutil.resolve_name(self.contract)
        return contract


KINDS: Mapping[str, Kind] = {
    "space": Kind("spaces", "evonas.spaces.base:SearchSpace", "space"),
    "strategy": Kind("strategies", "evonas.strategies.base:Strategy", "strategy"),
    "evaluator": Kind("evaluators", "evonas.evaluators.base:Evaluator", "evaluation"),
    "dataset": Kind("datasets", "evonas.datasets.base:Dataset", "dataset", "data set"),
    "pruning": Kind("pruning", "evonas.runs.pruning.base:Rule", "pruning", "pruning rule"),
    "executor": Kind("executors", "evonas.executors.base:Executor", "executor"),
    "tracker": Kind("trackers", "evonas.trackers.base:Tracker", "tracking"),
}
# Kinds by the section of the recipe that names a component.
SECTIONS: Mapping[str, str] = {kind.section: name for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Registry:
    """Where components are looked for beside the built-in ones and the entry points.

    Attributes:
        plugins: Folders that hold ``spaces/NAME.py``, ``strategies/NAME.py`` and so on.
        named_by: Where these folders stand, if nobody typed them: what is imported from them is
            then announced, unless they are those of the working directory.
    """

    plugins: tuple[Path, ...] = ()
    named_by: str = ""

    def origins(self, kind: str) -> dict[str, list[str]]:
        """Every known name of a kind and where it comes from; imports nothing."""
        folder_name = KINDS[kind].folder
        origins: dict[str, list[str]] = {}
        package = importlib.import_module(KINDS[kind].package)
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "base" and not module.ispkg:
                origins.setdefault(module.name, []).append("built-in")
        for entry in importlib.metadata.entry_points(group=f"evonas.{folder_name}"):
            origins.setdefault(entry.name, []).append(f"entry point {entry.value}")
        for folder in self.plugins:
            for path in sorted((folder.absolute() / folder_name).glob("[!_.]*.py")):
                origins.setdefault(path.stem, []).append(str(path))
        return origins

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
            _check_allowed(f"{kind} {name!r}")
            return self._from_reference(kind, name, f"{kind} {name!r}")
        origins, noun = self.origins(kind), KINDS[kind].noun or kind
        if name not in origins:
            raise UnknownComponent(noun, name, origins, self._misplaced(kind, name))
        if len(origins[name]) > 1:
            raise PluginError(f"{noun} {name!r} is there twice: {' and '.join(origins[name])}")
        origin = origins[name][0]
        if origin.startswith("entry point "):  # installed, and so trusted
            return self._from_reference(kind, origin.removeprefix("entry point "), origin)
        if origin == "built-in":
            module = importlib.import_module(f"{KINDS[kind].package}.{name}")
        else:
            self._announce(Path(origin))
            module = _load(f"evonas_plugins.{KINDS[kind].folder}.{name}", Path(origin))
        return _only_class(kind, module, origin)

    def _announce(self, path: Path) -> None:
        """Refuse a plugin if none is allowed; announce one that a run folder names.

        Raises:
            PluginError: If it is refused.
        """
        _check_allowed(str(path))
        known = f"evonas_plugins.{path.parent.name}.{path.stem}" in sys.modules
        own = path.is_relative_to(Path("plugins").absolute())
        # Once, in the process that people look at.
        if self.named_by and not (own or known or multiprocessing.parent_process()):
            print(f"evonas: imports {path}, as {self.named_by} says", file=sys.stderr)

    def _misplaced(self, kind: str, name: str) -> str:
        """Where a file of that name lies in a plugins folder, if not where it is looked for."""
        for folder in self.plugins:
            if not folder.is_dir():  # a run's, whose plugins moved since
                return f"The plugins folder {folder} is not there"
            home = folder / KINDS[kind].folder / f"{name}.py"
            for path in (folder / f"{name}.py", *sorted(folder.glob(f"*/{name}.py"))):
                if path.is_file():
                    return f"{path} is not looked at: move it to {home}"
        return ""

    def _from_reference(self, kind: str, reference: str, origin: str) -> type[Any]:
        module_name, _, class_name = reference.partition(":")
        with _importing(origin):
            component = getattr(importlib.import_module(module_name), class_name)
        contract = KINDS[kind].load_contract()
        if not (isinstance(component, type) and issubclass(component, contract)):
            raise PluginError(f"{origin}: not a {contract.__name__}")
        return component


def _check_allowed(origin: str) -> None:
    if os.environ.get(REFUSED):
        raise PluginError(f"{origin}: is neither ours nor installed, and --no-plugins is given")


@contextmanager
def blamed(cls: type[Any], doing: str, timed: bool = False) -> Iterator[None]:
    """Whatever a plugin's class raises is PluginError, and names it; our own bugs stay bugs.

    Args:
        cls: Whose code runs.
        doing: What fails then, such as ``cannot be made``.
        timed: Whether it is a fault, too, if a plugin does not come to an end in two minutes.
    """
    ours = cls.__module__.startswith("evonas.")
    try:
        with in_time() if timed and not ours else nullcontext():
            yield
    except (EvonasError, KeyboardInterrupt):
        raise
    # The class may be anybody's code, which may even want to leave.
    except BaseException as error:
        if ours:
            raise
        raise PluginError(
            f"{cls.__module__}:{cls.__name__} {doing}: {told(error)} ({place(cls, error)})"
        ) from error


class _Endless(BaseException):
    """Leaves what does not come to an end; no Exception, which a loop may catch for ever."""


@contextmanager
def in_time() -> Iterator[None]:
    """TimeoutError if anybody's code does not come to an end; in the main thread, as of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        raise _Endless

    handler = signal.signal(signal.SIGALRM, leave)
    outer = signal.setitimer(signal.ITIMER_REAL, _PATIENCE, 1.0)  # again, should it be caught
    try:
        yield
    except _Endless as endless:
        fault = TimeoutError(f"not done after {_PATIENCE:g} seconds")
        raise fault.with_traceback(endless.__traceback__) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, handler)


def said(error: BaseException) -> str:
    """What an exception says, which may be one of anybody's, with a fault of its own."""
    try:
        return str(error)
    except Exception:
        return "(which cannot be printed)"


def told(error: BaseException) -> str:
    """An exception in one line: its class and what it says."""
    return f"{type(error).__name__}: {said(error).strip().partition(chr(10))[0]}"


def place(cls: type[Any], error: BaseException | None = None, method: str = "build") -> str:
    """Where to look for a fault of a component: ``FILE, line 17``.

    Args:
        cls: The component's class.
        error: What it raised: the innermost line of the class's own file is named.
        method: Whose first line is named where no line of the file raised anything.
    """
    file = inspect.getsourcefile(cls) or ""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    lines = [frame.lineno for frame in frames if frame.filename == file]
    line = lines[-1] if lines else inspect.getsourcelines(getattr(cls, method, cls))[1]
    inside = Path(file).is_relative_to(Path.cwd())
    return f"{os.path.relpath(file) if inside else file}, line {line}"


@contextmanager
def _importing(origin: str) -> Iterator[None]:
    """Importing runs anybody's code: whatever it raises is that plugin's fault, and is named."""
    try:
        with in_time():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(f"{origin}: {told(error)}") from error


def _load(name: str, path: Path) -> ModuleType:
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution, so that its dataclasses find their module
    try:
        with _importing(str(path)):
            spec.loader.exec_module(module)
    except PluginError:
        del sys.modules[name]
        raise
    return module


def _only_class(kind: str, module: ModuleType, origin: str) -> type[Any]:
    """The one concrete class of the contract that the module defines."""
    contract = KINDS[kind].load_contract()
    types = [value for value in vars(module).values() if isinstance(value, type)]
    own = [cls for cls in types if cls.__module__ == module.__name__]
    classes = [cls for cls in own if issubclass(cls, contract) and not inspect.isabstract(cls)]
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise PluginError(
            f"{origin}: {module.__name__} must define exactly one concrete "
            f"{contract.__name__}, found {names}{'' if classes else _why_none(contract, own)}"
        )
    return classes[0]


def _why_none(contract: type[Any], classes: Sequence[type[Any]]) -> str:
    """What keeps the classes that a module defines from being components."""
    hints = []
    for cls in classes:
        if not issubclass(cls, contract):
            hints.append(f"{cls.__name__} does not extend {contract.__name__}")
        for lacking in sorted(getattr(cls, "__abstractmethods__", ())):
            near = did_you_mean(lacking, set(vars(cls)) - {lacking}).rstrip(".")
            hints.append(f"{cls.__name__} is abstract, for it has no method {lacking!r}{near}")
    return f": {'; '.join(hints)}" if hints else ""
