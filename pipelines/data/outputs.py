"""Files that results are written to: their paths come from a template, and they are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import logging
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidImage, InvalidRequest, Problem
from flux_tasks.images.encoding import EXTENSIONS, encode
from flux_tasks.images.reference import FIRST_ONLY, ImageRef
from flux_tasks.units import px_size
from pipelines.language import templates
from pipelines.language.document.recipe import Output
from pipelines.language.graph import OutputTarget

__all__ = ["FULL", "Outputs", "identity", "mark", "output_path", "target_path", "write_output"]

FULL = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
"""Errors after which every further result would fail as well: no space, read-only, quota."""

_log = logging.getLogger("flux_tasks.flows")

_KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def output_path(output: Output, context: Mapping[str, Any]) -> str:
    """Return the location of one item's result.

    Raises:
        InvalidRequest: a column leaves it without a name, or would lead it out of the output folder.
    """
    path = str(templates.render(output.path, context, "output.path"))
    if files.name(path) == f".{files.extension(path)}":
        what = f"'{files.quoted(path)}' has no name before its extension: use a column that is never empty"
        raise InvalidRequest.of([Problem("output.path", what)])
    if not _is_below(path, output.path) or "\x00" in path:
        what = f"'{files.quoted(path)}' leads out of {output.root}: no column may do that"
        raise InvalidRequest.of([Problem("output.path", what)])
    return path


def target_path(target: OutputTarget, context: Mapping[str, Any]) -> str:
    """Return the location of a node's result for one item.

    Args:
        context: the names that the item's templates know.

    Raises:
        InvalidRequest: a name is missing, or a column would lead it out of the output folder.
    """
    names = templates.render(dict(target.names), context, "output.path")
    return output_path(target.output, {**context, **names})


def write_output(image: ImageRef, path: str) -> bool:
    """Write ``image`` to ``path``; the bytes stay as they are unless the extension asks for another file type.

    A picture of another type keeps its colour profile, where the new type can hold it; what is transparent lies on
    white in a JPEG, as ``convert`` puts it.

    Returns:
        Whether anything was written: a file that is already there with the same bytes is left alone.

    Raises:
        OSError: it cannot be written.
        InvalidImage: the image cannot be read, or its new type cannot hold it.
    """
    wanted = files.extension(path).replace("jpeg", "jpg")
    if EXTENSIONS.get(image.media_type) == wanted:
        if files.size(path) == image.size and hashlib.sha256(files.read(path)).hexdigest() == image.digest:
            return False
        image.save(path)
        return True
    if image.header.is_sequence:
        _log.warning("%s: %s", image.uri or image.name, FIRST_ONLY)
    try:
        data = encode(image.open(), _KINDS[wanted], engine=image.engine if image.is_preview else "")
    except (ValueError, OSError, MemoryError) as error:  # too large for the file type
        size, kind = px_size(image.upright_size), _KINDS[wanted]
        raise InvalidImage(f"{image.name}: {size} cannot be written as {kind}: {error}") from None
    if files.size(path) == len(data) and files.read(path) == data:
        return False
    files.write(path, data)
    return True


class Outputs:
    """Places that results of a run go to; a few bytes of each stay in memory."""

    def __init__(self) -> None:
        self._taken: dict[bytes, int] = {}

    def claim(
        self, targets: Sequence[OutputTarget], context: Mapping[str, Any], item: int
    ) -> list[tuple[OutputTarget, str]]:
        """Reserve the places of an item's results, also repeatedly; returns them.

        Args:
            context: the names that the item's templates know.
            item: its index.

        Raises:
            InvalidRequest: one has no place, another result has it, or nothing can be written there.
        """
        paths = [(target, target_path(target, context)) for target in targets]
        for number, (_, path) in enumerate(paths):
            owner = item << 16 | number
            if self._taken.setdefault(mark(path), owner) != owner:
                remedy = "use more of the item's names in it"
                raise InvalidRequest(f"output.path: {files.quoted(path)} is also another result's: {remedy}")
            if reason := files.unwritable(path):
                raise InvalidRequest.of([Problem("output.path", reason)])
        return paths


def mark(location: str) -> bytes:
    """Return twelve bytes that are the same for every spelling of one location."""
    return hashlib.blake2b(identity(location).encode("utf-8", "surrogateescape"), digest_size=12).digest()


def identity(location: str) -> str:
    """Return a text that is the same for every spelling of one location."""
    if not files.is_local(location):
        return "://".join(files.canonical(location))
    path = files.local_path(location)
    try:
        return str(path.resolve())
    except (OSError, RuntimeError, ValueError):  # a link that leads to itself, a NUL in it
        return str(path.absolute())


def _is_below(path: str, template: str) -> bool:
    """Check whether ``path``, its links followed, is in the folder that ``template`` names before its first column."""
    fixed = template.partition("{{")[0].partition("{%")[0]
    folder = fixed.rpartition("/")[0] if "/" in fixed else ""
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", fixed)
    if scheme is None and ("://" in path or "::" in path):
        return False  # a column brought a scheme along
    if path.startswith("~") and not fixed.startswith("~"):
        return False
    if scheme is not None and not files.is_local(path):
        inside, base = (posixpath.normpath(text.split("://", 1)[-1]) for text in (path, folder))
        return path.startswith(scheme[0]) and inside.startswith(base + "/")
    if "\x00" in path:
        return False
    place = files.local_path(path)
    base_folder = (files.local_path(folder) if folder or fixed.startswith("/") else Path()).resolve()
    try:
        parent = place.parent.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
    return place.name not in ("", "..") and (parent == base_folder or base_folder in parent.parents)
