"""What a pattern or a location nearly named: the same name in other letters, another form, another spelling."""

from __future__ import annotations

import functools
import os
import re
import threading
import time
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import chain
from urllib.parse import unquote

from flux_tasks.files.access import exists, folders, listing
from flux_tasks.files.locations import embedded, extension, is_local, is_location, is_web, local_path
from flux_tasks.files.locations import name as name_of
from flux_tasks.files.search.patterns import glob, has_wildcards
from flux_tasks.files.targets import missing_bucket

__all__ = ["of_pattern", "similar"]

_INNER_STARS = re.compile(r"(?<![^/])\*\*(?=[^/])")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_LISTING_IS_GOOD_FOR = 600  # seconds; a folder here is listed again when it has changed
_listing_lock = threading.Lock()


def of_pattern(pattern: str, found: Collection[str] = (), *, kinds: Collection[str] = ()) -> str:
    """Return what ``pattern`` nearly matched besides ``found`` and what to write instead, or an empty string.

    It lists folders; what cannot be listed has no near miss.

    Args:
        kinds: the extensions of what is looked for: files with others are no near miss. Empty: all of them.
    """
    if is_web(pattern) or [name_of(one) for one in found] == [name_of(pattern)]:  # one file, called by its name
        return ""
    if not found and _BRACES.search(pattern):
        each = ", ".join(f"'{one}'" for one in _without_braces(pattern))
        return f"braces have no meaning in a pattern: write a list, [{each}]"
    if not found and (bucket := missing_bucket(pattern)):
        return f"{bucket} does not exist: write the name of another bucket"
    known = set(found)
    for written, why in _spellings(pattern, is_missing=not found):
        with suppress(OSError):
            if others := [one for one in glob(written) if one not in known and _may_be(one, kinds)]:
                count = "1 file differs" if len(others) == 1 else f"{len(others):,} files differ"
                remedy = _with_extensions(pattern, others)
                return why.format(count=count, first=others[0], written=written, loose=_loose(pattern), remedy=remedy)
    return ""


def _may_be(location: str, kinds: Collection[str]) -> bool:
    return not kinds or "." not in name_of(location).lstrip(".") or extension(location) in kinds


def _without_braces(pattern: str) -> list[str]:
    """Return the patterns that a shell makes of one with braces."""
    if (braces := _BRACES.search(pattern)) is None:
        return [pattern]
    each = (pattern[: braces.start()] + one + pattern[braces.end() :] for one in braces[1].split(","))
    return list(chain(*map(_without_braces, each)))


def _spellings(pattern: str, *, is_missing: bool) -> Iterator[tuple[str, str]]:
    """Yield other ways to write ``pattern``, each with what to say if it matches."""
    if is_missing:
        folder = pattern.rstrip("/")
        yield f"{folder}/*", "it is a folder: write '{written}' for the files in it"
        if not has_wildcards(folder):
            yield f"{folder}/**/*", "it is a folder: write '{written}' for the files in all folders below it"
        yield pattern.replace("\\", "/"), "write / in place of each backslash: '{written}'"
        yield pattern.strip(), "take out the space at its beginning or end: '{written}'"
        literal = pattern.replace("[", "[[]")
        yield literal, "[ ] in a pattern stand for one of the letters between them: write '{written}'"
        yield unquote(pattern), "only http(s) addresses have escapes such as %20: write '{written}'"
        place, slash, last = pattern.rpartition("/")
        if last:
            yield f"{place}{slash}.{last}", "names that begin with a dot are left out: write '{written}' for those"
    if (other := _INNER_STARS.sub("**/*", pattern)) != pattern:
        yield other, "** is any number of folders only between slashes: write '{written}'"
    for form in ("NFC", "NFD"):
        if (other := unicodedata.normalize(form, pattern)) != pattern:
            why = f"in the Unicode form of letters only (there it is {form})"
            yield other, f"{{count}} {why}, such as {{first}}: write '{{loose}}'"
    yield _in_any_case(pattern), "{count} in case only, such as {first}: {remedy}"
    base, dot, ending = pattern.rpartition(".")
    if dot and "/" not in ending and (is_missing or ending.lower() in ("jpg", "jpeg")):
        endings = ["*"] if is_missing else ["[jJ][pP][gG]", "[jJ][pP][eE][gG]"]
        for ending in endings:
            yield f"{base}.{ending}", "{count} in the extension only, such as {first}: {remedy}"


def _loose(pattern: str) -> str:
    """Return ``pattern`` with ``*`` for letters that have several Unicode forms: written out, these look the same."""
    decomposed = ((letter, unicodedata.normalize("NFD", letter)) for letter in unicodedata.normalize("NFC", pattern))
    return "".join("*" if len(other) > 1 else letter for letter, other in decomposed)


def _in_any_case(pattern: str) -> str:
    """Return ``pattern`` with each letter in both cases, after the last of its first folders that is there."""
    parts = pattern.split("/")
    first = 3 if "://" in pattern else 0  # a bucket has one name
    while first < len(parts) - 1 and not has_wildcards(parts[first]):
        with suppress(OSError):
            if not exists("/".join(parts[: first + 1]) or "/"):
                break
        first += 1
    return "/".join([*parts[:first], *map(_both_cases, parts[first:])])


def _both_cases(part: str) -> str:
    pieces = re.split(r"(\[[^\]]+\])", part)
    return "".join(piece if index % 2 else re.sub(r"[^\W\d_]", _both, piece) for index, piece in enumerate(pieces))


def _both(letter: re.Match[str]) -> str:
    lower, upper = letter[0].lower(), letter[0].upper()
    return f"[{lower}{upper}]" if lower != upper and len(lower) == len(upper) == 1 else letter[0]


def _with_extensions(pattern: str, others: Collection[str]) -> str:
    """Return what to write so that a source finds ``others``, which differ from ``pattern`` in case or extension."""
    base = pattern.rpartition(".")[0]
    written = [f"{base}.{ending}" for ending in sorted({other.rpartition(".")[2] for other in others})]
    if base and set(others) <= set(chain(*map(glob, written))):
        return "add " + ", ".join(f"'{one}'" for one in written)
    return "write the name as it is there"


def similar(location: str) -> str:
    """Return a location that differs from ``location`` in case, Unicode form or escapes only, or an empty string.

    A folder that has been listed is not listed again for ten minutes, or here until it changes, so that asking for each
    of many files is cheap.
    """
    if is_web(location) or embedded(location) or not is_location(location):
        return ""
    return _similar(str(local_path(location)) if is_local(location) else location)


def _similar(text: str) -> str:
    """Go up to the folder that is there: what ``text`` is has been looked at."""
    folder, slash, name = text.rstrip("/").rpartition("/")
    if not name or folder.endswith(":/"):
        return ""
    place = folder or slash or "."
    names: dict[str, list[str]] = {}
    with _listing_lock:  # a second thread waits for what the first one lists
        if (state := _state_of(place)) is not None:
            names = _names_in(place, state)
    for other in names.get(_folded(name), ()):
        if other != name and _is_there(found := f"{folder}{slash}{other}"):
            return found
    if names or not folder or not (other_folder := _similar(folder)):
        return ""
    found = f"{other_folder}/{name}"
    return found if _is_there(found) else _similar(found)


def _is_there(location: str) -> bool:
    with suppress(OSError):
        return exists(location)
    return False


def _state_of(folder: str) -> int | None:
    """Return a number that changes when what is known of a folder is no longer good; None if it is not there."""
    if not is_local(folder):
        return int(time.monotonic() / _LISTING_IS_GOOD_FOR)
    with suppress(OSError):
        return os.stat(folder).st_mtime_ns  # noqa: PTH116 - to make a Path of each folder above takes longer
    return None


@functools.lru_cache(maxsize=4)
def _names_in(folder: str, _state: int) -> dict[str, list[str]]:
    """Return the names in a folder by what they have in common with others that differ in spelling only."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):
        for name in (*listing(folder), *folders(folder)):
            names.setdefault(_folded(name), []).append(name)
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", unquote(name)).casefold())
