"""A filesystem with ETags in memory, ``tagged://``, that fails and caches as object stores and their libraries do."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

__all__ = ["Tagged", "register"]


class Tagged(MemoryFileSystem):  # type: ignore[misc] - fsspec has no types
    """Objects by name. Listings are remembered and never forgotten.

    Attributes:
        failures: so many listings of a kind, ``ls`` or ``find``, fail from now on.
    """

    protocol = "tagged"
    root_marker = ""
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures: ClassVar[dict[str, int]] = {}
    find = AbstractFileSystem.find  # which leaves out what it cannot list

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("tagged://", "memory://")))

    def _fail(self, kind: str) -> None:
        if self.failures.get(kind, 0) > 0:
            self.failures[kind] -= 1
            raise OSError("503 Slow Down")

    def _tagged(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["type"] == "file":
            entry = {**entry, "ETag": hashlib.md5(self.store[entry["name"]].getvalue()).hexdigest()}
        return entry

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        self._fail("ls")
        path = self._strip_protocol(path)
        entries = self._ls_from_cache(path)
        if entries is None:
            entries = self.dircache[path] = [self._tagged(entry) for entry in super().ls(path, detail=True)]
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        known = [entry for entry in self._ls_from_cache(path) or [] if entry["name"] == path]
        return known[0] if known else self._tagged(super().info(path))


class Finding(Tagged):
    """One that lists all below a folder in one request."""

    protocol = "finding"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("finding://", "tagged://"))

    def find(self, path: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        self._fail("find")
        names = [name for name in self.store if name.startswith(self._strip_protocol(path) + "/")]
        return {name: self.info(name) for name in names}


def register() -> None:
    """Let fsspec know both, without objects and failures."""
    for kind in (Tagged, Finding):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    Tagged.store.clear()
    Tagged.failures.clear()
    Tagged.clear_instance_cache()
    Finding.clear_instance_cache()
