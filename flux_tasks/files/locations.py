"""What the text of a location says: its kind, its path, the name and the type of its file. No file is opened.

Only an http(s) address has a query, a fragment and escapes. In every other location ``#``, ``?``, ``%20``, ``[`` and
``*`` are letters of a name, and so is a backslash where the system allows it. A ``file://`` location is the file of
exactly this name if there is one; if not, its escapes are decoded, as ``Path.as_uri`` writes them.

Bytes inside another file have a location, too, written as fsspec chains them: ``tar://cat.jpg::shards/000.tar`` is a
member of a tar; ``parquet://image/12/cat.jpg::train.parquet`` is the column ``image`` of row 12, from 0, of a Parquet
file, and ``arrow://`` the same of an Arrow file. What follows the row is what people call it, if it has a name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from flux_tasks.files.blocks import LOCAL, block_of, is_block, local_path_of

__all__ = [
    "Embedded",
    "canonical",
    "cell",
    "container",
    "embedded",
    "extension",
    "is_data",
    "is_local",
    "is_location",
    "is_web",
    "join",
    "local_name",
    "local_path",
    "name",
    "plain",
    "quoted",
    "stem",
    "tar_member",
]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:\\", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_DATA = re.compile(r"data:[\w.+-]*(/[\w.+-]+)?(;[^,]{0,200})?,", re.IGNORECASE)
_BASE64 = re.compile(r"(iVBORw0K|/9j/|UklGR|R0lGOD|SUkq|TU0A|Qk[01])[A-Za-z0-9+/\s]*=*\s*")
_HAS_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}")
_EMBEDDED = re.compile(r"(tar|parquet|arrow)://(.*?)::(.+)", re.DOTALL)
_EMBEDDING = ("tar://", "parquet://", "arrow://")
_OTHER_NAMES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_SHORT = 80
_LONG = 200
_LONGEST_PATH, _LONGEST_NAME = 4096, 255  # bytes; what Linux takes


def is_web(location: str | os.PathLike[str]) -> bool:
    """Check whether ``location`` is an http(s) address."""
    return bool(_WEB.match(os.fspath(location)))


def is_data(location: str | os.PathLike[str]) -> bool:
    """Check whether ``location`` is a data URI (RFC 2397), which holds its bytes itself."""
    return bool(_DATA.match(os.fspath(location)))


class Embedded(NamedTuple):
    """A location of bytes inside another file.

    Attributes:
        kind: of the other file: ``tar``, ``parquet`` or ``arrow``.
        inner: which of its bytes: the name of a member; or column, row and name, each with its escapes.
        container: where the other file is.
    """

    kind: str
    inner: str
    container: str


def embedded(location: str | os.PathLike[str]) -> Embedded | None:
    """Return the parts of a location of bytes inside another file; None for any other location."""
    text = os.fspath(location)
    found = _EMBEDDED.fullmatch(text) if text.startswith(_EMBEDDING) else None
    return Embedded(*found.groups()) if found else None


def container(location: str) -> str:
    """Return the location of the file that has the bytes of ``location`` in it: mostly that is ``location`` itself."""
    found = embedded(location)
    return found.container if found else location


def tar_member(tar: str, member: str) -> str:
    """Return the location of a member of a tar, by its name in it."""
    return f"tar://{member.replace('%', '%25').replace('::', '%3A%3A')}::{tar}"


def cell(kind: str, file: str, column: str, row: int, called: str = "", *, item: int | None = None) -> str:
    """Return the location of the bytes in a column of one row, from 0, of a Parquet or Arrow file.

    Args:
        item: of a column of lists, the place in the row's list, from 0.
        called: what people call the picture, such as ``cat.jpg``; only the last part of a path counts.
    """
    last = re.split(r"[/\\]", called)[-1]
    place = str(row) if item is None else f"{row}.{item}"
    parts = [quote(column, safe=" "), place, *([quote(last, safe=" ")] if last.strip(". ") else [])]
    return f"{kind}://{'/'.join(parts)}::{file}"


def is_local(location: str | os.PathLike[str]) -> bool:
    """Check whether ``location`` is a path on this machine."""
    text = os.fspath(location)
    return not _SCHEME.match(text) or text.startswith(("file://", "local://", LOCAL))


def is_location(text: str) -> bool:
    """Check whether ``text`` can be a location: not a data URI, nor a long text in base64, JSON or prose.

    A long text that is the name of a file is a location, whatever it looks like.
    """
    if is_data(text):
        return False
    if len(text) <= _SHORT or not is_local(text):
        return True
    parts = [os.fsencode(part) if _is_encodable(part) else b"" for part in text.split("/")]
    if len(text) > _LONGEST_PATH or max(map(len, parts)) > _LONGEST_NAME or b"" in parts[-1:]:
        return False
    last = text.rpartition("/")[2]
    is_prose = len(last) > _SHORT and not _HAS_EXTENSION.fullmatch(PurePosixPath(last).suffix)
    is_json = (text.strip()[0], text.strip()[-1]) in (("{", "}"), ("[", "]"))
    return not (is_prose or is_json or _BASE64.fullmatch(text)) or os.path.lexists(local_path(text))


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def local_path(location: str | os.PathLike[str]) -> Path:
    """Return the path of a local location."""
    return Path(local_name(location))


def local_name(location: str | os.PathLike[str]) -> str:
    """Return the path of a local location as text: what is done for each job needs no ``Path``, which takes longer."""
    text = os.fspath(location)
    if text.startswith(LOCAL):
        return local_path_of(text)
    if not text.startswith("file://"):
        return os.path.expanduser(text.removeprefix("local://"))  # noqa: PTH111 - Path's own fails on ~lock.png
    written = text.removeprefix("file://")  # file://photos/a.jpg means photos/a.jpg
    if written.startswith("localhost/"):
        written = written.removeprefix("localhost")
    path = os.path.expanduser(written)  # noqa: PTH111 - as above
    if "%" in written and not os.path.lexists(path):
        path = os.path.expanduser(unquote(written, errors="surrogateescape"))  # noqa: PTH111 - as above
    return path


def canonical(location: str) -> tuple[str, str]:
    """Return the protocol of a remote location under its usual name, and the path in it without slashes around it."""
    location = plain(location)
    protocol, _, path = location.partition("://")
    return _OTHER_NAMES.get(protocol.lower(), protocol.lower()), path.strip("/")


def plain(location: str) -> str:
    """Return a remote location in a storage block as the URL that it stands for, and every other one as it is."""
    if not is_block(location):
        return location
    block, path = block_of(location)
    return f"{block.root}/{path}" if path else block.root


def join(location: str, *parts: str) -> str:
    """Return ``location`` with ``parts`` appended, ``/`` between them."""
    scheme, separator, path = location.rpartition("://")
    return f"{scheme}{separator}" + "/".join([path.rstrip("/"), *parts] if path else parts) if parts else location


def name(location: str | os.PathLike[str]) -> str:
    """Return the name of the file at ``location``, with its extension; empty for a row without one."""
    text = os.fspath(location)
    if (inside := embedded(text)) is not None:
        parts = inside.inner.split("/")
        return unquote(parts[-1]) if inside.kind == "tar" or len(parts) > 2 else ""
    if is_web(text):
        return PurePosixPath(unquote(urlsplit(text).path)).name
    if _DRIVE.match(text):  # a table may have been written on another machine
        return PureWindowsPath(text).name
    if is_block(text) or not is_local(text):
        return text.partition("://")[2].rstrip("/").rpartition("/")[2]
    last = text.rpartition("/")[2]
    is_plain = last not in ("", ".") and "://" not in text and not text.startswith("~") and os.name != "nt"
    return last if is_plain else local_path(text).name


def stem(location: str | os.PathLike[str]) -> str:
    """Return the name of the file at ``location`` without its extension."""
    found = name(location)
    dot = found.rfind(".")
    return found[:dot] if 0 < dot < len(found) - 1 else found


def extension(location: str | os.PathLike[str]) -> str:
    """Return the extension of the file at ``location``: what follows the last dot of its name, in small letters."""
    return name(location).rpartition(".")[2].lower()


def quoted(location: str | os.PathLike[str]) -> str:
    """Return ``location`` as a message shows it, on one line. What is no location is cut at 80 characters."""
    text = os.fspath(location)
    length = _LONG if is_location(text) else _SHORT
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[1 - length + length // 2 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:length]
