"""Patterns of locations: they mean the same on this machine and on every other filesystem.

``*`` is any part of a name, ``?`` one letter, ``[abc]`` one of these letters, ``**`` as a whole part of the path any
number of folders. None of them matches a dot at the beginning of a name. A pattern that is the name of a file is that
file and no other. A folder is gone through once, whichever links lead to it.
"""

from __future__ import annotations

import errno
import fnmatch
import glob as glob_module
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from flux_tasks.files.failures import reporting
from flux_tasks.files.locations import canonical, is_local, is_web, local_name, local_path
from flux_tasks.files.remote.filesystems import filesystem_of, location_of

__all__ = ["glob", "has_wildcards", "links_of", "matcher", "matches"]

has_wildcards = glob_module.has_magic
"""Whether a text has ``*``, ``?`` or ``[``."""

_ANY_FOLDERS = "**"


@reporting
def glob(pattern: str) -> list[str]:
    """Return the locations of the files that match ``pattern``, sorted, of the same kind as the pattern.

    A folder matches only if the pattern has an extension: a folder ``x.jpg`` is probably a mistake, and is reported.
    A link that leads nowhere matches, so that nobody overlooks what is missing behind it. A file whose name is the
    pattern matches, too; it is the only one if the pattern has just ``[``, as names of copies have.
    """
    if is_web(pattern):
        return [pattern]  # one picture: the web cannot be listed
    with_folders = "." in pattern.rsplit("/", 1)[-1]
    if is_local(pattern):
        local = str(local_path(pattern))
        exact = {local} if Path(local).is_file() else set()
        if exact and not _stands_for_many(local):
            return [local]
        found_here = _below(local) if _ANY_FOLDERS in _parts(local) else glob_module.iglob(local)  # noqa: PTH207 - keeps its prefix
        return sorted(exact.union(p for p in found_here if _is_match(p, with_folders=with_folders)))
    filesystem, path = filesystem_of(pattern)
    exact = {location_of(path, pattern)} if has_wildcards(path) and filesystem.isfile(path) else set()
    if exact and not _stands_for_many(path):
        return [*exact]
    parts = [part if part == _ANY_FOLDERS else part.replace(_ANY_FOLDERS, "*") for part in _parts(path)]
    first = next((number for number, part in enumerate(parts) if has_wildcards(part)), len(parts))
    if 1 < first < len(parts) - 1:  # many folders, and not all of a bucket: a request for a thousand files
        found = filesystem.find("/".join(parts[:first]), detail=True, withdirs=with_folders)
    else:
        found = filesystem.glob("/".join(parts), detail=True)
    return sorted(
        exact.union(
            location_of(str(name), pattern)
            for name, info in found.items()
            if (info["type"] == "file" or with_folders)
            and _match(_parts(str(name).strip("/")), _parts(path.strip("/")))
        )
    )


def _stands_for_many(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _is_match(path: str, *, with_folders: bool) -> bool:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - once for each file of a run
    except ValueError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return os.path.islink(path)  # noqa: PTH114 - as above
    return with_folders if stat.S_ISDIR(mode) else stat.S_ISREG(mode)


def matches(pattern: str, location: str, links: Sequence[str] = ()) -> bool:
    """Check whether ``glob`` with this pattern finds a file at ``location``; see ``matcher``."""
    return matcher(pattern, links)(location)


def matcher(pattern: str, links: Sequence[str] = ()) -> Callable[[str], bool]:
    """Return what checks whether ``glob`` with this pattern finds a file, which need not be there yet.

    Folders are looked up once: use it briefly.

    Args:
        links: what ``links_of`` gives for the pattern; the file is looked for behind them, too.
    """
    if is_web(pattern):
        return lambda _: False
    if not is_local(pattern):
        protocol, path = canonical(pattern)
        parts = _parts(path)

        def finds_remote(location: str) -> bool:
            other, place = ("", "") if is_local(location) else canonical(location)
            return protocol == other and _match(_parts(place), parts)

        return finds_remote
    fixed, wanted = _fixed(pattern)
    top = Path(os.path.realpath(fixed))
    behind = [(top / Path(link).relative_to(fixed), Path(os.path.realpath(link))) for link in links]

    @lru_cache(4096)
    def ways(folder: str) -> Sequence[Sequence[str]]:
        """Return the names that lead from the first folder of the pattern to ``folder``, with links and without."""
        real = Path(os.path.realpath(folder))
        found = [real, *(link / real.relative_to(target) for link, target in behind if real.is_relative_to(target))]
        return [way.relative_to(top).parts for way in found if way.is_relative_to(top)]

    def finds(location: str) -> bool:
        if not is_local(location):
            return False
        folder, slash, name = local_name(location).rpartition("/")
        if os.name == "nt" or name in ("", ".", ".."):
            file = local_path(location)
            folder, slash, name = str(file.parent), "", file.name
        return any(_match([*way, name], wanted) for way in ways(folder or slash or "."))

    return finds


def links_of(pattern: str) -> list[str]:
    """Return the links through which ``glob`` goes into folders, also those whose folder is not there yet."""
    if not is_local(pattern):
        return []
    fixed, wanted = _fixed(pattern)
    found: set[str] = set()
    for depth, part in enumerate(wanted[:-1]):
        place = "/".join([glob_module.escape(fixed), *wanted[:depth]])
        if part == _ANY_FOLDERS:
            tops = glob_module.iglob(f"{place}/")  # noqa: PTH207 - keeps the pattern's own prefix
            places = [entry for top in tops for folder in _folders(top) for entry in _entries(folder)]
            return sorted({*found, *filter(_leads_to_folder, places)})
        found.update(filter(_leads_to_folder, glob_module.iglob(f"{place}/{part}")))  # noqa: PTH207
    return sorted(found)


def _fixed(pattern: str) -> tuple[str, list[str]]:
    """Return the folder of a local pattern up to its first wildcard, and the parts that follow."""
    wanted = _parts(str(local_path(pattern)))
    first = next((index for index, part in enumerate(wanted) if has_wildcards(part)), len(wanted) - 1)
    return "/".join(wanted[:first]) or ("/" if first else "."), wanted[first:]


def _leads_to_folder(path: str) -> bool:
    return Path(path).is_symlink() and not Path(path).is_file()


def _entries(folder: str) -> list[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [entry.path for entry in entries]
    return []


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/") if os.name == "nt" else path.split("/")


def _match(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts or not names:
        return not parts and not names
    part, name = parts[0], names[0]
    if part == _ANY_FOLDERS:
        if len(parts) > 1 and _match(names, parts[1:]):
            return True
        is_last = len(parts) == 1 and len(names) == 1
        return not name.startswith(".") and (is_last or _match(names[1:], parts))
    is_hidden = name.startswith(".") and not part.startswith(".") and has_wildcards(part)
    is_same = fnmatch.fnmatchcase(name, part) if has_wildcards(part) else name == part
    return is_same and not is_hidden and _match(names[1:], parts[1:])


def _below(pattern: str) -> Iterator[str]:
    """Yield what a local pattern with ``**`` matches: each file once, by its shortest path without a link if any."""
    parts = _parts(pattern)
    at = parts.index(_ANY_FOLDERS)
    tops = "/".join(parts[:at]) + "/" if at else ""
    rest = "/".join(parts[at + 1 :]) or "*"
    seen: set[tuple[str, str]] = set()
    for top in sorted(glob_module.iglob(tops)) if tops else [""]:  # noqa: PTH207 - keeps the pattern's own prefix
        for folder in _folders(top):
            inner = glob_module.escape(folder) + rest
            found = _below(inner) if _ANY_FOLDERS in _parts(rest) else glob_module.iglob(inner)  # noqa: PTH207
            for path in sorted(found):
                identity = (os.path.realpath(Path(path).parent), Path(path).name)
                if identity not in seen:
                    seen.add(identity)
                    yield path


def _folders(top: str) -> Iterator[str]:
    """Yield ``top`` and all folders below, each with ``/`` at its end; those behind links last, and each once."""
    seen: set[str] = set()
    waiting, linked = deque([top]), deque[str]()
    while waiting or linked:
        folder = (waiting or linked).popleft()
        identity = os.path.realpath(folder or ".")
        if identity in seen:
            continue
        seen.add(identity)
        yield folder
        with suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                with suppress(OSError):  # a link to itself is no folder, and the others are gone through
                    if not entry.name.startswith(".") and entry.is_dir():
                        (linked if entry.is_symlink() else waiting).append(f"{folder}{entry.name}/")
