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
from msgspec.structs import replace

from agent.dataplane.base import (
    Backend,
    Endpoint,
    HostPort,
    Leg,
    NetworkConfig,
    NetworkState,
    NodeState,
    Peer,
    RemoteEndpoint,
    Subnet,
)
from swarmpy.errors import SwarmError
from swarmpy.model.ids import ID_BYTES, NetworkId, NodeId, TaskId, make_id

ReopenBackend = Callable[[], Awaitable[Backend]]


def task_id(number: int) -> TaskId:
    return TaskId(make_id(number.to_bytes(ID_BYTES)))


def endpoint(number: int, *, port: int = 0) -> Endpoint:
    ports = (HostPort(protocol="tcp", published_port=port, target_port=80),) if port else ()
    return Endpoint(task_id=task_id(number), hostname=f"task{number}", host_ports=ports)


SELF, OTHER = NodeId("self"), NodeId("other")
PEERS = {
    SELF: Peer(node_id=SELF, addr="127.0.0.1"),
    OTHER: Peer(node_id=OTHER, addr="192.0.2.2"),
}


def network(number: int, *, is_internal: bool = False) -> NetworkConfig:
    subnet = Subnet(cidr=f"10.77.{number}.0/24", gateway=f"10.77.{number}.1")
    return NetworkConfig(
        id=NetworkId(make_id(number.to_bytes(1).ljust(ID_BYTES, b"n"))),
        name=f"network{number}",
        vni=5000 + number,
        subnets=(subnet,),
        is_internal=is_internal,
    )


def on_networks(number: int, *networks: NetworkConfig) -> Endpoint:
    """A task with an address in each."""
    legs = tuple(
        Leg(
            network=config,
            link=f"eth{place}",
            addresses=(config.subnets[0].cidr.replace(".0/", f".{number + 1}/"),),
        )
        for place, config in enumerate(networks)
    )
    return Endpoint(task_id=task_id(number), hostname=f"task{number}", legs=legs)


def state(*endpoints: Endpoint) -> NodeState:
    """These tasks here, and one of another node on each of their networks."""
    configs = {leg.network.id: leg.network for each in endpoints for leg in each.legs}
    remotes = {
        network_id: RemoteEndpoint(
            node_id=OTHER,
            addresses=(config.subnets[0].cidr.replace(".0/24", ".200"),),
            mac="02:42:0a:4d:01:c8",
        )
        for network_id, config in configs.items()
    }
    return NodeState(
        node_id=SELF,
        peers=PEERS,
        networks={
            network_id: NetworkState(config=config, remotes={task_id(900): remotes[network_id]})
            for network_id, config in configs.items()
        },
        endpoints={each.task_id: each for each in endpoints},
    )


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

    async def test_a_task_has_the_addresses_that_it_was_given(self, backend: Backend) -> None:
        """In the order of its networks; the way out comes last, if there is one."""
        blue, red, inside = network(1), network(2), network(3, is_internal=True)
        await backend.apply(state(on_networks(1, blue, red), on_networks(2, inside)))
        both = await backend.attach(on_networks(1, blue, red))
        assert both.addresses[:2] == ("10.77.1.2/24", "10.77.2.2/24")
        assert len(both.addresses) == 3
        assert (await backend.attach(on_networks(2, inside))).addresses == ("10.77.3.3/24",)

    async def test_attach_does_what_apply_has_told(self, backend: Backend) -> None:
        wish = on_networks(1, network(1))
        await backend.apply(state(wish))
        assert await backend.list() == (wish.task_id,)
        before = await backend.attach(wish)
        await backend.detach(wish.task_id)
        assert await backend.list() == ()
        again = await backend.attach(wish)
        assert (again.netns, again.addresses[0]) == (before.netns, before.addresses[0])

    async def test_networks_come_and_go_with_their_tasks(self, backend: Backend) -> None:
        one, two = on_networks(1, network(1)), on_networks(2, network(1), network(2))
        for wish in ((one,), (one, two), (two,), (), (one, two), ()):
            await backend.apply(state(*wish))
            assert set(await backend.list()) == {each.task_id for each in wish}

    async def test_networks_outlive_the_daemon(self, backend: Backend, reopen_backend: ReopenBackend) -> None:
        wish = on_networks(1, network(1), network(2))
        await backend.apply(state(wish))
        before = await backend.attach(wish)
        backend = await reopen_backend()
        assert await backend.list() == (wish.task_id,)
        await backend.apply(state(wish))
        assert await backend.attach(wish) == before
        await backend.apply(state())
        assert await backend.list() == ()

    async def test_modes_without_a_network(self, backend: Backend) -> None:
        for mode in ("host", "none"):
            wish = Endpoint(task_id=task_id(1), hostname="one", mode=mode)
            assert (await backend.attach(wish)).addresses == ()
            await backend.detach(wish.task_id)
        assert await backend.list() == ()

    async def test_one_task_that_cannot_be_does_not_stop_the_others(self, backend: Backend) -> None:
        """Apply is for all; what is wrong with one is said by its own attach."""
        wishes = [endpoint(1, port=18081), endpoint(2, port=18081), endpoint(3)]
        await backend.apply(NodeState(endpoints={each.task_id: each for each in wishes}))
        assert task_id(3) in await backend.list()
        outcomes = await asyncio.gather(*map(backend.attach, wishes), return_exceptions=True)
        assert [isinstance(outcome, SwarmError) for outcome in outcomes].count(True) == 1

    async def test_a_task_gets_further_legs_and_loses_them(
        self, backend: Backend, reopen_backend: ReopenBackend
    ) -> None:
        """In place: what it has otherwise stays, also across a new life of the daemon."""
        own, side = network(1), network(2)
        wish = on_networks(1, own)
        joined = replace(on_networks(1, own, side).legs[1], link="eth2", is_joined=True)
        both = replace(wish, legs=(*wish.legs, joined))
        await backend.apply(state(wish))
        before = await backend.attach(wish)
        await backend.apply(state(both))
        wide = await backend.attach(both)
        assert wide.addresses == (before.addresses[0], "10.77.2.2/24", *before.addresses[1:])
        assert replace(wide, addresses=before.addresses) == before
        backend = await reopen_backend()
        await backend.apply(state(both))
        assert await backend.attach(both) == wide
        await backend.apply(state(wish))
        assert await backend.attach(wish) == before
        assert await backend.list() == (wish.task_id,)

    async def test_a_task_may_lose_its_only_leg(self, backend: Backend) -> None:
        wish = endpoint(1)
        before = await backend.attach(wish)
        joined = replace(on_networks(1, network(1)).legs[0], link="eth1", is_joined=True)
        both = replace(wish, legs=(joined,))
        await backend.apply(state(both))
        assert (await backend.attach(both)).addresses == ("10.77.1.2/24", *before.addresses)
        await backend.apply(state(wish))
        assert await backend.attach(wish) == before
