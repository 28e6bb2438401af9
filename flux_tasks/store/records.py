"""The store: content-addressed blobs and small records under one fsspec URL.

::

    blobs/ab/<sha256>.<ext>     bytes exactly as delivered
    results/<key>.json          the result of a job: with this record it never runs again
    copies/<key>.json           the same of a paid job, from which a damaged or missing record is rebuilt
    journal/<key>.json          jobs that are paid for and not settled (see journal.py)
    decisions/<key>.json        what a person decided about one of them
    failures/<key>.json         a job that has just failed, for those who waited for it (see failures.py)
    slots/…, charges/…          who holds the account's slots, and what was charged (see account/)
    probe/create.json           tells whether the store keeps several processes apart (see exclusion.py)
    runs/<run id>/…             manifest and report of a run
    settled/generation.json     another one with each result that replaces one: what was made of that may be old
    tars/<digest>.json          what is in a tar of a bucket, by its location; listed anew where it is missing
    previews/<name>.jsonl       small copies of pictures, for reports; made anew where they are missing

Files are created atomically, and two writers of one name write the same content, so that any number of processes and
machines can share one store. A result counts only while its blob is there. A record has a checksum of its content, so
that one that was changed by a failing disk is not believed; those of earlier versions have none.
"""

import errno
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidImage
from flux_tasks.images import byte_cache
from flux_tasks.images.encoding import EXTENSIONS
from flux_tasks.images.reference import DAMAGED, ImageRef

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUM = "checksum"
_GENERATION = ("settled", "generation")


class DamagedRecord(ValueError):
    """What is in a record's place cannot be believed, or a result's picture is gone; the message names the file."""


class Store:
    """A folder, local or remote, with results.

    Args:
        url: a path or any fsspec URL (``s3://bucket/prefix``, ``gs://…``, ``memory://…``).
    """

    def __init__(self, url: str) -> None:
        self.url = str(files.local_path(url).resolve()) if files.is_local(url) else _without_slash(url)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def location(self, *parts: str) -> str:
        """Return the full location of something in the store."""
        return files.join(self.url, *parts)

    def is_new(self) -> bool:
        """Check whether nothing has been stored here yet.

        Raises:
            OSError: the store cannot be reached.
        """
        return not files.folders(self.url)

    def _blob(self, digest: str, media_type: str) -> str:
        return self.location("blobs", digest[:2], f"{digest}.{EXTENSIONS.get(media_type, 'bin')}")

    def put_image(self, data: bytes | ImageRef, *, name: str = "") -> ImageRef:
        """Write encoded bytes, or those of a picture, unchanged; return a reference that points into the store.

        Raises:
            InvalidImage: the bytes are not an image.
            OSError: the store cannot be written.
        """
        image = ImageRef.of(data, name=name)
        data = image.read()
        location = self._blob(image.digest, image.media_type)
        if files.size(location) != len(data) or _digest(files.read(location)) != image.digest:  # missing, or damaged
            files.write(location, data)
        byte_cache.put(image.digest, data)
        return replace(image, uri=location, data=None)

    def has_image(self, image: ImageRef) -> bool:
        """Check whether the blob of ``image`` is here and whole."""
        return files.size(self._blob(image.digest, image.media_type)) == image.size

    def put_result(self, key: str, image: ImageRef, facts: Mapping[str, Any], *, is_paid: bool = False) -> None:
        """Record that the job ``key`` made ``image``, whose blob is here already; a paid one twice, the copy first."""
        if is_replaced := is_paid and self._has_another(key, image):
            self.renew()
        described = {k: v for k, v in image.to_dict().items() if k != "uri"}  # the store may have other addresses
        data = _dump({"key": key, "image": described, **facts})
        for kind in ("copies", "results") if is_paid else ("results",):
            _write(self.location(kind, f"{key}.json"), data)
        if is_replaced:  # once more, for those who have read the old one since
            self.renew()

    def _has_another(self, key: str, image: ImageRef) -> bool:
        try:
            record = self.record("results", key)
            return record is not None and record["image"]["digest"] != image.digest
        except (ValueError, KeyError, TypeError):  # damaged
            return True

    def generation(self) -> str:
        """Return a text that is another one as soon as a result has replaced one; empty before the first time.

        Raises:
            OSError: the store cannot be reached.
        """
        return str(self.record_or_empty(*_GENERATION).get("id", ""))

    def renew(self) -> None:
        """Let ``generation`` be another one: a job has another result than before."""
        self.put_record(*_GENERATION, {"id": uuid.uuid4().hex})

    def has_result(self, key: str) -> bool:
        """Check whether something is in the place of the record of the job ``key``; it may be damaged."""
        return files.exists(self.location("results", f"{key}.json"))

    def result(self, key: str) -> dict[str, Any] | None:
        """Return the record of the job ``key``, or None; under ``image`` it has a reference into this store.

        A record whose blob has gone, or that cannot be read, is not a result.

        Raises:
            OSError: the store cannot be reached (so nothing is known, and nothing may be paid for).
        """
        try:
            return self.read_result(key)
        except DamagedRecord:
            return None

    def read_result(self, key: str, kind: str = "results") -> dict[str, Any] | None:
        """Return the record of the job ``key`` as ``result`` does, or its copy; None only if nothing is in its place.

        Args:
            kind: ``results`` or ``copies``.

        Raises:
            DamagedRecord: it cannot be read, belongs to another job, or its picture is gone or cut short.
            OSError: the store cannot be reached.
        """
        place = f"{kind}/{key}.json"
        try:
            record = self.record(kind, key)
            if record is None:
                return None
            image = ImageRef.from_dict(record["image"])
            blob = self._blob(image.digest, image.media_type)
            is_right = _DIGEST.fullmatch(image.digest) and record.get("key", key) == key
            size = files.size(blob) if is_right else None
        except (ValueError, KeyError, TypeError, AttributeError):  # of another shape
            if kind not in files.folders(self.url):
                raise OSError(errno.ELOOP, f"{kind} is a link that leads nowhere") from None
            raise DamagedRecord(f"{place} is damaged") from None
        if not is_right:
            raise DamagedRecord(f"{place} is damaged")
        if size != image.size:
            state = "is missing" if size is None else "is damaged"
            raise DamagedRecord(f"the picture of {place}, {blob.removeprefix(self.url).lstrip('/')}, {state}")
        return {**record, "image": replace(image, uri=blob)}

    def restore_result(self, key: str) -> None:
        """Write the record of the job ``key`` anew, as its copy has it."""
        self.put_record("results", key, self.record("copies", key) or {})

    def read_image(self, image: ImageRef) -> bytes:
        """Return the bytes of an image that is in the store, checked against its digest.

        Raises:
            InvalidImage: the blob is damaged.
            OSError: it is not there or cannot be read.
        """
        blob = self._blob(image.digest, image.media_type)
        data = files.read(blob)
        if _digest(data) != image.digest:
            raise InvalidImage(f"{blob}: {DAMAGED}")
        return data

    def put_record(self, kind: str, name: str, record: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Write a small JSON document, replacing what is there.

        Args:
            record: what makes it, for one that is written again and again: it may have to wait for its turn.
        """
        location = self.location(kind, f"{name}.json")
        files.wait_for_turn(location)
        _write(location, _dump(record() if callable(record) else record))

    def create_record(self, kind: str, name: str, record: Mapping[str, Any]) -> bool:
        """Write a small JSON document unless one is there; False if one was. Exactly one writer wins."""
        return files.create(self.location(kind, f"{name}.json"), _dump(record))

    def record(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return a small JSON document, or None.

        Raises:
            ValueError: what is there is not a JSON object, its checksum is wrong, or it is a folder or a broken link.
            OSError: the store cannot be reached.
        """
        try:
            return _decoded(files.read(self.location(kind, f"{name}.json")), f"{kind}/{name}.json")
        except FileNotFoundError:
            return None
        except RecursionError:
            raise ValueError(f"{kind}/{name}.json is damaged: it is nested too deeply") from None
        except IsADirectoryError:
            raise ValueError(f"{kind}/{name}.json is a folder") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ValueError(f"{kind}/{name}.json is a link that leads nowhere") from None
            raise

    def record_or_empty(self, kind: str, name: str) -> dict[str, Any]:
        """Return a small JSON document, or nothing if there is none or it is damaged."""
        try:
            return self.record(kind, name) or {}
        except ValueError:
            return {}

    def remove_record(self, kind: str, name: str) -> None:
        """Remove a small JSON document, if it is there; a folder in its place, if that is empty."""
        location = self.location(kind, f"{name}.json")
        try:
            files.remove(location)
        except OSError:
            if not _remove_folder(location):
                raise

    def records(self, kind: str, *, with_damaged: bool = False) -> list[str]:
        """Return the names of the JSON documents of one kind.

        Args:
            with_damaged: also of folders, and of links that lead nowhere, in the places of such documents.
        """
        found = files.listing(self.location(kind), with_others=with_damaged)
        return [name.removesuffix(".json") for name in found if name.endswith(".json")]


def _write(location: str, data: bytes) -> None:
    try:
        files.write(location, data)
    except OSError:
        if not _remove_folder(location):
            raise
        files.write(location, data)


def _remove_folder(location: str) -> bool:
    """Remove an empty folder in the place of a file on this machine; False if there is none, or something is in it."""
    if not files.is_local(location):
        return False
    try:
        Path(files.local_name(location)).rmdir()
    except (OSError, ValueError):
        return False
    return True


def _without_slash(url: str) -> str:
    scheme, _, path = url.partition("://")
    return f"{scheme}://{path.rstrip('/')}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _dump(record: Mapping[str, Any]) -> bytes:
    """Return a record as a file, with its checksum; ValueError if the record has a field of that name itself."""
    if _SUM in record:
        raise ValueError(f"a record has no field of its own that is called {_SUM!r}")
    plain = json.loads(json.dumps(record))  # as it will be read
    return _encode({**plain, _SUM: _checksum(plain)})


def _decoded(data: bytes, place: str) -> dict[str, Any]:
    """Return the record that a file has, without its checksum; ValueError or RecursionError if it is damaged."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{place} is not a JSON object")  # noqa: TRY004 - as for what is no JSON at all
    checksum = found.pop(_SUM, None)
    if checksum not in (None, _written_checksum(data, checksum)) and checksum != _checksum(found):
        raise ValueError(f"{place} is damaged: its checksum is wrong")
    return found


def _checksum(record: Mapping[str, Any]) -> str:
    return _digest(_encode(record))[:16]


def _written_checksum(data: bytes, checksum: object) -> str:
    """Return the checksum of a file as it was written: the same as that of its record, for a tenth of the time."""
    line = f'\n "{_SUM}": "{checksum}"'.encode()
    return _digest(data.replace(line + b",", b"", 1))[:16]


def _encode(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True)
    return text.encode("utf-8", "backslashreplace")  # bytes of a file name that are no text, as JSON has them: \udc80
