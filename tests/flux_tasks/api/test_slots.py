"""Slots: never more jobs at a time than allowed, and none lost, however a job ends."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_in_virtual_time

from flux_tasks.api.slots import CLASS_LIMITS, Hold, Slots


class Crowd:
    """Jobs that hold a slot until they are let go, and how many do."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.inside: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.doors: list[asyncio.Event] = []

    async def add(self, count: int, slot_class: str = "account") -> None:
        for _ in range(count):
            door = asyncio.Event()
            self.doors.append(door)
            self.tasks.append(asyncio.create_task(self._hold(slot_class, door)))
        await settled()

    async def _hold(self, slot_class: str, door: asyncio.Event) -> None:
        async with self.slots.hold(slot_class):
            self.inside.append(slot_class)
            try:
                await door.wait()
            finally:
                self.inside.remove(slot_class)

    async def close(self) -> None:
        for door in self.doors:
            door.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_no_more_jobs_are_active_than_there_are_slots() -> None:
    crowd = Crowd(Slots(24))
    await crowd.add(40)
    assert len(crowd.inside) == crowd.slots.active == 24
    for door in crowd.doors[:10]:
        door.set()
    await settled()
    assert len(crowd.inside) == crowd.slots.active == 24
    await crowd.close()
    assert crowd.slots.active == 0


async def test_kontext_max_has_six_slots_of_the_twenty_four_and_waiting_for_one_takes_none_from_the_others() -> None:
    assert CLASS_LIMITS == {"kontext-max": 6, "flux-3": None}
    crowd = Crowd(Slots(24))
    await crowd.add(30, "kontext-max")
    assert crowd.inside == ["kontext-max"] * 6
    await crowd.add(30)
    assert crowd.inside.count("kontext-max") == 6
    assert crowd.slots.active == 24
    await crowd.close()
    assert crowd.slots.active == 0


async def test_too_many_jobs_of_a_class_without_a_known_limit_slow_down_that_class_alone() -> None:
    crowd = Crowd(Slots(8))
    crowd.slots.lower("flux-3")
    assert crowd.slots.allowed == 8
    await crowd.add(20, "flux-3")
    flux_3 = len(crowd.inside)
    assert flux_3 < 8
    await crowd.add(20)
    assert crowd.slots.active == 8
    assert crowd.inside.count("flux-3") == flux_3
    await crowd.close()


async def test_an_account_of_fewer_slots_narrows_every_class() -> None:
    crowd = Crowd(Slots(2))
    await crowd.add(5, "kontext-max")
    assert crowd.slots.active == 2
    await crowd.close()


async def test_a_class_without_a_limit_of_its_own_has_the_accounts() -> None:
    crowd = Crowd(Slots(3))
    await crowd.add(5, "some later class")
    assert crowd.slots.active == 3
    await crowd.close()


@pytest.mark.parametrize("slot_class", ["account", "kontext-max"])
async def test_no_slot_is_lost_when_jobs_fail_or_are_cancelled_while_they_hold_or_wait(slot_class: str) -> None:
    slots = Slots(2)
    crowd = Crowd(slots)
    await crowd.add(6, slot_class)
    for task in (crowd.tasks[0], crowd.tasks[3], crowd.tasks[5]):  # one that holds, two that wait
        task.cancel()
    await settled()
    assert slots.active == 2
    await crowd.close()

    async def fail() -> None:
        async with slots.hold(slot_class):
            raise ZeroDivisionError

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await fail()
    again = Crowd(slots)
    await again.add(4, slot_class)
    assert slots.active == 2
    await again.close()
    assert slots.active == 0


async def test_a_waiting_kontext_job_that_is_cancelled_gives_its_class_slot_back() -> None:
    slots = Slots(1)
    crowd = Crowd(slots)
    await crowd.add(1)
    await crowd.add(1, "kontext-max")  # has its class's slot and waits for the account's
    crowd.tasks[1].cancel()
    await settled()
    crowd.doors[0].set()
    await crowd.add(1, "kontext-max")
    assert crowd.inside == ["kontext-max"]
    await crowd.close()


# -- jobs that are let in early ----------------------------------------------------------------------------------------


class Account:
    """Slots whose jobs end when the test says so, whether anybody has seen it or not."""

    def __init__(self, total: int, early: int) -> None:
        self.slots = Slots(total, early)
        self.holds: list[Hold] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, count: int) -> None:
        self.tasks += [asyncio.create_task(self._one()) for _ in range(count)]
        await self.look()

    async def _one(self) -> None:
        async with self.slots.hold("account") as hold:
            self.holds.append(hold)
            await asyncio.Event().wait()

    async def look(self) -> None:
        """Wait for longer than the slots do between two looks."""
        await asyncio.sleep(0.05)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def ended(hold: Hold) -> None:
    hold.chance = lambda: 1.0


@pytest.mark.parametrize(
    ("total", "early", "allowance"), [(24, 3, 3), (24, 2, 2), (24, 0, 0), (16, 3, 2), (7, 3, 0), (1, 3, 0)]
)
def test_no_more_jobs_are_let_in_early_than_are_allowed_and_one_for_every_eight_slots(
    monkeypatch: pytest.MonkeyPatch, total: int, early: int, allowance: int
) -> None:
    async def scenario() -> None:
        account = Account(total, early)
        await account.ask(total + 10)
        assert account.slots.active == total, "nobody is expected to have ended"
        for hold in account.holds:
            ended(hold)
        await account.look()
        assert account.slots.active == total + allowance
        await account.close()

    run_in_virtual_time(scenario(), monkeypatch)


def test_one_job_is_let_in_for_each_but_one_that_has_probably_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        account = Account(24, 3)
        await account.ask(40)
        for number, hold in enumerate(account.holds[:3]):
            ended(hold)
            await account.look()
            assert account.slots.active == 24 + number
        account.holds[0].release()  # seen: its slot goes to nobody, because an early one has it
        await account.look()
        assert account.slots.active == 25
        await account.close()

    run_in_virtual_time(scenario(), monkeypatch)


def test_a_429_takes_early_jobs_back_before_it_lowers_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        account = Account(24, 3)
        await account.ask(40)
        for hold in account.holds[:7]:
            ended(hold)
        await account.look()
        assert account.slots.active == 27
        for _ in range(3):
            account.slots.lower("account")
            await asyncio.sleep(2)
        assert account.slots.allowed == 24
        for hold in account.holds[:3]:
            hold.release()
        await account.look()
        assert account.slots.active == 24, "none is let in early after so many 429s"
        for _ in range(30):
            account.slots.raise_again("account")
        await account.look()
        assert account.slots.active == 27, "until enough were accepted"
        await account.close()

    run_in_virtual_time(scenario(), monkeypatch)


def test_nobody_is_let_in_early_while_one_waits_after_a_429_and_it_goes_on_when_one_more_has_probably_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        account = Account(24, 3)
        await account.ask(40)
        for hold in account.holds[:2]:
            ended(hold)
        await account.look()
        async with account.slots.refused("account") as has_room:
            assert not has_room()
            for hold in account.holds[2:5]:
                ended(hold)
            await account.look()
            assert account.slots.active == 25
            assert has_room()
        await account.close()

    run_in_virtual_time(scenario(), monkeypatch)


@given(st.integers(1, 30), st.integers(0, 3), st.lists(st.sampled_from("aaaereulrx"), max_size=60), st.randoms())
def test_never_more_than_the_limit_and_the_allowance_are_in_flight(
    total: int, early: int, moves: list[str], randomness: random.Random
) -> None:
    async def scenario() -> None:
        account = Account(total, early)
        for move in moves:
            held = [hold for hold in account.holds if hold in account.slots._account.holds]
            if move == "a":
                await account.ask(7)
            elif move == "e" and held:
                ended(randomness.choice(held))
            elif move == "r" and held:
                randomness.choice(held).release()
            elif move == "u":
                account.slots.raise_again("account")
            elif move == "l":
                account.slots.lower("account")
            elif move == "x" and account.tasks:
                randomness.choice(account.tasks).cancel()
            await account.look()
            assert account.slots.active <= total + min(early, total // 8)
        await account.close()
        assert account.slots.active == 0

    with pytest.MonkeyPatch.context() as patch:
        run_in_virtual_time(scenario(), patch)


async def test_jobs_whose_chance_cannot_be_said_are_released_from_every_pool() -> None:
    def fail() -> float:
        raise ZeroDivisionError

    slots = Slots(24)
    doors = [asyncio.Event() for _ in range(40)]

    async def work(door: asyncio.Event, slot_class: str) -> None:
        async with slots.hold(slot_class) as hold:
            hold.chance = fail
            await door.wait()
            async with slots.refused(slot_class) as has_room:
                has_room()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for number, door in enumerate(doors):
            group.create_task(work(door, "kontext-max" if number % 2 else "account"))
        for door in doors:
            await settled()
            door.set()
    assert slots.active == 0
