"""Import a user's module, and identify its code."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flux_tasks.errors import InvalidRequest, Problem, nearest
from pipelines.operations.base import said

__all__ = ["current_folder", "here", "imported", "importing_lock", "module_digest", "module_digests", "source_of"]
importing_lock = threading.RLock()
module_digests: WeakKeyDictionary[types.ModuleType, str] = WeakKeyDictionary()  # of the source that was really imported


def imported(name: str, where: str) -> types.ModuleType:
    with importing_lock, current_folder():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise InvalidRequest.of([Problem(where, f"{name} cannot be imported: {said(error)}")]) from None
            folders = [folder] if (folder := here()) else []
            beside = [found.name for found in pkgutil.iter_modules(folders)]
            hint = (
                nearest(name, beside)
                or f"; it is looked for {f'in {folder} and ' if folder else ''}among what is installed"
            )
            raise InvalidRequest.of([Problem(where, f"there is no module '{name}'{hint}")]) from None
        except (Exception, SystemExit) as error:
            raise InvalidRequest.of([Problem(where, f"{name} cannot be imported: {said(error)}")]) from None
        with suppress(OSError):
            module_digest(module)
    return module


def here() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed under our feet
        return ""


@contextmanager
def current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported meanwhile; no trace of it stays, in the folder either."""
    folder, bytecode = here(), sys.dont_write_bytecode
    foreign = folder not in ("", *sys.path) and "" not in sys.path
    known = folder in sys.path_importer_cache
    sys.dont_write_bytecode = True
    if foreign:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        if foreign:
            with suppress(ValueError):
                sys.path.remove(folder)
            if not known:
                sys.path_importer_cache.pop(folder, None)


def module_digest(module: types.ModuleType) -> str:
    """SHA-256 of the module's file as it was when first seen here: a later edit does not change what runs."""
    if module not in module_digests:
        module_digests[module] = hashlib.sha256(Path(getattr(module, "__file__", None) or "").read_bytes()).hexdigest()
    return module_digests[module]


def source_of(function: Any, module: types.ModuleType | None) -> str:
    """SHA-256 of the module that names the function and, if that is another, of the one where it is written."""
    homes = dict.fromkeys((module, sys.modules.get(getattr(function, "__module__", None) or "")))
    digests = [
        module_digest(home)
        for home in homes
        if home is not None and Path(getattr(home, "__file__", None) or "").is_file()
    ]
    if len(digests) == 1:
        return digests[0]
    text = "".join(digests) or inspect.getsource(function)
    return hashlib.sha256(text.encode()).hexdigest()
