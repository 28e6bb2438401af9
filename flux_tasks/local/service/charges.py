"""The log of charges, and the balance of the account. Only the server writes it; any thread may read it."""

import contextlib
import json
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from flux_tasks.errors import Problem, RecipeError

STAND_IN_PRICE = 1.0
"""Credits charged where the catalogue knows no price (deblur, fast outpaint, finetuned ultra). It is invented, so
that the credits on the local account change; BFL charges something else."""

_LONGEST = 100_000  # entries; the sum over all of them stays


@dataclass(frozen=True, slots=True)
class Entry:
    """One charge and its settlement.

    Attributes:
        id: of the job.
        tool: that was called.
        key: SHA-256 of the request body as canonical JSON, without the caller's fields: two entries with the same key
            are the same job paid twice.
        time: of the charge, ISO 8601 in UTC.
        cost: credits charged at submission.
        status: of the job: ``Pending`` until it ends; ``Stopped`` if the server was stopped before it did.
        settled: credits charged in the end, 0 after a refund; None until the job ends.
        deliveries: how often the whole result was sent.
        faults: names of the faults that it had.
    """

    id: str
    tool: str
    key: str
    time: str
    cost: float
    status: str = "Pending"
    settled: float | None = None
    deliveries: int = 0
    faults: tuple[str, ...] = ()


class ChargeLog:
    """The account of one local server.

    Args:
        credits: balance to begin with.
        file: gets a JSON line for every charge and settlement, appended before the answer is sent, so that it shows
            what a killed server has charged. Each server begins with a new account, whatever the file has already.

    Raises:
        RecipeError: the file cannot be written.
    """

    def __init__(self, credits: float = 1000.0, *, file: str | Path | None = None) -> None:
        self._file: IO[str] | None = None
        if file is not None:
            try:
                self._file = Path(file).open("a", encoding="utf-8")  # noqa: SIM115 - open as long as the charge log
                if self._file.tell():
                    self._file.write("\n")  # a killed server may have left half a line
            except OSError as error:
                raise RecipeError([Problem("charges", f"{file} cannot be written ({error.strerror})")]) from None
        self._opening = credits
        self._charged = 0.0
        self._count = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def credits(self) -> float:
        """Credits left on the account."""
        return round(self._opening - self._charged, 4)

    @property
    def charged(self) -> float:
        """Credits charged so far, without those refunded."""
        return round(self._charged, 4)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every charge, oldest first (the last 100,000 of them)."""
        with self._lock:
            return tuple(self._entries.values())

    def __len__(self) -> int:
        """Count all charges, also those that ``entries`` no longer has."""
        return self._count

    def charge(self, job_id: str, tool: str, key: str, cost: float) -> bool:
        """Take ``cost`` off the balance; return False, and write nothing, if there is not enough."""
        with self._lock:
            if cost > self._opening - self._charged + 1e-9:
                return False
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = Entry(job_id, tool, key, now, cost)
            self._write("charge", entry)  # first: a charge that cannot be written is not made
            self._charged += cost
            self._count += 1
            self._entries[job_id] = entry
            if len(self._entries) > _LONGEST:
                self._entries.popitem(last=False)
            return True

    def settle(self, job_id: str, status: str, *, refund: bool) -> None:
        """Note how a job ended, and refund its credits if it is not to be paid for."""
        with self._lock:
            entry = self._entries.get(job_id)
            if entry is None or entry.settled is not None:
                return
            self._charged -= entry.cost if refund else 0.0
            entry = self._entries[job_id] = replace(entry, status=status, settled=0.0 if refund else entry.cost)
            self._write("settle", entry)

    def _write(self, event: str, entry: Entry) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"event": event, **asdict(entry)}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Refund the jobs that are still running, as ``Stopped``, and close the file."""
        for entry in self.entries:
            if entry.settled is None:
                self.settle(entry.id, "Stopped", refund=True)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def note(self, job_id: str, *, fault: str = "", delivery: bool = False) -> None:
        """Note that a job had a fault, or that its result was fetched."""
        with self._lock:
            if (entry := self._entries.get(job_id)) is not None:
                faults = (*entry.faults, fault) if fault else entry.faults
                self._entries[job_id] = replace(entry, faults=faults, deliveries=entry.deliveries + delivery)

    def to_dict(self) -> dict[str, Any]:
        """Return account and charges, JSON-ready."""
        entries = [asdict(entry) for entry in self.entries]
        return {"credits": self.credits, "charged": self.charged, "jobs": len(self), "entries": entries}
