"""What all jobs of one endpoint and key share in this process: client, connections, slots, the embedded server."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from flux_tasks.api.client import BflClient
from flux_tasks.api.lease import SlotLease
from flux_tasks.api.slots import OVERBOOK, Slots
from flux_tasks.api.telemetry import probe
from flux_tasks.api.traffic import TrafficLimit
from flux_tasks.errors import OutOfCredits, StoreUnavailable
from flux_tasks.jobs.addresses import Addresses
from flux_tasks.settings import Settings, is_loopback
from flux_tasks.store.account.slots import account_of
from flux_tasks.store.commit import insist
from flux_tasks.store.durations import Durations
from flux_tasks.store.exclusion import keeps_apart
from flux_tasks.store.records import Store

IDLE = 20.0
"""Seconds after which connections that nobody uses are closed, as long as one of them is kept open otherwise."""

_MOST_SENT = 48 * 1024 * 1024
_MOST_FETCHED = 48 * 1024 * 1024


@dataclass
class Endpoint:
    """What all jobs of one endpoint and key share in this process. Used on the background loop only."""

    settings: Settings
    slots: Slots
    client: BflClient | None = None
    engine: str = ""
    server: Any = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    refusals: dict[str, frozenset[str]] = field(default_factory=dict)
    """By store, the keys of the refusals that it had when this process first looked."""
    submitted: set[str] = field(default_factory=set)
    """Ids of the jobs that this process has submitted and that are not in the store yet."""
    fetched: TrafficLimit = field(default_factory=lambda: TrafficLimit(_MOST_FETCHED))
    """For results, from their delivery to the store."""
    addresses: Addresses = field(default_factory=Addresses)
    users: int = 0
    """Blocks that use the client at this moment."""
    _idle: asyncio.TimerHandle | None = None
    _resting: asyncio.Task[None] | None = None
    _sent: dict[str, TrafficLimit] = field(default_factory=dict)
    _durations: dict[str, Durations] = field(default_factory=dict)
    _leases: dict[str, SlotLease] = field(default_factory=dict)

    def lease(self, store: Store, settings: Settings) -> AbstractAsyncContextManager[None]:
        """Return a block in which this process has its part of the account's slots, among all that use ``store``.

        The embedded server is another one in each process: nobody else has its slots. Nor has anybody on a store that
        only one process uses.
        """
        if not settings.base_url or settings.alone:
            return nullcontext()
        if store.url not in self._leases:
            self._leases[store.url] = SlotLease(store, account_of(settings), self.slots)
        return self._leases[store.url].used()

    async def give_back(self) -> None:
        """Give back the slots that nobody uses at this moment."""
        for lease in self._leases.values():
            await lease.give_back()

    def durations(self, store: Store) -> Durations:
        """Return what ``store`` knows of how long this endpoint's jobs take; the endpoint was identified already."""
        return self._durations.setdefault(store.url, Durations(store, self.engine))

    def sent(self, slot_class: str) -> TrafficLimit:
        """Return the limit for requests: each class of slots has its own, because bodies wait for a slot in memory."""
        return self._sent.setdefault(slot_class, TrafficLimit(_MOST_SENT))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[BflClient]:
        """Return the client for a block; it is made, and the embedded server started, when it is first needed.

        When nobody has used it for a while, its connections are closed.
        """
        self.users += 1
        try:
            yield await self._connect()
        finally:
            self.users -= 1
            if self._idle is not None:
                self._idle.cancel()
            self._idle = asyncio.get_running_loop().call_later(IDLE, self._begin_rest)

    def _begin_rest(self) -> None:
        self._resting = asyncio.create_task(self._rest())

    async def _rest(self) -> None:
        async with self.opening:
            if not self.users and self.client is not None:
                client, self.client = self.client, None
                await client.aclose()

    async def _connect(self) -> BflClient:
        async with self.opening:
            if self.client is None:
                base_url = self.settings.base_url or await self._serve()
                self.client = BflClient(
                    base_url,
                    self.settings.key,
                    poll_interval=self.settings.poll_interval,
                    timeout=self.settings.timeout,
                    is_region_strict=self.settings.region == "strict",
                    webhook_secret=self.settings.webhook_secret,
                )
            return self.client

    async def _serve(self) -> str:
        from flux_tasks.local import LocalServer

        self.server = LocalServer(engine=self.settings.engine, credits=1_000_000.0, cap=max(24, self.settings.max_jobs))
        await asyncio.to_thread(self.server.start)
        return str(self.server.url)

    async def identify(self) -> str:
        """Return the engine behind the endpoint; see ``BflClient.engine``."""
        if not self.engine:
            if self.settings.is_bfl:
                self.engine = "bfl"
            elif self.settings.endpoint == "local":
                from flux_tasks.local.engines import identity

                self.engine = identity(self.settings.engine)
            else:
                async with self.connected() as client:
                    self.engine = await client.engine()
        return self.engine


_endpoints: dict[tuple[Any, ...], Endpoint] = {}


def _about(settings: Settings) -> tuple[Any, ...]:
    interval, timeout = settings.poll_interval, settings.timeout
    limits = settings.max_jobs, settings.overbook
    return (
        settings.endpoint,
        settings.key,
        limits,
        interval,
        timeout,
        settings.engine,
        settings.region,
        settings.webhook_secret,
    )


async def close(settings: Settings) -> None:
    """Close the connections of these settings, and their embedded server; they are opened again when needed."""
    if (endpoint := _endpoints.pop(_about(settings), None)) is None:
        return
    async with endpoint.opening:
        if endpoint._idle is not None:
            endpoint._idle.cancel()
        await endpoint.give_back()
        for known in endpoint._durations.values():
            await known.save()
        if endpoint.client is not None:
            await endpoint.client.aclose()
        if endpoint.server is not None:
            await asyncio.to_thread(endpoint.server.stop)


def endpoint_for(settings: Settings) -> Endpoint:
    """Return the shared endpoint of these settings. Only on the background loop."""
    about = _about(settings)
    if about not in _endpoints:
        probe.look()
        _endpoints[about] = Endpoint(settings, Slots(settings.max_jobs, _early_jobs(settings)))
    return _endpoints[about]


def _early_jobs(settings: Settings) -> int:
    """Return how many jobs may be let in early: none where it is not known that a 429 is free of charge."""
    if settings.overbook is not None:
        return settings.overbook
    is_free = settings.is_bfl or settings.endpoint == "local" or is_loopback(settings.base_url)
    return OVERBOOK if is_free else 0


async def save_durations(settings: Settings) -> None:
    """Write how long jobs took into the store of ``settings``, so that later runs know it; give back unused slots."""
    await endpoint_for(settings).give_back()
    if (known := endpoint_for(settings)._durations.get(Store(settings.store).url)) is not None:
        await known.save()


async def engine_of(settings: Settings) -> str:
    """Return the engine's identity, a part of every job key: ``bfl``, ``local:classical@1``, ``custom:<host>``.

    Raises:
        EndpointUnreachable: an endpoint that has to be asked does not answer.
    """
    return await endpoint_for(settings).identify()


async def require_exclusion(settings: Settings) -> None:
    """Check, before the first job, that the store keeps several processes apart, or that only one uses it.

    Raises:
        StoreUnavailable: neither is so, or the store cannot be written.
    """
    await asyncio.to_thread(check_exclusion, Store(settings.store), settings)


def check_exclusion(store: Store, settings: Settings) -> None:
    """Do the same on this thread, for the ``store`` of ``settings``."""
    if not insist(keeps_apart, store) and not settings.alone:
        raise StoreUnavailable(
            f"{store.url}: this store cannot keep several processes apart (it does not create exclusively); "
            "say --alone (FLUX_ALONE=true) if only one runs"
        )


async def open_account(settings: Settings) -> float | None:
    """Check, before the first submission, that there is a key and that the endpoint accepts it.

    Returns:
        Credits left, or None if the endpoint does not name them.

    Raises:
        KeyRefused, EndpointUnreachable
        OutOfCredits: the balance is zero.
    """
    settings.require_key()
    async with endpoint_for(settings).connected() as client:
        credits = await client.credits()
    if credits is not None and credits <= 0:
        raise OutOfCredits(f"{client.base_url}: no credits left")
    return credits


def _loads() -> list[probe.Load]:
    """Return how many jobs are in flight, and how many wait for a slot. Called on any thread."""
    return [(one.settings.base_url, one.slots.active, one.slots.waiting) for one in [*_endpoints.values()]]


probe.watch(_loads)
os.register_at_fork(after_in_child=_endpoints.clear)  # a forked child has none of its parent's connections
