"""Every failure at a location is an ``OSError``, and whether trying again may help."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from flux_tasks.files.blocks import BlockProblem
from flux_tasks.files.locations import is_local, quoted

__all__ = ["Unusable", "hide", "may_pass", "reporting"]

Function = TypeVar("Function", bound=Callable[..., Any])

_LASTING = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EROFS", "EACCES", "EPERM", "EDQUOT", "ENOTDIR", "EISDIR", "ENOENT"),
        *("ENAMETOOLONG", "ELOOP", "EINVAL", "ENXIO"),
    )
    if hasattr(errno, name)
}
_DECIDED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # s3fs gives these no errno


class Unusable(OSError):
    """A location that cannot be used, however often it is tried: what is there is wrong, or a library is missing."""


def may_pass(error: OSError) -> bool:
    """Check whether trying again after a pause may help: a store that fails, not a file that is missing."""
    return not isinstance(error, (Unusable, BlockProblem, *_DECIDED)) and error.errno not in _LASTING


_secrets: set[str] = set()
"""Credentials that this process has used, which no message may repeat."""

_SHORTEST = 8  # characters; a shorter one would be found in half of all words


def hide(secret: object) -> None:
    """Keep a credential out of every message about a location."""
    if isinstance(secret, str) and len(secret) >= _SHORTEST:
        _secrets.add(secret)


def _without_secrets(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, "<secret>")
    return text


def reporting(function: Function) -> Function:
    """Turn every failure of ``function`` into an ``OSError``: no credentials, HTTP 500, a NUL in a name …"""

    @functools.wraps(function)
    def inner(location: str | os.PathLike[str], *arguments: Any, **options: Any) -> Any:
        try:
            return function(location, *arguments, **options)
        except OSError as error:
            if _secrets and (told := _without_secrets(str(error))) != str(error):
                kind = next(one for one in type(error).__mro__ if one.__module__ in ("builtins", __name__))
                hidden = kind(told)
                hidden.errno = error.errno
                raise hidden from None
            raise
        except Exception as error:
            is_lasting = is_local(location) or "Credential" in type(error).__name__
            kind = Unusable if is_lasting else OSError
            raise kind(_without_secrets(f"{quoted(location)}: {type(error).__name__}: {error}")) from error

    return inner  # type: ignore[return-value]
