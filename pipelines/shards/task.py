"""A shard as a task: what a worker gets to know, and what it does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flux_tasks import files
from flux_tasks.errors import FluxError, Interrupted, RunStopped, StoreUnavailable
from flux_tasks.settings import Settings, with_own_secrets
from flux_tasks.store.records import Store
from pipelines.flows.recipe_run import finish
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.places import in_places_of
from pipelines.language.reading import loader
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run
from pipelines.run.shard import Shard, ShardFolder

__all__ = ["ShardTask", "fingerprint_of", "is_to_stop", "work_on"]

_LOOK = 1.0
"""Seconds between two looks whether the run is to stop; five times as many where the store is not on this machine."""
_BEAT = 10.0
"""Seconds between two signs of life."""
_MOST_WARNINGS = 20


@dataclass(frozen=True)
class ShardTask:
    """What a worker has to know of a shard: values that can be pickled, and no key.

    Attributes:
        recipe: its text, or its URL where it is read from there.
        file: where it was read.
        fingerprint: see ``fingerprint_of``; the worker's has to be the same.
        settings: without key and accounts, which are in the worker's environment.
        run_id: of the whole run.
        number: of the shard, from 1, of ``count``.
        options: of ``Run``: ``limit``, ``sample``, ``budget``, ``verify``.
        no_code: why the recipe may call no function of Python; empty if it may.
    """

    recipe: str
    file: str
    variables: Mapping[str, Any]
    fingerprint: str
    settings: Settings
    run_id: str
    number: int
    count: int
    options: Mapping[str, Any]
    no_code: str = ""

    def load(self) -> CompiledRecipe:
        """Return the recipe, as this worker reads it.

        Raises:
            RecipeError: it cannot be used here, or means something else.
        """
        found = loader.parse(self.recipe, file=self.file, variables=self.variables, no_code=self.no_code)
        if fingerprint_of(found) != self.fingerprint:
            what = "the recipe means something else on this worker: it needs the same version of flux-pipelines"
            names = f", the same values of {', '.join(found.env)}" if found.env else ""
            raise RunStopped(f"{what}{names} and the same files beside the recipe")
        return found

    def folder(self, store: Store) -> ShardFolder:
        """Return what the store knows of the shard."""
        return ShardFolder(store, self.run_id, self.number)


def fingerprint_of(recipe: CompiledRecipe) -> str:
    """Return a digest of what a recipe does, with the values that its templates read from the environment."""
    text = json.dumps([recipe.digest, recipe.constants], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_to_stop(store: Store, run_id: str) -> str:
    """Return why a run is to begin no new job; empty if it may."""
    with suppress(OSError):
        return str(store.record_or_empty(files.join("runs", run_id), "stop").get("why", ""))
    return ""


def work_on(
    task: ShardTask,
    on_event: Callable[[Event], None] = lambda _: None,
    begun: Callable[[Run], None] = lambda _: None,
) -> None:
    """Work on a shard as a run of its own, and note in the store how it has ended. Blocks until then.

    Whatever stops it is noted, too: who has started it decides what becomes of the shard.

    Args:
        begun: called with the run, which it may stop.
    """
    store = Store(task.settings.store)
    folder, warnings = task.folder(store), list[str]()

    def note(event: Event) -> None:
        if event.kind is EventKind.WARNING and len(warnings) < _MOST_WARNINGS:
            warnings.append(event.text)
        on_event(event)

    kind = problem = ""
    try:
        _check_store(store, task.run_id)
        folder.note_life(secrets.token_hex(8))
        run = _carry_out(task, folder, note, begun)
        if run.stopped is not None:
            kind, problem = type(run.stopped).__name__, str(run.stopped)
    except FluxError as error:
        kind, problem = type(error).__name__, str(error)
    folder.end(kind=kind, problem=problem, warnings=warnings)


def _check_store(store: Store, run_id: str) -> None:
    """Check that this worker sees the store of the run.

    Raises:
        StoreUnavailable: it sees another one, or none.
    """
    try:
        is_there = store.record(files.join("runs", run_id), "run") is not None
    except (OSError, ValueError) as error:
        raise StoreUnavailable.of("read", error if isinstance(error, OSError) else OSError(str(error))) from error
    if not is_there:
        what = f"this worker does not see the run {run_id} in {store.url}"
        raise StoreUnavailable(f"{what}: name a store that every machine reaches, such as s3://bucket/store")


def _carry_out(
    task: ShardTask, folder: ShardFolder, on_event: Callable[[Event], None], begun: Callable[[Run], None]
) -> Run:
    recipe, settings = task.load(), with_own_secrets(task.settings)
    if any(step.is_paid for step in recipe.steps):
        settings.require_key()
    try:
        shard = Shard(task.number, task.count, task.run_id, folder.ended())
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    with in_places_of(recipe, settings) as chosen:
        options: dict[str, Any] = {**task.options, "on_event": on_event, "manifest": folder.new_manifest()}
        run = Run(recipe, chosen, shard=shard, **options)
        if threading.current_thread() is threading.main_thread():  # a drained machine: what is in flight is collected
            signal.signal(signal.SIGTERM, lambda *_: run.stop(Interrupted("interrupted (SIGTERM)")))
        begun(run)
        with run:
            asyncio.run(_finish(run, folder))
    return run


async def _finish(run: Run, folder: ShardFolder) -> None:
    following = asyncio.create_task(_follow(run, folder))
    try:
        await finish(run)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def _follow(run: Run, folder: ShardFolder) -> None:
    """Give a sign of life now and then, and stop the run when all of it is to end."""
    pause = _LOOK if files.is_local(run.context.store.url) else 5 * _LOOK
    since = 0.0
    while True:
        if why := await asyncio.to_thread(is_to_stop, run.context.store, run.context.whole):
            run.stop(Interrupted(why))
        await asyncio.sleep(pause)
        since += pause
        if since >= _BEAT:
            since = 0.0
            await asyncio.to_thread(folder.note_life, secrets.token_hex(8))
