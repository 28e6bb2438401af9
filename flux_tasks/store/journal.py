"""The journal: the write-ahead record of jobs that may be paid for and are not settled yet.

``intent`` is written before the POST; ``submitted``, with the service's id and polling address, before the first poll;
the entry is removed once the result record exists. What another process finds tells it what to do:

=============  =================================================================================================
``submitted``  paid for: the process with the lease polls it; once the lease has ended, any process may
``intent``     with a lease: its owner is submitting now, wait for it; without: the POST may have been charged, and its
               id cannot be found (the API has no idempotency key, OAS-0919), so a person or a setting decides
=============  =================================================================================================

A lease lasts a minute from the owner's last write, and ends at once if the owner was a process of this machine that has
ended. No entry is ever replaced by another job's: a job that has to be submitted again gets the next attempt
(``<key>~2.json``), which exactly one writer can create. So two processes that decide the same at the same moment make
one job.
"""

import math
import os
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self

from flux_tasks.settings import Settings
from flux_tasks.store.records import Store

__all__ = ["LEASE", "Entry", "Journal", "Standing", "is_process_alive"]

LEASE = 60.0
"""Seconds for which an entry belongs to its last writer; owners renew it three times as often."""

_KIND = "journal"
_MOST_ATTEMPTS = 100  # where the folder is a link to itself, every attempt is there and cannot be read


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def is_process_alive(pid: int) -> bool:
    """Check whether this machine has a process with this id."""
    try:
        os.kill(pid, 0)
    except OSError as error:  # it is refused for a process of another user
        return not isinstance(error, ProcessLookupError)
    return True


class Standing(StrEnum):
    """What an unsettled job means for a call that needs its result."""

    PAID = "paid"
    """It was submitted: its result is collected, and nothing is paid again."""
    HELD = "held"
    """Its POST may have been charged, and a person has to decide."""
    DROPPED = "dropped"
    """Its POST may have been charged, and a person has decided that it is not submitted again."""
    FREE = "free"
    """It may be submitted again, by a person's decision or by ``Settings.on_uncertain``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One unsettled job. Holds no key, no image bytes and no delivery URL."""

    key: str
    tool: str
    phase: Literal["intent", "submitted"]
    name: str = ""
    """The image's name in messages."""
    estimate: float | None = None
    """Credits it was expected to cost."""
    id: str = ""
    polling_url: str = ""
    cost: float | None = None
    """Credits that it costs, by the answer to the submission."""
    input_mp: float | None = None
    output_mp: float | None = None
    """Megapixels that the service charges for, by the same answer."""
    owner: str = field(default_factory=_owner)
    at: float = field(default_factory=time.time)
    """Seconds since 1970 of the last change."""
    begun: float = field(default_factory=time.time)
    """Seconds since 1970 of the intent."""
    attempt: int = 1
    """The number of this submission of the job: 1, more if it had to be submitted again."""
    refresh: bool = False
    """Whether its result replaces one that is there already."""
    decision: Literal["", "resubmit", "drop"] = ""
    """A person's decision about an intent whose POST may have been charged."""
    reason: str = ""
    """Why it may have been charged, if not because its submission was cut off."""

    @property
    def age(self) -> float:
        """Seconds since the last change."""
        return max(0.0, time.time() - self.at)

    def with_id(self, id: str, *, polling_url: str, cost: float | None) -> Self:  # noqa: A002 - the API's own word
        """Return the same entry, now that the service has given the job an id."""
        return replace(self, phase="submitted", id=id, polling_url=polling_url, cost=cost, at=time.time())

    @property
    def is_leased(self) -> bool:
        """Whether another process is at work on it: it wrote within the last minute, and is not known to have ended."""
        host, _, pid = self.owner.rpartition(":")
        if self.owner in ("", _owner()) or self.age >= LEASE or self.decision:
            return False
        return host != socket.gethostname() or not pid.isdigit() or is_process_alive(int(pid))

    @property
    def is_held(self) -> bool:
        """Whether its POST may have been charged, no process is at work on it, and no person has decided what to do."""
        return self.phase == "intent" and not self.decision and not self.is_leased

    def standing(self, settings: Settings) -> Standing:
        """Return what the entry means for a call that needs the job's result, if no other process is at work on it."""
        if self.phase == "submitted":
            return Standing.PAID
        if self.decision == "drop":
            return Standing.DROPPED
        if self.decision == "resubmit" or settings.on_uncertain == "resubmit":
            return Standing.FREE
        return Standing.HELD


class Journal:
    """The entries in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def intend(self, entry: Entry) -> bool:
        """Write down that ``entry`` is about to be submitted; False if the job already has this attempt."""
        return self._store.create_record(_KIND, _name(entry.key, entry.attempt), asdict(entry))

    def renew(self, entry: Entry) -> None:
        """Note that this process is at work on ``entry``, and holds its lease."""
        self.put(replace(entry, at=time.time(), owner=_owner()))

    def put(self, entry: Entry) -> None:
        """Write ``entry`` in its place."""
        self._store.put_record(_KIND, _name(entry.key, entry.attempt), asdict(entry))

    def withdraw(self, entry: Entry) -> None:
        """Remove this attempt alone: it was certainly not charged."""
        self._store.remove_record(_KIND, _name(entry.key, entry.attempt))

    def settle(self, key: str, *ids: str) -> None:
        """Remove all attempts at a job: its result is stored, or it ended without a result.

        With ``ids``, only if the last attempt is of one of these jobs (an intent has an empty id), because another
        process may have submitted it again meanwhile. An attempt that begins during this call is not touched.
        """
        last = self.entry(key)
        if last is None or (ids and last.id not in ids):
            return
        for attempt in range(last.attempt, 0, -1):
            self._store.remove_record(_KIND, _name(key, attempt))

    def entry(self, *keys: str) -> Entry | None:
        """Return the last attempt at a job, under the first of ``keys`` that has one, or None.

        An entry that cannot be read counts as an old ``intent``: a submission was begun, and nothing else is known.
        """
        for key in keys:
            found = self._attempt(key, 1)
            while found is not None and found.attempt < _MOST_ATTEMPTS:
                later = self._attempt(key, found.attempt + 1)
                if later is None:
                    break
                found = later
            if found is not None:
                return found
        return None

    def _attempt(self, key: str, attempt: int) -> Entry | None:
        try:
            record = self._store.record(_KIND, _name(key, attempt))
            return None if record is None else replace(_entry(record), attempt=attempt)
        except (ValueError, TypeError, OverflowError):  # no JSON, or no entry
            return Entry(key, "unknown", "intent", at=0.0, begun=0.0, owner="unknown", attempt=attempt)

    def entries(self) -> list[Entry]:
        """Return all unsettled jobs, each with its last attempt."""
        last: dict[str, int] = {}
        for name in self._store.records(_KIND):
            key, _, attempt = name.partition("~")
            last[key] = max(last.get(key, 1), int(attempt) if attempt.isdecimal() else 1)
        return [entry for key, attempt in last.items() if (entry := self._attempt(key, attempt))]


def _name(key: str, attempt: int) -> str:
    return key if attempt == 1 else f"{key}~{attempt}"


def _entry(record: dict[str, Any]) -> Entry:
    entry = Entry(**{name: value for name, value in record.items() if name in Entry.__dataclass_fields__})
    is_whole = entry.phase == "intent" or (entry.phase == "submitted" and bool(entry.id))
    texts = (entry.key, entry.tool, entry.name, entry.id, entry.polling_url, entry.owner, entry.decision, entry.reason)
    optional = (entry.estimate, entry.cost, entry.input_mp, entry.output_mp)
    numbers = [entry.at, entry.begun, *(number for number in optional if number is not None)]
    if not (is_whole and all(isinstance(text, str) for text in texts) and all(map(math.isfinite, numbers))):
        raise ValueError("not an entry")
    return entry
