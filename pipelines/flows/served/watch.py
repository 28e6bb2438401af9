"""Watch folders and buckets: new pictures start a run.

A place is listed every so often. Once a listing is the same twice, and has a picture that no run was started for, a run
is started. Once that has come to its end, what it was started for is kept in the store, so that a restart neither
misses a picture nor starts a run for it again. A run that was killed or stopped is started again after a while, since
nothing else would collect what it has paid for::

    watched/<digest of name and place>.json     short hashes of the pictures, each with its fingerprint
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum
from math import inf

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, quote, reason_of
from flux_tasks.store.records import Store
from pipelines.data.formats import folders
from pipelines.flows.stopping import tied_to_this_process
from pipelines.language.compiled import CompiledRecipe

__all__ = ["End", "Start", "check_place", "start_processes", "watch"]


class End(Enum):
    """How a run has ended: it has come to its end, a person has ended it, or something else has."""

    OVER = "over"
    CANCELLED = "cancelled"
    BROKEN_OFF = "broken off"


Start = Callable[[str, str], Awaitable[End]]
"""Starts a run; it is given a digest of what was found, the same for the same listing, and a sentence about it."""

AGAIN = 60.0
"""Seconds until a run that was broken off is started again; each time four times as many, up to ``AT_MOST``."""

AT_MOST = 3_600.0

_KIND = "watched"


def check_place(place: str) -> None:
    """Check that a place can be listed.

    Raises:
        RecipeError: it cannot.
    """
    what = ""
    if files.is_web(place):
        what = "is an address of the web, which cannot be listed: name a folder or a bucket"
    elif files.is_local(place) and not (files.has_wildcards(place) or folders.is_folder(place)):
        what = "is no folder: create it, or correct its name"
    elif bucket := files.missing_bucket(place):
        what = f"is in a bucket that is not there: create {bucket}, or correct its name"
    else:
        try:
            pictures(place)
        except OSError as error:
            what = f"cannot be listed: {reason_of(error)}"
    if what:
        raise RecipeError([Problem("--watch", f"{quote(place)} {what}")])


def pictures(place: str) -> frozenset[str]:
    """Return short hashes of the pictures in a folder and below it, or of what a glob finds, with their fingerprints.

    Raises:
        OSError: it cannot be listed.
    """
    prints = files.Fingerprints()
    is_glob = files.has_wildcards(place)
    locations = files.glob(place) if is_glob else folders.pictures_below(place)
    found = set()
    for location in locations:
        # A file that has just been written has no fingerprint yet: so the listing is another one next time.
        state = prints.of(location) or (os.urandom(8).hex() if files.is_local(location) else "")
        found.add(hashlib.sha256(f"{location}\0{state}".encode(errors="surrogatepass")).hexdigest()[:16])
    if not found and (
        (files.is_local(place) and not is_glob and not folders.is_folder(place)) or files.missing_bucket(place)
    ):
        raise FileNotFoundError("it is not there any more")
    return frozenset(found)


async def watch(
    place: str, name: str, store: Store, start: Start, tell: Callable[[str], None], *, pause: float
) -> None:
    """Start a run when there are new pictures in a place, until it is cancelled.

    A run that did not come to its end, because it or this process was ended, is started again: after ``AGAIN`` seconds
    and then ever more rarely, or after a restart. It collects what was submitted, and what is settled costs nothing.
    One that a person has cancelled is started again after a restart only.

    Args:
        start: called with a digest of the listing and the reason; returns how the run has ended.
        name: what is run; the same place may be watched under several names.
        tell: called with what a person should know.
        pause: seconds between two listings.
    """
    record = hashlib.sha256(f"{name}\0{place}".encode()).hexdigest()
    noted = await asyncio.to_thread(store.record_or_empty, _KIND, record)
    seen = frozenset(noted.get("seen", ()))
    before: frozenset[str] | None = None
    told = ""
    clock, again, wait = asyncio.get_running_loop().time, inf, AGAIN
    while True:
        try:
            now = await asyncio.to_thread(pictures, place)
            if now == before and (now - seen or clock() >= again):
                digest = hashlib.sha256("".join(sorted(now)).encode()).hexdigest()
                why = f"the run for {files.quoted(place)} was broken off"
                if count := len(now - seen):
                    why = f"{count} new {'picture' if count == 1 else 'pictures'} in {files.quoted(place)}"
                    wait = AGAIN
                await asyncio.to_thread(store.put_record, _KIND, record, {"seen": []})  # until its end
                end = await start(digest, why)
                seen, again = now, inf
                if end is End.OVER:
                    await asyncio.to_thread(store.put_record, _KIND, record, {"seen": sorted(seen)})
                elif end is End.BROKEN_OFF:
                    again, wait = clock() + wait, min(4 * wait, AT_MOST)
            if told:
                tell(f"{files.quoted(place)} is watched again")
            before, told = now, ""
        except Exception as error:  # a bucket, a store or a server that is away for a while: watching goes on
            if (problem := f"{files.quoted(place)} is not watched at the moment: {reason_of(error)}") != told:
                tell(problem)
                told = problem
        await asyncio.sleep(pause)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Tell a run to end, once more for each signal that comes meanwhile, and wait for that."""
    while process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(asyncio.CancelledError):
            await process.wait()


async def start_processes(
    recipes: Sequence[tuple[str, CompiledRecipe]],
    places: Sequence[str],
    options: Sequence[str],
    store: str,
    tell: Callable[[str], None],
    *,
    pause: float,
) -> None:
    """Run recipes without a Prefect server when there are new pictures, until Ctrl-C or SIGTERM.

    Each run is ``flux-pipelines run`` in a process of its own, one at a time, which is told to end with this one.

    Args:
        options: of ``flux-pipelines run``, for every recipe.
    """
    turn = asyncio.Lock()

    def starter(name: str, recipe: CompiledRecipe) -> Start:
        given = [f"--set={variable}={value}" for variable, value in recipe.variables.items()]
        program = [sys.executable, "-P", "-m", "pipelines.cli"]
        command = [*program, "run", recipe.file, "--prefect", "off", *given, *options]

        async def start(_: str, why: str) -> End:
            async with turn:
                tell(f"{name}: {why}: a run begins")
                # In a session of its own, so that Ctrl-C reaches it once, by way of this process.
                environment = {**os.environ, **tied_to_this_process()}
                process = await asyncio.create_subprocess_exec(*command, start_new_session=True, env=environment)
                try:
                    code = await process.wait()
                except asyncio.CancelledError:
                    await _end(process)
                    raise
                tell(f"{name}: the run ended with exit code {code}")
                return End.OVER if code in (0, 1) else End.BROKEN_OFF  # 1: some items did not end well

        return start

    stored = Store(store)
    each = [(place, name, starter(name, recipe)) for name, recipe in recipes for place in places]
    waiting = asyncio.gather(*(watch(place, name, stored, start, tell, pause=pause) for place, name, start in each))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, waiting.cancel)
    try:
        await waiting
    except asyncio.CancelledError:
        tell("ended")
