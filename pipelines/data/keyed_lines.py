"""Lines of JSON that runs leave in a folder of the store, each found by its key; they stay on disk.

Each run writes a file of its own, ``<run id>.jsonl``, and nobody waits for anybody. A run that ends gathers the files
of others, and does not know whether these are in use; who finds his own gone writes it again. A line is a checksum, its
key and a document. One that is damaged, cut off or of another shape is as good as none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import tempfile
import threading
import zlib
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

from flux_tasks import files
from pipelines.data.manifest import Manifest

__all__ = ["RUN_ID", "KeyedLines", "digest_of", "files_of_runs", "program_version"]

_MOST_FILES = 8
RUN_ID = "[0-9]{8}-[0-9]{6}-[0-9a-f]{7}"
"""What the id of a run looks like, as a pattern: see run.py."""

_NAME = re.compile(rf"{RUN_ID}\.jsonl")


def files_of_runs(folder: str) -> list[str]:
    """Return the names of the files in ``folder`` that runs have written; a user's own files may lie beside them.

    Raises:
        OSError: it cannot be listed.
    """
    return [name for name in files.listing(folder) if _NAME.fullmatch(name)]


def digest_of(document: Any, size: int = 16) -> str:
    """Return so many bytes, as hex digits, that tell a document from any other; the order of its names counts."""
    text = json.dumps(document, default=repr)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


@functools.cache
def program_version() -> str:
    """Return the version of this program, whose notes another one does not read; empty in a bare checkout."""
    try:
        return version("flux-pipelines")
    except PackageNotFoundError:
        return ""


class KeyedLines:
    """The lines in one folder; of each some 100 bytes are in memory. Any number of threads may use it.

    The folder is read when the first line is asked for. A store that cannot be read or written only makes a run find
    less.

    Args:
        run_id: of the run that adds to it; empty for a reader, which writes nothing.
        is_trusted: False finds nothing, and still adds.
    """

    def __init__(self, folder: str, run_id: str = "", *, is_trusted: bool = True) -> None:
        self._folder = folder
        self._location = files.join(folder, f"{run_id}.jsonl") if run_id else ""
        self._is_read = not is_trusted
        self._places: dict[int, int] = {}
        self._files: list[IO[bytes]] = []
        self._names: dict[str, int] = {}
        """The files of earlier runs, each with its size when it was read."""
        self._own: Manifest | None = None
        self._added: set[int] = set()
        self._stack = ExitStack()
        self._lock = threading.RLock()

    def __bool__(self) -> bool:
        """Check whether there is any line of an earlier run."""
        self._read()
        return bool(self._places)

    def __contains__(self, key: str) -> bool:
        """Check whether an earlier run has left a line with this key; what it says is not looked at."""
        self._read()
        return _short(key) in self._places

    def _read(self) -> None:
        with self._lock:
            if self._is_read:
                return
            self._is_read = True
            with suppress(OSError):
                self._names = dict.fromkeys(files_of_runs(self._folder), 0)
            for name in self._names:
                with suppress(OSError):
                    self._names[name] = self._read_file(name)

    def _read_file(self, name: str) -> int:
        """Read a file, and return its size."""
        file: IO[bytes] = self._stack.enter_context(files.stream(files.join(self._folder, name)))
        if not files.is_local(self._folder):
            source, file = file, self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - entered
            shutil.copyfileobj(source, file)
            file.seek(0)
        number, place = len(self._files), 0
        self._files.append(file)
        for line in file:
            with suppress(ValueError):
                self._places[_short(line[9:41].decode("ascii"))] = place << 16 | number
            place += len(line)
        return place

    def _line(self, place: int) -> bytes | None:
        """Return the line at a place, or None if it is damaged."""
        file = self._files[place & 0xFFFF]
        file.seek(place >> 16)
        line = file.readline().rstrip(b"\n")
        return line if line[:8] == f"{zlib.crc32(line[9:]):08x}".encode() else None

    def get(self, key: str) -> Any:
        """Return the document that an earlier run has left under ``key``; None if there is none that is whole."""
        with self._lock, suppress(ValueError, OSError):
            self._read()
            place = self._places.get(_short(key))
            line = None if place is None else self._line(place)
            if line is not None and line[9:41] == key.encode():
                return json.loads(line[42:])
        return None

    def add(self, key: str, document: Any) -> None:
        """Leave a document under ``key``, of 32 hex digits, for later runs."""
        body = f"{key} {json.dumps(document, ensure_ascii=True, default=str)}"
        with self._lock, suppress(OSError):
            if not self._location:
                return
            if self._own is None:
                self._own = Manifest(self._location).__enter__()
            self._own.put_back()  # another run may have gathered it
            self._own.add_line(f"{zlib.crc32(body.encode()):08x} {body}")
            self._added.add(_short(key))

    def close(self) -> None:
        """Write what was added; gather the files of earlier runs in one if there are many."""
        with self._lock, self._stack:
            if self._own is None:
                return
            with suppress(OSError):
                is_gathered = len(self._names) >= _MOST_FILES and self._gather(self._own)
                self._own.put_back()
                self._own.__exit__(None, None, None)  # in a bucket, the lines are written here
                if is_gathered:
                    self._remove_gathered()

    def _gather(self, own: Manifest) -> bool:
        """Copy what still holds from the files of earlier runs; returns whether all of that is copied."""
        with suppress(OSError):
            for key in self._places.keys() - self._added:
                if (line := self._line(self._places[key])) is not None:
                    own.add_line(line.decode("utf-8"))
            return True
        return False

    def _remove_gathered(self) -> None:
        """Remove the files of earlier runs; one that has grown is in use, and one that is in use is put back."""
        for name, size in self._names.items():
            with suppress(OSError):
                if files.size(location := files.join(self._folder, name)) == size:
                    files.remove(location)


def _short(key: str) -> int:
    """Return what is in memory of a key."""
    return int(key[:16], 16)
