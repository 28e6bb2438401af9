"""The rows that a dataset has, by parts: what a part says of its file, and a line for each row.

::

    .flux/rows/train-00000.jsonl     a header, then the columns of each row

A part is written before its shard gets its name, and counts once that is there. A row that comes again, changed,
counts where it is newest; one that was taken out is in a later part that says so.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from flux_tasks import files
from flux_tasks.errors import StoreUnavailable, reason_of

__all__ = [
    "HOME",
    "KnownRows",
    "Part",
    "PlacedRow",
    "RowIndex",
    "document",
    "identity_of",
    "key_of",
    "part_name",
    "placed",
    "read_rows",
]

HOME = ".flux"
"""The folder in a dataset that is this program's own; ``datasets`` and the Hugging Face Hub pass over it."""

_HEADER = {"file": str, "rows": int, "order": int, "replaces": str, "fields": list}
_NAME = re.compile(r".+-[0-9]+\.jsonl")

PlacedRow: TypeAlias = tuple[str, str]
"""A row as it is in a dataset: the folder of that, and hex digits that tell name and line from any other."""


@dataclass(frozen=True)
class Part:
    """Rows that were written together: those of a shard, or some of an imagefolder.

    Attributes:
        location: of its lines.
        header: ``file`` (in the dataset; empty for an imagefolder), ``rows``, ``bytes``, ``sha256``, ``fields``,
            ``replaces`` (the part whose rows these were), ``removes`` (true: its rows are taken out of earlier parts).
    """

    split: str
    number: int
    location: str
    header: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name, such as ``train-00000``."""
        return part_name(self.split, self.number)

    @property
    def is_removal(self) -> bool:
        """Whether it says which rows were taken out; it has no pictures."""
        return bool(self.header.get("removes"))


def part_name(split: str, number: int) -> str:
    """Return the name of a part and of its shard: names stay as they are when shards are added."""
    return f"{split}-{number:05d}"


def key_of(split: str, name: str) -> bytes:
    """Return what stays in memory of a row's name."""
    return hashlib.blake2b(f"{split}/{name}".encode(), digest_size=12).digest()


def identity_of(line: bytes) -> bytes:
    """Return what stays in memory of a row's line."""
    return hashlib.blake2b(line, digest_size=8).digest()


def placed(folder: str, split: str, name: str, line: bytes) -> PlacedRow:
    """Return the row with this name and line in the dataset in ``folder``."""
    return folder, (key_of(split, name) + identity_of(line)).hex()


class RowIndex:
    """The rows of a dataset; of each some 200 bytes are in memory.

    Attributes:
        orphans: the locations of lines whose shard is not there, or is another one's now.
        replaced: the parts whose rows are in another one now, and whose shard is still there.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self.orphans: list[str] = []
        self._parts: list[Part] = []
        self._dropped: set[str] = set()
        self._rows: dict[bytes, tuple[int, bytes]] = {}
        home = files.join(folder, HOME, "rows")
        shards = set(files.listing(files.join(folder, "data")))
        self._shards = {name.partition(".")[0] for name in shards}
        found: list[Part] = []
        for file in filter(_NAME.fullmatch, files.listing(home)):
            split, _, number = file.removesuffix(".jsonl").rpartition("-")
            location = files.join(home, file)
            header = header_of(location)
            if header["file"] and files.name(header["file"]) not in shards:
                self.orphans.append(location)
            else:
                found.append(Part(split, int(number), location, header))
        replaced = {part.header["replaces"] for part in found if part.header["replaces"]}
        self.orphans += [part.location for part in found if part.name in replaced]
        self.replaced = [part for part in found if part.name in replaced]
        for part in sorted(found, key=lambda part: (part.header["order"], part.name)):
            if part.name not in replaced:
                self.add(part, self._read(part))

    def __len__(self) -> int:
        return len(self._rows)

    def digests(self) -> Iterator[bytes]:
        """Yield of each row what ``placed`` says of it."""
        return (key + identity for key, (_, identity) in self._rows.items())

    @staticmethod
    def _read(part: Part) -> Iterator[tuple[bytes, bytes]]:
        try:
            missing = part.header["rows"]
            for line in lines_of(part):
                yield key_of(part.split, document(line)["id"]), identity_of(line)
                missing -= 1
            if missing:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise files.Unusable(f"{files.quoted(part.location)} is damaged") from None

    def add(self, part: Part, rows: Iterator[tuple[bytes, bytes]] | list[tuple[bytes, bytes]]) -> None:
        """Add a part: its rows by key and identity. Those of one that takes rows out are forgotten."""
        number = len(self._parts)
        self._parts.append(part)
        if part.is_removal:
            for key, _ in rows:
                self._rows.pop(key, None)
            return
        self._rows.update((key, (number, identity)) for key, identity in rows)

    @property
    def parts(self) -> list[Part]:
        """Those that count, in the order in which they were written."""
        return [part for part in self._parts if part.name not in self._dropped and not part.is_removal]

    def drop(self, part: Part) -> None:
        """Forget a part: its rows are elsewhere."""
        self._dropped.add(part.name)

    def next_order(self) -> int:
        """Return the place of the next part in the order of writing."""
        return max((part.header["order"] for part in self._parts), default=-1) + 1

    def next_number(self, split: str) -> int:
        """Return the number of the next part of a split."""
        parts = {part.name for part in self._parts} | self._shards
        numbers = [name.rpartition("-") for name in parts]
        return max((int(number) for own, _, number in numbers if own == split and number.isdecimal()), default=-1) + 1

    def find(self, key: bytes) -> tuple[Part, bytes] | None:
        """Return the part that a row is in, and the row's identity; None if there is no such row."""
        found = self._rows.get(key)
        return None if found is None else (self._parts[found[0]], found[1])

    def parts_with_old_rows(self) -> list[Part]:
        """Return the parts some of whose rows have come again, changed."""
        current = Counter(number for number, _ in self._rows.values())
        counted = {part.name: current[number] for number, part in enumerate(self._parts)}
        return [part for part in self.parts if counted[part.name] < part.header["rows"]]

    def lines(self, part: Part, *, is_current: bool = True) -> Iterator[bytes]:
        """Yield the lines of a part whose rows count there; of the others with ``is_current`` False."""
        for line in lines_of(part):
            found = self.find(key_of(part.split, json.loads(line)["id"]))
            if (found is not None and found[0] is part) == is_current:
                yield line


class KnownRows:
    """The rows of datasets, each read when it is first asked for; of each row some 100 bytes are in memory.

    Any number of threads may use it.
    """

    def __init__(self) -> None:
        self._found: dict[str, set[bytes]] = {}
        self._lock = threading.Lock()

    def has(self, folder: str, digest: str, *, may_wait: bool = True) -> bool:
        """Check whether a dataset has a row with this name and line; False if it cannot be read.

        Args:
            folder, digest: what ``placed`` has returned.

        Raises:
            BlockingIOError: the dataset has to be read first, and ``may_wait`` is False.
        """
        if folder not in self._found and not may_wait:
            raise BlockingIOError
        with self._lock:
            if folder not in self._found:
                self._found[folder] = set()
                with suppress(OSError):
                    self._found[folder] = set(RowIndex(folder).digests())
        return bytes.fromhex(digest) in self._found[folder]


def read_rows(folder: str) -> RowIndex:
    """Return the rows of the dataset in a folder.

    Raises:
        StoreUnavailable: they cannot be read, or are damaged, so that no row can be added.
    """
    try:
        return RowIndex(folder)
    except OSError as error:
        what = f"the rows of the dataset {files.quoted(folder)} cannot be read: {reason_of(error)}"
        raise StoreUnavailable(what) from error


def document(data: bytes) -> dict[str, Any]:
    """Return the JSON object that a file of a dataset, or a line of it, has.

    Raises:
        ValueError: it is none, or damaged.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError from None
    if not isinstance(found, dict):
        raise ValueError  # noqa: TRY004 - as JSON that cannot be read
    return found


def header_of(location: str) -> dict[str, Any]:
    """Return the header of a part.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    with files.stream(location) as lines:
        try:
            header = document(lines.readline())
        except ValueError:
            header = {}
    if not all(isinstance(header.get(name), kind) for name, kind in _HEADER.items()):
        raise files.Unusable(f"{files.quoted(location)} is damaged")
    return header


def lines_of(part: Part) -> Iterator[bytes]:
    """Yield the lines of a part, without their ends.

    Raises:
        OSError: they cannot be read.
    """
    with files.stream(part.location) as file:
        file.readline()
        for line in file:
            yield line.rstrip(b"\n")
