"""Import a user's module if a recipe may have it run, and identify its code."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import os
import pkgutil
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from flux_tasks.errors import InvalidRequest, Problem, cut, nearest, quote
from pipelines.operations.base import describe

__all__ = ["UNMARKED", "import_user_module", "is_beside", "source_digest", "users_code"]

_lock = threading.RLock()
_digests: WeakKeyDictionary[types.ModuleType, str] = WeakKeyDictionary()  # of the sources that were imported


def import_user_module(name: str, where: str, folder: Path | None) -> types.ModuleType:
    """Return the module ``name``, from the current folder or from what is installed.

    To import a module is to run it. So it is found and read first, and imported only if it lies in ``folder`` or
    imports ``pipelines``, without which it can have marked no function with ``@operation``. One that this program has
    imported already is not run again.

    Raises:
        InvalidRequest: there is no such module, it is not imported for a recipe, or it raises while it is imported.
    """
    with _lock, _current_folder_on_path():
        if name not in sys.modules and not _may_be_imported(_spec_of(name, where), folder):
            raise InvalidRequest.of([Problem(where, f"{cut(name)} {UNMARKED}")])
        try:
            with users_code():
                module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also GeneratorExit, which would end the program without a word
            raise _refused(name, where, error) from None
        with suppress(OSError):
            _module_digest(module)
    return module


_end_process = os._exit
_here = threading.local()
"""``process``: the process in which this thread runs code of the user."""


def _exit(status: int) -> NoReturn:
    if getattr(_here, "process", None) == os.getpid():
        raise SystemExit(f"os._exit({status})")
    _end_process(status)


@contextmanager
def users_code() -> Iterator[None]:
    """Let ``os._exit`` raise ``SystemExit`` in this thread, not in a child that it forks: no run ends in silence."""
    os._exit = _exit
    before, _here.process = getattr(_here, "process", None), os.getpid()
    try:
        yield
    finally:
        _here.process = before


def _refused(name: str, where: str, error: BaseException) -> InvalidRequest:
    return InvalidRequest.of([Problem(where, f"{cut(name)} cannot be imported: {describe(error)}")])


UNMARKED = (
    "is not for recipes to call: mark the function with @operation (from pipelines import operation) and name the "
    "module where it is written, or put that module beside the recipe"
)
"""Said of a module or a function; it follows the name."""


def _spec_of(name: str, where: str) -> ModuleSpec:
    """Find a module without importing it or the packages above it.

    Raises:
        InvalidRequest: there is no such module.
    """
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    for part in accumulate(name.split("."), "{}.{}".format):
        spec = next(filter(None, (finder.find_spec(part, path) for finder in sys.meta_path)), None)
        if spec is None:
            break
        last = part.rpartition(".")[2]
        above = sys.path if path is None else path
        if spec.submodule_search_locations is None:
            path = []
        elif spec.origin is None:  # a namespace package; its own list asks for the packages above it to be imported
            path = [str(Path(folder, last)) for folder in above if Path(folder, last).is_dir()]
        else:
            path = [*spec.submodule_search_locations]
    if spec is None:
        here = _current_folder()
        close = nearest(name, [found.name for found in pkgutil.iter_modules([here] if here else [])])
        places = f"{f'in {here} and ' if here else ''}among what is installed"
        what = f"there is no module {quote(name)}{close or f'; it is looked for {places}'}"
        raise InvalidRequest.of([Problem(where, what)])
    return spec


def _may_be_imported(spec: ModuleSpec, folder: Path | None) -> bool:
    """Check whether a module lies in ``folder``, or imports ``pipelines``."""
    if is_beside(spec.name, spec.origin, folder):
        return True
    try:
        source = getattr(spec.loader, "get_source", lambda _: None)(spec.name)
        nodes = list(ast.walk(ast.parse(source or "")))
    except (ImportError, OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return "pipelines" in {name.partition(".")[0] for name in names}


def is_beside(name: str, file: str | None, folder: Path | None) -> bool:
    """Check whether the module ``name``, which was read from ``file``, lies in ``folder``, or in a package there."""
    if not file or folder is None or not Path(file).is_file():
        return False
    place = folder.resolve()
    stem = place.joinpath(*name.split("."))
    found = Path(file).parent.resolve() / Path(file).name
    return found.parent == place or found in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")


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
    """Return SHA-256 of the module's file as it was at the first call: a later edit does not change what runs.

    Functions that are not in the file, because it was edited since they were imported, are digested with it.
    """
    if module not in _digests:
        text = Path(getattr(module, "__file__", None) or "").read_bytes()
        _digests[module] = hashlib.sha256(text + "".join(_gone(module, text)).encode()).hexdigest()
    return _digests[module]


def _gone(module: types.ModuleType, text: bytes) -> Iterator[str]:
    """Return the code of each function of ``module`` that ``text``, what its file holds now, does not have."""
    loader = getattr(module, "__loader__", None)
    if not isinstance(loader, SourceFileLoader):  # pytest's loads other code than it has read
        return
    file = str(module.__file__)
    try:
        written = set(_codes(loader.source_to_code(text, file)))  # libraries such as beartype change it here
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        written = set()
    for function in [*_functions(module, module)]:
        code = function.__code__
        if Path(code.co_filename).name == Path(file).name and code not in written:
            yield _described(code)


def _functions(home: Any, module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Return the functions that ``module`` has written in ``home``, itself or one of its classes."""
    for value in list(vars(home).values()):
        if issubclass(type(value), type) and value.__module__ == module.__name__ and home is module:
            yield from _functions(value, module)
        if type(value) is types.FunctionType:  # ``isinstance`` would ask proxies of other libraries what they are
            with suppress(ValueError):
                value = inspect.unwrap(value)
            if type(value) is types.FunctionType and value.__module__ == module.__name__:
                yield value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _described(code: types.CodeType) -> str:
    """Return what a function does, the same in every process."""
    constants = [
        _described(one)
        if isinstance(one, types.CodeType)
        else repr(sorted(map(repr, one)) if isinstance(one, frozenset) else one)
        for one in code.co_consts
    ]
    return repr((code.co_name, code.co_code, code.co_names, constants))


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
