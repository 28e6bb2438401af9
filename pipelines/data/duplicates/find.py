"""Find the items of a source whose picture another item has, and choose which one is worked on.

::

    looks/<run id>.jsonl     a line for each picture: how it looks; and for each item that was kept

Items are taken in this order: those that a run has kept before; then by pixels, the most first; then as the source has
them. Each is left out if an item taken before it has the same bytes or, where near ones are asked for, looks nearly the
same. So whatever is left out is near the very item that is kept for it: of a chain in which each picture is near the
next only, the ends are not taken for the same. What is kept is noted before the first job, and stays kept as long as
its picture is the same: neither a run again nor a better copy of it throws away what was paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from flux_tasks import files
from flux_tasks.background import Pool
from flux_tasks.errors import FluxError
from flux_tasks.images.reference import ImageRef, remembering
from flux_tasks.store.records import Store
from pipelines.data.duplicates.look import Look, look_of
from pipelines.data.duplicates.near import Nearest
from pipelines.data.inputs import KnownInputs, ReadFiles
from pipelines.data.items import Item
from pipelines.data.keyed_lines import KeyedLines, digest_of, program_version
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.recipe import Dedupe

__all__ = ["find_duplicates", "groups_of"]

_KIND = "looks"
_THREADS = 16
_BATCH = 1_000


def find_duplicates(
    recipe: CompiledRecipe, items: Iterable[Item], store: Store, *, run_id: str = "", is_trusted: bool
) -> dict[int, tuple[str, str]]:
    """Return the items that are left out, by their index: where each lies, and the item that is kept for it.

    Both are as ``Item.source``. A picture that cannot be read is no duplicate: its item says so.

    Args:
        run_id: under which it notes what it has seen and chosen; empty for a plan, which notes nothing.
        is_trusted: whether what earlier runs have noted of pictures is believed.
    """
    dedupe = recipe.source.dedupe
    if dedupe is None:
        return {}
    with closing(_Gallery(store, recipe.name, dedupe, run_id, is_trusted=is_trusted)) as gallery:
        return gallery.sorted_out(items)


def groups_of(duplicates: Mapping[int, tuple[str, str]]) -> dict[str, list[str]]:
    """Return what is left out by the item that is kept for it, all in the order of the items."""
    found: dict[str, list[str]] = {}
    for _, (source, kept) in sorted(duplicates.items()):
        found.setdefault(kept, []).append(source)
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """What decides about one item."""

    rank: int
    pixels: int
    index: int
    source: str
    digest: str
    look: Look | None
    line: str

    @property
    def order(self) -> tuple[int, int, int]:
        return self.rank, -self.pixels, self.index


class _Gallery:
    """The pictures of one source, with what earlier runs have noted of them."""

    def __init__(self, store: Store, name: str, dedupe: Dedupe, run_id: str, *, is_trusted: bool) -> None:
        self._store, self._name, self._dedupe = store, name, dedupe
        self._version = program_version()
        self._inputs = KnownInputs(store, files.Fingerprints(), run_id, is_trusted=is_trusted)
        self._lines = KeyedLines(store.location(_KIND), run_id)

    def close(self) -> None:
        """Write what was noted."""
        self._lines.close()
        self._inputs.close()

    def sorted_out(self, items: Iterable[Item]) -> dict[int, tuple[str, str]]:
        """Return the items that are left out, and note which are kept."""
        first: dict[str, _Seen] = {}
        nearest, looks = Nearest(self._dedupe.near or 0), list[_Seen]()
        left_out: dict[int, tuple[str, str]] = {}
        for seen in sorted(self._all_seen(items), key=lambda one: one.order):
            kept = first.get(seen.digest)
            if kept is None and seen.look is not None and (number := nearest.find(seen.look)) is not None:
                kept = looks[number]
            if kept is not None:
                left_out[seen.index] = seen.source, kept.source
                continue
            first[seen.digest] = seen
            if seen.look is not None:
                nearest.add(seen.look)
                looks.append(seen)
            if seen.rank:
                self._lines.add(self._key_of_kept(seen.source, seen.digest), {"kept": seen.line})
        return left_out

    def _all_seen(self, items: Iterable[Item]) -> Iterator[_Seen]:
        left = iter(items)
        with Pool(_THREADS) as pool:
            while batch := list(islice(left, _BATCH)):
                yield from filter(None, pool.map(self._seen, batch))

    def _seen(self, item: Item) -> _Seen | None:
        if item.error or not item.path:
            return None
        read = ReadFiles(self._inputs, self._store)
        try:
            with remembering(read):
                image = ImageRef.of(item.path)
            is_recalled = read.found.get(item.path) is not None and item.path not in read.images
            known = self._lines.get(self._key_of_look(image.digest))
            look, is_known = self._look(image, known)
        except (FluxError, OSError, ValueError, MemoryError):
            return None
        if not is_known:
            self._lines.add(self._key_of_look(image.digest), _data_of(look, self._dedupe))
        read.take_note(self._inputs)
        own = {name: value for name, value in item.context.items() if name not in ("index", "count")}
        line = digest_of(own)
        kept = self._lines.get(self._key_of_kept(item.source, image.digest))
        was_worked_on = known is None and is_recalled  # by a run that left out no duplicates
        rank = (0 if kept.get("kept") == line else 1) if isinstance(kept, dict) else 2 if was_worked_on else 3
        width, height = image.upright_size
        return _Seen(rank, width * height, item.index, item.source, image.digest, look, line)

    def _look(self, image: ImageRef, known: Any) -> tuple[Look | None, bool]:
        """Return how a picture looks, if that counts, and whether that was known."""
        if self._dedupe.near is None:
            return None, known is not None
        try:
            found = known["look"]
            return (None if found is None else Look(int(found[0], 16), tuple(found[1]))), True
        except (TypeError, KeyError, ValueError, IndexError):
            return look_of(image), False

    def _key_of_look(self, digest: str) -> str:
        return digest_of([self._version, "look", digest])

    def _key_of_kept(self, source: str, digest: str) -> str:
        return digest_of(["kept", self._name, source, digest])


def _data_of(look: Look | None, dedupe: Dedupe) -> dict[str, Any]:
    if dedupe.near is None:
        return {}
    return {"look": None if look is None else [f"{look.bits:x}", look.colour]}
