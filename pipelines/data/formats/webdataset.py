"""Items of a WebDataset: members of a tar that follow each other and have one key, the name up to its first dot.

=========================  ============================================================================================
member                     column
=========================  ============================================================================================
``000001.jpg``             ``jpg``: where the picture is; it is the item, if it is the only one without a second dot
``000001.mask.png``        ``mask``, and ``row["mask.png"]``: where the picture is
``000001.json``            ``json``, and each of its fields as a column of its own
``000001.txt``, ``.cls``   ``txt``, a text; ``cls``, a whole number
=========================  ============================================================================================

All have ``__key__``, too, and ``split``. Members of other kinds are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from flux_tasks import files
from flux_tasks.errors import cut, listed, quote, reason_of
from flux_tasks.files.inside.tar import Damage, Member
from flux_tasks.images.encoding import FILE_TYPES
from pipelines.data.formats.known_tars import KnownTars
from pipelines.data.formats.layout import Shard, is_inside
from pipelines.data.formats.tables import LONGEST_LINE, Row

__all__ = ["rows"]

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_TEXTS = ("txt", "text", "transcript", "caption")
_NUMBERS = ("cls", "cls2", "id", "index", "inx")


@dataclass
class _Sample:
    """The members with one key."""

    key: str
    pictures: dict[str, str] = field(default_factory=dict)
    """By what follows the key: where each is."""
    values: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def add(self, shard: Shard, member: Member, read: Callable[[], bytes]) -> None:
        """Take in a member."""
        found = _NAME.fullmatch(member.name)
        ending = found[2].lower() if found else ""
        kind = ending.rpartition(".")[2]
        if kind not in FILE_TYPES and kind not in (*_TEXTS, *_NUMBERS, "json"):
            return
        if ending in self.pictures or ending in self.values:
            self.error = f"it has two members that end in .{cut(ending)}: give one another name"
        elif not member.is_file:
            self.error = f"{quote(member.name)} is a link or a folder: write the file itself into the tar"
        elif kind in FILE_TYPES:
            self.pictures[ending] = files.tar_member(shard.location, member.name)
        elif member.size > LONGEST_LINE:
            self.error = (
                f"{quote(member.name)} has {member.size:,} bytes: of .{kind}, {LONGEST_LINE:,} at most are read"
            )
        else:
            try:
                self.values[ending] = _value(kind, read())
            except (ValueError, RecursionError) as error:
                self.error = f"{quote(member.name)} is not what its name says: {error}"

    def row(self, shard: Shard, number: int, *, is_chosen: bool) -> Row:
        """Return the item."""
        place = f"key {cut(self.key)} of {shard.location}" if self.key else shard.location
        error, picture = self.error, ""
        plain = [name for name in self.pictures if "." not in name] or list(self.pictures)
        if self.key and not is_inside(self.key):
            error = "its name leads out of the dataset's folder: give it another one"
        elif not is_chosen and len(plain) == 1:
            picture = self.pictures[plain[0]]
        elif not is_chosen and not error:
            names = listed(sorted(plain))
            example = plain[0].rpartition(".")[0] if plain and plain[0].count(".") == 1 else plain[0] if plain else ""
            remedy = f"write which is the item, such as image: '{{{{ {example} }}}}'"
            error = f"several pictures ({names}): {remedy}" if plain else "it has no picture: add one, or take it out"
        values = {"split": shard.split, **self._columns(), "__key__": self.key}
        return Row(shard.location, number, 0, {} if error else values, error, picture, place)

    def _columns(self) -> dict[str, Any]:
        own = {**self.pictures, **self.values}
        short = {name.rpartition(".")[0]: value for name, value in own.items() if name.count(".") == 1}
        fields = self.values.get("json")
        return {**(fields if isinstance(fields, dict) else {}), **short, **own}


def rows(shard: Shard, number: int, known: KnownTars | None, *, is_chosen: bool) -> Iterator[Row]:
    """Return the items of a tar, numbered from ``number`` on.

    Args:
        known: tars that have been listed before.
        is_chosen: the recipe says which picture of a row is its item.

    Raises:
        OSError: it cannot be read, or is none.
    """
    read = map(asdict, _samples(shard))
    for at, found in enumerate(known.items(shard.location, read) if known else read, number):
        yield _Sample(**found).row(shard, at, is_chosen=is_chosen)


def _samples(shard: Shard) -> Iterator[_Sample]:
    sample: _Sample | None = None
    keys: set[str] = set()
    for member, read in files.tar_members(shard.location):
        found = _NAME.fullmatch(member.name) if isinstance(member, Member) else None
        key = found[1] if found else None
        if sample is not None and key != sample.key and (isinstance(member, Damage) or key is not None):
            yield sample
            sample = None
        if isinstance(member, Damage):
            what = f"damaged at byte {member.offset:,}: what stands there is lost; copy the whole file again"
            yield _Sample("", error=what)
        elif key is not None and not _is_hidden(key):
            if sample is None:
                twice = "its key stands in the tar twice: give it another one" if key in keys else ""
                sample = _Sample(key, error=twice)
                keys.add(key)
            try:
                sample.add(shard, member, read)
            except OSError as error:
                sample.error = f"{quote(member.name)} cannot be read: {reason_of(error)}"
    if sample is not None:
        yield sample


def _is_hidden(key: str) -> bool:
    """Check whether a member is none of the dataset's: a file of macOS, or WebDataset's own ``__…__``."""
    last = key.rpartition("/")[2]
    return key.startswith(("__MACOSX/", "PaxHeader")) or (last.startswith("__") and last.endswith("__"))


def _value(kind: str, data: bytes) -> Any:
    if kind == "json":
        return json.loads(data.decode("utf-8-sig"), parse_constant=lambda _: None)
    text = data.decode("utf-8-sig").strip()
    return int(text) if kind in _NUMBERS else text
