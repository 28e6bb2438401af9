"""The spool: a folder on this machine where paid jobs wait while the store cannot be written.

::

    <FLUX_SPOOL>/<store>/<key>.json     what is to be written into the store, with the service's id of the job
    <FLUX_SPOOL>/<store>/<key>.image    the delivered bytes, once they were fetched

``FLUX_SPOOL`` is ``~/.flux-pipelines/spool`` unless it is set; ``<store>`` is a hash of the store's URL.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flux_tasks import files
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.journal import Entry
from flux_tasks.store.records import Store

DEFAULT = "~/.flux-pipelines/spool"


@dataclass(frozen=True, slots=True)
class Spooled:
    """A job whose record could not be written.

    Attributes:
        entry: what belongs into the journal.
        facts: what belongs into the result record; None as long as the result is not fetched.
        image: the delivered picture, as a reference into the spool; None as long as it is not fetched.
    """

    entry: Entry
    facts: dict[str, Any] | None = None
    image: ImageRef | None = None


class Spool:
    """The jobs that wait for one store."""

    def __init__(self, store: Store) -> None:
        folder = os.environ.get("FLUX_SPOOL") or DEFAULT
        self._folder = files.join(folder, hashlib.sha256(store.url.encode()).hexdigest()[:16])

    def _place(self, key: str, kind: str) -> str:
        return files.join(self._folder, f"{key}.{kind}")

    def put(self, entry: Entry, *, facts: Mapping[str, Any] | None = None, data: bytes = b"") -> None:
        """Write a job: its id, and its result if that is known already.

        Raises:
            OSError: this disk cannot be written either.
        """
        if data:
            files.write(self._place(entry.key, "image"), data)
        document = {"entry": entry.to_dict(), "facts": None if facts is None else dict(facts)}
        files.write(self._place(entry.key, "json"), json.dumps(document, indent=1).encode())

    def job(self, *keys: str) -> Spooled | None:
        """Return what waits of a job, under the first of ``keys`` that has it; a damaged file counts as missing."""
        return next((found for key in keys if (found := self._job(key)) is not None), None)

    def _job(self, key: str) -> Spooled | None:
        try:
            document = json.loads(files.read(self._place(key, "json")))
            entry, facts = Entry(**document["entry"]), document["facts"]
            image = None if facts is None else ImageRef.of(self._place(key, "image"), name=entry.name)
            return Spooled(entry, facts, image)
        except Exception:  # not there; or damaged, and the journal or a person knows more
            return None

    def keys(self) -> list[str]:
        """Return the keys of the jobs that wait."""
        return [name.removesuffix(".json") for name in files.listing(self._folder) if name.endswith(".json")]

    def remove(self, key: str) -> None:
        """Remove a job, which is in the store now."""
        for kind in ("json", "image"):
            files.remove(self._place(key, kind))
