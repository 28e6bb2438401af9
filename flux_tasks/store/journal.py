"""The journal: the write-ahead record of jobs that may be paid for and are not settled yet.

``intent`` is written before the POST; ``submitted``, with the service's id and polling address, before the first poll;
the entry is removed once the result record exists. What another process finds tells it what to do:

=============  =================================================================================================
``submitted``  paid for: the process with the lease polls it; once the lease has ended, any process may
``intent``     with a lease: its owner is submitting now, wait for it; without: the POST may have been charged, and its
               id cannot be found (the API has no idempotency key, OAS-0919), so a person or a setting decides
=============  =================================================================================================

A lease ends when the reader has seen its entry unchanged for a minute of the reader's own monotonic time, whatever any
clock says, and at once if its owner is known to have ended (``owner``). Each write has a random word, so that no two
are equal. No entry is ever replaced by another job's: a job that has to be submitted again gets the next attempt
(``<key>~2.json``), which exactly one writer can create. So two processes that decide the same at the same moment make
one job. A person's decision is a record of its own (``decisions/``), about an entry exactly as that person saw it: it
never overwrites what the owner writes, and means nothing once the owner has written again.
"""

import logging
import math
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self

from flux_tasks.settings import Settings
from flux_tasks.store.charges import Charge, add_charges
from flux_tasks.store.exclusion import keeps_apart
from flux_tasks.store.owner import has_ended, readable, this_process
from flux_tasks.store.records import Store

__all__ = ["LEASE", "Entry", "Journal", "Standing"]

_log = logging.getLogger("flux_tasks.job")

LEASE = 60.0
"""Seconds for which an entry belongs to its last writer; owners renew it three times as often."""

clock = time.monotonic
"""What leases are measured by."""

_KIND = "journal"
_DECISIONS = "decisions"
_UNREADABLE = "unknown"
_TEN_YEARS = 3_650 * 86_400  # seconds; no job is older, and no clock is further ahead
_MOST_ATTEMPTS = 100  # where the folder is a link to itself, every attempt is there and cannot be read


_seen: dict[tuple[str, str], tuple["Entry", float]] = {}
"""By store and name: each entry as this process last saw it, and when it first saw it so."""

_skewed: set[str] = set()
"""Owners whose clocks were reported to be ahead."""


def _word() -> str:
    return secrets.token_hex(4)


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
    owner: str = field(default_factory=this_process)
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
    run: str = ""
    """The id of the run that submitted it; empty outside a run."""
    recipe: str = ""
    """The name of that run's recipe."""
    part: str = ""
    """The id of that run, or of the shard of it."""
    engine: str = ""
    """What answers, as in the job key."""
    word: str = field(default_factory=_word)
    """Tells each write from every other one."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def age(self) -> float | None:
        """Seconds since the last change, by the clocks of its owner and of this machine; for people only.

        None where no time can be read.
        """
        return _seconds_since(self.at)

    @property
    def whole_age(self) -> float | None:
        """Seconds since the intent, as ``age``."""
        return _seconds_since(self.begun)

    def with_id(self, id: str, *, polling_url: str, cost: float | None) -> Self:  # noqa: A002 - the API's own word
        """Return the same entry, now that the service has given the job an id."""
        return replace(self, phase="submitted", id=id, polling_url=polling_url, cost=cost).now()

    def charge(self, credits: float | None = None, *, is_certain: bool | None = None) -> Charge:
        """Return what the job cost: ``credits``, or what else is known; uncertain for a POST without an answer."""
        known = next((c for c in (credits, self.cost, self.estimate) if c is not None), 0.0)
        known = 0.0 if self.phase == "intent" and self.reason else max(known, 0.0)  # its charge was noted long ago
        named = self.id or f"{self.key}~{self.attempt}@{self.begun}"
        is_sure = self.phase == "submitted" if is_certain is None else is_certain
        return Charge(
            named, self.key, self.tool, self.begun, known, self.engine, self.run, self.recipe, is_sure, self.part
        )

    def now(self, **changes: Any) -> Self:
        """Return the entry with ``changes`` as it is written now: with the time, and a word of its own."""
        return replace(self, at=time.time(), word=_word(), **changes)

    @property
    def seems_held(self) -> bool:
        """Whether its POST may have been charged, nobody has decided, and nobody seems to be at work on it.

        A short look cannot see a lease end, so that the clocks decide what is shown; nothing is submitted by it.
        """
        is_old = has_ended(self.owner) or not -LEASE < time.time() - self.at < LEASE
        return self.phase == "intent" and not self.decision and is_old

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
        """Write down that ``entry`` is about to be submitted; False if the job already has this attempt.

        After a conflict the entry is read: the answer to a write of this very entry may have been lost.
        """
        if not keeps_apart(self._store) and self._attempt(entry.key, entry.attempt) is not None:
            return False  # creating would replace what a process before this one has left
        created = self._store.create_record(_KIND, _name(entry.key, entry.attempt), entry.to_dict())
        return created or self._attempt(entry.key, entry.attempt) == entry

    def is_own(self, entry: Entry) -> bool:
        """Check whether ``entry`` still is this process's: no other one has it, and no later attempt was made."""
        return self._is_current(entry, owner=this_process())

    def confirm(self, entry: Entry) -> bool:
        """Check, before a POST that comes late, that no other process has given this one up meanwhile.

        It is written again before it is looked at, and who makes the next attempt looks at it afterwards
        (``is_unchanged``): at least one of the two sees the other.
        """
        if not self.is_own(entry):
            return False
        self.put(entry.now())
        return self.is_own(entry)

    def is_unchanged(self, entry: Entry) -> bool:
        """Check whether ``entry`` is in the journal as it was read."""
        found = self._attempt(entry.key, entry.attempt)
        return found is not None and (found.word, found.at, found.phase) == (entry.word, entry.at, entry.phase)

    def renew(self, entry: Entry) -> None:
        """Note that this process is still at work on ``entry``, unless another one is by now."""
        if self.is_own(entry):
            self.put(entry.now())

    def take_over(self, entry: Entry) -> Entry:
        """Take the lease of a submitted job whose owner has ended, and return the entry with its new owner."""
        taken = entry.now(owner=this_process())
        if self._is_current(entry):
            self.put(taken)
        return taken

    def _is_current(self, entry: Entry, owner: str = "") -> bool:
        """Check whether the journal's last attempt is ``entry``; its id is missing there if it could not be written."""
        found = self.entry(entry.key)
        return (
            found is not None
            and not found.decision
            and (found.attempt, found.begun) == (entry.attempt, entry.begun)
            and found.id in ("", entry.id)
            and (not owner or found.owner == owner)
        )

    def is_leased(self, entry: Entry) -> bool:
        """Check whether another process may be at work on ``entry``, which was read from this journal.

        It may, unless it is known to have ended, or has written nothing for a minute since this process first looked.
        """
        if entry.owner in (this_process(), _UNREADABLE) or has_ended(entry.owner):
            return False
        _, since = _seen.get((self._store.url, _name(entry.key, entry.attempt)), (None, clock()))
        return clock() - since < LEASE

    def decide(self, entry: Entry, decision: Literal["resubmit", "drop"]) -> bool:
        """Write down what a person decided about ``entry``; False if it has changed since it was read.

        The decision holds for exactly this entry. If its owner is alive after all and writes again, it means nothing.
        """
        if self.entry(entry.key) != entry:
            return False
        record = {"decision": decision, "entry": entry.to_dict()}
        self._store.put_record(_DECISIONS, _name(entry.key, entry.attempt), record)
        return True

    def put(self, entry: Entry) -> None:
        """Write ``entry`` in its place."""
        self._store.put_record(_KIND, _name(entry.key, entry.attempt), entry.to_dict())

    def withdraw(self, entry: Entry) -> None:
        """Remove this attempt alone, which is this process's and was certainly not charged.

        It stays if there is a later attempt, which would not be found without it; see ``confirm``.
        """
        if self.is_own(entry):
            with suppress(OSError):  # a full store can still remove
                self.put(entry.now())
            if self.is_own(entry):
                self._remove(_name(entry.key, entry.attempt))

    def settle(self, key: str, *ids: str, charge: Charge | None = None) -> None:
        """Note what was charged, then remove all attempts at a job: its result is stored, or it ended without one.

        With ``ids``, only if the last attempt is of one of these jobs (an intent has an empty id), because another
        process may have submitted it again meanwhile. An attempt that begins during this call is not touched.

        Args:
            charge: that of the last attempt, where more is known of it than the entry says.
        """
        last = self.entry(key)
        if last is None or (ids and last.id not in ids):
            return
        earlier = (self._attempt(key, attempt) for attempt in range(1, last.attempt))
        others = (entry.charge() for entry in earlier if entry is not None)
        add_charges(self._store, [charge or last.charge(), *others])
        for attempt in range(last.attempt, 0, -1):
            self._remove(_name(key, attempt))
            if attempt < last.attempt or last.decision:
                self._store.remove_record(_DECISIONS, _name(key, attempt))

    def remove_orphan(self, entry: Entry) -> None:
        """Remove an entry of ``entries`` that nobody finds by its key: the first attempt was settled as it was made."""
        if self.entry(entry.key) is None:
            self._remove(_name(entry.key, entry.attempt))

    def _remove(self, name: str) -> None:
        self._store.remove_record(_KIND, name)
        _seen.pop((self._store.url, name), None)

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
        name = _name(key, attempt)
        try:
            record = self._store.record(_KIND, name)
            entry = None if record is None else replace(_entry(record), attempt=attempt)
        except (ValueError, TypeError, OverflowError):  # no JSON, or no entry
            old = {"at": 0.0, "begun": 0.0, "word": "", "owner": _UNREADABLE}
            entry = Entry(key, "unknown", "intent", attempt=attempt, **old)  # type: ignore[arg-type]
        self._notice(name, entry)
        if entry is None or entry.phase == "submitted" or entry.decision:
            return entry
        return self._decided(name, entry)

    def _notice(self, name: str, entry: Entry | None) -> None:
        """Remember when this process first saw an entry as it is now; report a clock that is ahead, once."""
        place = (self._store.url, name)
        if entry is None:
            _seen.pop(place, None)
            return
        known = _seen.get(place)
        if known is None or known[0] != entry:
            _seen[place] = (entry, clock())
        if entry.at > time.time() + LEASE and entry.owner not in _skewed:
            _skewed.add(entry.owner)
            what = "the clock of %s is %.0f s ahead of this machine's; leases do not depend on it"
            _log.warning(what, readable(entry.owner), entry.at - time.time())

    def _decided(self, name: str, entry: Entry) -> Entry:
        """Return ``entry`` with the decision about it, if a person made one about it as it is now."""
        if entry.owner == this_process():
            return entry
        record = self._store.record_or_empty(_DECISIONS, name)
        if record.get("entry") != entry.to_dict() or record.get("decision") not in ("resubmit", "drop"):
            return entry
        return replace(entry, decision=record["decision"])

    def entries(self) -> list[Entry]:
        """Return all entries, each job with its last attempt."""
        last: dict[str, int] = {}
        for name in self._store.records(_KIND, with_damaged=True):
            key, _, attempt = name.partition("~")
            last[key] = max(last.get(key, 1), int(attempt) if attempt.isdecimal() else 1)
        return [entry for key, attempt in last.items() if (entry := self._attempt(key, attempt))]

    def unsettled(self) -> list[Entry]:
        """Return the entries whose result is not in the store: a process that has died leaves the others."""
        return [entry for entry in self.entries() if entry.refresh or self._store.result(entry.key) is None]


def _seconds_since(at: float) -> float | None:
    seconds = time.time() - at
    return max(0.0, seconds) if abs(seconds) < _TEN_YEARS else None


def _name(key: str, attempt: int) -> str:
    return key if attempt == 1 else f"{key}~{attempt}"


def _entry(record: dict[str, Any]) -> Entry:
    # What an earlier version did not write must not be made up: it would be another entry each time it is read.
    old = {"owner": "", "word": "", "at": 0.0, "begun": record.get("at", 0.0)}
    entry = Entry(**{name: value for name, value in {**old, **record}.items() if name in Entry.__dataclass_fields__})
    is_whole = entry.phase == "intent" or (entry.phase == "submitted" and bool(entry.id))
    texts = (
        entry.key,
        entry.tool,
        entry.name,
        entry.id,
        entry.polling_url,
        entry.owner,
        entry.decision,
        entry.reason,
        entry.run,
        entry.recipe,
        entry.part,
        entry.engine,
    )
    optional = (entry.estimate, entry.cost, entry.input_mp, entry.output_mp)
    numbers = [entry.at, entry.begun, *(number for number in optional if number is not None)]
    is_text = all(isinstance(text, str) for text in (*texts, entry.word))
    if not (is_whole and is_text and all(map(math.isfinite, numbers))):
        raise ValueError("not an entry")
    return entry
