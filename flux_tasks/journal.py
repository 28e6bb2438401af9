"""The journal: the write-ahead record of jobs that may be paid for and are not settled yet.

``intent`` is written before the POST; ``submitted``, with the service's id and polling address, before the first poll;
the entry goes once the result record exists. What a later process finds tells it what to do:

=============  =================================================================================================
``submitted``  paid for: poll that id
``intent``     fresh: another process is submitting just now, wait for it; old: the POST may have been charged and
               its id is unknowable (the API has no idempotency key, OAS-0919), so a person or a policy decides
=============  =================================================================================================
"""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from flux_tasks.store import Store

__all__ = ["Entry", "Journal"]

_KIND = "journal"


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and somebody else's
        return True
    return True


@dataclass(frozen=True, slots=True)
class Entry:
    """One unsettled job. Holds no key, no image bytes and no delivery URL."""

    key: str
    tool: str
    phase: Literal["intent", "submitted"]
    name: str = ""
    """What people call the image."""
    estimate: float | None = None
    """Credits it was expected to cost."""
    id: str = ""
    polling_url: str = ""
    cost: float | None = None
    """Credits the service said it costs, at submission."""
    owner: str = field(default_factory=_owner)
    at: float = field(default_factory=time.time)
    """Seconds since 1970 of the last change."""

    @property
    def age(self) -> float:
        """Seconds since the last change."""
        return max(0.0, time.time() - self.at)

    def with_id(self, id: str, *, polling_url: str, cost: float | None) -> Entry:  # noqa: A002 - the API's own word
        """The same entry, now that the service has named the job."""
        return replace(self, phase="submitted", id=id, polling_url=polling_url, cost=cost, at=time.time())

    def is_fresh(self, grace: float) -> bool:
        """Whether another process may be submitting it right now: begun less than ``grace`` seconds ago, by a process
        that is not known to be gone."""
        host, _, pid = self.owner.rpartition(":")
        if self.owner == _owner() or self.age >= grace:
            return False
        return host != socket.gethostname() or not pid.isdigit() or _is_alive(int(pid))


class Journal:
    """The entries in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def intend(self, entry: Entry) -> bool:
        """Write down that ``entry`` is about to be submitted; False if the job already has an entry."""
        return self._store.create_record(_KIND, entry.key, asdict(entry))

    def submitted(self, entry: Entry, *, id: str, polling_url: str, cost: float | None) -> Entry:  # noqa: A002 - the API's own word
        """Write down the service's id. From here on the job can always be found again."""
        updated = entry.with_id(id, polling_url=polling_url, cost=cost)
        self._store.put_record(_KIND, entry.key, asdict(updated))
        return updated

    def settle(self, key: str, *ids: str) -> None:
        """Forget a job: its result is recorded, or it provably was not charged, or it ended without a result.

        With ``ids`` only if the entry is of one of these jobs (an empty one is an intent's), because another process
        may have submitted anew meanwhile.
        """
        if ids and (entry := self.entry(key)) is not None and entry.id not in ids:
            return
        self._store.remove_record(_KIND, key)

    def renew(self, entry: Entry) -> None:
        """Say that ``entry``, whose job was not made yet, is still being worked on."""
        self._store.put_record(_KIND, entry.key, asdict(replace(entry, at=time.time())))

    def entry(self, key: str) -> Entry | None:
        """The entry of a job, or None.

        An entry that cannot be read counts as an old ``intent``: something was begun, nothing is known.
        """
        try:
            record = self._store.record(_KIND, key)
        except ValueError:
            return _unreadable(key)
        return None if record is None else _entry(key, record)

    def entries(self) -> list[Entry]:
        """All unsettled jobs."""
        return [entry for key in self._store.records(_KIND) if (entry := self.entry(key))]


def _entry(key: str, record: dict[str, Any]) -> Entry:
    try:
        entry = Entry(**{name: value for name, value in record.items() if name in Entry.__dataclass_fields__})
        is_whole = entry.phase == "intent" or (entry.phase == "submitted" and bool(entry.id))
        return entry if is_whole and math.isfinite(entry.at) else _unreadable(key)
    except TypeError:  # JSON, but not an entry
        return _unreadable(key)


def _unreadable(key: str) -> Entry:
    return Entry(key=key, tool="unknown", phase="intent", at=0.0, owner="unknown")
