"""The most recently used encodings, kept in memory so that the next step of a chain need not read its input back."""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["RecentBytes", "get", "kept", "put"]


class RecentBytes:
    """The most recently used encodings, so that the next step of a chain need not read its input back."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
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
            self._held += len(data)
            while self._held > self._capacity:
                _, dropped = self._entries.popitem(last=False)
                self._held -= len(dropped)


kept = RecentBytes(capacity=128 * 1024 * 1024)


def get(digest: str) -> bytes | None:
    """The bytes with this SHA-256, if they were used lately."""
    return kept.get(digest)


def put(digest: str, data: bytes) -> None:
    """Keep bytes at hand for the next step."""
    kept.put(digest, data)
