"""Options of filesystems by place: the account, the endpoint, the region of each bucket or folder.

``{"s3://archive/": {"profile": "readonly"}, "s3://public/": {"anon": True}}``: a location has the options of the
longest prefix that it lies under, and those alone; a prefix is a whole folder, so ``s3://arch`` is not one of
``s3://archive``. An option that is ``{"env": NAME}`` has the value of that environment variable, and nobody else
learns it: what was written is passed on, never what it stands for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeAlias

from flux_tasks.files.failures import Unusable, hide
from flux_tasks.files.locations import canonical, local_path

__all__ = [
    "VARIABLE",
    "StorageOptions",
    "hide_all",
    "is_secret_option",
    "is_under",
    "options_of",
    "parse",
    "using",
    "variable_of",
]

StorageOptions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Options by URL prefix."""

VARIABLE = "FLUX_STORAGE_OPTIONS"
"""The environment variable that has them as JSON, or names a JSON or YAML file."""

_REMEDY = 'write {"s3://bucket/": {"profile": "name"}}'
_SECRET = re.compile(r"key|token|secret|passw|credential|connection_string|signature", re.IGNORECASE)

_chosen: ContextVar[StorageOptions | None] = ContextVar("storage_options", default=None)
_latest: list[StorageOptions] = []  # for threads that do not inherit the context of their starter


@contextmanager
def using(options: StorageOptions) -> Iterator[None]:
    """Open filesystems in the block, and in tasks and threads begun there, with these options."""
    token = _chosen.set(options)
    _latest.append(options)
    try:
        yield
    finally:
        _latest.remove(options)
        _chosen.reset(token)


def _current() -> StorageOptions:
    """Return the options in force: those of the innermost ``using``, else the environment's."""
    chosen = _chosen.get()
    if chosen is None:
        chosen = _latest[-1] if _latest else None
    return parse(os.environ.get(VARIABLE, "")) if chosen is None else chosen


def parse(text: str) -> StorageOptions:
    """Return the options in a text: JSON, or the path of a JSON or YAML file; none in an empty one.

    Raises:
        ValueError: it has none, or the file cannot be read; the message does not quote it, because it may be secret.
    """
    text = text.strip()
    if not text:
        return {}
    if text.startswith("{"):
        return _loaded(text, 0)
    try:
        return _loaded(text, local_path(text).stat().st_mtime_ns)
    except OSError as error:
        what = f"neither JSON nor a file that can be read ({error.strerror or type(error).__name__})"
        raise ValueError(
            f'is {what}: write {{"s3://bucket/": {{"profile": "name"}}}}, or the path of such a file'
        ) from None


@lru_cache(4)
def _loaded(text: str, _modified: int) -> StorageOptions:
    found: Any = None
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(f"is not JSON: {_REMEDY}") from None
    else:
        import yaml

        try:
            found = yaml.safe_load(local_path(text).read_text())
        except (ValueError, yaml.YAMLError, RecursionError):
            raise ValueError("names a file that is neither JSON nor YAML") from None
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ValueError(f"has no options by URL prefix: {_REMEDY}")
    return found


def is_under(location: str, prefix: str) -> bool:
    """Check whether a remote location is what ``prefix`` names, or lies in it."""
    (kind, path), (wanted, folder) = canonical(location), canonical(prefix)
    return kind == wanted and (not folder or path == folder or path.startswith(f"{folder}/"))


def options_of(location: str) -> dict[str, Any]:
    """Return the options of a remote location, with the values of environment variables in their places.

    Raises:
        Unusable: a variable is not set.
    """
    options = _current()
    found = [prefix for prefix in options if is_under(location, prefix)] if options else []
    if not found:
        return {}
    prefix = max(found, key=lambda one: len(canonical(one)[1]))
    return {name: _value(name, value, prefix) for name, value in options[prefix].items()}


def variable_of(value: Any) -> str | None:
    """Return the environment variable that an option names, ``{"env": NAME}``; None for a value."""
    name = value.get("env") if isinstance(value, Mapping) and set(value) == {"env"} else None
    return name if isinstance(name, str) else None


def _value(name: str, value: Any, prefix: str) -> Any:
    variable = variable_of(value)
    if variable is not None:
        value = os.environ.get(variable, "")
        if not value:
            raise Unusable(f"storage_options of {prefix}: {name}: the environment has no {variable}: set it")
    if is_secret_option(name):
        hide(value)
    elif isinstance(value, Mapping):
        return {inner: _value(inner, one, prefix) for inner, one in value.items()}
    return value


def hide_all(options: Mapping[str, Any]) -> None:
    """Keep every text in the options of a storage block, whatever it is called, out of messages."""
    for value in options.values():
        if isinstance(value, Mapping):
            hide_all(value)
        elif not (isinstance(value, str) and "://" in value):  # an endpoint may be told
            hide(value)


def is_secret_option(name: str) -> bool:
    """Check whether an option has a name that sounds like a secret's."""
    return _SECRET.search(name) is not None
