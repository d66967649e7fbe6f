"""What a machine may do to a process, and what the process sees of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.sim.loop import SimLoop
from swarmpy.sim.process import Process, current_process


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop()
    yield made
    made.close()


class Ticker:
    """Notes the true time once in every second of its own."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.process = Process(loop, "ticker")
        self.ticks: list[float] = []
        self.ended: list[str] = []

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(1.0)
                assert current_process() is self.process
                self.ticks.append(self._loop.now - 1000.0)
        finally:
            self.ended.append("finally")


def test_a_killed_process_never_runs_again_not_even_to_clean_up(loop: SimLoop) -> None:
    ticker = Ticker(loop)
    told: list[Process | None] = []

    async def main() -> None:
        ticker.process.spawn(ticker.run())
        ticker.process.on_end(lambda: told.append(current_process()))
        await asyncio.sleep(2.5)
        ticker.process.kill()
        await asyncio.sleep(10.0)
        gc.collect()

    loop.run_until_complete(main())
    assert ticker.ticks == [1.0, 2.0]
    assert ticker.ended == []
    assert told == [None]
    ticker.process.dispose()
    gc.collect()


def test_a_paused_process_catches_up_when_it_goes_on(loop: SimLoop) -> None:
    ticker = Ticker(loop)

    async def main() -> None:
        ticker.process.spawn(ticker.run())
        await asyncio.sleep(1.5)
        ticker.process.pause()
        await asyncio.sleep(5.0)
        assert ticker.process.is_paused
        assert ticker.ticks == [1.0]
        ticker.process.resume()
        await asyncio.sleep(1.6)

    loop.run_until_complete(main())
    assert ticker.ticks == pytest.approx([1.0, 6.5, 7.5])
    ticker.process.dispose()


def test_what_is_due_meanwhile_keeps_its_order(loop: SimLoop) -> None:
    process = Process(loop, "p")
    seen: list[int] = []

    async def main() -> None:
        process.pause()
        for number in range(5):
            loop.call_at_true(1000.0 + number, seen.append, number, context=process.context)
        await asyncio.sleep(2.5)
        process.resume()
        loop.call_soon(seen.append, 100, context=process.context)
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert seen == [0, 1, 2, 100, 3, 4]


def test_a_stall_ends_by_itself_and_a_longer_one_wins(loop: SimLoop) -> None:
    ticker = Ticker(loop)

    async def main() -> None:
        ticker.process.spawn(ticker.run())
        await asyncio.sleep(0.5)
        ticker.process.stall(4.0)
        ticker.process.stall(1.0)
        await asyncio.sleep(5.5)

    loop.run_until_complete(main())
    assert ticker.ticks == pytest.approx([4.5, 5.5])
    ticker.process.dispose()


def test_a_stall_does_not_end_a_pause(loop: SimLoop) -> None:
    ticker = Ticker(loop)

    async def main() -> None:
        ticker.process.spawn(ticker.run())
        ticker.process.stall(1.0)
        ticker.process.pause()
        await asyncio.sleep(6.0)

    loop.run_until_complete(main())
    assert ticker.ticks == []
    ticker.process.dispose()


def test_a_clock_that_runs_fast_makes_timers_early(loop: SimLoop) -> None:
    ticker = Ticker(loop)

    async def main() -> None:
        ticker.process.set_rate(2.0)
        ticker.process.spawn(ticker.run())
        await asyncio.sleep(1.75)
        ticker.process.set_rate(1.0)
        await asyncio.sleep(2.0)

    loop.run_until_complete(main())
    assert ticker.ticks == pytest.approx([0.5, 1.0, 1.5, 2.0, 3.0])
    ticker.process.dispose()


def test_its_monotonic_clock_never_goes_back(loop: SimLoop) -> None:
    process = Process(loop, "p")
    seen: list[float] = []

    async def main() -> None:
        for rate in (1.0, 1.1, 0.9, 1.0):
            process.set_rate(rate)
            for _ in range(3):
                seen.append(process.local_time(loop.now))
                await asyncio.sleep(0.5)

    loop.run_until_complete(main())
    assert seen == sorted(seen)
    assert process.true_time(process.local_time(1234.5)) == pytest.approx(1234.5)


def test_tasks_of_tasks_belong_to_the_process(loop: SimLoop) -> None:
    process = Process(loop, "p")
    seen: list[Process | None] = []

    async def inner() -> None:
        seen.append(current_process())

    async def outer() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(inner())
        asyncio.get_running_loop().call_later(0.1, lambda: seen.append(current_process()))
        await asyncio.sleep(1)

    loop.run_until_complete(process.spawn(outer()))
    assert seen == [process, process]
    assert current_process() is None


def test_another_process_is_woken_in_its_own_name(loop: SimLoop) -> None:
    one, other = Process(loop, "one"), Process(loop, "other")
    queue: asyncio.Queue[str] = asyncio.Queue()
    seen: list[Process | None] = []

    async def receive() -> None:
        await queue.get()
        seen.append(current_process())

    async def send() -> None:
        await asyncio.sleep(1)
        queue.put_nowait("word")

    one.spawn(send())
    loop.run_until_complete(other.spawn(receive()))
    assert seen == [other]


@given(rate=st.floats(0.5, 2.0), at=st.floats(1000.0, 1e6), delay_s=st.floats(0.0, 1e5))
def test_who_waits_for_a_time_finds_that_it_has_come(rate: float, at: float, delay_s: float) -> None:
    process = Process(SimLoop(at), "p")
    process.set_rate(rate)
    due = process.local_time(at) + delay_s
    assert process.local_time(process.true_time(due)) >= due
