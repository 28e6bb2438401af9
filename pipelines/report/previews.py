"""Keep small copies of pictures in the store, by the digest of the picture, so that no report makes one twice.

::

    previews/<digest of a recipe's name>.jsonl     a line for each copy: checksum, key, copy

One file holds what the reports of one recipe show: a settled run reads it, decodes no picture and writes nothing. It
may be lost at any time. A damaged line is as good as none; of two files written at once, the later one stays.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import TypeVar

import orjson

from flux_tasks import files
from flux_tasks.store.records import Store

_FORMAT = 2  # raise it when copies are made in another way
_MAX_BYTES = 24_000_000  # twice what a report shows

T = TypeVar("T")


class Previews:
    """The copies of one recipe's pictures; without a store, each is made anew. Several threads may use it.

    Args:
        name: of the recipe. Recipes of one name share a file, and what they have in common.
    """

    def __init__(self, store: Store | None = None, name: str = "") -> None:
        scope = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:20]
        self._location = store.location("previews", f"{scope}.jsonl") if store else ""
        self._lines: dict[bytes, bytes] = {}
        self._used: dict[bytes, bytes] = {}
        self._has_new = False
        if self._location:
            with suppress(OSError):
                lines = files.read(self._location).splitlines()
                self._lines = {line[9:].partition(b" ")[0]: line for line in lines}

    def get(self, kind: type[T], key: str, make: Callable[[], T]) -> T:
        """Return the copy that ``key`` names, a dataclass of this kind, made now if it is not there or is damaged.

        Args:
            key: the digest of the picture, and all else that decides what is made. It has no spaces.
        """
        name = f"{_FORMAT}-{key}".encode()
        line = self._used.get(name) or self._lines.get(name, b"")
        if line == _line(line[9:]):
            with suppress(ValueError, TypeError):
                found = kind(**orjson.loads(line[9 + len(name) :]))
                self._used[name] = line
                return found
        made = make()
        self._used[name] = _line(b"%b %b" % (name, orjson.dumps(made)))
        self._has_new = True
        return made

    def save(self) -> None:
        """Write the copies that were used, and of the others as many as there is room for; nothing if none is new."""
        if not self._location or not self._has_new:
            return
        others = (line for name, line in self._lines.items() if name not in self._used and line == _line(line[9:]))
        room = _MAX_BYTES
        kept = []
        for line in chain(self._used.values(), others):
            room -= len(line) + 1
            if room < 0:
                break
            kept.append(line)
        with suppress(OSError):
            files.write(self._location, b"\n".join(kept))


def _line(body: bytes) -> bytes:
    return b"%08x %b" % (zlib.crc32(body), body)
