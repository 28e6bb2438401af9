"""What is in a store, what of it is damaged, and what of it nobody names any more."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

from flux_tasks import files
from flux_tasks.files.search.trees import Found, tree
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import DamagedRecord, Store
from flux_tasks.store.threads import each

__all__ = ["KINDS", "Flaw", "Inventory"]

KINDS: Mapping[str, str] = {
    "blobs": "pictures, as they were delivered",
    "results": "results of jobs",
    "copies": "the same of paid jobs, once more",
    "journal": "jobs that are not settled",
    "decisions": "decisions about held jobs",
    "refusals": "jobs that moderation has refused",
    "failures": "jobs that have just failed",
    "budgets": "what runs may spend",
    "slots": "who has jobs at the service",
    "charges": "what was charged",
    "reserves": "what runs at work may still spend",
    "begun": "runs that have begun",
    "runs": "manifests and reports",
    "settled": "items that are settled",
    "inputs": "pictures that were read",
    "looks": "how pictures look, and which of equal ones were kept",
    "tars": "what is in the tars of buckets",
    "labels": "which labels were written",
    "facts": "facts of pictures",
    "timings": "how long jobs take",
    "prices": "what jobs have cost",
    "previews": "small pictures for reports",
}
"""The folders of a store, and what they have."""

_BLOB = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64})\.[a-z0-9]+")
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_NAMING_NONE = {"blobs", "previews", "facts", "timings", "prices", "tars", "looks", "labels"}
_NAMING_NONE |= {"slots", "charges", "reserves"}
_NAMING = tuple(kind for kind in KINDS if kind not in _NAMING_NONE)
_OTHER_RECORDS = ("journal", "decisions", "refusals")
_LONGEST_DIGEST = 64
_BATCH = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something in a store that is damaged or missing.

    Attributes:
        place: the file, from the store's folder.
        what: what is wrong with it, one sentence.
        digest: of the picture that is missing or damaged; empty for a record.
    """

    place: str
    what: str
    digest: str = ""


@dataclass
class Inventory:
    """All that a store holds, each folder listed once. Files that are none of the store's are not seen.

    Each method raises ``OSError`` where the store cannot be read or written.
    """

    store: Store
    _lists: dict[str, list[Found]] = field(default_factory=dict)

    def listed(self, kind: str) -> list[Found]:
        """Return the files of one kind (``KINDS``), their names from the folder of that kind."""
        if kind not in self._lists:
            self._lists[kind] = [file for file in tree(self.store.location(kind)) if not file.name.endswith(".tmp")]
        return self._lists[kind]

    @cached_property
    def blobs(self) -> dict[str, Found]:
        """The pictures, by digest."""
        found = ((_BLOB.fullmatch(file.name), file) for file in self.listed("blobs"))
        return {match[1]: file for match, file in found if match}

    def results(self) -> list[dict[str, Any]]:
        """Return the records of all results that can be read, the oldest first; ``image`` as it was written."""
        names = self._names("results")
        records = each(partial(self.store.record_or_empty, "results"), names)
        found = ({"key": name, **record} for name, record in zip(names, records, strict=True))
        whole = (record for record in found if isinstance(record.get("image"), dict))
        return sorted(whole, key=lambda record: str(record.get("created", "")))

    # -- damage ---------------------------------------------------------------------------------------------------

    def flaws(self) -> Iterator[Flaw]:
        """Yield what is damaged or missing, by reading every picture and every record of a job."""
        yield from _found(self._flaw_of_blob, list(self.blobs.items()))
        lost: set[str] = set()
        for kind in ("results", "copies"):
            for flaw in _found(partial(self._flaw_of_result, kind), self._names(kind)):
                if not flaw.digest or flaw.digest not in lost:
                    yield flaw
                lost.add(flaw.digest)
        for key in sorted({*self._names("copies")} - {*self._names("results")}):
            yield Flaw(f"results/{key}.json", f"results/{key}.json is missing; its copy is there")
        for kind in _OTHER_RECORDS:
            yield from _found(partial(self._flaw_of_record, kind), self._names(kind))

    def _names(self, kind: str) -> list[str]:
        return [file.name.removesuffix(".json") for file in self.listed(kind)]

    def _flaw_of_blob(self, about: tuple[str, Found]) -> Flaw | None:
        digest, file = about
        place = f"blobs/{file.name}"
        try:
            data = files.read(self.store.location(place))
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() == digest:
            return None
        return Flaw(place, f"{place} is damaged: its {len(data):,} bytes do not fit its name", digest)

    def _flaw_of_result(self, kind: str, key: str) -> Flaw | None:
        try:
            self.store.read_result(key, kind)
        except DamagedRecord as error:
            with suppress(ValueError, KeyError, TypeError):  # of the record itself
                digest = str((self.store.record(kind, key) or {})["image"]["digest"])
                return None if digest in self.blobs else Flaw(f"{kind}/{key}.json", str(error), digest)
            return Flaw(f"{kind}/{key}.json", str(error))
        return None

    def _flaw_of_record(self, kind: str, name: str) -> Flaw | None:
        try:
            self.store.record(kind, name)
        except ValueError as error:
            return Flaw(f"{kind}/{name}.json", str(error))
        return None

    def repair(self, flaw: Flaw, again: Callable[[str], bytes | None] = lambda job_id: None) -> str:
        """Put right what is wrong, from what is known to be right; return how, or an empty text where nothing is.

        Args:
            again: given the service's id of a job, returns what the service delivers for it now, if anything.
        """
        if flaw.digest:
            for how, data in self._candidates(flaw.digest, again):
                if data is not None and hashlib.sha256(data).hexdigest() == flaw.digest:
                    self.store.put_image(data)
                    return how
            return ""
        kind, _, name = flaw.place.removesuffix(".json").partition("/")
        if other := {"results": "copies", "copies": "results"}.get(kind):
            with suppress(DamagedRecord, IsADirectoryError):
                if self.store.read_result(name, other) is not None:
                    self.store.put_record(kind, name, self.store.record(other, name) or {})
                    return f"written anew from {other}/{name}.json"
        return ""

    def _candidates(self, digest: str, again: Callable[[str], bytes | None]) -> Iterator[tuple[str, bytes | None]]:
        for path in self._outputs.get(digest, ()):
            with suppress(OSError):
                yield f"taken from {path}", files.read(path)
        for job_id in self._jobs.get(digest, ()):
            yield f"collected once more (job {job_id})", again(job_id)

    @cached_property
    def _outputs(self) -> dict[str, list[str]]:
        """Where runs have written the bytes of a picture, by digest."""
        import orjson

        found: dict[str, list[str]] = {}
        for file in self.listed("runs"):
            if not file.name.endswith("manifest.jsonl"):
                continue
            for line in files.read(self.store.location("runs", file.name)).splitlines():
                with suppress(ValueError, KeyError, TypeError, AttributeError):
                    for output in orjson.loads(line)["outputs"]:
                        found.setdefault(output["image"]["digest"], []).append(output["path"])
        return found

    @cached_property
    def _jobs(self) -> dict[str, list[str]]:
        """The service's ids of the jobs that have made a picture, by digest."""
        found: dict[str, list[str]] = {}
        for kind in ("results", "copies"):
            for record in each(partial(self.store.record_or_empty, kind), self._names(kind)):
                with suppress(KeyError, TypeError, AttributeError):
                    known = found.setdefault(record["image"]["digest"], [])
                    if record["job_id"] and record["job_id"] not in known:
                        known.append(record["job_id"])
        return found

    # -- what nobody names ----------------------------------------------------------------------------------------

    def unnamed(self, days: float) -> list[Found]:
        """Return the pictures that no record, journal or manifest names, and that have not changed for so many days.

        A word of 64 hexadecimal digits in any of the store's files names a picture, be the file damaged or not.
        """
        before = time.time() - days * 86_400
        old = {d: f for d, f in self.blobs.items() if f.modified is not None and f.modified < before}
        named = self._named() if old else set()
        return [file for digest, file in old.items() if digest not in named]

    def _named(self) -> set[str]:
        places = [self.store.location(kind, file.name) for kind in _NAMING for file in tree(self.store.location(kind))]
        found: set[str] = set()
        for digests in each(_digests_in, places):
            found |= digests
        return found

    def remove(self, unnamed: Iterable[Found]) -> Iterator[Found]:
        """Remove pictures that ``unnamed`` has returned; yields each when it is gone.

        It stops where a job is about to write its result: that may be a picture which is here already.
        """
        journal = Journal(self.store)
        for number, file in enumerate(unnamed):
            if not number % _BATCH and any(not entry.seems_held for entry in journal.entries()):
                return
            files.remove(self.store.location("blobs", file.name))
            yield file


def _found(function: Callable[[Any], Flaw | None], values: Sequence[Any]) -> Iterator[Flaw]:
    return filter(None, each(function, values))


def _digests_in(location: str) -> set[str]:
    """Return the digests that a file names, read in pieces: a manifest may be long."""
    found: set[str] = set()
    with suppress(FileNotFoundError), files.stream(location) as stream:
        rest = b""
        while piece := stream.read(1 << 20):
            text = rest + piece
            found.update(match.decode() for match in _DIGEST.findall(text))
            rest = text[-_LONGEST_DIGEST + 1 :]
    return found
