"""Who was told to stop stops, whatever ends at the same moment."""

from __future__ import annotations

import asyncio

import pytest

from swarmpy.cancellation import run_apart


class Over(Exception):
    pass


async def fail_after(steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
    raise Over


async def group(steps: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail_after(steps))
        tasks.create_task(asyncio.sleep(3600))


@pytest.mark.parametrize("cancelled_after", range(12))
async def test_a_cancellation_is_never_swallowed_by_a_failing_group(cancelled_after: int) -> None:
    ends = []

    async def until_told_to_stop() -> None:
        while True:
            try:
                await run_apart(group(3))
            except* Over:
                ends.append("over")

    work = asyncio.create_task(until_told_to_stop())
    for _ in range(cancelled_after):
        await asyncio.sleep(0)
    work.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([work])
    assert work.cancelled()


async def test_results_and_failures_come_through() -> None:
    assert await run_apart(asyncio.sleep(0, result=7)) == 7
    with pytest.raises(Over):
        await run_apart(fail_after(1))
