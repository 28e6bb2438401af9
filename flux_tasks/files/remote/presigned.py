"""Addresses at which anybody can read a file of a bucket for a while. They are secrets as long as they hold."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from flux_tasks.files.locations import canonical, embedded, is_local, is_web
from flux_tasks.files.remote.filesystems import OBJECT_STORES, filesystem_of

__all__ = ["presigned"]

_unsigned: set[tuple[str, str]] = set()
"""Protocols and buckets for which no address can be made: the account has no key to sign with."""


def presigned(location: str, seconds: int, *, size: int, data: bytes | None = None) -> str | None:
    """Return an http(s) address of a file in a bucket that anybody can read for ``seconds``; None if there is none.

    Args:
        size, data: bytes that the file has to have; ``data``, if given, is compared with a checksum that the bucket
            keeps. None is returned for a file that has been changed.
    """
    if is_local(location) or is_web(location) or embedded(location) is not None:
        return None
    kind, path = canonical(location)
    bucket = kind, path.partition("/")[0]
    if kind not in OBJECT_STORES or bucket in _unsigned:
        return None
    try:
        filesystem, path = filesystem_of(location)
        known = filesystem.info(path)
    except Exception:
        return None  # whoever reads the file tells what is wrong
    if known.get("size") != size or not (data is None or _md5(known) in ("", _md5_of(data))):
        return None
    try:
        # gcsfs itself would look for other credentials, and for minutes.
        if kind != "gs" or hasattr(filesystem.credentials.credentials, "sign_bytes"):
            return str(filesystem.sign(path, expiration=seconds))
    except Exception:  # noqa: S110 - each library has its own for an account that cannot sign
        pass
    _unsigned.add(bucket)
    return None


def _md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _md5(known: Mapping[str, Any]) -> str:
    """Return the MD5 that a bucket keeps of an object, in hex; empty where it keeps none."""
    tag = str(known.get("ETag", "")).strip('"')
    if len(tag) == 32:  # S3: of an object that was not uploaded in parts
        return tag
    kept = known.get("md5Hash") or (known.get("content_settings") or {}).get("content_md5")  # Google, Azure
    if isinstance(kept, str):
        return base64.b64decode(kept).hex()
    return bytes(kept).hex() if kept else ""
