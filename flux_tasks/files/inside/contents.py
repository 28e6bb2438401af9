"""Bytes at any location, also of those inside another file: a member of a tar, a cell of a Parquet or Arrow file.

Of such a file only what was used last is remembered: where members are, and the rows around the last one.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from urllib.parse import unquote

from flux_tasks.files import access
from flux_tasks.files.failures import Unusable, reporting
from flux_tasks.files.inside.cells import Column
from flux_tasks.files.inside.ranges import state
from flux_tasks.files.inside.tar import Damage, Member, TarIndex, members
from flux_tasks.files.locations import Embedded, embedded, is_web, quoted
from flux_tasks.files.watching import notice, watching

__all__ = ["exists", "know_members", "known_members", "read", "size", "tar_members"]

_BLOCK = 256 * 1024  # bytes that are fetched at a time of a remote tar, to find its headers
_REMEMBERED = {"tar": 16, "cells": 4}  # files, or columns
_tars: OrderedDict[str, TarIndex] = OrderedDict()
_columns: OrderedDict[tuple[str, str], Column] = OrderedDict()
_lock = threading.Lock()


@reporting
def read(location: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """Return the bytes at ``location``.

    Raises:
        OSError: missing or unreadable (``FileNotFoundError``, ``IsADirectoryError`` …), or longer than ``limit``
            bytes, which is checked before the whole is read, but for a cell of a table.
    """
    place = embedded(location)
    if place is None:
        return access.read(location, limit=limit)
    notice(location)
    with watching(_nobody):
        if place.kind == "tar":
            return _tar(place).read(_member(place), limit)
        data = _cell(place)
    if data is None:
        raise Unusable("the row has no bytes in this column")
    if limit is not None and len(data) > limit:
        raise Unusable(f"{len(data):,} bytes, more than the limit of {limit:,}")
    return data


@reporting
def exists(location: str | os.PathLike[str]) -> bool:
    """Check whether something is at ``location``."""
    return access.exists(location) if embedded(location) is None else size(location) is not None


@reporting
def size(location: str | os.PathLike[str]) -> int | None:
    """Return the bytes at ``location``, or None if nothing is there."""
    place = embedded(location)
    if place is None:
        return access.size(location)
    notice(location)
    with watching(_nobody):
        try:
            if place.kind == "tar":
                return _tar(place).size(_member(place))
            data = _cell(place)
        except FileNotFoundError:
            return None
    return None if data is None else len(data)


def tar_members(location: str) -> Iterator[tuple[Member | Damage, Callable[[], bytes]]]:
    """Yield the members of a tar in their order, each with what reads its bytes; where they are is remembered.

    Raises:
        OSError: the file cannot be read, is compressed, or is no tar.
    """
    _check(location)
    with access.stream(location, block=_BLOCK) as file:

        def bytes_of(member: Member) -> bytes:
            file.seek(member.offset)
            return file.read(member.size)

        index = _index(location)
        index.places, index.is_whole = {}, False
        places = index.places
        for one in members(file):
            if isinstance(one, Member):
                places.setdefault(one.name, one)
                yield one, partial(bytes_of, one)
            else:
                yield one, bytes
        index.is_whole = index.places is places


def known_members(location: str) -> list[Member]:
    """Return the members of a tar, as far as they are remembered."""
    return list(_index(location).places.values())


def know_members(location: str, found: Iterable[Member]) -> None:
    """Remember where the members of a tar are: none of its headers has to be looked for."""
    index = _index(location)
    index.places, index.is_whole = {member.name: member for member in found}, True


def _check(location: str) -> None:
    if is_web(location):
        raise Unusable(f"{quoted(location)}: nothing is read out of a file on the web: copy it here, or to a bucket")


def _nobody(_: str) -> None:
    """Watch nothing: the location of the bytes says it already."""


def _member(place: Embedded) -> str:
    return place.inner.replace("%3A%3A", "::").replace("%25", "%")


def _tar(place: Embedded) -> TarIndex:
    _check(place.container)
    return _index(place.container)


def _index(location: str) -> TarIndex:
    with _lock:
        index = _tars.setdefault(location, TarIndex(location))
        _tars.move_to_end(location)
        if len(_tars) > _REMEMBERED["tar"]:
            _tars.popitem(last=False)
    return index


def _cell(place: Embedded) -> bytes | None:
    """Return the bytes in a row; a file that has changed is opened anew."""
    _check(place.container)
    name, _, rest = place.inner.partition("/")
    row, is_listed, item = rest.partition("/")[0].partition(".")
    if not (row.isascii() and row.isdigit() and (item.isdigit() or not is_listed)):
        raise Unusable("it names no row: write parquet://COLUMN/ROW::FILE")
    now = state(place.container)
    key = name, place.container
    old: list[Column] = []
    with _lock:
        column = _columns.get(key)
        if column is None or column.state != now:
            old += [column] if column else []
            column = _columns[key] = Column(place, unquote(name), now)
        _columns.move_to_end(key)
        if len(_columns) > _REMEMBERED["cells"]:
            old.append(_columns.popitem(last=False)[1])
    for one in old:
        one.close()
    return column.read(int(row), int(item) if is_listed else None)
