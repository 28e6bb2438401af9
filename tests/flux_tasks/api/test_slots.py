"""Slots: never more jobs at a time than allowed, and none lost, however a job ends."""

from __future__ import annotations

import asyncio

import pytest

from flux_tasks.api.slots import CLASS_LIMITS, Slots


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
