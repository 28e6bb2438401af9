"""Tars: what is in one and where, read from its headers; a member is read by its place, without those before it."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from flux_tasks.files.access import stream
from flux_tasks.files.failures import Unusable
from flux_tasks.files.inside.ranges import read_range
from flux_tasks.files.locations import quoted

__all__ = ["Damage", "Member", "TarIndex", "members"]

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20  # looked through at a time for the next header, after a damaged one; whole blocks
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar.

    Attributes:
        offset: of its bytes in the tar.
        checksum: of its header, which is the block before its bytes.
        is_file: whether it is a file, and neither a folder nor a link.
    """

    name: str
    offset: int
    size: int
    checksum: int
    is_file: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """A place of a tar where no header is understood; what follows is found again at the next one.

    Attributes:
        offset: in bytes.
    """

    offset: int


def members(file: BinaryIO) -> Iterator[Member | Damage]:
    """Yield the members of a tar in their order. Their bytes are passed over.

    Args:
        file: its beginning; it can seek.

    Raises:
        OSError: the file cannot be read, is compressed, or is no tar.
    """
    begin = file.read(6)
    if kind := next((kind for sign, kind in _COMPRESSED.items() if begin.startswith(sign)), ""):
        raise Unusable(f"it is compressed ({kind}), and no member could be read alone: write it without compression")
    position: int | None = 0
    is_tar = False
    while position is not None:
        file.seek(position)
        archive = None
        try:
            archive = tarfile.TarFile(fileobj=file, mode="r", errorlevel=1)
            while (info := archive.next()) is not None:
                is_tar = True
                archive.members = []  # type: ignore[attr-defined] # it would keep all of them
                yield Member(info.name, info.offset_data, info.size, info.chksum, info.isreg() and not info.issparse())
        except tarfile.TarError:
            pass
        ended = position if archive is None else archive.offset
        file.seek(ended)
        block = file.read(_BLOCK)
        if not any(block):
            break
        if not is_tar:
            raise Unusable("it is no tar: write one with tar, or with webdataset.TarWriter")
        yield Damage(ended)
        position = _next_header(file, ended + _BLOCK)


def _next_header(file: BinaryIO, position: int) -> int | None:
    """Return where the next header begins; None if there is none."""
    file.seek(position)
    while chunk := file.read(_CHUNK):
        for start in range(0, len(chunk), _BLOCK):
            try:
                tarfile.TarInfo.frombuf(chunk[start : start + _BLOCK], "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                continue
            return position + start
        position += len(chunk)
    return None


class TarIndex:
    """Where the members of one tar are. Any number of threads may use it.

    Attributes:
        places: its members by name, as far as the tar has been read; the first one of a name.
        is_whole: whether these are all.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._lock = threading.Lock()
        self.places: dict[str, Member] = {}
        self.is_whole = False

    def size(self, name: str) -> int | None:
        """Return the bytes of a member; None if there is no such file in the tar.

        Raises:
            OSError: the tar cannot be read.
        """
        place = self._place(name)
        return place.size if place else None

    def read(self, name: str, limit: int | None) -> bytes:
        """Return the bytes of a member, read with its header, which shows whether the tar is still the same.

        Raises:
            OSError: the tar cannot be read, there is no such member, or it is longer than ``limit`` bytes.
        """
        for _ in range(2):
            place = self._place(name)
            if place is None:
                raise FileNotFoundError(f"{quoted(self._location)} has no member {quoted(name)}")
            if limit is not None and place.size > limit:
                raise Unusable(f"{place.size:,} bytes, more than the limit of {limit:,}")
            data = read_range(self._location, place.offset - _BLOCK, place.offset + place.size)
            if _checksum(data[:_BLOCK]) == place.checksum:
                if len(data) < _BLOCK + place.size:
                    raise Unusable(f"cut short: {quoted(self._location)} ends within it; copy the whole file again")
                return data[_BLOCK:]
            with self._lock:
                self.places, self.is_whole = {}, False
        raise OSError(f"somebody changes {quoted(self._location)} while it is read: run again when it is complete")

    def _place(self, name: str) -> Member | None:
        with self._lock:
            if name not in self.places and not self.is_whole:
                with stream(self._location, block=_CHUNK) as file:
                    for one in members(file):
                        if isinstance(one, Member):
                            self.places.setdefault(one.name, one)
                self.is_whole = True
            found = self.places.get(name)
            return found if found and found.is_file else None


def _checksum(block: bytes) -> int | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").chksum
    except tarfile.HeaderError:
        return None
