"""What is in the tars of a bucket, as an earlier run has listed them: nobody reads a whole tar again for its headers.

::

    tars/<digest of its location>.json     its fingerprint, its members, and the items that they are
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from flux_tasks import files
from flux_tasks.files.inside.tar import Member
from flux_tasks.store.records import Store

__all__ = ["KnownTars"]

_KIND = "tars"
_MOST = 100_000  # items of one tar that are kept


class KnownTars:
    """The tars that runs on a store have listed. Those on this machine are listed anew, which is as fast.

    Args:
        version: of this program, whose notes another one does not read.
        writes: whether new ones are kept: a plan writes nothing.
        is_trusted: False finds nothing.
    """

    def __init__(self, store: Store, version: str, *, writes: bool, is_trusted: bool = True) -> None:
        self._store, self._version, self._writes, self._is_trusted = store, version, writes, is_trusted
        self._prints = files.Fingerprints()

    def items(self, location: str, read: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Return the items of a tar: those that are known of it as it is now, or what ``read`` gives, which is kept.

        Raises:
            OSError: whatever ``read`` raises.
        """
        fingerprint = None if files.is_local(location) else self._prints.of(location)
        if fingerprint in (None, files.MISSING):
            yield from read
            return
        name = hashlib.sha256(f"{self._version}:{location}".encode(errors="surrogatepass")).hexdigest()
        if self._is_trusted and (found := self._find(name, location, str(fingerprint))) is not None:
            yield from found
            return
        items = []
        for item in read:
            items.append(item)
            yield item
            if len(items) > _MOST:
                yield from read
                return
        if self._writes and self._prints.still_matches(location, str(fingerprint)):
            members = [[m.name, m.offset, m.size, m.checksum, m.is_file] for m in files.known_members(location)]
            record = {"location": location, "fingerprint": fingerprint, "members": members, "items": items}
            with suppress(OSError):
                self._store.put_record(_KIND, name, record)

    def _find(self, name: str, location: str, fingerprint: str) -> list[dict[str, Any]] | None:
        try:
            known = self._store.record_or_empty(_KIND, name)
            if (known.get("location"), known.get("fingerprint")) != (location, fingerprint):
                return None
            files.know_members(location, [Member(*member) for member in known["members"]])
            return [dict(item) for item in known["items"]]
        except (OSError, TypeError, ValueError, KeyError):
            return None
