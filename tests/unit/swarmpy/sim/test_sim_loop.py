"""The virtual loop keeps asyncio's promises, in no time; pinned here for every supported Python."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from swarmpy.sim.clock import EPOCH_S, SimClock
from swarmpy.sim.loop import TIMERS_PURGE_MIN, Deadlock, SimLoop


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop()
    yield made
    made.close()


def test_hours_pass_in_no_time_and_in_order(loop: SimLoop) -> None:
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        seen.append((name, loop.time()))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for name, delay in (("late", 7200.0), ("early", 3600.0)):
                group.create_task(sleeper(name, delay))

    began = time.perf_counter()
    loop.run_until_complete(main())
    assert time.perf_counter() - began < 5
    assert [name for name, _ in seen] == ["early", "late"]
    assert [at for _, at in seen] == pytest.approx([4600.0, 8200.0])


def test_timeouts_and_queues_work(loop: SimLoop) -> None:
    async def main() -> int:
        queue: asyncio.Queue[int] = asyncio.Queue()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.get()
        loop.call_later(1, queue.put_nowait, 7)
        return await queue.get()

    assert loop.run_until_complete(main()) == 7
    assert loop.time() == pytest.approx(1006.0)


def test_waiting_for_what_can_not_happen_is_reported(loop: SimLoop) -> None:
    async def main() -> None:
        await loop.create_future()

    with pytest.raises(Deadlock):
        loop.run_until_complete(main())


def test_the_clock_follows_the_loop_and_may_jump(loop: SimLoop) -> None:
    clock = SimClock(loop)
    before = clock.now()
    assert before == (EPOCH_S + 1000) * 10**9
    clock.jump_s = -3.0
    assert clock.now() == before - 3 * 10**9
    assert clock.monotonic() == loop.time()


def test_callbacks_of_one_moment_run_in_the_order_of_their_making(loop: SimLoop) -> None:
    seen: list[int] = []

    async def main() -> None:
        for number in range(20):
            loop.call_at(1005.0, seen.append, number)
        await asyncio.sleep(5)

    loop.run_until_complete(main())
    assert seen == list(range(20))


def test_cancelled_timers_do_not_pile_up(loop: SimLoop) -> None:
    async def main() -> None:
        for _ in range(20 * TIMERS_PURGE_MIN):
            loop.call_later(3600, print).cancel()

    loop.run_until_complete(main())
    assert len(loop._timers) <= 2 * TIMERS_PURGE_MIN


def test_the_work_of_threads_is_done_in_the_loop(loop: SimLoop) -> None:
    async def main() -> int:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)
        return await asyncio.to_thread(max, 3, 7)

    assert loop.run_until_complete(main()) == 7


def test_a_callback_that_fails_ends_the_run_unless_somebody_takes_it(loop: SimLoop) -> None:
    async def main() -> None:
        loop.call_soon(divmod, 1, 0)
        await asyncio.sleep(1)

    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(main())
    taken: list[object] = []
    loop.set_exception_handler(lambda _, context: taken.append(context["exception"]))
    loop.run_until_complete(main())
    assert [type(error) for error in taken] == [ZeroDivisionError]
