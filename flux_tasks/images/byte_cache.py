"""A cache of encoded images in memory, so that the next step of a chain need not read its input back."""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["ByteCache", "get", "put", "shared"]


class ByteCache:
    """The bytes that were used last, up to ``capacity`` bytes in all; none of more than a quarter of it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str) -> bytes | None:
        with self._lock:
            data = self._entries.get(digest)
            if data is not None:
                self._entries.move_to_end(digest)
            return data

    def put(self, digest: str, data: bytes) -> None:
        with self._lock:
            if digest in self._entries or len(data) > self._capacity // 4:
                return
            self._entries[digest] = data
            self._size += len(data)
            while self._size > self._capacity:
                _, dropped = self._entries.popitem(last=False)
                self._size -= len(dropped)


shared = ByteCache(capacity=64 * 1024 * 1024)


def get(digest: str) -> bytes | None:
    """Return the bytes with this SHA-256, if they were used lately."""
    return shared.get(digest)


def put(digest: str, data: bytes) -> None:
    """Keep bytes in memory for the next step."""
    shared.put(digest, data)
