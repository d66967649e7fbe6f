"""What every network backend must do. A test module subclasses ``BackendContract`` and gives two fixtures:

* ``backend``: a started backend on a machine without endpoints; destroyed afterwards;
* ``reopen_backend``: ``await reopen_backend()`` returns a new, started backend over the same machine, as
  after a crash of the daemon.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

import pytest

from agent.dataplane.base import Backend, Endpoint, HostPort, NodeState
from swarmpy.errors import SwarmError
from swarmpy.model.ids import ID_BYTES, TaskId, make_id

ReopenBackend = Callable[[], Awaitable[Backend]]


def task_id(number: int) -> TaskId:
    return TaskId(make_id(number.to_bytes(ID_BYTES)))


def endpoint(number: int, *, port: int = 0) -> Endpoint:
    ports = (HostPort(protocol="tcp", published_port=port, target_port=80),) if port else ()
    return Endpoint(task_id=task_id(number), hostname=f"task{number}", host_ports=ports)


class BackendContract:
    """The suite."""

    async def test_starts_with_nothing(self, backend: Backend) -> None:
        assert (await backend.probe()).is_usable
        assert await backend.list() == ()

    async def test_attach_gives_an_own_namespace_and_address(self, backend: Backend) -> None:
        one, two = await backend.attach(endpoint(1)), await backend.attach(endpoint(2))
        assert one.netns != two.netns
        assert one.addresses != two.addresses
        for address in (*one.addresses, *two.addresses):
            ipaddress.ip_interface(address)
        assert set(await backend.list()) == {task_id(1), task_id(2)}

    async def test_attach_again_gives_the_same(self, backend: Backend) -> None:
        assert await backend.attach(endpoint(1)) == await backend.attach(endpoint(1))

    async def test_detach_removes(self, backend: Backend) -> None:
        await backend.attach(endpoint(1))
        await backend.detach(task_id(1))
        await backend.detach(task_id(1))
        await backend.detach(task_id(2))
        assert await backend.list() == ()

    async def test_apply_makes_it_so(self, backend: Backend) -> None:
        await backend.attach(endpoint(1))
        kept = await backend.attach(endpoint(2))
        await backend.apply(NodeState(endpoints={each.task_id: each for each in (endpoint(2), endpoint(3))}))
        assert set(await backend.list()) == {task_id(2), task_id(3)}
        assert await backend.attach(endpoint(2)) == kept
        await backend.apply(NodeState())
        assert await backend.list() == ()

    async def test_a_host_port_has_one_owner(self, backend: Backend) -> None:
        await backend.attach(endpoint(1, port=18080))
        with pytest.raises(SwarmError):
            await backend.attach(endpoint(2, port=18080))
        await backend.detach(task_id(2))
        await backend.detach(task_id(1))
        await backend.attach(endpoint(2, port=18080))

    async def test_endpoints_outlive_the_daemon(
        self, backend: Backend, reopen_backend: ReopenBackend
    ) -> None:
        before = await backend.attach(endpoint(1))
        backend = await reopen_backend()
        assert await backend.list() == (task_id(1),)
        assert await backend.attach(endpoint(1)) == before
        assert (await backend.attach(endpoint(2))).addresses != before.addresses
        await backend.detach(task_id(1))
        assert await backend.list() == (task_id(2),)

    async def test_many_at_once(self, backend: Backend) -> None:
        sandboxes = await asyncio.gather(*(backend.attach(endpoint(n)) for n in range(1, 9)))
        assert len({sandbox.addresses for sandbox in sandboxes}) == 8
        await asyncio.gather(*(backend.detach(task_id(n)) for n in range(1, 9)))
        assert await backend.list() == ()

    async def test_destroy_leaves_nothing(self, backend: Backend) -> None:
        await backend.attach(endpoint(1))
        await backend.destroy()
        assert await backend.list() == ()
