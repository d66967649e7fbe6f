"""Work of simulated threads: done later, in turn, and its errors belong to who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from swarmpy.sim.loop import SimLoop
from swarmpy.sim.process import Process
from swarmpy.sim.threads import SimThreads


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop()
    yield made
    made.close()


def test_one_worker_does_one_thing_after_the_other(loop: SimLoop) -> None:
    for seed in range(10):
        done: list[int] = []

        async def main(seed: int = seed, done: list[int] = done) -> None:
            pool = SimThreads(loop, Random(seed), 1)
            running = [loop.run_in_executor(pool, done.append, number) for number in range(10)]
            await asyncio.gather(*running)

        loop.run_until_complete(main())
        assert done == list(range(10))


def test_several_workers_overtake_each_other(loop: SimLoop) -> None:
    done: list[int] = []

    async def main() -> None:
        pool = SimThreads(loop, Random(1), 4)
        await asyncio.gather(*(loop.run_in_executor(pool, done.append, number) for number in range(20)))

    loop.run_until_complete(main())
    assert done != list(range(20))
    assert sorted(done) == list(range(20))


def test_an_error_belongs_to_who_waits_and_a_closed_pool_takes_nothing(loop: SimLoop) -> None:
    async def main() -> None:
        pool = SimThreads(loop, Random(1), 1)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(pool, divmod, 1, 0)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="shut down"):
            pool.submit(divmod, 1, 1)

    loop.run_until_complete(main())


def test_the_work_of_a_killed_process_is_never_done(loop: SimLoop) -> None:
    process = Process(loop, "p")
    done: list[int] = []

    async def work() -> None:
        await loop.run_in_executor(SimThreads(loop, Random(1), 1), done.append, 1)

    async def main() -> None:
        process.spawn(work())
        await asyncio.sleep(0)
        process.kill()
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert done == []
    process.dispose()
