"""Files that results are written to: their paths come from a template, and they are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidImage, InvalidRequest, Problem, quote
from flux_tasks.images.encoding import EXTENSIONS, encode
from flux_tasks.images.reference import FIRST_ONLY, ImageRef, decoding
from flux_tasks.units import px_size
from pipelines.language import templates
from pipelines.language.document.output import SPLIT, Output
from pipelines.language.graph import OutputTarget

__all__ = ["BESIDE", "FULL", "Outputs", "put", "write_output"]

BESIDE = ("original", "mask")
"""What is beside the picture of a row: the item's own, and the mask as it was sent."""

FULL = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
"""Errors after which every further result would fail as well: no space, read-only, quota."""

_log = logging.getLogger("flux_tasks.flows")

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def write_output(image: ImageRef, path: str, prints: files.Fingerprints) -> tuple[str | None, str]:
    """Write ``image`` to ``path``; the bytes stay as they are unless the extension asks for another file type.

    A picture of another type keeps its colour profile, where the new type can hold it; what is transparent lies on
    white in a JPEG, as ``convert`` puts it.

    Returns:
        The fingerprint of these bytes, if it can be relied on: what another program puts there has another one; and
        their digest. A file that is already there with the same bytes is left alone.

    Raises:
        OSError: it cannot be written.
        InvalidImage: the image cannot be read, or its new type cannot hold it.
    """
    wanted = files.extension(path).replace("jpeg", "jpg")
    if EXTENSIONS.get(image.media_type) == wanted:
        return put(path, image.size, image.digest, image.read, prints), image.digest
    if image.header.is_sequence:
        _log.warning("%s: %s", image.uri or image.name, FIRST_ONLY)
    try:
        with decoding(image):
            data = encode(image.open(), _KINDS[wanted], engine=image.engine if image.is_preview else "")
    except (ValueError, OSError, MemoryError) as error:  # too large for the file type
        size, kind = px_size(image.upright_size), _KINDS[wanted]
        raise InvalidImage(f"{image.name}: {size} cannot be written as {kind}: {error}") from None
    digest = hashlib.sha256(data).hexdigest()
    return put(path, len(data), digest, lambda: data, prints), digest


def put(path: str, size: int, digest: str, read: Callable[[], bytes], prints: files.Fingerprints) -> str | None:
    """Write what ``read`` returns unless it is there; returns its fingerprint."""
    if files.size(path) == size:
        before = prints.of_unlisted(path)
        if hashlib.sha256(files.read(path)).hexdigest() == digest:
            return before
    return prints.of_written(path, files.write(path, read()))


class Outputs:
    """Places that results of a run go to; a few bytes of each stay in memory.

    What it knows of folders it has looked up once: use it for one run.
    """

    def __init__(self) -> None:
        self._taken: dict[bytes, int] = {}
        self._real = files.RealPaths()
        self._unwritable_folder = lru_cache(4096)(files.unwritable_folder)

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
        paths = [(target, self.path(target, context)) for target in targets]
        for number, (target, path) in enumerate(paths):
            where = target.output.where
            if not self.take(self.mark(path), item, number):
                option = "output.name" if target.output.dataset else where
                remedy = "use more of the item's names in it"
                raise InvalidRequest(f"{option}: {files.quoted(path)} is also another result's: {remedy}")
            file = f"{path}.png" if target.output.dataset else path
            if reason := files.unwritable(file, self._unwritable_folder):
                raise InvalidRequest.of([Problem(where, reason)])
        return paths

    def take(self, mark: bytes, item: int, number: int) -> bool:
        """Reserve a place for the item with this index and its target with this number; False if another has it."""
        owner = item << 16 | number
        return self._taken.setdefault(mark, owner) == owner

    def path(self, target: OutputTarget, context: Mapping[str, Any]) -> str:
        """Return the location of a node's result for one item; of a row of a dataset its split and its name.

        Args:
            context: the names that the item's templates know.

        Raises:
            InvalidRequest: a name is missing, or a column leaves it without a name, or would lead it out of the output
                folder.
        """
        output, names = target.output, target.names
        if names:
            context = {**context, **templates.render(dict(names), context, output.where)}
        if output.dataset:
            return self._row(output, context)
        path = str(templates.render(output.path, context, "output.path"))
        if files.name(path) == f".{files.extension(path)}":
            what = f"'{files.quoted(path)}' has no name before its extension: use a column that is never empty"
            raise InvalidRequest.of([Problem("output.path", what)])
        if not self._is_below(path, output.path) or "\x00" in path:
            what = f"'{files.quoted(path)}' leads out of {output.root}: no column may do that"
            raise InvalidRequest.of([Problem("output.path", what)])
        return path

    def _row(self, output: Output, context: Mapping[str, Any]) -> str:
        split = output.split_of(context)
        if not SPLIT.fullmatch(split):
            what = f"{quote(split)} is not the name of a split: it has letters, digits and _ only"
            raise InvalidRequest.of([Problem("output.split", what)])
        name = str(templates.render(output.name, context, "output.name"))
        parts = (name.replace(".", "_") if output.format == "webdataset" else name).split("/")
        is_plain = all(part.strip() and part not in (".", "..") for part in parts)
        if not is_plain or any(sign in name for sign in "\x00\\") or not name.isprintable():
            what = f"{quote(name)} cannot be the name of a row: it may not be empty, lead out of its folder, or have \\"
            raise InvalidRequest.of([Problem("output.name", what)])
        if len(parts) > 1 and parts[0] in BESIDE:
            what = f"{quote(name)}: {parts[0]}/ is where the pictures beside are: use another folder"
            raise InvalidRequest.of([Problem("output.name", what)])
        path = "/".join((output.dataset, split, *parts))
        if not self._is_below(path, f"{output.dataset}/{{{{ name }}}}"):
            what = f"'{files.quoted(path)}' leads out of {output.dataset}: no link may do that"
            raise InvalidRequest.of([Problem("output.dataset", what)])
        return path

    def mark(self, location: str) -> bytes:
        """Return twelve bytes that are the same for every spelling of one location."""
        identity = self._real.identity(location)
        return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=12).digest()

    def _is_below(self, path: str, template: str) -> bool:
        """Check whether ``path``, its links followed, is in the folder that ``template`` names before its columns."""
        fixed = template.partition("{{")[0].partition("{%")[0]
        folder = fixed.rpartition("/")[0] if "/" in fixed else ""
        scheme = _SCHEME.match(fixed)
        if scheme is None and ("://" in path or "::" in path):
            return False  # a column brought a scheme along
        if path.startswith("~") and not fixed.startswith("~"):
            return False
        if scheme is not None and not files.is_local(path):
            inside, base = (posixpath.normpath(text.split("://", 1)[-1]) for text in (path, folder))
            return path.startswith(scheme[0]) and inside.startswith(base + "/")
        if "\x00" in path:
            return False
        place, _, name = files.local_name(path).rpartition("/")
        if os.name == "nt" or name in ("", "."):
            place, name = str(files.local_path(path).parent), files.local_path(path).name
        base_folder = self._real.folder(files.local_name(folder) or ".")
        try:
            parent = self._real.folder(place or ("/" if path.startswith("/") else "."))
        except (OSError, RuntimeError):  # a loop of links
            return False
        is_inside = parent == base_folder or parent.startswith(f"{base_folder.rstrip(os.sep)}{os.sep}")
        return name not in ("", "..") and is_inside
