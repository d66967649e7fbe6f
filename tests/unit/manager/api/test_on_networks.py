"""Who is on a network, over HTTP: events of running tasks, services and their ports."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from api_http import Http, spec
from api_networks import INVALID, add_member, allocated, created, on
from api_node import FakeCluster

from manager.api.predefined import PREDEFINED
from swarmpy.model.container_ids import container_id
from swarmpy.model.states import TaskState

# --- events


async def test_events_tell_of_networks_and_of_who_is_on_them(http: Http, cluster: FakeCluster) -> None:
    found: list[dict[str, Any]] = []

    async def read() -> None:
        params = {"filters": json.dumps({"type": ["network"]})}
        async with http.session.get("http://swarmpy/events", params=params) as reply:
            async for line in reply.content:
                found.append(json.loads(line))
                if found[-1]["Action"] == "remove":
                    return

    reading = asyncio.create_task(read())
    while not cluster.store._watches:
        await asyncio.sleep(0.01)
    id_ = await created(http, "front")
    service_id = (await on(http, "front")).json["ID"]
    add_member(cluster, "t1", service_id, "10.0.1.3/24", network_id=id_)
    cluster.report("t1", TaskState.FAILED)
    await http.delete("/services/web")
    assert (await http.delete("/networks/front")).status == 204
    async with asyncio.timeout(10):
        await reading
    assert [event["Action"] for event in found] == ["create", "connect", "disconnect", "remove"]
    assert {event["Actor"]["ID"] for event in found} == {id_}
    assert {event["scope"] for event in found} == {"swarm"}
    create, connect, _, remove = (event["Actor"]["Attributes"] for event in found)
    assert create == remove == {"name": "front"}
    assert connect == {"container": container_id("t1"), "name": "front", "type": "overlay"}


# --- services on networks


@pytest.mark.parametrize(
    ("networks", "more", "status", "text"),
    [
        (["nosuch"], {}, 404, "network nosuch not found"),
        (
            ["ingress"],
            {},
            400,
            f'{INVALID}Service cannot be explicitly attached to the ingress network "ingress"',
        ),
        (["front", "front"], {}, 400, f"{INVALID}a service can be on a network only once"),
        (["host", "front"], {}, 400, f'{INVALID}a service on the network "host" can be on no other'),
        (
            ["host"],
            {"EndpointSpec": {"Ports": [{"TargetPort": 80}]}},
            400,
            f'{INVALID}ports in ingress mode do not lead to a service on the network "host"',
        ),
        (
            [{"Target": "front", "DriverOpts": {"ipv4_address": "x"}}],
            {},
            400,
            f"{INVALID}network front: invalid ipv4_address x: give an IPv4 address",
        ),
        (
            [{"Target": "front", "DriverOpts": {"ipv4_address": "10.9.0.9"}}],
            {},
            400,
            f"{INVALID}the address 10.9.0.9 is not in network front (10.0.1.0/24)",
        ),
    ],
)
async def test_services_on_networks_that_cannot_be(
    http: Http, cluster: FakeCluster, networks: list[Any], more: dict[str, Any], status: int, text: str
) -> None:
    allocated(cluster, await created(http, "front"), "10.0.1.0/24")
    answer = await on(http, *networks, **more)
    assert (answer.status, answer.message[: len(text)]) == (status, text)


async def test_services_on_networks_of_their_node(http: Http, cluster: FakeCluster) -> None:
    await created(http, "front")
    assert (await on(http, PREDEFINED["host"].id, name="a")).status == 201
    assert (await on(http, "none", name="b")).status == 201
    assert (await on(http, "bridge", "front", name="c")).status == 201
    targets = {
        service.spec.name: [place.target for place in service.spec.task_template.networks]
        for service in cluster.store.services()
    }
    front = (await http.get("/networks/front")).json["Id"]
    assert targets == {"a": ["host"], "b": ["none"], "c": ["bridge", front]}


async def test_networks_of_old_clients_give_way_to_those_of_the_template(
    http: Http, cluster: FakeCluster
) -> None:
    front, back = await created(http, "front"), await created(http, "back")
    old = await http.post("/services/create", spec("old", Networks=[{"Target": "front"}]))
    both = await on(http, "back", name="both", Networks=[{"Target": "front"}])
    assert (old.status, both.status) == (201, 201)
    spec_of = {service.spec.name: service.spec for service in cluster.store.services()}
    assert [place.target for place in spec_of["old"].task_template.networks] == [front]
    assert [place.target for place in spec_of["both"].task_template.networks] == [back]
    assert spec_of["old"].networks == spec_of["both"].networks == ()


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (
            {"Mode": "dnsrr", "Ports": [{"TargetPort": 80}]},
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
        ),
        (
            {"Ports": [{"TargetPort": 80, "HostIP": "not an address"}]},
            "EndpointSpec: invalid host IP not an address: give an address or the name of an interface",
        ),
        (
            {"Ports": [{"TargetPort": 80, "SourceNAT": True, "PublishMode": "host"}]},
            "EndpointSpec: source NAT is for ports published with ingress mode",
        ),
        (
            {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}, {"TargetPort": 81, "PublishedPort": 8080}]},
            "EndpointSpec: duplicate published ports provided",
        ),
    ],
)
async def test_ports_that_cannot_be(
    http: Http, cluster: FakeCluster, endpoint: dict[str, Any], text: str
) -> None:
    answer = await http.post("/services/create", spec(EndpointSpec=endpoint))
    assert (answer.status, answer.message) == (400, INVALID + text)


async def test_ports_of_our_own_kind_are_read_back(http: Http, cluster: FakeCluster) -> None:
    ports = [
        {"TargetPort": 80, "PublishedPort": 8080, "HostIP": "10.0.0.1", "SourceNAT": True},
        {"TargetPort": 81, "PublishedPort": 8081, "HostIP": "eth0", "PublishMode": "host"},
    ]
    answer = await http.post("/services/create", spec(EndpointSpec={"Ports": ports}))
    assert answer.status == 201, answer.body
    assert answer.json["Warnings"] is None
    found = (await http.get("/services/web")).json
    assert found["Spec"]["EndpointSpec"]["Ports"] == [
        {"Protocol": "tcp", "PublishMode": "ingress", **port} for port in ports
    ]
    assert found["Endpoint"]["Ports"][0]["SourceNAT"] is True
    assert found["Endpoint"]["Ports"][0]["HostIP"] == "10.0.0.1"
    answer = await http.post("/services/create", spec("other", EndpointSpec={"Ports": ports[:1]}))
    assert answer.status == 400
    assert f"port '8080' is already in use by service 'web' ({found['ID']})" in answer.message
