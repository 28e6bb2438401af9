"""``store stats``, ``ls``, ``cat``, ``verify``, ``gc`` and ``prune``: what a store holds, and whether it is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError, StoreUnavailable
from flux_tasks.units import credits, dollars, table_text
from pipelines.cli.commands.store.program import Place, Yes, opened, store
from pipelines.cli.common import Exit, Json, Location, Places, Positive
from pipelines.cli.terminal import print_error, print_line, terminal_width

if TYPE_CHECKING:
    from flux_tasks.settings import Settings
    from flux_tasks.store.inventory import Inventory


@contextmanager
def _inventory(settings: Settings) -> Iterator[Inventory]:
    """Return what is in the store, for a block; what fails there is a ``StoreUnavailable``."""
    from flux_tasks.store.inventory import Inventory

    place = opened(settings)
    try:
        yield Inventory(place)
    except OSError as error:
        raise StoreUnavailable.of("used", error) from error


@store.command
def stats(*, place: Place = None, json: Json = False) -> Exit:
    """Count what the store holds: files, bytes, results by tool, credits."""
    from json import dumps

    from flux_tasks.store.inventory import KINDS

    with _inventory(Places(store=place).settings(needs_key=False)) as found:
        kinds = {
            kind: (len(files), sum(file.size for file in files)) for kind in KINDS if (files := found.listed(kind))
        }
        tools: dict[str, tuple[int, float]] = {}
        for record in found.results():
            count, cost = tools.get(name := str(record.get("tool") or "without a job"), (0, 0.0))
            tools[name] = count + 1, cost + _number(record.get("cost"))
        url = found.store.url
    if json:
        print_line(
            dumps(
                {
                    "store": url,
                    "kinds": {kind: {"files": n, "bytes": size} for kind, (n, size) in kinds.items()},
                    "tools": {tool: {"results": n, "credits": cost} for tool, (n, cost) in tools.items()},
                },
                indent=2,
            )
        )
        return Exit.OK
    if not kinds:
        print_line(f"{url}: nothing is stored")
        return Exit.OK
    rows = [("folder", "files", "MB", "what"), *((k, f"{n:,}", _mb(size), KINDS[k]) for k, (n, size) in kinds.items())]
    print_line(table_text(rows, right=[1, 2], width=terminal_width()))
    if tools:
        spent = sorted(tools.items(), key=lambda pair: -pair[1][1])
        lines = [("tool", "results", "credits"), *((tool, f"{n:,}", credits(cost)) for tool, (n, cost) in spent)]
        total = sum(cost for _, cost in tools.values())
        print_line(f"\n{table_text(lines, right=[1, 2])}\n\n{credits(total)} credits ({dollars(total)}) in all")
    return Exit.OK


@store.command
def ls(*, place: Place = None, tool: str = "", json: Json = False) -> Exit:
    """List the results, the oldest first: key, day, tool, credits, picture.

    Args:
        tool: only results of this tool
    """
    from json import dumps

    with _inventory(Places(store=place).settings(needs_key=False)) as found:
        results = [record for record in found.results() if tool in ("", record.get("tool"))]
    if json:
        print_line(dumps(results, indent=2, ensure_ascii=False))
        return Exit.OK
    if not results:
        print_line(f"no result{f' of {tool}' if tool else ''} is stored")
        return Exit.OK
    print_line(table_text([("key", "day", "tool", "credits", "picture"), *map(_row, results)], right=[3]))
    return Exit.OK


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    image = record["image"]
    picture = f"{str(image.get('digest'))[:12]} {image.get('width')} x {image.get('height')} {image.get('media_type')}"
    tool = str(record.get("tool") or "without a job")
    return record["key"][:12], str(record.get("created", ""))[:10], tool, credits(_number(record.get("cost"))), picture


@store.command
def cat(
    result: Annotated[str, Parameter(metavar="KEY")],
    /,
    *,
    place: Place = None,
    output: Annotated[Location | None, Parameter(alias="-o", metavar="FILE")] = None,
    record: bool = False,
) -> Exit:
    """Write the picture of a result to a file, or to standard output.

    For example:
      flux-pipelines store cat 4fb0c2 -o hens.png

    Args:
        result: the beginning of its key, or of the digest of its picture
        output: the file; it may be an fsspec URL
        record: write what is known of the result instead, as JSON
    """
    from json import dumps

    from flux_tasks import files
    from flux_tasks.images.reference import ImageRef

    with _inventory(Places(store=place).settings(needs_key=False)) as found:
        named = [r for r in found.results() if r["key"].startswith(result) or _digest(r).startswith(result)]
        if not result or len({_digest(r) for r in named}) != 1:
            what = "no result has such a key or digest: flux-pipelines store ls lists them"
            if named:
                what = f"{len(named):,} results begin with this: write more of the key"
            raise RecipeError([Problem(result or "KEY", what)])
        image = ImageRef.from_dict({**named[0]["image"]})
        data = f"{dumps(named, indent=2, ensure_ascii=False)}\n".encode() if record else found.store.read_image(image)
    if output is not None:
        files.write(str(output), data)
    elif not record and sys.stdout.isatty():
        raise RecipeError([Problem("--output", "is missing: a terminal shows no picture; name a file")])
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return Exit.OK


@store.command
def verify(*, place: Place = None, yes: Yes = False) -> Exit:
    """Read every picture and record again, and say what is damaged or missing.

    A record is repaired from its copy; a picture from an output that is the
    same, from the spool, or by asking the service once more, which is free.

    Args:
        yes: repair what can be repaired; without this, only say what is wrong
    """
    from flux_tasks import background
    from flux_tasks.jobs.collection import deliver_again
    from flux_tasks.store.commit import drain_spool

    settings = Places(store=place).settings(needs_key=False)
    with _inventory(settings) as found:
        if yes:
            background.run(drain_spool(settings))
        flaws = list(found.flaws())
        left = 0
        for flaw in flaws:
            how = found.repair(flaw, lambda job: background.run(deliver_again(job, settings))) if yes else ""
            print_line(f"{flaw.what}{f': {how}' if how else ''}")
            left += not how
        count = len(found.blobs)
    if not flaws:
        print_line(f"all is well: {count:,} pictures have the bytes that they were delivered with")
        return Exit.OK
    if yes:
        print_line(f"repaired: {len(flaws) - left:,}; left: {left:,}")
        if left:
            print_error("a run that needs what is left, and was paid for, holds its job: flux-pipelines store held")
    else:
        print_line(f"{len(flaws):,} found; nothing was changed: write --yes to repair what can be repaired")
    return Exit.ITEMS if left else Exit.OK


@store.command
def gc(*, place: Place = None, days: Positive = 30, yes: Yes = False) -> Exit:
    """Remove pictures that nothing in the store names any more.

    What a result, the journal, a decision, a manifest or a settled item
    names stays. Nothing is removed while a job is on its way.

    Args:
        days: keep what was written in the last so many days (default 30)
    """
    with _inventory(Places(store=place).settings(needs_key=False)) as found:
        unnamed = found.unnamed(days)
        if not unnamed:
            print_line(f"nothing to remove: all {len(found.blobs):,} pictures are named, or younger than {days} days")
            return Exit.OK
        size = sum(file.size for file in unnamed)
        print_line(f"{len(unnamed):,} of {len(found.blobs):,} pictures ({_mb(size)} MB) are named by nothing")
        if not yes:
            print_line("nothing was removed: write --yes to do it")
            return Exit.OK
        removed = list(found.remove(unnamed))
    print_line(f"removed: {len(removed):,} ({_mb(sum(file.size for file in removed))} MB)")
    if len(removed) < len(unnamed):
        print_error("stopped: a job is on its way in this store; try again when no run uses it")
        return Exit.STOPPED
    return Exit.OK


@store.command
def prune(*, place: Place = None, days: Positive = 30, yes: Yes = False) -> Exit:
    """Forget the settled items of recipes that are no longer run.

    Results, journal, manifests and reports stay. If such a recipe is run
    again, it looks at every item once more, and pays for none of them again.

    Args:
        days: forget what no run has used for so many days (default 30)
    """
    from pipelines.data.settled import old_indexes

    folder = opened(Places(store=place).settings(needs_key=False))
    try:
        found = old_indexes(folder, days)
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    if not found:
        print_line(f"nothing to remove: runs of the last {days} days have used all that is remembered")
        return Exit.OK
    print_line(table_text([("recipe", "last used"), *((old.recipe or "unknown", old.used) for old in found)]))
    for old in found if yes else ():
        old.remove()
    print_line(f"removed: {len(found):,}" if yes else "nothing was removed: write --yes to do it")
    return Exit.OK


def _digest(record: dict[str, Any]) -> str:
    return str(record["image"].get("digest"))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"
