"""An attempt at a shard of a run that many processes work on: it follows the whole run, and notes how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, replace
from typing import Any

from flux_tasks import files
from flux_tasks.background import beside
from flux_tasks.errors import FluxError, Interrupted, RunStopped, StoreUnavailable
from flux_tasks.settings import Settings, without_secrets
from flux_tasks.store.records import Store
from pipelines.data.items import Listed
from pipelines.data.manifest import ShardRows
from pipelines.language.compiled import CompiledRecipe
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run
from pipelines.run.shard import Listing, Shard, ShardFolder

__all__ = ["Attempt", "Division", "fingerprint_of"]

_LOOK = 1.0
"""Seconds between two looks whether the run is to stop; five times as many where the store is not on this machine."""
_BEAT = 10.0
"""Seconds between two signs of life."""
_MOST_WARNINGS = 20
_OF_WORKER = ("key", "storage_options", "store", "prefect")
"""Settings that are each worker's own."""


def fingerprint_of(recipe: CompiledRecipe) -> str:
    """Return a digest of what a recipe does, with the values that its templates read from the environment."""
    text = json.dumps([recipe.digest, recipe.constants], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Division:
    """What the store says of a run in shards, for all that work on one.

    ::

        runs/<run id>/division.json   what the shards have to know: fingerprint of the recipe, options, settings
        runs/<run id>/listing.json    its items, which of them are left out, what the globs of its source had found
        runs/<run id>/stop.json       the run is to end: no new job is begun
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._kind = files.join("runs", run_id)
        self._rows = ShardRows(store, run_id)

    def begin(
        self,
        recipe: CompiledRecipe,
        settings: Settings,
        options: Mapping[str, Any],
        listing: Listing,
        listed: Listed,
    ) -> None:
        """Write what the shards have to know, without any secret.

        Args:
            listing: the items of the run: what comes to the source meanwhile belongs to the next one.
            listed: what the globs of its source have found, and which of the items are left out.

        Raises:
            OSError: the store cannot be written.
        """
        plain = {name: value for name, value in asdict(without_secrets(settings)).items() if name not in _OF_WORKER}
        record = {"fingerprint": fingerprint_of(recipe), "options": dict(options), "settings": plain}
        facts = {"items": str(listing), "duplicates": dict(listed.duplicates), "found": dict(listed)}
        self._store.put_record(self._kind, "listing", facts)
        self._store.put_record(self._kind, "division", record)

    def settings_for(self, own: Settings) -> Settings:
        """Return the settings for a shard, on a worker with these.

        Raises:
            StoreUnavailable: as for ``options_for``.
        """
        return replace(own, **self._record("division")["settings"])

    def options_for(self, recipe: CompiledRecipe) -> dict[str, Any]:
        """Return the options of ``Run`` for a shard whose worker has read this recipe.

        Raises:
            StoreUnavailable: this worker sees another store, or none.
            RunStopped: the recipe means something else here.
        """
        record = self._record("division")
        if record.get("fingerprint") != fingerprint_of(recipe):
            what = "the recipe means something else on this worker: it needs the same version of flux-pipelines"
            names = f", the same values of {', '.join(recipe.env)}" if recipe.env else ""
            raise RunStopped(f"{what}{names} and the same files beside the recipe")
        return dict(record["options"])

    def listed(self, shard: Shard) -> Shard:
        """Return a shard with the items of the run, and with what its globs had found where a file of that is here.

        Raises:
            StoreUnavailable: as for ``options_for``.
        """
        record = self._record("listing")
        found = {
            pattern: places
            for pattern, places in record["found"].items()
            if not files.is_local(pattern) or any(map(files.exists, places))
        }
        duplicates = {int(index): (source, kept) for index, (source, kept) in record["duplicates"].items()}
        return replace(shard, listing=Listing(record["items"]), duplicates=duplicates, found=found)

    def _record(self, name: str) -> dict[str, Any]:
        try:
            record = self._store.record_or_empty(self._kind, name)
        except OSError as error:
            raise StoreUnavailable.of("read", error) from error
        if not record:
            what = f"this worker does not see {self._kind} in the store {self._store.url}"
            raise StoreUnavailable(f"{what}: name a store that every machine reaches, such as s3://bucket/store")
        return record

    def stop(self, why: str) -> None:
        """Tell the shards that the run is to end.

        Raises:
            OSError: the store cannot be written.
        """
        self._store.put_record(self._kind, "stop", {"why": why})

    @property
    def why_stopped(self) -> str:
        """Why no new job is begun; empty if the run goes on, or the store cannot be read at the moment."""
        with suppress(OSError):
            why = str(self._store.record_or_empty(self._kind, "stop").get("why", ""))
            return why or ("the run that it is part of has ended" if self.is_over else "")
        return ""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, or was killed and the next one has removed what was there for the shards.

        Raises:
            OSError: the store cannot be read.
        """
        with suppress(ValueError):
            return self._store.record(self._kind, "division") is None
        return False

    def end(self) -> None:
        """Remove what was there for the shards."""
        self._rows.remove()


class Attempt:
    """One attempt at a shard. Whoever makes it calls ``run``, works on that within ``following``, and calls ``end``.

    Args:
        shard: ``of`` the whole run.
    """

    def __init__(self, store: Store, shard: Shard) -> None:
        self._shard = shard
        self._division = Division(store, shard.of)
        self._folder = ShardFolder(store, shard.of, shard.number)
        self._warnings: list[str] = []
        self._is_begun = False
        self._folder.note_life(secrets.token_hex(8))

    def settings(self, own: Settings) -> Settings:
        """Return the settings of the whole run, with what is this worker's own.

        Raises:
            StoreUnavailable: this worker sees another store, or none.
        """
        return self._division.settings_for(own)

    def run(
        self, recipe: CompiledRecipe, settings: Settings, on_event: Callable[[Event], None] = lambda _: None
    ) -> Run:
        """Return the run over what earlier attempts have left of the shard.

        Raises:
            RunStopped: this worker cannot work on it.
        """

        def note(event: Event) -> None:
            if event.kind is EventKind.WARNING and len(self._warnings) < _MOST_WARNINGS:
                self._warnings.append(event.text)
            on_event(event)

        options = self._division.options_for(recipe)
        try:
            shard = replace(self._division.listed(self._shard), ended=self._folder.ended())
        except OSError as error:
            raise StoreUnavailable.of("read", error) from error
        self._is_begun = True
        manifest = self._folder.new_manifest()
        return Run(recipe, settings, on_event=note, manifest=manifest, shard=shard, **options)

    def following(self, run: Run) -> AbstractAsyncContextManager[None]:
        """Give signs of life in the block, and stop the run when all of it is to end."""
        return beside(self._follow(run))

    async def _follow(self, run: Run) -> None:
        pause = _LOOK if files.is_local(run.context.store.url) else 5 * _LOOK
        since = 0.0
        while True:
            if why := await asyncio.to_thread(getattr, self._division, "why_stopped"):
                run.stop(Interrupted(why))
            await asyncio.sleep(pause)
            since += pause
            if since >= _BEAT:
                since = 0.0
                await asyncio.to_thread(self._folder.note_life, secrets.token_hex(8))

    def end(self, problem: FluxError | None) -> None:
        """Note how the attempt has ended: who has started it decides what becomes of the shard.

        Args:
            problem: what has stopped it; None if every item of the shard has ended.

        Raises:
            OSError: the store cannot be written.
        """
        if self._is_begun and self._division.is_over:  # nobody waits for it any more
            self._folder.remove()
            return
        kind = "" if problem is None else type(problem).__name__
        self._folder.end(kind=kind, problem=str(problem or ""), warnings=self._warnings)
