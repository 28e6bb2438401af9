"""The filesystem of a remote location: the only place where one is opened, and what all its users need of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flux_tasks.files.blocks import block_of, is_block
from flux_tasks.files.failures import Unusable
from flux_tasks.files.locations import canonical, plain, quoted
from flux_tasks.files.remote.accounts import account_of
from flux_tasks.files.remote.options import hide_all, options_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["OBJECT_STORES", "configured", "filesystem_of", "is_conflict", "location_of", "names_in", "read_whole"]

_DEFAULTS: dict[str, dict[str, Any]] = {
    # Objects of other processes must be seen at once, so no listing is cached.
    # Signed addresses are else of version 2, which new buckets at Amazon refuse.
    "s3": {"use_listings_cache": False, "config_kwargs": {"max_pool_connections": 64, "signature_version": "s3v4"}},
    "gs": {"use_listings_cache": False},
    "az": {"use_listings_cache": False},
}
_CONTROL_API = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}

OBJECT_STORES = frozenset(_DEFAULTS)
"""Protocols of object stores, under their usual names."""


def filesystem_of(location: str) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of a remote location, and the path in it.

    Raises:
        Unusable: no library knows its protocol, the library is not installed, or its options cannot be used.
    """
    given = dict(block_of(location)[0].options) if is_block(location) else None
    location = plain(location)
    if given is None:
        given = options_of(location)
    else:
        hide_all(given)
    protocol, kind = location.split("://", 1)[0], canonical(location)[0]
    of_place = account_of(kind, location, given)
    options = {**_DEFAULTS.get(kind, {}), **of_place}
    own = configured(kind)
    for name, value in options.items():
        if isinstance(value, Mapping):  # fsspec would let one mapping replace the other
            options[name] = {**_DEFAULTS.get(kind, {}).get(name, {}), **own.get(name, {}), **of_place.get(name, {})}
    try:
        filesystem = _class_of(protocol, kind)(**options)
    except ImportError as error:
        extra = _EXTRAS.get(kind)
        remedy = f"pip install 'flux-pipelines[{extra}]'" if extra else f"install it: {error}"
        raise Unusable(f"{protocol}:// needs a library that is not installed: {remedy}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise Unusable(f"{quoted(location)}: {error}") from None
    filesystem.invalidate_cache()  # what libraries remember of a listing is not what is there now
    getattr(filesystem, "dircache", {}).clear()  # fsspec's own invalidate_cache does nothing
    return filesystem, filesystem._strip_protocol(location)


def _class_of(protocol: str, kind: str) -> Callable[..., AbstractFileSystem]:
    """Return the class of a protocol's filesystems.

    That of gcsfs asks Google's control API before each write, which hangs for minutes against any other server, unless
    a variable says otherwise when gcsfs is imported; and a program may have imported it already.
    """
    if kind == "gs" and os.environ.setdefault(_CONTROL_API, "false").lower() not in ("true", "1"):
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem  # type: ignore[no-any-return]
    import fsspec

    return fsspec.get_filesystem_class(protocol)  # type: ignore[no-any-return]


def library_of(location: str) -> tuple[str, str] | None:
    """Return the library that the bucket of a location needs, and the extra that has it; None for other locations."""
    protocol = location.rpartition("::")[2].partition("://")[0]
    kind = canonical(f"{protocol}://")[0] if protocol.isalnum() and protocol != "block" else ""
    return (_LIBRARIES[kind], _EXTRAS[kind]) if kind in _LIBRARIES else None


def configured(protocol: str) -> Mapping[str, Any]:
    """Return what fsspec's own configuration says of a protocol."""
    import fsspec.config

    found: Mapping[str, Any] = fsspec.config.conf.get(protocol, {})
    return found


def location_of(name: str, beside: str) -> str:
    """Return the location of ``name``, as a filesystem calls it, written as the location ``beside`` is."""
    if is_block(beside):
        root = canonical(block_of(beside)[0].root)[1]
        return f"{'/'.join(beside.split('/')[:4])}/{name.strip('/').removeprefix(root).lstrip('/')}"
    protocol, _, path = beside.partition("://")
    bucket, slash, rest = name.lstrip("/").partition("/")
    authority = path.partition("/")[0]  # abfs://container@account.dfs.core.windows.net has more in it than the bucket
    return f"{protocol}://{authority if authority.startswith(f'{bucket}@') else bucket}{slash}{rest}"


def read_whole(filesystem: AbstractFileSystem, path: str) -> bytes:
    """Return the bytes of a file, on S3 by one request.

    Else s3fs asks for the size first, and reads more than 50 MB in parts, which may be of two versions.
    """
    is_s3 = "s3" in filesystem.protocol and hasattr(filesystem, "_cat_file_concurrent")
    content: bytes = filesystem.cat_file(path, **({"max_concurrency": 1} if is_s3 else {}))
    return content


def names_in(location: str, kind: str) -> list[str]:
    """Return the names of the entries of one kind, ``file`` or ``directory``, directly in a remote folder, sorted."""
    filesystem, path = filesystem_of(location)
    try:
        found = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return []
    names = (str(f["name"]).rstrip("/") for f in found if f["type"] == kind)
    return sorted(name.rsplit("/", 1)[-1] for name in names if name.strip("/") != path.strip("/"))


def is_conflict(error: BaseException) -> bool:
    """Check whether an object store refused a conditional put: HTTP 412 or 409 somewhere in the chain of causes."""
    seen: BaseException | None = error
    while seen is not None:
        code = getattr(seen, "code", None) or getattr(seen, "status", None)
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode", code)
        if str(code) in ("409", "412"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
