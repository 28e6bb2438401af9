"""The slots of one account over several processes on one store, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from virtual_time import run_in_virtual_time

from flux_tasks import files
from flux_tasks.api.lease import SlotLease
from flux_tasks.api.slots import Slots
from flux_tasks.settings import Settings
from flux_tasks.store import Store
from flux_tasks.store.account.shares import Claim
from flux_tasks.store.account.slots import SlotRecords, account_of, holders

DEAD = "elsewhere:1 gone word"


class Process:
    """One of those that share an account: its jobs take a second each, and as many are asked for as it is told."""

    def __init__(self, store: Store, total: int = 24, slot_class: str = "account", seconds: float = 1.0) -> None:
        self.slots = Slots(total, 0)
        self.lease = SlotLease(store, "a", self.slots)
        self.slot_class, self.seconds = slot_class, seconds
        self.done = 0
        self._end = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def active(self) -> int:
        return self.slots.active

    async def ask(self, workers: int) -> None:
        """Let so many workers do one job after another."""
        self._tasks += [asyncio.create_task(self._work()) for _ in range(workers)]

    async def _work(self) -> None:
        async with self.lease.used():
            while not self._end.is_set():
                async with self.slots.hold(self.slot_class):
                    await asyncio.sleep(self.seconds)
                self.done += 1

    async def close(self) -> None:
        self._end.set()
        await asyncio.gather(*self._tasks)
        await self.lease.give_back()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Awaitable[None]]], None]:
    """Run something with the store, and look what is left there."""

    async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)

    def run(work: Callable[..., Awaitable[None]]) -> None:
        async def whole() -> None:
            store = Store(f"memory://{tmp_path}")
            async with AsyncExitStack() as stack:

                async def begin(workers: int, *options: Any, **named: Any) -> Process:
                    process = Process(store, *options, **named)
                    stack.push_async_callback(process.close)
                    await process.ask(workers)
                    return process

                await work(begin, store)
            assert holders(store) == []

        run_in_virtual_time(whole(), monkeypatch)

    return run


Begin = Callable[..., Awaitable[Process]]


def test_slots_go_to_who_needs_them_within_seconds_and_come_back(run: Callable[..., None]) -> None:
    async def work(begin: Begin, store: Store) -> None:
        first = await begin(60)
        await asyncio.sleep(0.1)
        assert first.active == 24, "who is alone has all of them at once"
        second = await begin(60)
        third = await begin(3)
        for _ in range(120):
            await asyncio.sleep(0.1)
            assert first.active + second.active + third.active <= 24
        assert (third.active, first.active + second.active) == (3, 21)
        assert abs(first.active - second.active) <= 1
        shown = {(h.claims["account"].claimed, h.claims["account"].active, h.is_over) for h in holders(store)}
        assert sum(claimed for claimed, _, _ in shown) <= 24
        await second.close()
        await third.close()
        await asyncio.sleep(5)
        assert first.active == 24

    run(work)


def test_each_of_many_processes_has_its_turn_where_there_are_fewer_slots(run: Callable[..., None]) -> None:
    async def work(begin: Begin, _: Store) -> None:
        crowd = [await begin(4, 3) for _ in range(5)]
        for _ in range(400):
            await asyncio.sleep(0.3)
            assert sum(process.active for process in crowd) <= 3
        assert min(process.done for process in crowd) > 15, "nobody waits for the end of the others"
        assert sum(process.done for process in crowd) > 0.7 * 3 * 120

    run(work)


def test_kontext_max_has_six_over_all_processes(run: Callable[..., None]) -> None:
    async def work(begin: Begin, _: Store) -> None:
        first = await begin(20, slot_class="kontext-max")
        await asyncio.sleep(1)
        assert first.active == 6
        second = await begin(20, slot_class="kontext-max")
        other = await begin(60)
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert first.active + second.active <= 6
            assert first.active + second.active + other.active <= 24
        assert (first.active, second.active, other.active) == (3, 3, 18)

    run(work)


@pytest.mark.parametrize("is_known", [True, False])
def test_the_slots_of_a_killed_process_come_back(run: Callable[..., None], is_known: bool) -> None:
    async def work(begin: Begin, store: Store) -> None:
        killed = SlotRecords(store, "a", "killed")
        killed.write({"account": Claim(20, 20, 60, 24)})
        record = store.record("slots/a", "killed")
        assert record is not None
        # A process id that no process has, on this machine, or one of another machine, which nobody can ask.
        owner = record["owner"].replace(":", ":999999", 1) if is_known else DEAD
        store.put_record("slots/a", "killed", {**record, "owner": owner})
        process = await begin(60)
        await asyncio.sleep(5)
        assert process.active == (24 if is_known else 4)
        if not is_known:
            await asyncio.sleep(30)
            assert process.active == 24
            store.remove_record("slots/a", "killed")
        assert store.records("slots/a") == [process_name(store)], "its record is cleared"

    run(work)


@pytest.mark.parametrize("stopped", ["process", "machine"])
def test_who_was_stopped_gives_out_no_slot_that_another_has_taken_meanwhile(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    async def work(begin: Begin, store: Store) -> None:
        process = await begin(1)
        await asyncio.sleep(3)
        with monkeypatch.context() as patch:
            now, monotonic = time.time() + 37, time.monotonic
            patch.setattr(time, "time", lambda: now)
            if stopped == "process":  # the other clock stands still while a machine is suspended
                patch.setattr(time, "monotonic", lambda: monotonic() + 37)
            other = SlotRecords(store, "a", "other")
            other.write({"account": Claim(24, 24, 60, 24)})
            await process.ask(60)
            for _ in range(100):
                assert process.active <= 1, "the job of before"
                await asyncio.sleep(0.05)
            assert process.active == 0
        other.remove()
        await asyncio.sleep(5)
        assert process.active == 24

    run(work)


def process_name(store: Store) -> str:
    return next(name for name in store.records("slots/a") if name != "killed")


@pytest.mark.parametrize("error", [OSError(5, "the disk has gone"), TypeError("a fault of its library")])
def test_without_the_store_one_slot_is_left_and_no_job_ends(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def work(begin: Begin, _: Store) -> None:
        process = await begin(60)
        await asyncio.sleep(3)
        with monkeypatch.context() as patch:

            def fail(*_: object, **__: object) -> None:
                raise error

            patch.setattr(files, "write", fail)
            patch.setattr(files, "listing", fail)
            done = process.done
            await asyncio.sleep(60)
            assert process.active == 1
            assert process.done > done + 24 + 30, "work goes on"
        await asyncio.sleep(5)
        assert process.active == 24

    run(work)


def test_an_account_is_named_by_a_digest_that_is_the_same_in_every_region() -> None:
    accounts = [account_of(Settings(endpoint=endpoint, key="0123456789-secret")) for endpoint in ("bfl", "eu", "us")]
    assert len({*accounts}) == 1
    assert "secret" not in accounts[0]
    assert account_of(Settings(endpoint="bfl", key="another-key")) != accounts[0]
    assert account_of(Settings(endpoint="http://127.0.0.1:8000", key="0123456789-secret")) != accounts[0]


def test_damaged_records_are_passed_over_and_their_slots_are_free(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    records = SlotRecords(store, "a")
    (tmp_path / "slots" / "a").mkdir(parents=True)
    (tmp_path / "slots" / "a" / "torn.json").write_text('{"owner": "x')
    (tmp_path / "slots" / "a" / "odd.json").write_text('{"owner": "x:1 m w", "at": 1e400, "classes": {"account": [3]}}')
    store.put_record("slots/a", "far", {"owner": DEAD, "at": time.time(), "classes": {"account": {"claimed": -5}}})
    assert records.read() == {"far": {}}
    assert [holder.owner for holder in holders(store) if not holder.is_over] == [DEAD]
