"""Memory for bodies and results: blocks are let in while their bytes fit, in their order."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from flux_tasks.api.traffic import TrafficLimit


@given(st.lists(st.integers(0, 150), min_size=1, max_size=30), st.sets(st.integers(0, 29)))
def test_never_more_bytes_than_fit_are_let_in_in_their_order_and_a_larger_block_alone(
    sizes: list[int], cancelled: set[int]
) -> None:
    limit, entered, inside = TrafficLimit(100), list[int](), dict[int, int]()

    async def block(number: int, size: int) -> None:
        async with limit.hold(size):
            entered.append(number)
            inside[number] = size
            assert len(inside) == 1 or sum(inside.values()) <= 100
            for _ in range(number % 3):
                await asyncio.sleep(0)
            del inside[number]

    async def all_blocks() -> None:
        tasks = [asyncio.create_task(block(number, size)) for number, size in enumerate(sizes)]
        await asyncio.sleep(0)
        for number in cancelled & inside.keys():
            del inside[number]
        for number in cancelled & set(range(len(tasks))):
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with limit.hold(1_000):  # everything was given back
            pass

    asyncio.run(all_blocks())
    assert entered == sorted(entered)
    assert entered or cancelled
    assert set(range(len(sizes))) - set(entered) <= cancelled
