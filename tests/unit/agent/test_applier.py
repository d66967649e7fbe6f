"""The newest networks are applied, failures are tried again, and nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from agent_rig import in_virtual_time

from agent.applier import Applier
from agent.dataplane.base import NodeState
from agent.dataplane.fake import FakeBackend
from swarmpy.errors import Unavailable
from swarmpy.limits import RETRY_DELAY_MAX_S
from swarmpy.model.ids import NetworkId

GONE = {NetworkId("net1"): ("10.0.0.2",)}


class Backend(FakeBackend):
    """Raises what is in ``troubles`` first; notes what it was asked to do."""

    def __init__(self, *troubles: Exception) -> None:
        super().__init__()
        self.troubles = list(troubles)
        self.calls: list[object] = []

    async def apply(self, state: NodeState) -> None:
        await asyncio.sleep(1.0)
        self.calls.append(state.data_path_port)
        if self.troubles:
            raise self.troubles.pop(0)

    async def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        self.calls.append(addresses)
        if self.troubles:
            raise self.troubles.pop(0)


@asynccontextmanager
async def applying(backend: Backend) -> AsyncIterator[Applier]:
    applier = Applier(backend)
    running = asyncio.create_task(applier.run())
    try:
        yield applier
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def quiet(applier: Applier) -> None:
    async with asyncio.timeout(100.0):
        while not applier.is_idle:
            await asyncio.sleep(0.1)


@in_virtual_time
async def test_only_the_newest_is_applied() -> None:
    backend = Backend()
    async with applying(backend) as applier:
        applier.ask(NodeState(data_path_port=1))
        await asyncio.sleep(0.5)
        for port in (2, 3, 4):
            applier.ask(NodeState(data_path_port=port))
        await applier.wait_tried(applier.number)
        assert backend.calls == [1, 4]


@in_virtual_time
async def test_cuts_come_after_what_was_asked_for_before_them() -> None:
    backend = Backend()
    async with applying(backend) as applier:
        applier.ask(NodeState(data_path_port=1))
        applier.cut(GONE)
        await quiet(applier)
        applier.cut(GONE)
        await quiet(applier)
        assert backend.calls == [1, GONE, GONE]


@in_virtual_time
async def test_a_cut_does_not_overtake_the_networks_that_were_asked_for_with_it() -> None:
    backend = Backend()
    async with applying(backend) as applier:
        applier.ask(NodeState(data_path_port=1))
        await asyncio.sleep(0.5)
        applier.ask(NodeState(data_path_port=2))
        applier.cut(GONE)
        await quiet(applier)
        assert backend.calls == [1, 2, GONE]


@in_virtual_time
async def test_a_cut_that_fails_is_not_forgotten() -> None:
    backend = Backend()
    async with applying(backend) as applier:
        applier.ask(NodeState(data_path_port=1))
        await quiet(applier)
        backend.troubles = [Unavailable("the kernel is busy")]
        applier.cut(GONE)
        await quiet(applier)
        assert backend.calls == [1, GONE, GONE]


@pytest.mark.parametrize("trouble", [Unavailable("not now"), OSError("a bug")])
@in_virtual_time
async def test_who_waits_goes_on_after_a_try_and_a_failure_is_tried_again(trouble: Exception) -> None:
    """Trouble with one network must not keep tasks of all others from being attached."""
    backend = Backend(trouble)
    async with applying(backend) as applier:
        applier.ask(NodeState(data_path_port=1))
        async with asyncio.timeout(10.0):
            await applier.wait_tried(1)
        assert not applier.is_idle
        await quiet(applier)
        assert backend.calls == [1, 1]


@in_virtual_time
async def test_what_is_asked_for_after_a_failure_does_not_wait_for_the_next_try() -> None:
    backend = Backend(*(Unavailable("not now") for _ in range(10)))
    async with applying(backend) as applier:
        applier.ask(NodeState(data_path_port=1))
        while len(backend.calls) < 9:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.5)
        began = asyncio.get_running_loop().time()
        applier.ask(NodeState(data_path_port=2))
        await applier.wait_tried(applier.number)
        assert asyncio.get_running_loop().time() - began < RETRY_DELAY_MAX_S / 2


@in_virtual_time
async def test_connections_are_cut_whatever_becomes_of_the_networks() -> None:
    backend = Backend(*(Unavailable("not now") for _ in range(3)))
    async with applying(backend) as applier:
        applier.ask(NodeState(data_path_port=1))
        applier.cut(GONE)
        await quiet(applier)
        assert backend.calls == [1, GONE, 1, GONE, 1], "and the cut that failed is tried again"


@in_virtual_time
async def test_delays_grow_and_are_bounded_and_the_newest_is_tried_then() -> None:
    backend = Backend(*(Unavailable("not now") for _ in range(10)))
    async with applying(backend) as applier:
        began = asyncio.get_running_loop().time()
        applier.ask(NodeState(data_path_port=1))
        async with asyncio.timeout(200.0):
            while backend.troubles:
                await asyncio.sleep(0.1)
        took_s = asyncio.get_running_loop().time() - began
        assert took_s > 3 * RETRY_DELAY_MAX_S
        applier.ask(NodeState(data_path_port=2))
        await quiet(applier)
        assert backend.calls == [1] * 10 + [2]
