"""Shards: the items of a run in parts, each worked on by a process of its own, here or elsewhere.

::

    runs/<run id>/shards/<number>/<word>.jsonl   the rows of one attempt at a shard
    runs/<run id>/shards/<number>/end.json       how its last attempt has ended
    runs/<run id>/shards/<number>/alive.json     changes every few seconds while one works on it

An item belongs to a shard by the SHA-256 of its source (its location, or ``row-000012``, as the manifest has it): the
first eight bytes as a number, modulo the number of shards. So every process, machine and version agrees on it, whatever
else the source has.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Self

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, quote, shown
from flux_tasks.store.records import Store
from pipelines.data.items import Item
from pipelines.data.manifest import ItemOutcome, ManifestRow, read_manifest
from pipelines.language.compiled import CompiledRecipe

__all__ = ["MOST_SHARDS", "Listing", "Shard", "ShardFolder", "check_count", "check_shard", "left_to_others", "shard_of"]

MOST_SHARDS = 1_000
_DIGEST = 8
"""Bytes of the SHA-256 of a source."""
_TEXT = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


def shard_of(source: str, count: int) -> int:
    """Return the number, from 1, of the shard that an item belongs to.

    Args:
        source: the item's, as the manifest has it.
    """
    return int.from_bytes(_digest(source), "big") % count + 1


def _digest(source: str) -> bytes:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).digest()[:_DIGEST]


class Listing:
    """Which items a run has, whatever its source has meanwhile: eight bytes for each, of its source, at its index."""

    def __init__(self, text: str = "") -> None:
        self._digests = bytearray(base64.b64decode(text))

    def add(self, item: Item) -> None:
        """Add an item; its index is larger than those of the others."""
        at = _DIGEST * item.index
        self._digests += bytes(at - len(self._digests)) + _digest(item.source)

    def has(self, item: Item) -> bool:
        """Check whether an item is one of the run's, at the index that it has there."""
        at = _DIGEST * item.index
        return self._digests[at : at + _DIGEST] == _digest(item.source)

    def __str__(self) -> str:
        return base64.b64encode(self._digests).decode()


def check_count(count: int) -> None:
    """Check that a run can have so many shards.

    Raises:
        RecipeError: they are too many, or it is no number of them.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RecipeError([Problem("--shards", f"{shown(count)} is not a whole number above 0")])
    if count > MOST_SHARDS:
        raise RecipeError([Problem("--shards", f"{count:,} are too many: write {MOST_SHARDS:,} or fewer")])


@dataclass(frozen=True)
class Shard:
    """One of the parts of a run.

    Attributes:
        number: from 1.
        of: the id of the run that it is part of; empty where somebody runs it by hand.
        ended: the indexes of its items that an earlier attempt at it has brought to an end.
        listing: the items of the whole run; None where somebody runs it by hand.
        duplicates: those of them that are left out; see ``find_duplicates``.
        found: what the globs of the source had found when the run began; one that is not there is looked up.
    """

    number: int
    count: int
    of: str = ""
    ended: frozenset[int] = frozenset()
    listing: Listing | None = None
    duplicates: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    found: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, of: str = "") -> Self:
        """Return the shard that is written as ``2/4``.

        Raises:
            RecipeError: the text is none.
        """
        found = _TEXT.fullmatch(text.strip())
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count <= MOST_SHARDS:
            what = f"{quote(text)} is not a shard: write its number from 1 and how many there are, such as 2/4"
            raise RecipeError([Problem("--shard", what)])
        return cls(number, count, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, item: Item) -> bool:
        """Check whether an item belongs to it, and is left to do."""
        return item.index not in self.ended and shard_of(item.source, self.count) == self.number

    def filtered(self, found: Callable[[], Iterator[Item]]) -> Iterator[Item]:
        """Return those of the items that it has."""
        return filter(self.has, found())


def check_shard(shard: Shard | None, recipe: CompiledRecipe) -> None:
    """Check that a shard can be worked on by itself.

    Raises:
        RecipeError: the recipe looks for equal pictures among all items, and nobody has done that beforehand.
    """
    if shard is not None and not shard.of and recipe.source.dedupe is not None:
        what = "source.dedupe looks at all items, and shards by hand may not agree on it: write --shards with a number"
        raise RecipeError([Problem("--shard", what)])


def left_to_others(shard: Shard | None, recipe: CompiledRecipe) -> Iterator[str]:
    """Yield what a shard by hand does not write, though the recipe says so."""
    if shard is None or shard.of:
        return
    what = [output.dataset for output in recipe.outputs if output.dataset]
    what += [target.path for output in recipe.outputs for target in output.annotations]
    if what:
        yield (
            f"{', '.join(map(files.quoted, what))} needs all items: a shard does not write it. When all shards have "
            "ended, run the recipe once without --shard: it writes them, and pays for nothing"
        )


class ShardFolder:
    """What the store knows of one shard of a run; every process that can reach the store may use it.

    Args:
        run_id: of the whole run.
        number: of the shard.
    """

    def __init__(self, store: Store, run_id: str, number: int) -> None:
        self._store = store
        self._kind = files.join("runs", run_id, "shards", str(number))

    def new_manifest(self) -> str:
        """Return a place for the rows of a new attempt."""
        return self._store.location(self._kind, f"{secrets.token_hex(8)}.jsonl")

    def manifests(self) -> list[str]:
        """Return the places of the rows of all attempts.

        Raises:
            OSError: the store cannot be read.
        """
        folder = self._store.location(self._kind)
        return [files.join(folder, name) for name in files.listing(folder) if name.endswith(".jsonl")]

    def rows(self) -> Iterator[ManifestRow]:
        """Return the rows that attempts have written, of each item the best one, in the order of the items.

        Raises:
            OSError: the store cannot be read.
        """
        attempts = [read_manifest(place, in_order=True) for place in self.manifests()]
        rows = heapq.merge(*attempts, key=lambda row: row["index"])
        for _, of_item in groupby(rows, key=lambda row: row["index"]):
            yield min(of_item, key=_rank)

    def ended(self) -> frozenset[int]:
        """Return the indexes of the items that earlier attempts have brought to an end; held ones are not.

        Raises:
            OSError: the store cannot be read.
        """
        return frozenset(row["index"] for row in self.rows() if row["outcome"] != ItemOutcome.HELD)

    def note_life(self, word: str) -> None:
        """Note that somebody works on the shard: ``word`` is another one each time."""
        with suppress(OSError):
            self._store.put_record(self._kind, "alive", {"word": word})

    def life(self) -> str:
        """Return the last word that was noted; empty if there is none yet."""
        with suppress(OSError):
            return str(self._store.record_or_empty(self._kind, "alive").get("word", ""))
        return ""

    def end(self, **facts: Any) -> None:
        """Note how an attempt has ended.

        Raises:
            OSError: the store cannot be written.
        """
        self._store.put_record(self._kind, "end", facts)

    def ending(self) -> dict[str, Any]:
        """Return how the last attempt has ended; empty if that is not known.

        Raises:
            OSError: the store cannot be read.
        """
        return self._store.record_or_empty(self._kind, "end")

    def forget_end(self) -> None:
        """Forget how an attempt has ended: another one begins.

        Raises:
            OSError: the store cannot be written.
        """
        self._store.remove_record(self._kind, "end")

    def remove(self) -> None:
        """Remove all of it; its rows are in the manifest of the run."""
        with suppress(OSError):
            folder = self._store.location(self._kind)
            for name in files.listing(folder):
                files.remove(files.join(folder, name))
            if files.is_local(folder):
                files.local_path(folder).rmdir()


_BEST = (ItemOutcome.DONE, ItemOutcome.CACHED, ItemOutcome.SKIPPED)


def _rank(row: ManifestRow) -> int:
    """Return how good a row is beside others of its item; the best has the lowest rank."""
    outcome = row["outcome"]
    return _BEST.index(ItemOutcome(outcome)) if outcome in _BEST else 3 + (outcome == ItemOutcome.HELD)
