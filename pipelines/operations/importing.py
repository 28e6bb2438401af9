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

from flux_tasks.errors import InvalidRequest, Problem, cut, nearest, quote
from pipelines.operations.base import describe

__all__ = ["import_user_module", "source_digest"]

_lock = threading.RLock()
_digests: WeakKeyDictionary[types.ModuleType, str] = WeakKeyDictionary()  # of the sources that were imported


def import_user_module(name: str, where: str) -> types.ModuleType:
    """Return the module ``name``, from the current folder or from what is installed.

    Raises:
        InvalidRequest: there is no such module, or it raises while it is imported.
    """
    with _lock, _current_folder_on_path():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _refused(name, where, error) from None
            folders = [folder] if (folder := _current_folder()) else []
            close = nearest(name, [found.name for found in pkgutil.iter_modules(folders)])
            places = f"{f'in {folder} and ' if folder else ''}among what is installed"
            what = f"there is no module {quote(name)}{close or f'; it is looked for {places}'}"
            raise InvalidRequest.of([Problem(where, what)]) from None
        except (Exception, SystemExit) as error:
            raise _refused(name, where, error) from None
        with suppress(OSError):
            _module_digest(module)
    return module


def _refused(name: str, where: str, error: BaseException) -> InvalidRequest:
    return InvalidRequest.of([Problem(where, f"{cut(name)} cannot be imported: {describe(error)}")])


def _current_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # the folder was removed meanwhile
        return ""


@contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """Let modules of the current folder be imported; nothing of that stays, and no bytecode is written."""
    folder, bytecode = _current_folder(), sys.dont_write_bytecode
    is_new = folder not in ("", *sys.path) and "" not in sys.path
    is_cached = folder in sys.path_importer_cache
    sys.dont_write_bytecode = True
    if is_new:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        if is_new:
            with suppress(ValueError):
                sys.path.remove(folder)
            if not is_cached:
                sys.path_importer_cache.pop(folder, None)


def _module_digest(module: types.ModuleType) -> str:
    """Return SHA-256 of the module's file as it was at the first call: a later edit does not change what runs."""
    if module not in _digests:
        _digests[module] = hashlib.sha256(Path(getattr(module, "__file__", None) or "").read_bytes()).hexdigest()
    return _digests[module]


def source_digest(function: Any, module: types.ModuleType | None) -> str:
    """Return SHA-256 of the module that names the function and, if that is another, of the one where it is written."""
    homes = dict.fromkeys((module, sys.modules.get(getattr(function, "__module__", None) or "")))
    digests = [
        _module_digest(home)
        for home in homes
        if home is not None and Path(getattr(home, "__file__", None) or "").is_file()
    ]
    if len(digests) == 1:
        return digests[0]
    text = "".join(digests) or inspect.getsource(function)
    return hashlib.sha256(text.encode()).hexdigest()
