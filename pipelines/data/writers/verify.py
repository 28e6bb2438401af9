"""Check a whole output, files or a dataset, against what is known of how it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Any, TypeVar

from flux_tasks import files
from flux_tasks.background import Pool
from flux_tasks.catalog.fields import EXTENSIONS
from flux_tasks.errors import Problem, RecipeError, listed
from pipelines.data.writers.columns.schema import IMAGE
from pipelines.data.writers.ending import MARKER, lost_figures
from pipelines.data.writers.provenance import SIDECAR
from pipelines.data.writers.rows import HOME, Part, RowIndex, document, header_of
from pipelines.data.writers.shards import read_digests, stats_name

__all__ = ["Finding", "Verdict", "verify"]

T = TypeVar("T")

_AHEAD = 4
"""So many pieces of work for each thread are planned ahead."""
_BLOCK = 1 << 20
_LABELS = ("metadata.csv", "metadata.parquet")  # which people may add beside pictures


class Verdict(StrEnum):
    """What is wrong with a file: it is not there, is not as it was written, or is unknown."""

    MISSING = "missing"
    CHANGED = "changed"
    EXTRA = "extra"


@dataclass(frozen=True)
class Finding:
    """Something in an output that is not as it was written."""

    verdict: Verdict
    location: str
    what: str = ""


def verify(folder: str, threads: int = 8) -> Iterator[Finding | None]:
    """Yield what is wrong with an output, and None for each file that is as it was written.

    Args:
        folder: of a dataset, or of files that were written with ``provenance``.
        threads: how many files are read at a time.

    Raises:
        RecipeError: nothing is known of the folder.
        OSError: what is known of it cannot be read.
    """
    try:
        kind = document(files.read(files.join(folder, HOME, "dataset.json")))["format"]
    except FileNotFoundError:
        yield from _files(folder, threads)
        return
    except (ValueError, KeyError):
        raise RecipeError([Problem("", f"{files.quoted(folder)}: {HOME}/dataset.json is damaged")]) from None
    index = RowIndex(folder)
    expected = {"README.md", MARKER, "LICENSE", ".gitattributes"}
    if not files.exists(files.join(folder, MARKER)):
        yield Finding(Verdict.MISSING, files.join(folder, MARKER), "the run that wrote last has not come to its end")
    if kind == "imagefolder":
        yield from _in_parallel(_check_file, _pictures(folder, index, expected), threads)
        yield from _metadata(folder, index, expected)
    else:
        expected |= {part.header["file"] for part in index.parts}
        expected |= {stats_name(part.header["file"]) for part in index.parts}
        yield from _lost_shards(folder, index, expected)
        for place, _ in lost_figures(folder, (part.header for part in index.parts)):
            yield Finding(Verdict.CHANGED if files.exists(place) else Verdict.MISSING, place)
        work = ((folder, str(kind), part, index) for part in index.parts)
        yield from chain.from_iterable(_in_parallel(_check_shard, work, threads))
    yield from _extra(folder, expected)


def _in_parallel(check: Callable[..., T], work: Iterable[tuple[Any, ...]], threads: int) -> Iterator[T]:
    """Yield what ``check`` returns for each piece of work, in order; few of them are in memory."""
    pieces = iter(work)
    with Pool(threads) as pool:
        waiting: list[Future[T]] = []
        while True:
            waiting += [pool.submit(check, *piece) for piece in islice(pieces, _AHEAD * threads - len(waiting))]
            if not waiting:
                return
            yield waiting.pop(0).result()


def _check_file(location: str, digest: str) -> Finding | None:
    try:
        found = _digest(location)
    except FileNotFoundError:
        return Finding(Verdict.MISSING, location)
    except OSError as error:
        return Finding(Verdict.CHANGED, location, f"cannot be read: {error}")
    return None if found == digest else Finding(Verdict.CHANGED, location)


def _digest(location: str) -> str:
    found = hashlib.sha256()
    with files.stream(location) as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


# -- datasets ---------------------------------------------------------------------------------------------------------


def _pictures(folder: str, index: RowIndex, expected: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the pictures of an imagefolder, and their digests."""
    for part in index.parts:
        for row in map(json.loads, index.lines(part)):
            for column, digest in _digests_of(row).items():
                name = row.get("file_name" if column == IMAGE else f"{column}_file_name")
                if name:
                    expected.add(f"{part.split}/{name}")
                    expected.add(f"{part.split}/{name}{SIDECAR}")
                    yield files.join(folder, part.split, name), digest


def _digests_of(row: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the pictures that a row has."""
    columns = {name: IMAGE if name == "digest" else name.removesuffix("_digest") for name in _DIGESTS}
    return {picture: str(row[name]) for name, picture in columns.items() if row.get(name)}


_DIGESTS = ("digest", "original_digest", "mask_digest")


def _metadata(folder: str, index: RowIndex, expected: set[str]) -> Iterator[Finding]:
    """Yield what is wrong with the metadata of an imagefolder: each split has the lines of its rows."""
    for split in sorted({part.split for part in index.parts}):
        lines = {line for part in index.parts if part.split == split for line in index.lines(part)}
        location = files.join(folder, split, "metadata.jsonl")
        expected.update(f"{split}/{name}" for name in ("metadata.jsonl", *_LABELS))
        try:
            with files.stream(location) as file:
                found = {line.rstrip(b"\n") for line in file}
        except FileNotFoundError:
            if lines:
                yield Finding(Verdict.MISSING, location)
            continue
        if lines != found:
            count = len(lines - found), len(found - lines)
            yield Finding(Verdict.CHANGED, location, f"{count[0]} rows are missing, {count[1]} are unknown")


def _lost_shards(folder: str, index: RowIndex, expected: set[str]) -> Iterator[Finding]:
    for location in index.orphans:
        header = header_of(location)
        if not files.exists(place := files.join(folder, header["file"])):
            expected.add(stats_name(header["file"]))
            yield Finding(Verdict.MISSING, place, f"{header['rows']} rows")


def _check_shard(folder: str, kind: str, part: Part, index: RowIndex) -> list[Finding | None]:
    location = files.join(folder, part.header["file"])
    good: list[Finding | None] = [None] * sum(map(len, map(_digests_of, map(json.loads, index.lines(part)))))
    finding = _check_file(location, part.header["sha256"])
    if finding is None or finding.verdict is Verdict.MISSING:
        return good if finding is None else [finding]
    rows = {str(row["id"]): _digests_of(row) for row in map(json.loads, index.lines(part))}
    try:
        found = dict(read_digests(kind, location))
    except Exception as error:
        return [Finding(Verdict.CHANGED, location, f"cannot be read: {error}")]
    changed = sorted(name for name in rows.keys() & found.keys() if rows[name] != found[name])
    what = [f"{title} {listed(names, 200)}" for title, names in _named(rows, found, changed) if names]
    return [Finding(Verdict.CHANGED, location, "; ".join(what) or "its pictures are as they were, its bytes are not")]


def _named(rows: dict[str, Any], found: dict[str, Any], changed: list[str]) -> Iterator[tuple[str, list[str]]]:
    yield "other pictures in", changed
    yield "no longer there:", sorted(rows.keys() - found.keys())
    yield "unknown:", sorted(found.keys() - rows.keys())


def _extra(folder: str, expected: set[str]) -> Iterator[Finding]:
    for name in _names(folder):
        if name not in expected and name.partition("/")[0] not in (HOME, "card"):
            yield Finding(Verdict.EXTRA, files.join(folder, name))


def _names(folder: str, inside: str = "") -> Iterator[str]:
    """Yield the names of all files in a folder, from there."""
    here = files.join(folder, inside) if inside else folder
    for name in files.listing(here):
        yield f"{inside}{name}"
    for name in files.folders(here):
        yield from _names(folder, f"{inside}{name}/")


# -- files ------------------------------------------------------------------------------------------------------------


def _files(folder: str, threads: int) -> Iterator[Finding | None]:
    """Yield what is wrong with files that have their provenance beside them."""
    names = set(_names(folder))
    described = sorted(name for name in names if name.endswith(SIDECAR) and _is_picture(name.removesuffix(SIDECAR)))
    if not described:
        if not names and not (files.is_local(folder) and files.local_path(folder).is_dir()):
            raise RecipeError([Problem("", f"there is nothing at {files.quoted(folder)}: write another place")])
        what = f"{files.quoted(folder)} is no dataset, and no picture in it has a provenance beside it"
        raise RecipeError([Problem("", f"{what}: write provenance: true at the recipe's output, and run it again")])
    yield from _in_parallel(_check_described, ((files.join(folder, name),) for name in described), threads)
    pictures = {name.removesuffix(SIDECAR) for name in described}
    for name in sorted(filter(_is_picture, names - pictures)):
        yield Finding(Verdict.EXTRA, files.join(folder, name), "it has no provenance beside it")


def _is_picture(name: str) -> bool:
    return files.extension(name) in EXTENSIONS


def _check_described(location: str) -> Finding | None:
    try:
        digest = str(json.loads(files.read(location))["digest"])
    except (ValueError, KeyError, TypeError):
        return Finding(Verdict.CHANGED, location, "is no provenance that this program wrote")
    return _check_file(location.removesuffix(SIDECAR), digest)
