"""Settled items: what earlier runs of a recipe have brought to a good end, so that it is known without a look at it.

::

    settled/<scope>/<run id>.jsonl     a line for each item: checksum, key, and its files, results and row
    settled/<scope>.json               whose it is, and when a run last used it

The scope is a digest of all that decides a result besides the item: recipe, code of functions, constants, seed, engine,
revisions of tools, place and generation of the store, version of this program. The key is a digest of the item's
names. A line is believed only while every file that was read or looked for, and every result that was written, has the
fingerprint of then, and every row that was written is in its dataset as it was. So whatever changes leads to the long
way, which is always right. Runs and plans read it, runs write it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from flux_tasks import files
from flux_tasks.store.records import Store
from pipelines.data.inputs import KnownInputs, ReadFiles
from pipelines.data.items import Item
from pipelines.data.keyed_lines import KeyedLines, digest_of, files_of_runs, program_version
from pipelines.data.manifest import FINE, ItemOutcome, ManifestRow, StepOutcome
from pipelines.data.writers.rows import KnownRows, PlacedRow
from pipelines.language.compiled import CompiledRecipe

__all__ = ["OldIndex", "Settled", "SettledItems", "old_indexes"]

_FORMAT = 3
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_KIND = "settled"
_SCOPE = re.compile(r"[0-9a-f]{40}")

AddLater: TypeAlias = Callable[[Mapping[str, "str | None"], Sequence[PlacedRow]], None]
"""Called with the fingerprints of an item's outputs, and its rows of datasets."""


def _scope_of(recipe: CompiledRecipe, engine: str, seed: int | None, store: Store) -> str:
    """Return the digest of all that decides the results of an item besides its own names and files."""
    actions = {
        node.id: node.tool.revision.number if node.is_paid else dict(getattr(node.action, "identity", {}))
        for node in recipe.graph.nodes
    }
    try:
        generation = store.generation()
    except OSError:
        generation = str(time.time_ns())  # nothing is found
    data = {name: value for name, value in recipe.to_data().items() if name != "budget"}  # in the order as written
    of_recipe = [recipe.digest, data, recipe.constants, actions]
    return digest_of([_FORMAT, program_version(), store.url, generation, *of_recipe, engine, seed], 20)


@dataclass(frozen=True, slots=True)
class Settled:
    """What is known of a settled item.

    Attributes:
        row: as a run would write it now.
        remarks: what a plan says of its steps: node and sentence.
    """

    row: ManifestRow
    remarks: Sequence[tuple[str, str]]


class SettledItems:
    """The settled items of a recipe, an engine and a seed. Any number of threads may use it; close it at the end.

    Attributes:
        inputs: pictures that were read, whatever the recipe.

    Args:
        run_id: of the run that adds to it; empty for a plan, which writes nothing.
        whole: the id of the run that it is part of: what that one has settled is looked at, to know what it has paid.
        is_trusted: False finds nothing, and still takes note of what is settled now.
    """

    def __init__(
        self,
        store: Store,
        recipe: CompiledRecipe,
        engine: str,
        seed: int | None,
        *,
        run_id: str = "",
        whole: str = "",
        is_trusted: bool,
    ) -> None:
        self.prints = files.Fingerprints()
        self.inputs = KnownInputs(store, self.prints, run_id, is_trusted=is_trusted)
        self._store, self._recipe, self._run_id, self._whole = store, recipe, run_id, whole
        self._scope = _scope_of(recipe, engine, seed, store)
        self._lines = KeyedLines(store.location(_KIND, self._scope), run_id, is_trusted=is_trusted)
        self._rows = KnownRows()
        self._last: tuple[Item | None, str] = None, ""
        data = recipe.to_data()
        self._counts = "index" in json.dumps([data.get(name) for name in ("steps", "output", "source")], default=str)

    def __bool__(self) -> bool:
        """Check whether there may be any."""
        return bool(self._lines)

    def close(self) -> None:
        """Write what was added, and that it was used."""
        self._lines.close()
        self.inputs.close()
        if self._run_id:
            with suppress(OSError):
                used = time.strftime("%Y-%m-%d", time.gmtime())
                self._store.put_record(_KIND, self._scope, {"recipe": self._recipe.name, "used": used})

    def _key(self, item: Item) -> str:
        last, key = self._last
        if last is not item:
            context = item.context
            if not self._counts:
                del context["index"]
            if item.labels is not None:
                context["labels"] = item.labels.digest
                context.pop("count", None)
            key = digest_of(context)
            self._last = item, key
        return key

    def has_seen(self, item: Item) -> bool:
        """Check whether an earlier run has settled the item, as it was then."""
        return not item.error and self._key(item) in self._lines

    def find(self, item: Item, paths: Sequence[str], *, may_wait: bool = True) -> Settled | None:
        """Return what is known of an item that is settled; None if that is not certain.

        Args:
            paths: where its results go.

        Raises:
            BlockingIOError: a remote folder has to be listed first, or a dataset read, and ``may_wait`` is False.
        """
        known = None if item.error or not self._lines else self._lines.get(self._key(item))
        if known is None or (self._whole and known.get("run") == self._whole):
            return None
        try:
            for location, fingerprint in (*known["files"].items(), *known["results"].items()):
                if not self.prints.matches(location, fingerprint, may_wait=may_wait):
                    return None
                if fingerprint == files.MISSING and self._is_misnamed(location, may_wait=may_wait):
                    return None
            if not all(self._rows.has(*place, may_wait=may_wait) for place in known["rows"]):
                return None
            row: ManifestRow = known["row"]
            places = {output.get("row", output["path"]) for output in row["outputs"]}
            if not places <= set(paths) or not self._has_pictures(row):
                return None
            row["index"], row["item"], row["source"] = item.index, item.stem, item.source
            row["outcome"] = ItemOutcome(row["outcome"])
            for step in row["steps"]:
                step["outcome"] = StepOutcome(step["outcome"])
            return Settled(row, [(str(node), str(said)) for node, said in known["remarks"]])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _has_pictures(self, row: ManifestRow) -> bool:
        """Check whether a store on this machine has what was paid for; a run puts it back from an output that is it."""
        blobs = self._store.location("blobs", "")
        images = (step.get("image") or {} for step in row["steps"] if step["is_paid"])
        sizes = {image["uri"]: image["size"] for image in images if (image.get("uri") or "").startswith(blobs)}
        lost = {
            uri
            for uri, size in sizes.items()
            if files.is_local(uri) and not (self.prints.of_written(uri) or "").startswith(f"{size}:")
        }
        for output in row["outputs"] if lost else ():
            with suppress(OSError):
                data = files.read(output["path"])
                if hashlib.sha256(data).hexdigest() == files.stem(output["image"].get("uri") or ""):
                    lost.discard(output["image"]["uri"])
                    if self._run_id:
                        self._store.put_image(data)
        return not lost

    def _is_misnamed(self, location: str, *, may_wait: bool) -> bool:
        """Check whether a file that is not there seems to be there under another name, which a run warns of."""
        if not may_wait and not files.is_local(location):
            raise BlockingIOError
        return bool(files.similar(location))

    def add(
        self,
        item: Item,
        read: ReadFiles,
        row: ManifestRow,
        remarks: Sequence[tuple[str, str]],
        written: Mapping[str, str | None],
    ) -> None:
        """Take note of an item that has ended, if it ended well and all of its files are known.

        Args:
            read: the files that it was made of.
            remarks: what a plan would say of its steps now: node and sentence.
            written: the fingerprints that its outputs had when they were written.
        """
        noted = self._noted(item, read, row, remarks)
        if noted is not None and None not in written.values():
            key, known = noted
            self._lines.add(key, {**known, "results": dict(written), "rows": []})

    def add_later(self, item: Item, read: ReadFiles, row: ManifestRow, remarks: Sequence[tuple[str, str]]) -> AddLater:
        """Return what does ``add`` once the outputs are written; a kB is in memory until then."""
        noted = self._noted(item, read, row, remarks)
        if noted is None:
            return lambda *_: None
        key, small = noted[0], zlib.compress(json.dumps(noted[1], default=str).encode())

        def add(written: Mapping[str, str | None], rows: Sequence[PlacedRow]) -> None:
            if None not in written.values():
                self._lines.add(key, {**json.loads(zlib.decompress(small)), "results": dict(written), "rows": rows})

        return add

    def _noted(
        self, item: Item, read: ReadFiles, row: ManifestRow, remarks: Sequence[tuple[str, str]]
    ) -> tuple[str, dict[str, Any]] | None:
        """Return the key of an item that ended well and all of whose files are known, and what is noted of it."""
        has_hint = any(step["outcome"] is StepOutcome.SKIPPED and step.get("warnings") for step in row["steps"])
        is_known = read.take_note(self.inputs)
        if item.error or row["outcome"] not in FINE or row["error"] or has_hint or not is_known:
            return None
        return self._key(item), {"files": read.found, "row": _settled(row), "remarks": remarks, "run": self._whole}


@dataclass(frozen=True, slots=True)
class OldIndex:
    """The settled items of one scope that no run has asked for lately.

    Attributes:
        recipe: its name, if it is known.
        used: the day on which a run last used it, such as ``2026-11-29``; empty if it is not known.
    """

    store: Store
    scope: str
    recipe: str
    used: str

    def remove(self) -> None:
        """Remove its files. The next run of the recipe looks at every item, and pays for none of them again."""
        folder = self.store.location(_KIND, self.scope)
        for name in files_of_runs(folder):
            files.remove(files.join(folder, name))
        self.store.remove_record(_KIND, self.scope)
        if files.is_local(folder):
            with suppress(OSError):
                files.local_path(folder).rmdir()


def old_indexes(store: Store, days: int) -> list[OldIndex]:
    """Return what runs of the last so many days have not used, the oldest first.

    Raises:
        OSError: the store cannot be read.
    """
    since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - days * 86_400))
    found: list[OldIndex] = []
    records = store.records(_KIND)
    for scope in filter(_SCOPE.fullmatch, {*files.folders(store.location(_KIND)), *records}):
        record = store.record_or_empty(_KIND, scope)
        names = files_of_runs(store.location(_KIND, scope))
        if not names and scope not in records:
            continue
        told = (record.get("used"), *(f"{name[:4]}-{name[4:6]}-{name[6:8]}" for name in names))
        used = max((day for day in told if isinstance(day, str) and _DAY.fullmatch(day)), default="")
        if used < since:
            found.append(OldIndex(store, scope, str(record.get("recipe") or ""), used))
    return sorted(found, key=lambda index: (index.used, index.scope))


def _settled(row: ManifestRow) -> dict[str, Any]:
    """Return a row as a run writes it that finds everything in the store."""
    steps: list[dict[str, Any]] = []
    for step in row["steps"]:
        made = step["outcome"] in (StepOutcome.DONE, StepOutcome.COLLECTED)
        now: dict[str, Any] = {**step, **({"outcome": StepOutcome.CACHED} if made else {})}
        steps.append({**now, **({"seconds": 0.0} if "seconds" in step else {})})
    is_cached = any(step["outcome"] == StepOutcome.CACHED for step in steps)
    outcome = ItemOutcome.CACHED if is_cached else ItemOutcome.SKIPPED
    return {**row, "outcome": outcome, "cost": 0.0, "seconds": 0.0, "steps": steps}
