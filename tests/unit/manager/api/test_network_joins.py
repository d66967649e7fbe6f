"""Running tasks that join networks and leave them, over HTTP. The leader and the node are played here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from api_http import Answer, Http
from api_networks import add_member, allocated, created, on
from api_node import AT, FIRST, FakeCluster
from msgspec.structs import replace

from manager.allocate.addresses import Addresses
from manager.api import network_joins
from manager.api.predefined import PREDEFINED
from manager.reconcile.joins import Joins
from swarmpy.model.changes import NodeReport, Report
from swarmpy.model.container_ids import container_id
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import NodeStatus, Task
from swarmpy.model.states import NodeState, Owner, TaskState

NAME = "web.1.t1"
FAILED = "attaching to network failed, make sure your network options are correct and check manager logs: "


@pytest.fixture
async def side(http: Http, cluster: FakeCluster) -> str:
    """A network to join; ``t1`` runs on another one."""
    front = await created(http, "front", Attachable=True)
    allocated(cluster, front, "10.0.1.0/24")
    service_id = (await on(http, "front")).json["ID"]
    add_member(cluster, "t1", service_id, "10.0.1.3/24", network_id=front)
    side = await created(http, "side", Attachable=True)
    allocated(cluster, side, "10.0.2.0/24", vni=4098)
    return side


def member(cluster: FakeCluster) -> Task:
    task = cluster.store.task(TaskId("t1"))
    assert task is not None
    return task


def let_leader_decide(cluster: FakeCluster, reconciler: Joins) -> None:
    for key in reconciler.keys(cluster.store):
        for group in reconciler.reconcile(cluster.store, key, AT).groups:
            cluster.change(*group.changes, owner=group.owner)


def let_node_answer(cluster: FakeCluster, *, err: str = "") -> None:
    task = member(cluster)
    is_running = task.status.state is TaskState.RUNNING and task.has_joined
    if is_running and task.status.places_version < task.version:
        status = replace(
            task.status,
            report=task.status.report + 1,
            places_version=task.version,
            places_err=err if len(task.places) > 1 else "",
        )
        cluster.change(Report(task_id=task.id, status=status), owner=Owner.AGENT)


@asynccontextmanager
async def others(
    cluster: FakeCluster, *, has_leader: bool = True, has_node: bool = True, err: str = ""
) -> AsyncIterator[None]:
    """Leader and node do their part of whatever is stored."""
    reconciler = Joins(Addresses())

    async def play() -> None:
        with cluster.watch() as watch:
            while True:
                await watch.wait()
                watch.take()
                if has_leader:
                    let_leader_decide(cluster, reconciler)
                if has_node:
                    let_node_answer(cluster, err=err)

    playing = asyncio.create_task(play())
    await asyncio.sleep(0)
    yield
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)


async def call(http: Http, verb: str, network: str, container: str = "t1", **more: Any) -> Answer:
    return await http.post(f"/networks/{network}/{verb}", {"Container": container, **more})


async def test_what_cannot_be_joined_or_left_is_told_in_dockers_words(
    http: Http, cluster: FakeCluster, side: str
) -> None:
    await created(http, "closed")

    async def said(network: str, verb: str, container: str) -> tuple[int, str]:
        answer = await call(http, verb, network, container)
        return answer.status, answer.message

    assert await said("side", "connect", "") == (400, 'invalid name or ID supplied: ""')
    assert await said("side", "connect", "nosuch") == (404, "No such container: nosuch")
    assert await said("side", "connect", "api.1.t1") == (404, "No such container: api.1.t1")
    assert await said("nosuch", "disconnect", "t1") == (404, "network nosuch not found")
    not_attachable = (
        "Could not attach to network {0}: rpc error: code = PermissionDenied desc = "
        "network {0} not manually attachable"
    )
    assert await said("closed", "connect", "t1") == (500, not_attachable.format("closed"))
    assert await said("none", "connect", "t1") == (500, not_attachable.format("none"))
    assert await said("host", "connect", "t1") == (
        400,
        "container cannot be disconnected from host network or connected to host network",
    )
    exists = f"endpoint with name {NAME} already exists in network front"
    assert await said("front", "connect", NAME) == await said("front", "connect", "t1") == (403, exists)
    assert await said("side", "disconnect", "t1") == (500, "container t1 is not connected to network side")
    assert await said("side", "disconnect", NAME) == (500, "container t1 is not connected to network side")
    status, text = await said("front", "disconnect", "t1")
    assert status == 403
    assert "swarmpy service update --network-rm front SERVICE" in text
    assert member(cluster).joins == ()


@pytest.mark.parametrize("reference", ["t1", "t", NAME])
async def test_a_running_task_joins_a_network_and_leaves_it(
    http: Http, cluster: FakeCluster, side: str, reference: str
) -> None:
    settings = {"Aliases": ["nick"], "IPAMConfig": {"IPv4Address": "10.0.2.77"}, "DriverOpts": None}
    async with others(cluster):
        assert (await call(http, "connect", "side", reference, EndpointConfig=settings)).status == 200
        task = member(cluster)
        assert [(place.network_id, place.addresses) for place in task.networks[1:]] == [
            (side, ("10.0.2.77/24",))
        ]
        assert task.networks[1].aliases == ("nick",)
        shown = (await http.get("/networks/side")).json["Containers"]
        assert [each["IPv4Address"] for each in shown.values()] == ["10.0.2.77/24"]
        again = await call(http, "connect", "side", reference)
        assert (again.status, again.message) == (409, f"{NAME} is already attached to network side")
        assert (await http.delete("/networks/side")).status == 400
        assert (await call(http, "disconnect", "side", reference)).status == 200
    assert (len(member(cluster).networks), member(cluster).joins) == (1, ())
    assert (await http.delete("/networks/side")).status == 204


async def test_an_address_is_held_until_the_node_has_let_go(
    http: Http, cluster: FakeCluster, side: str
) -> None:
    wish = {"IPAMConfig": {"IPv4Address": "10.0.2.77"}}
    async with others(cluster):
        assert (await call(http, "connect", "side", EndpointConfig=wish)).status == 200
    async with others(cluster, has_node=False):
        assert (await call(http, "disconnect", "side", Force=True)).status == 200
        task = member(cluster)
        assert [place.network_id for place in task.places] == [task.networks[0].network_id]
        assert cluster.store.holders_of(side, "10.0.2.77") == (task,)  # type: ignore[arg-type]
        assert (await http.get("/networks/side")).json["Containers"] is None
    async with others(cluster):
        let_node_answer(cluster)
        # a place that is being left is waited for, so that this is another one
        wish = {"IPAMConfig": {"IPv4Address": "10.0.2.78"}}
        assert (await call(http, "connect", "side", EndpointConfig=wish)).status == 200
    assert member(cluster).networks[1].addresses == ("10.0.2.78/24",)


@pytest.mark.parametrize(
    ("who", "wish", "why"),
    [
        ({"has_leader": False}, {}, "no manager has given out an address in time"),
        (
            {},
            {"IPAMConfig": {"IPv4Address": "10.0.2.1"}},
            "requested address 10.0.2.1 is out of range: network side has 10.0.2.0/24, without gateway and "
            "auxiliary addresses",
        ),
        ({"has_node": False}, {}, "node node-1 has not set the network up in time"),
        ({"err": "this node has no way to encrypt"}, {}, "this node has no way to encrypt"),
    ],
)
async def test_what_does_not_come_is_withdrawn_with_the_reason(
    http: Http,
    cluster: FakeCluster,
    side: str,
    monkeypatch: pytest.MonkeyPatch,
    who: dict[str, Any],
    wish: dict[str, Any],
    why: str,
) -> None:
    monkeypatch.setattr(network_joins, "NETWORK_JOIN_S", 0.2)
    async with others(cluster, **who):
        answer = await call(http, "connect", "side", EndpointConfig=wish)
    assert (answer.status, answer.message) == (500, FAILED + why)
    assert all(join.is_leaving for join in member(cluster).joins)


async def test_a_node_that_is_away_is_named(
    http: Http, cluster: FakeCluster, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_joins, "NETWORK_JOIN_S", 0.2)
    down = NodeReport(node_id=FIRST, status=NodeStatus(state=NodeState.DOWN))
    cluster.change(down, owner=Owner.DISPATCHER)
    async with others(cluster, has_node=False):
        answer = await call(http, "connect", "side")
        assert answer.message.endswith("node node-1, which runs the task, cannot be reached")
        answer = await call(http, "disconnect", "side")
    assert answer.status == 500
    assert "its address stays reserved until then" in answer.message


async def test_a_task_that_ends_meanwhile(http: Http, cluster: FakeCluster, side: str) -> None:
    async def end() -> None:
        with cluster.watch() as watch:
            while not member(cluster).joins:
                await watch.wait()
                watch.take()
        cluster.report("t1", TaskState.FAILED)

    answer, _ = await asyncio.gather(call(http, "connect", "side"), end())
    assert answer.message == FAILED + "container t1 has stopped"
    answer = await call(http, "connect", "side")
    assert (answer.status, answer.message) == (409, f"Container {container_id('t1')} is not running")


async def test_a_task_without_a_network_of_its_own_joins_none(http: Http, cluster: FakeCluster) -> None:
    side = await created(http, "side", Attachable=True)
    allocated(cluster, side, "10.0.2.0/24")
    for name, text in (
        ("host", "container sharing network namespace with another container or host"),
        ("none", "container cannot be connected to multiple networks with one of the networks in private"),
    ):
        service_id = (await on(http, PREDEFINED[name].id, name=f"on-{name}")).json["ID"]
        cluster.add_task(f"t-{name}", service_id)
        answer = await call(http, "connect", "side", f"t-{name}")
        assert (answer.status, answer.message[: len(text)]) == (400, text)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"IPAMConfig": {"IPv4Address": "nowhere"}}, "invalid IPv4 address: nowhere"),
        ({"IPAMConfig": {"IPv6Address": "10.0.2.9"}}, "invalid IPv6 address: 10.0.2.9"),
        (
            {"IPAMConfig": {"IPv4Address": "10.9.9.9"}},
            "Invalid address 10.9.9.9: It does not belong to any of this network's subnets",
        ),
        ({"MacAddress": "01:00:00:00:00:01"}, "network side: invalid mac_address 01:00:00:00:00:01"),
    ],
)
async def test_addresses_that_cannot_be(http: Http, side: str, settings: dict[str, Any], text: str) -> None:
    answer = await call(http, "connect", "side", EndpointConfig=settings)
    status = 500 if text.startswith("Invalid address") else 400
    assert (answer.status, answer.message[: len(text)]) == (status, text)


async def test_events_tell_of_it(http: Http, cluster: FakeCluster, side: str) -> None:
    found: list[tuple[str, str, str]] = []

    async def read() -> None:
        params = {"filters": json.dumps({"type": ["network"]})}
        async with http.session.get("http://swarmpy/events", params=params) as reply:
            async for line in reply.content:
                event = json.loads(line)
                attributes = event["Actor"]["Attributes"]
                found.append((event["Action"], attributes["name"], attributes["container"]))
                if len(found) == 2:
                    return

    reading = asyncio.create_task(read())
    async with asyncio.timeout(10), others(cluster):
        while len(cluster.store._watches) < 2:
            await asyncio.sleep(0.01)
        await call(http, "connect", "side")
        await call(http, "disconnect", "side")
        await reading
    assert found == [("connect", "side", container_id("t1")), ("disconnect", "side", container_id("t1"))]
