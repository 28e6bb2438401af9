"""The manifest: one JSON line for each item of a run, written as items end, and read here only.

A row written by an earlier version names some outcomes of steps otherwise; reading gives it the words of today.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from types import TracebackType
from typing import IO, Any, BinaryIO, NotRequired, TypedDict

import orjson

from flux_tasks import errors, files
from flux_tasks.errors import FluxError, InvalidImage, InvalidRequest, Moderated, RunStopped, SubmissionUncertain
from flux_tasks.files.search.trees import tree
from flux_tasks.store.records import Store

__all__ = [
    "FINE",
    "SEVERITY",
    "ItemOutcome",
    "Manifest",
    "ManifestRow",
    "ShardRows",
    "StepOutcome",
    "StepRow",
    "read_manifest",
]


class ItemOutcome(StrEnum):
    """How an item ended.

    ``done`` (something was made for it), ``cached`` (all was in the store), ``skipped`` (no step applied),
    ``moderated``, ``invalid`` (bad input), ``failed``, ``held`` (may be paid for, or the run was stopped).
    """

    DONE = "done"
    CACHED = "cached"
    SKIPPED = "skipped"
    MODERATED = "moderated"
    INVALID = "invalid"
    FAILED = "failed"
    HELD = "held"


FINE = frozenset({ItemOutcome.DONE, ItemOutcome.CACHED, ItemOutcome.SKIPPED})
"""Outcomes that need nobody's attention."""

SEVERITY = (ItemOutcome.HELD, ItemOutcome.FAILED, ItemOutcome.MODERATED, ItemOutcome.INVALID)
"""Which outcome an item has whose branches ended in several: the first of these."""


class StepOutcome(StrEnum):
    """How a step ended for one item.

    ``done`` (a job was paid for, or an operation done), ``collected`` (an earlier run had paid for the job), ``cached``
    (the store had the result), ``unchanged`` (the result is the input), ``skipped`` (it does not apply, or a picture is
    missing). A plan has three more, a manifest never: ``shared`` (another item's job answers it), ``held`` (its job may
    have been charged, and nobody knows its id), ``blocked`` (something before it cannot be done).
    """

    DONE = "done"
    COLLECTED = "collected"
    CACHED = "cached"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    SHARED = "shared"
    HELD = "held"
    BLOCKED = "blocked"


_EARLIER_WORDS = {"attached": "collected", "made": "done", "kept": "cached", "nothing_to_do": "unchanged"}
_INDEX = re.compile(rb'"index": ?(\d{1,18})')  # the first one is the row's own: in a text, quotes have a backslash
_From = TypedDict("_From", {"from": Any})


class StepRow(_From):
    """One step of an item; what is empty is left out. Pictures are as ``ImageRef.to_dict``, costs in credits.

    ``id`` is the node's, with the values that are varied (``varied``); ``task`` what the recipe calls the step by;
    ``from`` the nodes (or ``source``) whose pictures it gets, its main picture's first; ``seconds`` include waiting for
    a slot; ``cost`` of a local preview is what BFL would ask for; ``input_mp`` and ``output_mp`` are what the service
    said that it charges for; ``expanded_prompt`` is what it made of the prompt; ``mask`` is as it was sent; ``drift``
    is how much the result differs from the input outside the mask.
    """

    id: str
    task: str
    outcome: StepOutcome
    is_paid: bool
    tool: NotRequired[str]
    varied: NotRequired[dict[str, Any]]
    reason: NotRequired[str]
    cost: NotRequired[float]
    estimate: NotRequired[float]
    input_mp: NotRequired[float]
    output_mp: NotRequired[float]
    delivery_host: NotRequired[str]
    expanded_prompt: NotRequired[str]
    job_id: NotRequired[str]
    seconds: NotRequired[float]
    image: NotRequired[dict[str, Any]]
    mask: NotRequired[dict[str, Any]]
    drift: NotRequired[dict[str, float]]
    parameters: NotRequired[dict[str, Any]]
    warnings: NotRequired[list[str]]
    preview: NotRequired[bool]


class ErrorRow(TypedDict):
    """An error of an item: its step (or ``source``, ``input``, ``output``), its class, its message."""

    step: str
    kind: str
    message: str


class OutputRow(_From):
    """A file that was written, and the picture in it, which is the result of the node ``from``.

    ``labels`` are its labels, which ``annotations.labels_of`` reads; ``annotations`` is where they are written.
    ``digest`` is that of the file, where it has another type than the picture.
    ``row`` is of a dataset: its folder, the split and the row's name. ``path`` is its picture in an imagefolder, and
    the same as ``row`` where shards hold it.
    """

    path: str
    image: dict[str, Any]
    labels: NotRequired[dict[str, Any]]
    annotations: NotRequired[list[str]]
    row: NotRequired[str]
    digest: NotRequired[str]


class ManifestRow(TypedDict):
    """One item of a run. Pictures are as ``ImageRef.to_dict``.

    ``source`` is where its picture is, or ``item`` without one; ``error`` decided the outcome, and ``errors`` are all
    where there are several; ``output`` is the first result; ``cost`` are the credits that this run paid for it.
    ``duplicate_of`` is the ``source`` of the item that is kept where this one was left out.
    """

    item: str
    index: int
    source: str
    outcome: ItemOutcome
    error: ErrorRow | None
    errors: list[ErrorRow]
    input: dict[str, Any] | None
    output: dict[str, Any] | None
    output_path: str
    outputs: list[OutputRow]
    cost: float
    seconds: float
    preview: bool
    steps: list[StepRow]
    duplicate_of: NotRequired[str]


def outcome_of(kind: type[BaseException] | str) -> ItemOutcome:
    """Return how an item ends that fails with an error of this class; a row names the class."""
    found = getattr(errors, kind, None) if isinstance(kind, str) else kind
    if not isinstance(found, type):
        return ItemOutcome.FAILED
    if issubclass(found, (RunStopped, SubmissionUncertain)):
        return ItemOutcome.HELD
    if issubclass(found, Moderated):
        return ItemOutcome.MODERATED
    return ItemOutcome.INVALID if issubclass(found, (InvalidImage, InvalidRequest)) else ItemOutcome.FAILED


def error_row(step: str, problem: Exception) -> ErrorRow:
    """Return an error as a row has it; the message of one that is not ours begins with its class."""
    is_ours = isinstance(problem, (FluxError, OSError))
    message = str(problem) if is_ours else f"{type(problem).__name__}: {problem}"
    return {"step": step, "kind": type(problem).__name__, "message": message}


def errors_of(row: ManifestRow) -> list[ErrorRow]:
    """Return all errors of an item."""
    return row["errors"] or ([row["error"]] if row["error"] else [])


def paid_steps(row: ManifestRow, outcome: StepOutcome) -> list[StepRow]:
    """Return the steps of an item that call a tool and ended so."""
    return [step for step in row["steps"] if step["is_paid"] and step["outcome"] == outcome]


class Manifest:
    """Appends rows to a JSONL file on any location.

    A local file can be followed while the run goes on; on an object store, which cannot append, the rows gather in a
    temporary file and are written when the manifest is closed.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Manifest:
        if files.is_local(self.location):
            path = files.local_path(self.location)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w+b")
        else:
            self._file = tempfile.TemporaryFile()  # without a name, so that no kill leaves it behind
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None  # noqa: S101 - entered
        with self._file:
            if not files.is_local(self.location):
                self._file.seek(0)
                files.write_from(self.location, self._file)

    def put_back(self) -> None:
        """Write a local file again, with all of its lines, if another process has removed it.

        Raises:
            OSError: it cannot be written.
        """
        assert self._file is not None  # noqa: S101 - entered
        if not files.is_local(self.location) or files.local_path(self.location).exists():
            return
        removed = self._file
        self.__enter__()
        removed.seek(0)
        shutil.copyfileobj(removed, self._file)
        self._file.flush()
        removed.close()

    def add(self, row: ManifestRow) -> None:
        """Write one item's row; it is on disk when this returns."""
        self.add_line(json.dumps(row, ensure_ascii=False, default=str))

    def add_line(self, line: str) -> None:
        """Write one line, without what ends it."""
        assert self._file is not None  # noqa: S101 - entered
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()


def read_manifest(location: str, *, in_order: bool = False) -> Iterator[ManifestRow]:
    """Read the rows of a manifest, in the order in which items ended. A last line that was cut off is left out.

    The file is never in memory as a whole.

    Args:
        in_order: read them in the order of the items. Each line is then read twice, and parsed once.

    Raises:
        OSError: it cannot be read.
    """
    with files.stream(location) as file:
        for line in _sorted_lines(file) if in_order else file:  # which end at LF, and at no other sign
            with contextlib.suppress(ValueError):
                yield _in_words_of_today(_parse(line))


def _sorted_lines(file: BinaryIO) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as copy:  # in an object store, each change of place would be a request
        places = []
        for line in file:
            places.append((_index(line), copy.tell()))
            copy.write(line)
        for _, place in sorted(places):
            copy.seek(place)
            yield copy.readline()


def _index(line: bytes) -> int:
    found = _INDEX.search(line)
    return int(found[1]) if found else 0


def _parse(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:  # as of a file name that is no UTF-8, and of what is no number
        return json.loads(line.decode("utf-8", errors="replace"))


def _in_words_of_today(row: Any) -> Any:
    """Return a row whose steps have the outcomes of today and say whether they are paid, whoever wrote it."""
    steps = row.get("steps") if isinstance(row, dict) else None
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and "is_paid" not in step:
            outcome = step.get("outcome")
            step["outcome"] = _EARLIER_WORDS.get(outcome, outcome) if isinstance(outcome, str) else outcome
            step["is_paid"] = "tool" in step
    return row


_OF_SHARDS = ("stop", "division", "listing")
"""Records that a run has only for its shards; see ``flows/attempt.py``."""


class ShardRows:
    """What a run in shards has in the store while it lasts, and leaves there when it is killed."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._kind = files.join("runs", run_id)
        self._folder = store.location(self._kind, "shards")

    def counts(self, manifest: str) -> Counter[str]:
        """Return how many items have ended in each outcome, by the run's manifest or by the rows of its shards.

        What cannot be read is left out.
        """
        outcomes: dict[int, str] = {}
        places = [manifest]
        with contextlib.suppress(OSError):
            places += [files.join(self._folder, found.name) for found in tree(self._folder)]
        for place in filter(lambda place: place == manifest or place.endswith(".jsonl"), places):
            with contextlib.suppress(OSError, TypeError):
                for row in read_manifest(place):
                    if not isinstance(row, dict) or not {"index", "outcome"} <= row.keys():  # it is damaged
                        continue
                    if row["outcome"] != ItemOutcome.HELD or row["index"] not in outcomes:
                        outcomes[row["index"]] = str(row["outcome"])
        return Counter(outcomes.values())

    def remove(self) -> None:
        """Remove all that was there for the shards; what cannot be removed stays."""
        with contextlib.suppress(OSError):
            for name in _OF_SHARDS:
                self._store.remove_record(self._kind, name)
            if files.is_local(self._folder):
                shutil.rmtree(files.local_path(self._folder), ignore_errors=True)
                return
            for found in tree(self._folder):
                files.remove(files.join(self._folder, found.name))
