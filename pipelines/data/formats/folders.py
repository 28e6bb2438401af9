"""Folders as sources: all pictures in them and in the folders below, whatever the case of their extensions."""

from __future__ import annotations

import glob as glob_module
from collections import Counter
from collections.abc import Collection

from flux_tasks import files
from flux_tasks.errors import quote
from flux_tasks.images.encoding import FILE_TYPES
from pipelines.data.formats.layout import METADATA

__all__ = ["is_folder", "left_out", "pattern_below", "pictures_below"]

_UNREAD = ("heic", "heif", "jp2", "jxl", "psd", "svg", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2", "avif")
"""Extensions of pictures, some of which are not read."""


def pattern_below(folder: str) -> str:
    """Return the pattern of all files in a folder and below."""
    return f"{glob_module.escape(folder.rstrip('/') or '/')}/**/*"


def is_folder(pattern: str, found: Collection[str] = ()) -> bool:
    """Check whether a pattern is the name of a folder.

    Args:
        found: what a source found for it.
    """
    if files.has_wildcards(pattern) or files.is_web(pattern):
        return False
    if files.is_local(pattern):
        return files.local_path(pattern).is_dir()
    return any(one.startswith(f"{pattern.rstrip('/')}/") for one in found)


def pictures_below(folder: str) -> list[str]:
    """Return the pictures in a folder and below, sorted; none if it is no folder.

    Raises:
        OSError: it cannot be listed.
    """
    if files.has_wildcards(folder) or (files.is_local(folder) and not is_folder(folder)):
        return []
    return [one for one in files.glob(pattern_below(folder)) if files.extension(one) in FILE_TYPES]


def left_out(folder: str) -> str:
    """Return what a folder has besides its pictures that a person may have meant, or an empty string."""
    if files.has_wildcards(folder) or files.is_web(folder):
        return ""
    try:
        found = files.glob(pattern_below(folder))
    except OSError:
        return ""  # whoever reads it tells what is wrong
    if metadata := next((one for one in found if files.name(one).lower() in METADATA), ""):
        return f"{metadata} is not read here: for its columns, write {{dataset: {quote(folder)}}}"
    held = [one for one in found if "." in files.name(one) and files.extension(one) in ("tar", "parquet", "arrow")]
    if held and not any(files.extension(one) in FILE_TYPES for one in found):
        return f"pictures may be inside its files, such as {held[0]}: write {{dataset: {quote(folder)}}}"
    unread = [one for one in found if files.extension(one) in _UNREAD and files.extension(one) not in FILE_TYPES]
    if not unread:
        has_others = found and not any(files.extension(one) in FILE_TYPES for one in found)
        return f"no picture is in it, only other files, such as {found[0]}" if has_others else ""
    kinds = " and ".join(f"{count:,} .{kind}" for kind, count in Counter(map(files.extension, unread)).most_common(3))
    return f"{kinds}, such as {unread[0]}: this type is not read here; save them as png, jpeg or webp"
