"""Sizes and digests of files that were written, and whether they are still so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from flux_tasks import files

__all__ = ["digest_at", "is_as_written", "sums_at", "sums_of"]


def sums_of(file: Path) -> dict[str, Any]:
    """Return the size of a file, in bytes, and its digest."""
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def sums_at(place: str) -> dict[str, Any]:
    """Return the size, in bytes, and the digest of a small file on any location.

    Raises:
        OSError: it cannot be read.
    """
    data = files.read(place)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def digest_at(place: str) -> str:
    """Return the digest of a file, or an empty string if there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with files.stream(place) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def is_as_written(place: str, known: Mapping[str, Any] | None) -> bool:
    """Check whether a file has its bytes; of one in a bucket only the size is looked at.

    Args:
        known: what ``sums_of`` has returned of it; None, from an earlier version, lets any file do.

    Raises:
        OSError: it cannot be read.
        KeyError: ``known`` is damaged.
    """
    if known is None:
        return files.exists(place)
    is_same = files.size(place) == known["bytes"]
    return is_same and (not files.is_local(place) or digest_at(place) == known["sha256"])
