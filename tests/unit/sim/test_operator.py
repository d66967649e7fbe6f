"""What an operator began and gave up on must not undo what is tidied up afterwards."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from swarmpy.sim.world import Options, World

STUBBORN = {
    "Name": "web",
    "TaskTemplate": {"ContainerSpec": {"Image": "stubborn:1", "StopGracePeriod": 3_000_000_000}},
    "Mode": {"Global": {}},
}


class GivesUpLeaving(World):
    """One worker is told to leave, which takes a while, and the operator is called away meanwhile."""

    async def _torment(self) -> None:
        host = self.fleet.hosts[-1]
        await self.fleet.until(lambda: any(task.pid for task in host.machine.tasks.values()), "its task runs")
        leaving = self.loop.create_task(self.operator._leave_and_join(host))
        await asyncio.sleep(1.0)
        assert not leaving.done()
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving


def test_a_host_that_still_leaves_when_all_is_tidied_up_is_back() -> None:
    try:
        report = GivesUpLeaving(Options(nodes=3, managers=1, faults=(), stack=(STUBBORN,))).run()
    finally:
        structlog.reset_defaults()
    assert report.is_good, "\n".join(map(str, report.violations))


class TouchesADownManager(World):
    """The only manager is down at the moment when it is its turn."""

    async def _torment(self) -> None:
        host = self.fleet.founders[0]
        for act in (self.operator._lose_disk, self.operator._leave_and_join):
            host.kill()
            acting = self.loop.create_task(act(host))
            await asyncio.sleep(0.0)
            host.start()
            await asyncio.wait([acting], timeout=10.0)


def test_a_swarm_is_not_deprived_of_its_only_manager_because_that_is_down() -> None:
    try:
        report = TouchesADownManager(Options(nodes=2, managers=1, faults=())).run()
    finally:
        structlog.reset_defaults()
    assert report.is_good, "\n".join(map(str, report.violations))
