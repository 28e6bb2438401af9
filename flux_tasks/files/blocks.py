"""Storage blocks of Prefect as places: ``block://s3-bucket/NAME/path``, resolved when such a place is used.

Types are the slugs that Prefect itself uses: ``remote-file-system``, ``local-file-system``, ``s3-bucket``,
``gcs-bucket``. Nothing here knows Prefect: whoever does gives ``loader`` its function, and it is called when the first
place of a block is used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["LOCAL", "TYPES", "Block", "BlockProblem", "block_of", "is_block", "local_path_of", "set_loader"]

TYPES = ("remote-file-system", "local-file-system", "s3-bucket", "gcs-bucket")
LOCAL = "block://local-file-system/"
"""What the place of a block for files on this machine begins with."""

_FORM = re.compile(r"block://([^/]*)/([^/]+)(?:/(.*))?", re.DOTALL)
_FRESH = 300.0  # seconds after which a block is asked for again: its credentials may have been changed


class BlockProblem(OSError):
    """A block that cannot be used: there is none, nobody can be asked for it, or its path leads out of it."""


class Block(NamedTuple):
    """A place that a block stands for.

    Attributes:
        root: a path, or an fsspec URL.
        options: those of its filesystem, credentials among them; never shown.
    """

    root: str
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Block({self.root!r}, …)"


_known: dict[tuple[str, str], tuple[float, Block]] = {}
_loader: list[Callable[[str, str], Block]] = []


def set_loader(loader: Callable[[str, str], Block]) -> None:
    """Ask ``loader`` for the block of a type and a name."""
    _loader[:] = [loader]
    _known.clear()


def is_block(location: str) -> bool:
    """Check whether ``location`` is a place of a block."""
    return location.startswith("block://")


def block_of(location: str) -> tuple[Block, str]:
    """Return the block that a location names, and the path in it.

    Raises:
        BlockProblem: it names none, there is none, or it cannot be asked for.
    """
    found = _FORM.fullmatch(location)
    if found is None or found[1] not in TYPES:
        what = "write block://TYPE/NAME/path, with one of the types " + ", ".join(TYPES)
        raise BlockProblem(f"{location[:80]}: names no storage block: {what}")
    slug, name, path = found[1], found[2], found[3] or ""
    if ".." in path.split("/"):
        raise BlockProblem(f"{location[:80]}: leads out of its block: write the path without ..")
    asked, block = _known.get((slug, name), (0.0, Block("", {})))
    if not block.root or time.monotonic() - asked > _FRESH:
        if not _loader:
            raise BlockProblem(f"{location[:80]}: nobody knows storage blocks here")
        block = _loader[0](slug, name)
        _known[slug, name] = time.monotonic(), block
    return block, path


def local_path_of(location: str) -> str:
    """Return the path on this machine that a location in ``LOCAL`` stands for."""
    block, path = block_of(location)
    return f"{block.root.rstrip('/')}/{path}".rstrip("/") if path else block.root
