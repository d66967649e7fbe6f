"""Once all faults are undone, none goes on."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from swarmpy.sim.faults import FAULTS
from swarmpy.sim.world import Options, World

LONGEST_S = 60
"""No fault that happens step by step takes longer."""


class FaultsThenPeace(World):
    async def _torment(self) -> None:
        for _ in range(5):
            for name in self.options.faults:
                self.nemesis.strike(name)
        self._heal()
        await asyncio.sleep(1.0)
        lives = [host.lives for host in self.fleet.hosts]
        isolations = self.network.stats["isolations"]
        for _ in range(LONGEST_S):
            await asyncio.sleep(1.0)
            for host in self.fleet.hosts:
                if not host.is_up:
                    self.fail("over", f"{host.name} is down")
        if lives != [host.lives for host in self.fleet.hosts]:
            self.fail("over", "a daemon was started anew")
        if isolations != self.network.stats["isolations"]:
            self.fail("over", "a host was isolated anew")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_is_undone_is_over(name: str) -> None:
    try:
        report = FaultsThenPeace(
            Options(nodes=4, managers=1, minutes=1, faults=(name,), has_operator=False)
        ).run()
    finally:
        structlog.reset_defaults()
    assert report.is_good, "\n".join(map(str, report.violations))
