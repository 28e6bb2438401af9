"""Who holds the slots of an account: one small record for each process, ``slots/<account>/<process>.json``.

A record counts until it has not changed for half a minute of the reader's own monotonic time, whatever any clock says,
and no longer once its owner is known to have ended. ``shares`` has the rules by which the slots are divided.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flux_tasks import files
from flux_tasks.settings import Settings
from flux_tasks.store.account.shares import Claim, Claims
from flux_tasks.store.owner import has_ended, readable, this_process
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each

__all__ = ["LAPSE", "Holder", "SlotRecords", "account_of", "holders"]

KIND = "slots"

LAPSE = 30.0
"""Seconds without a change after which a record does not count any more."""

_OLD = 600.0  # the same, by the clocks of both: for somebody who has just begun to look
_FIELDS = tuple(Claim.__dataclass_fields__)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds slots of an account, or waits for some.

    Attributes:
        account: a digest of endpoint and key.
        owner: the process, as ``flux_tasks.store.owner`` writes it.
        claims: by class of slots (``account`` is all of them): slots claimed, those that jobs hold, those that it
            could use.
        age: seconds since its last word, by its clock and this machine's.
        is_over: it has ended, or has said nothing for so long that its slots are free.
    """

    account: str
    owner: str
    claims: Claims
    age: float
    is_over: bool

    @property
    def name(self) -> str:
        """Its host and process id, for people."""
        return readable(self.owner)


def account_of(settings: Settings) -> str:
    """Return a name for the account of these settings, from which its key cannot be found; the same in every region."""
    service = "bfl" if settings.is_bfl else settings.base_url
    return hashlib.sha256(f"slots of {service} {settings.key}".encode()).hexdigest()[:16]


def holders(store: Store) -> list[Holder]:
    """Return who holds slots on ``store``, of all accounts, those who have ended last.

    Raises:
        OSError: the store cannot be read.
    """
    found = []
    for account in files.folders(store.location(KIND)):
        kind = files.join(KIND, account)
        for record in each(lambda name, kind=kind: store.record_or_empty(kind, name), store.records(kind)):  # type: ignore[misc]
            age = _age(record)
            is_over = has_ended(_owner(record)) or not -_OLD < age < _OLD
            found.append(Holder(account, _owner(record), _claims(record), max(0.0, age), is_over))
    return sorted(found, key=lambda holder: (holder.is_over, holder.owner))


@dataclass
class SlotRecords:
    """The records of one account on one store, as one process sees them. Not thread-safe: one call at a time.

    Attributes:
        name: that of the own record.
    """

    store: Store
    account: str
    name: str = field(default_factory=lambda: f"{this_process().rpartition(' ')[2]}-{next(_numbers)}")
    _seen: dict[str, tuple[object, float]] = field(default_factory=dict)
    """By name: the word of each of the others' records, and when it was first seen."""

    @property
    def _kind(self) -> str:
        return files.join(KIND, self.account)

    def read(self) -> dict[str, Claims]:
        """Return what all others claim; the records of those that are known to have ended are removed.

        Raises:
            OSError: the store cannot be read.
        """
        names = [name for name in self.store.records(self._kind) if name != self.name]
        found: dict[str, Claims] = {}
        now, seen = time.monotonic(), {}
        for name in names:
            record = self.store.record_or_empty(self._kind, name)
            known = self._seen.get(name)
            word = record.get("word")
            seen[name] = known if known is not None and known[0] == word else (word, now)
            if not record or has_ended(_owner(record)):
                if record or now - seen[name][1] > LAPSE:  # a damaged one may be written again
                    self.store.remove_record(self._kind, name)
            elif now - seen[name][1] < LAPSE and -_OLD < _age(record) < _OLD:
                found[name] = _claims(record)
        self._seen = seen
        return found

    def write(self, claims: Claims) -> None:
        """Write what this process claims.

        Raises:
            OSError: the store cannot be written.
        """
        record = {"owner": this_process(), "at": time.time(), "word": secrets.token_hex(4)}
        classes = {kind: asdict(claim) for kind, claim in claims.items()}
        self.store.put_record(self._kind, self.name, {**record, "classes": classes})

    def remove(self) -> None:
        """Give back all slots.

        Raises:
            OSError: the store cannot be written.
        """
        self.store.remove_record(self._kind, self.name)


def _owner(record: Mapping[str, Any]) -> str:
    return str(record.get("owner", ""))


def _age(record: Mapping[str, Any]) -> float:
    at = record.get("at")
    return time.time() - at if isinstance(at, (int, float)) else math.inf


def _claims(record: Mapping[str, Any]) -> dict[str, Claim]:
    """Return what of a record has the right form."""
    classes = record.get("classes")
    found = {}
    for kind, fields in classes.items() if isinstance(classes, dict) else ():
        named = fields if isinstance(fields, dict) else {}
        numbers = [n for name in _FIELDS if isinstance(n := named.get(name), int)]
        if len(numbers) == len(_FIELDS) and 0 <= numbers[0] < 1_000_000 and 0 <= numbers[3] < 1_000_000:
            found[kind] = Claim(*numbers)
    return found
