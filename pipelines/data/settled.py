"""Settled items: what earlier runs of a recipe have brought to a good end, so that it is known without a look at it.

::

    settled/<scope>/<run id>.jsonl     a line for each item: checksum, key, and its files, results and row

The scope is a digest of all that decides a result besides the item: recipe, code of functions, constants, seed, engine,
revisions of tools, version of this program. The key is a digest of the item's names. A line is believed only while
every file that was read or looked for, and every result that was written, has the fingerprint of then. So whatever
changes leads to the long way, which is always right. Each run writes a file of its own; nobody waits for anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

from flux_tasks import files
from flux_tasks.store.records import Store
from flux_tasks.store.spool import DEFAULT
from pipelines.data.items import Item
from pipelines.data.manifest import FINE, ItemOutcome, Manifest, ManifestRow, StepOutcome
from pipelines.language.compiled import CompiledRecipe

__all__ = ["ReadFiles", "SettledItems", "scope_of"]

_FORMAT = 1
_KIND = "settled"
_MOST_SEGMENTS = 8
_OWN = (
    *("blobs", "results", "copies", "refusals", "journal", "decisions", "failures", "facts", "runs", "begun"),
    *("timings", "prices", "budgets", "probe", _KIND),
)
"""Folders of the store that a walk reads; what they hold follows from the item's own files."""


def scope_of(recipe: CompiledRecipe, engine: str, seed: int | None) -> str:
    """Return the digest of all that decides the results of an item besides its own names and files."""
    try:
        program = version("flux-pipelines")
    except PackageNotFoundError:
        program = ""
    actions = {
        node.id: node.tool.revision.number if node.is_paid else dict(getattr(node.action, "identity", {}))
        for node in recipe.graph.nodes
    }
    document = [_FORMAT, program, recipe.digest, recipe.constants, engine, seed, actions]
    return _digest(document, 20)


def _digest(document: Any, size: int) -> str:
    text = json.dumps(document, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


@dataclass
class ReadFiles:
    """The files that one item's walk reads or looks for, with the fingerprints that they have before that."""

    prints: files.Fingerprints
    store: Store
    found: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spool = os.environ.get("FLUX_SPOOL") or DEFAULT
        self._own = (*(self.store.location(kind, "") for kind in _OWN), files.join(spool, ""))

    def __call__(self, location: str) -> None:
        """Take the fingerprint of a file that the walk comes to, unless it is the store's or the spool's own."""
        if not location.startswith(self._own):
            self.add(location)

    def add(self, location: str) -> None:
        """Take the fingerprint of a file, wherever it is."""
        if location not in self.found and not files.is_data(location):
            self.found[location] = self.prints.of(location)


class SettledItems:
    """The settled items of one scope. They stay on disk; of each some 200 bytes are in memory.

    Use it as a context manager. A line that is damaged, cut off or of another shape is as good as none, and a store
    that cannot be read or written only makes the next run take the long way.

    Args:
        run_id: of the run that adds to it; empty for a plan, which writes nothing.
        is_trusted: False finds nothing, and still takes note of what is settled now.
    """

    def __init__(self, store: Store, scope: str, recipe: CompiledRecipe, run_id: str = "", *, is_trusted: bool) -> None:
        self.prints = files.Fingerprints()
        self._store = store
        self._folder = store.location(_KIND, scope)
        self._location = files.join(self._folder, f"{run_id}.jsonl") if run_id else ""
        self._is_trusted = is_trusted
        data = recipe.to_data()
        self._counts = "index" in json.dumps([data.get(name) for name in ("steps", "output", "source")], default=str)
        self._places: dict[bytes, tuple[int, int]] = {}
        self._segments: list[IO[bytes]] = []
        self._names: list[str] = []
        self._own: Manifest | None = None
        self._added: set[bytes] = set()
        self._stack = ExitStack()

    def __enter__(self) -> SettledItems:
        if self._is_trusted:
            with suppress(OSError):
                self._names = [n for n in files.listing(self._folder) if n.endswith(".jsonl")]
            for name in self._names:
                with suppress(OSError):
                    self._read(name)
        return self

    def _read(self, name: str) -> None:
        segment: IO[bytes] = self._stack.enter_context(files.stream(files.join(self._folder, name)))
        if not files.is_local(self._folder):
            source, segment = segment, self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - entered
            shutil.copyfileobj(source, segment)
            segment.seek(0)
        place = 0
        for line in segment:
            with suppress(ValueError):
                self._places[bytes.fromhex(line[9:41].decode("ascii"))] = (len(self._segments), place)
            place += len(line)
        self._segments.append(segment)

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            if self._own is not None and len(self._names) >= _MOST_SEGMENTS:
                self._gather(self._own)
        with suppress(OSError):
            if self._own is not None:
                self._own.__exit__(None, None, None)
        self._stack.close()

    def _gather(self, own: Manifest) -> None:
        """Copy what still holds from the files of earlier runs, and remove these."""
        for key in self._places.keys() - self._added:
            if (line := self._line(key)) is not None:
                own.add_line(line.decode("utf-8"))
        for name in self._names:
            files.remove(files.join(self._folder, name))

    def _line(self, key: bytes) -> bytes | None:
        """Return the line of an item, or None if there is none that is whole."""
        if key not in self._places:
            return None
        number, place = self._places[key]
        segment = self._segments[number]
        segment.seek(place)
        line = segment.readline().rstrip(b"\n")
        is_whole = line[:8] == f"{zlib.crc32(line[9:]):08x}".encode()
        return line if is_whole else None

    def _key(self, item: Item) -> str:
        context = item.context
        if not self._counts:
            del context["index"]
        return _digest(context, 16)

    def row(self, item: Item, paths: Sequence[str]) -> ManifestRow | None:
        """Return the row of an item that is settled, as a run would write it now; None if that is not certain.

        Args:
            paths: where its results go.
        """
        if item.error or not self._places:
            return None
        line = self._line(bytes.fromhex(self._key(item)))
        if line is None:
            return None
        try:
            known = json.loads(line[42:])
            for location, fingerprint in (*known["files"].items(), *known["results"].items()):
                if not self.prints.matches(location, fingerprint):
                    return None
            row: ManifestRow = known["row"]
            if not {output["path"] for output in row["outputs"]} <= set(paths):
                return None
            row["index"], row["item"], row["source"] = item.index, item.stem, item.source
            row["outcome"] = ItemOutcome(row["outcome"])
            for step in row["steps"]:
                step["outcome"] = StepOutcome(step["outcome"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return row

    def add(self, item: Item, read: Mapping[str, str | None], row: ManifestRow) -> None:
        """Take note of an item that has ended, if it ended well and all of its files are known.

        Args:
            read: the files that it was made of, with their fingerprints.
        """
        has_hint = any(step["outcome"] is StepOutcome.SKIPPED and step.get("warnings") for step in row["steps"])
        if not self._location or item.error or row["outcome"] not in FINE or row["error"] or has_hint:
            return
        if None in read.values():
            return
        results = {output["path"]: self.prints.of_written(output["path"]) for output in row["outputs"]}
        if None in results.values():
            return
        known = {"files": dict(read), "results": results, "row": _settled(row)}
        key = self._key(item)
        body = f"{key} {json.dumps(known, ensure_ascii=True, default=str)}"
        with suppress(OSError):
            if self._own is None:
                self._own = Manifest(self._location)
                self._own.__enter__()
            self._own.add_line(f"{zlib.crc32(body.encode()):08x} {body}")
            self._added.add(bytes.fromhex(key))


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
