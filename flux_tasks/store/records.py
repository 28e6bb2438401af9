"""The store: content-addressed blobs and small records under one fsspec URL.

::

    blobs/ab/<sha256>.<ext>     bytes exactly as delivered
    results/<key>.json          what a job gave: the record that makes it never run again
    journal/<key>.json          jobs that are paid for and not settled (see journal.py)
    runs/<run id>/…             manifest and report of a run

Writers create atomically, and writers of the same content agree, so any number of processes and machines can share
one store. A result counts only while its blob is there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidImage
from flux_tasks.images import byte_cache
from flux_tasks.images.encoding import EXTENSIONS
from flux_tasks.images.reference import ImageRef

__all__ = ["Store"]


_DIGEST = re.compile(r"[0-9a-f]{64}")


class Store:
    """A folder, local or remote, that keeps results.

    Args:
        url: a path or any fsspec URL (``s3://bucket/prefix``, ``gs://…``, ``memory://…``).
    """

    def __init__(self, url: str) -> None:
        self.url = str(files.local_path(url).resolve()) if files.is_local(url) else _tidy(url)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def location(self, *parts: str) -> str:
        """The full location of something in the store."""
        return files.join(self.url, *parts)

    def _blob(self, digest: str, media_type: str) -> str:
        return self.location("blobs", digest[:2], f"{digest}.{EXTENSIONS.get(media_type, 'bin')}")

    def put_image(self, data: bytes, *, name: str = "") -> ImageRef:
        """Keep encoded image bytes, untouched; returns a reference that points into the store.

        Raises:
            InvalidImage: the bytes are not an image.
            OSError: the store cannot be written.
        """
        image = ImageRef.of(data, name=name)
        location = self._blob(image.digest, image.media_type)
        if files.size(location) != len(data):  # absent, or left short by a crash of the machine
            files.write(location, data)
        byte_cache.put(image.digest, data)
        return replace(image, uri=location, data=None)

    def has_image(self, image: ImageRef) -> bool:
        """Whether the blob of ``image`` is here and whole."""
        return files.size(self._blob(image.digest, image.media_type)) == image.size

    def put_result(self, key: str, image: ImageRef, facts: Mapping[str, Any]) -> None:
        """Record that the job ``key`` gave ``image``, whose blob is already here."""
        described = {k: v for k, v in image.to_dict().items() if k != "uri"}  # the store may be reached by other names
        record = {"key": key, "image": described, **facts}
        files.write(self._result(key), _dump(record))

    def result(self, key: str) -> dict[str, Any] | None:
        """The record of the job ``key``, or None; with a live reference under ``image``.

        A record whose blob has gone, or that cannot be read, is not a result.

        Raises:
            OSError: the store cannot be reached (so nothing is known, and nothing may be paid for).
        """
        try:
            record = json.loads(files.read(self._result(key)))
            image = ImageRef.from_dict(record["image"])
            if not _DIGEST.fullmatch(image.digest) or not self.has_image(image):
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link that leads nowhere
                return None
            raise
        except (ValueError, KeyError, TypeError, AttributeError):  # not JSON, or not of this shape
            return None
        return {**record, "image": replace(image, uri=self._blob(image.digest, image.media_type))}

    def _result(self, key: str) -> str:
        return self.location("results", f"{key}.json")

    def read_image(self, image: ImageRef) -> bytes:
        """The bytes of an image that is in the store, checked against its digest.

        Raises:
            InvalidImage: the blob is damaged.
            OSError: it is not there or cannot be read.
        """
        data = files.read(self._blob(image.digest, image.media_type))
        if hashlib.sha256(data).hexdigest() != image.digest:
            raise InvalidImage(f"{self._blob(image.digest, image.media_type)}: the blob is damaged")
        return data

    def put_record(self, kind: str, name: str, record: Mapping[str, Any]) -> None:
        """Write a small JSON document, replacing what is there."""
        files.write(self.location(kind, f"{name}.json"), _dump(record))

    def create_record(self, kind: str, name: str, record: Mapping[str, Any]) -> bool:
        """Write a small JSON document unless one is there; False if one was. Exactly one writer wins."""
        return files.create(self.location(kind, f"{name}.json"), _dump(record))

    def record(self, kind: str, name: str) -> dict[str, Any] | None:
        """A small JSON document, or None.

        Raises:
            ValueError: what is there is not a JSON object.
            OSError: the store cannot be reached.
        """
        try:
            found = json.loads(files.read(self.location(kind, f"{name}.json")))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ValueError(f"{kind}/{name}.json is a link that leads nowhere") from None
            raise
        if not isinstance(found, dict):
            raise ValueError(f"{kind}/{name}.json is not a JSON object")  # noqa: TRY004 - as for what is no JSON at all
        return found

    def remove_record(self, kind: str, name: str) -> None:
        """Remove a small JSON document, if it is there."""
        files.remove(self.location(kind, f"{name}.json"))

    def records(self, kind: str) -> list[str]:
        """Names of the JSON documents of one kind."""
        return [n.removesuffix(".json") for n in files.listing(self.location(kind)) if n.endswith(".json")]


def _tidy(url: str) -> str:
    scheme, _, path = url.partition("://")
    return f"{scheme}://{path.rstrip('/')}"


def _dump(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True)
    return text.encode("utf-8", "backslashreplace")  # a file name may hold bytes that are no text; \udc80 is JSON, too
