"""``/networks`` over HTTP, in the engine's words and shapes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_http import Http, spec
from api_networks import INVALID, VXLAN_IDS, add_member, allocated, created, names, on
from api_node import FIRST, INGRESS, FakeCluster, FakeNode
from msgspec.structs import replace

from manager.api import networks
from manager.api.predefined import PREDEFINED
from swarmpy.model.changes import NodeReport, Update
from swarmpy.model.ids import NetworkId, NodeId, ServiceId
from swarmpy.model.objects import NetworkAttachment, NodeDescription, VirtualIP
from swarmpy.model.states import Owner, TaskState

SECOND = NodeId("n2aaaaaaaaaaaaaaaaaaaaaaa")


# --- create


async def test_a_network_is_made_and_shown_as_the_engine_shows_it(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(
        http,
        "front",
        Internal=True,
        Attachable=True,
        Labels={"tier": "web"},
        Options={"com.docker.network.driver.mtu": "1400", "encrypted": ""},
        EnableIPv6=True,
        IPAM={
            "Driver": "default",
            "Config": [
                {
                    "Subnet": "10.7.0.0/24",
                    "Gateway": "10.7.0.254",
                    "IPRange": "10.7.0.128/25",
                    "AuxiliaryAddresses": {"printer": "10.7.0.9"},
                },
                {"Subnet": "fd00:7::/64"},
            ],
        },
        CheckDuplicate=True,
    )
    found = (await http.get("/networks/front")).json
    assert found.pop("Created").startswith("2")
    assert found == {
        "Name": "front",
        "Id": id_,
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv6": True,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [
                {
                    "Subnet": "10.7.0.0/24",
                    "IPRange": "10.7.0.128/25",
                    "Gateway": "10.7.0.254",
                    "AuxiliaryAddresses": {"printer": "10.7.0.9"},
                },
                {"Subnet": "fd00:7::/64"},
            ],
        },
        "Internal": True,
        "Attachable": True,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": {"com.docker.network.driver.mtu": "1400", "encrypted": ""},
        "Labels": {"tier": "web"},
    }
    stored = cluster.store.network(NetworkId(id_))
    assert stored is not None
    assert stored.ipam_options is None, "subnets are the leader's to give"


async def test_a_network_without_a_driver_is_an_overlay(http: Http, cluster: FakeCluster) -> None:
    assert (await http.post("/networks/create", {"Name": "front"})).status == 201
    assert (await http.get("/networks/front")).json["Driver"] == "overlay"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"Name": ""}, 400, "invalid name: name is empty"),
        ({"Name": "a b"}, 400, f"{INVALID}name must be valid as a DNS name component"),
        ({"Name": "x" * 64}, 400, f"{INVALID}name must be 63 characters or fewer"),
        ({"Name": "taken"}, 409, "network with name taken already exists"),
        ({"Name": "host"}, 409, "network with name host already exists"),
        ({"Name": "bridge"}, 409, "network with name bridge already exists"),
        ({"Name": "none"}, 403, "operation is not permitted on predefined none network "),
        ({"Name": "default"}, 403, "operation is not permitted on predefined default network "),
        ({"Driver": "nosuch"}, 404, 'plugin "nosuch" not found'),
        ({"Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
        ({"Driver": "null"}, 403, 'only one instance of "null" network is allowed'),
        ({"Scope": "local"}, 403, "cannot downgrade network scope for overlay networks"),
        (
            {"Driver": "bridge", "Ingress": True},
            403,
            "Ingress network can only be global scope network",
        ),
        (
            {"Ingress": True, "Attachable": True},
            400,
            f"{INVALID}ingress network cannot be attachable",
        ),
        (
            {"Ingress": True},
            409,
            f"rpc error: code = AlreadyExists desc = ingress network ({INGRESS}) is already present",
        ),
        ({"EnableIPv4": False}, 400, "IPv4 cannot be disabled in a Swarm scoped network"),
        (
            {"IPAM": {"Config": [{"Subnet": "nonsense"}]}},
            400,
            "invalid network config:\ninvalid subnet nonsense: invalid CIDR block notation",
        ),
        (
            {"IPAM": {"Driver": "x"}},
            400,
            "rpc error: code = InvalidArgument desc = error during lookup of plugin x",
        ),
        (
            {"ConfigOnly": True, "Scope": "swarm"},
            403,
            "configuration network can only contain network specific fields. Network operator fields "
            "like [ ingress | internal | attachable | scope ] are not supported.",
        ),
        (
            {"ConfigOnly": True, "ConfigFrom": {"Network": "taken"}},
            403,
            "a configuration network cannot depend on another configuration network",
        ),
        ({"ConfigFrom": {"Network": "nosuch"}}, 404, "network nosuch not found"),
        (
            {"ConfigFrom": {"Network": "taken"}},
            403,
            'network "taken" is not a configuration network',
        ),
        (
            {"ConfigFrom": {"Network": "taken"}, "Options": {"a": "b"}},
            403,
            "network driver options are not supported if the network depends on a configuration network",
        ),
        (
            {"Options": {VXLAN_IDS: "5000"}},
            400,
            "the VXLAN id 5000 is network taken's: choose another",
        ),
        ({"Options": {VXLAN_IDS: "4098"}}, 400, "the VXLAN id 4098 is network ingress's: choose another"),
    ],
)
async def test_what_cannot_be_made_is_refused_in_dockers_words(
    http: Http, cluster: FakeCluster, body: dict[str, Any], status: int, text: str
) -> None:
    allocated(cluster, INGRESS, "10.0.0.0/24", vni=4098)
    await created(http, "taken", Options={VXLAN_IDS: "5000"})
    before = await names(http)
    answer = await http.post("/networks/create", {"Name": "new", "Driver": "overlay", **body})
    assert (answer.status, answer.message) == (status, text)
    assert await names(http) == before


async def test_names_that_differ_in_case_alone_are_one(http: Http, cluster: FakeCluster) -> None:
    await created(http, "front")
    answer = await http.post("/networks/create", {"Name": "FRONT"})
    assert answer.status == 409
    assert "name conflicts with an existing object" in answer.message


@pytest.mark.parametrize("driver", ["bridge", "macvlan", "l2bridge", "l2tunnel", "transparent"])
async def test_other_drivers_are_swarm_wide_or_not_at_all(
    http: Http, cluster: FakeCluster, driver: str
) -> None:
    body = {"Name": "lan", "Driver": driver, "Options": {"parent": "eth1"}}
    answer = await http.post("/networks/create", body)
    assert answer.status == 501
    assert "--scope swarm" in answer.message
    assert (await http.post("/networks/create", {**body, "Scope": "swarm"})).status == 201
    found = (await http.get("/networks/lan")).json
    assert (found["Driver"], found["Scope"], found["Options"]) == (driver, "swarm", {"parent": "eth1"})


async def test_settings_are_copied_from_a_configuration_network(http: Http, cluster: FakeCluster) -> None:
    ipam = {"Config": [{"Subnet": "10.70.0.0/24"}]}
    settings = {"Name": "lan", "ConfigOnly": True, "IPAM": ipam, "Options": {"parent": "eth1"}}
    assert (await http.post("/networks/create", settings)).status == 201
    found = (await http.get("/networks/lan")).json
    assert (found["Scope"], found["Driver"], found["ConfigOnly"]) == ("local", "null", True)
    body = {"Name": "mv", "Driver": "macvlan", "Scope": "swarm", "ConfigFrom": {"Network": "lan"}}
    assert (await http.post("/networks/create", body)).status == 201
    found = (await http.get("/networks/mv")).json
    assert found["IPAM"]["Config"] == [{"Subnet": "10.70.0.0/24"}]
    assert (found["Options"], found["ConfigFrom"]) == ({"parent": "eth1"}, {"Network": "lan"})
    answer = await http.delete("/networks/lan")
    assert (answer.status, answer.message) == (403, 'configuration network "lan" is in use')
    answer = await on(http, "lan")
    assert answer.status == 403
    assert answer.message.startswith("The network lan cannot be used with services. Only networks scoped")


async def test_a_worker_makes_no_network(http: Http, node: FakeNode) -> None:
    node.become_worker()
    answer = await http.post("/networks/create", {"Name": "a", "Driver": "overlay"})
    assert answer.status == 503
    assert "not a swarm manager" in answer.message
    assert await names(http) == ["bridge", "host", "none"]
    assert (await http.get("/networks/host")).json["Id"] == PREDEFINED["host"].id
    assert (await http.get("/networks/a")).status == 404


# --- list


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"driver": ["macvlan"]}, ["lan"]),
        ({"driver": ["mac"]}, []),
        ({"name": ["o"]}, ["front", "host", "none"]),
        ({"name": ["^o"]}, []),
        ({"name": ["^host$"]}, ["host"]),
        ({"name": ["ck$"]}, ["back"]),
        ({"scope": ["local"]}, ["bridge", "host", "none"]),
        ({"scope": ["swarm"]}, ["back", "front", "ingress", "lan"]),
        ({"scope": ["bad"]}, []),
        ({"type": ["custom"]}, ["back", "front", "ingress", "lan"]),
        ({"type": ["builtin"]}, ["bridge", "host", "none"]),
        ({"type": ["builtin", "custom"]}, ["back", "bridge", "front", "host", "ingress", "lan", "none"]),
        ({"dangling": ["true"]}, ["front", "lan"]),
        ({"dangling": ["0"]}, ["back", "bridge", "host", "ingress", "none"]),
        ({"label": ["k=v"]}, ["front"]),
        ({"label": ["k=w"]}, []),
        ({"id": [PREDEFINED["host"].id[:8]]}, ["host"]),
    ],
)
async def test_filters(
    http: Http, cluster: FakeCluster, filters: dict[str, list[str]], found: list[str]
) -> None:
    await created(http, "front", Labels={"k": "v"})
    await created(http, "back")
    await created(http, "lan", Driver="macvlan", Scope="swarm")
    assert (await on(http, "back")).status == 201
    assert await names(http, **filters) == found


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"type": ["bad"]}, "invalid filter: 'type'='bad'"),
        (
            {"dangling": ["x"]},
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")',
        ),
        ({"foo": ["x"]}, "invalid filter 'foo'"),
    ],
)
async def test_filters_that_are_none(http: Http, filters: dict[str, list[str]], text: str) -> None:
    answer = await http.get("/networks", filters=filters)
    assert (answer.status, answer.message) == (400, text)


# --- inspect


async def test_predefined_networks_are_found_in_both_scopes(http: Http, cluster: FakeCluster) -> None:
    local = (await http.get("/networks/host")).json
    assert (local["Scope"], local["Driver"], local["Containers"]) == ("local", "host", {})
    swarm = (await http.get("/networks/host", scope="swarm")).json
    assert (swarm["Scope"], swarm["Id"]) == ("swarm", "host"), "as specs have it"
    assert swarm["Labels"] == {"com.docker.swarm.predefined": "true"}
    assert (await http.get("/networks/none", scope="swarm")).status == 404
    assert (await http.get(f"/networks/{local['Id'][:12]}")).json == local


async def test_scopes_and_references(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(http, "front")
    for reference in ("front", id_, id_[:10]):
        assert (await http.get(f"/networks/{reference}", scope="swarm")).json["Id"] == id_
    for reference, scope in (("front", "local"), ("front", "bad"), ("nosuch", ""), ("nosuch", "swarm")):
        answer = await http.get(f"/networks/{reference}", scope=scope)
        assert (answer.status, answer.message) == (404, f"network {reference} not found")
    answer = await http.get("/networks/front", verbose="x")
    assert (answer.status, answer.message) == (
        400,
        'invalid value for verbose: x: strconv.ParseBool: parsing "x": invalid syntax',
    )


async def test_who_is_where_on_a_network(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")
    description = NodeDescription(hostname="node-2", data_path_addr="192.168.7.2")
    cluster.change(NodeReport(node_id=SECOND, description=description), owner=Owner.DISPATCHER)
    id_ = await created(http, "front", Options={"encrypted": ""})
    allocated(cluster, id_, "10.0.1.0/24")
    service_id = (await on(http, "front")).json["ID"]
    service = cluster.store.service(ServiceId(service_id))
    assert service is not None
    vip = VirtualIP(network_id=NetworkId(id_), addr="10.0.1.2/24")
    endpoint = replace(service.endpoint, virtual_ips=(vip,))
    cluster.change(Update(object=replace(service, endpoint=endpoint)), owner=Owner.ORCHESTRATOR)
    add_member(cluster, "t1", service_id, "10.0.1.3/24", network_id=id_)
    add_member(cluster, "t2", service_id, "10.0.1.4/24", network_id=id_, node_id=SECOND)

    found = (await http.get("/networks/front", verbose="true")).json
    assert found["Options"] == {"encrypted": "", VXLAN_IDS: "4097"}
    assert found["IPAM"]["Config"] == [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]
    (container,) = found["Containers"].values()
    assert len(container.pop("EndpointID")) == 64
    assert container == {
        "Name": "web.1.t1",
        "MacAddress": "02:42:0a:00:01:03",
        "IPv4Address": "10.0.1.3/24",
        "IPv6Address": "",
    }
    assert found["Peers"] == [{"Name": "node-1", "IP": "10.0.0.1"}, {"Name": "node-2", "IP": "192.168.7.2"}]
    web = found["Services"]["web"]
    assert (web["VIP"], web["Ports"], web["LocalLBIndex"]) == ("10.0.1.2", [], 0)
    assert [(task["Name"], task["EndpointIP"], task["Info"]["Host IP"]) for task in web["Tasks"]] == [
        ("web.1.t1", "10.0.1.3", "10.0.0.1"),
        ("web.1.t2", "10.0.1.4", "192.168.7.2"),
    ]
    assert found["Dataplane"] == {
        "Driver": "overlay",
        "MTU": 0,
        "TaskTables": ["inet swarmpy_vip", "inet swarmpy_dns"],
        "VNI": 4097,
        "DataPathPort": 4790,
        "Encrypted": True,
        "Network": {
            "Namespace": f".net-{id_[:12]}",
            "Bridge": "br0",
            "Tunnel": "vx0",
            "Table": "bridge swarmpy_spoof",
        },
        "NodeTables": ["inet swarmpy_guard", "inet swarmpy_secure"],
    }
    plain = (await http.get("/networks/front")).json
    assert plain.keys() == found.keys() - {"Services", "Dataplane"}

    (task, _) = (await http.get("/tasks", filters={"service": ["web"]})).json
    (place,) = task["NetworksAttachments"]
    assert place["Addresses"] == ["10.0.1.3/24"]
    assert place["Network"]["Spec"]["Name"] == "front"
    assert place["Network"]["IPAMOptions"]["Configs"] == [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}]
    assert (await http.get("/services/web")).json["Endpoint"]["VirtualIPs"] == [
        {"NetworkID": id_, "Addr": "10.0.1.2/24"}
    ]


async def test_the_mesh_tells_its_ports_and_entries(http: Http, cluster: FakeCluster) -> None:
    allocated(cluster, INGRESS, "10.0.0.0/24", vni=4096)
    node = cluster.store.node(FIRST)
    assert node is not None
    place = NetworkAttachment(network_id=INGRESS, addresses=("10.0.0.2/24",))
    cluster.change(Update(object=replace(node, attachments=(place,))), owner=Owner.ORCHESTRATOR)
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    answer = await http.post("/services/create", spec(EndpointSpec=ports))
    assert answer.json["Warnings"] is None, "ports in ingress mode are served"
    found = (await http.get("/networks/ingress", verbose="1")).json
    assert found["Services"]["web"]["Ports"] == ["Target: 80, Publish: 8080"]
    assert found["Services"]["web"]["VIP"] == "<nil>"
    assert found["Peers"] == [{"Name": "node-1", "IP": "10.0.0.1"}]
    assert found["Dataplane"]["Mesh"]["Addresses"] == {"node-1": "10.0.0.2"}
    answer = await http.delete("/networks/ingress")
    assert (answer.status, answer.message) == (
        400,
        "rpc error: code = FailedPrecondition desc = ingress network cannot be removed because service "
        f"{(await http.get('/services/web')).json['ID']} depends on it",
    )
    assert (await http.delete("/services/web")).status == 200
    assert (await http.delete("/networks/ingress")).status == 204
    answer = await http.post("/services/create", spec(EndpointSpec=ports))
    assert (answer.status, answer.message) == (
        400,
        "rpc error: code = FailedPrecondition desc = service needs ingress network, "
        "but no ingress network is present",
    )
    host = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]}
    assert (await http.post("/services/create", spec(EndpointSpec=host))).status == 201
    await created(http, "mesh", Ingress=True)
    assert (
        await http.post("/services/create", spec("other", EndpointSpec={"Ports": [{"TargetPort": 80}]}))
    ).status == 201


async def test_what_nodes_tell_each_other_is_not_shown(http: Http, cluster: FakeCluster) -> None:
    description = NodeDescription(
        hostname="node-1", data_path_addr="10.1.1.1", boot_id="b", encryption=("esp",), wireguard_key=b"k"
    )
    cluster.change(NodeReport(node_id=FIRST, description=description), owner=Owner.DISPATCHER)
    found = (await http.get("/nodes/self")).json
    assert found["Description"].keys() == {"Hostname", "Platform", "Resources", "Engine"}
    assert "Attachments" not in found


# --- remove and prune


async def test_removal(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(http, "front")
    service_id = (await on(http, "front")).json["ID"]
    answer = await http.delete("/networks/front")
    assert (answer.status, answer.message) == (
        400,
        f"rpc error: code = FailedPrecondition desc = network {id_} is in use by service {service_id}",
    )
    await http.delete("/services/web")
    assert (await http.delete("/networks/front")).status == 204
    answer = await http.delete("/networks/front")
    assert (answer.status, answer.message) == (404, "network front not found")
    for name in PREDEFINED:
        answer = await http.delete(f"/networks/{name}")
        assert (answer.status, answer.message) == (
            403,
            f"{name} is a pre-defined network and cannot be removed",
        )


async def test_tasks_of_a_service_that_is_gone_are_waited_for(http: Http, cluster: FakeCluster) -> None:
    """``docker stack rm`` removes the networks right behind the services, before the leader has looked."""
    id_ = await created(http, "front")
    service_id = (await on(http, "front")).json["ID"]
    add_member(cluster, "t1aaaaaaaaaaaaaaaaaaaaaaa", service_id, "10.0.1.3/24", network_id=id_)
    await http.delete("/services/web")
    removing = asyncio.create_task(http.delete("/networks/front"))
    answered, _ = await asyncio.wait([removing], timeout=0.1)
    assert not answered
    cluster.order("t1aaaaaaaaaaaaaaaaaaaaaaa", TaskState.REMOVE)
    assert (await removing).status == 204


async def test_a_leader_that_does_not_look_is_not_waited_for(
    http: Http, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "NETWORK_RELEASE_S", 0.05)
    id_ = await created(http, "front")
    service_id = (await on(http, "front")).json["ID"]
    add_member(cluster, "t1aaaaaaaaaaaaaaaaaaaaaaa", service_id, "10.0.1.3/24", network_id=id_)
    await http.delete("/services/web")
    answer = await http.delete("/networks/front")
    assert (answer.status, "is in use by task t1aaaaaaaaaaaaaaaaaaaaaaa" in answer.message) == (400, True)


async def test_prune_takes_what_nobody_uses(http: Http, cluster: FakeCluster) -> None:
    await http.post("/networks/create", {"Name": "settings", "ConfigOnly": True})
    await created(http, "used")
    await created(http, "kept", Labels={"keep": "yes"})
    await created(http, "gone")
    await on(http, "used")

    async def pruned(**filters: list[str]) -> Any:
        answer = await http.post("/networks/prune", filters=filters)
        assert answer.status == 200, answer.body
        return answer.json["NetworksDeleted"]

    assert await pruned(until=["10m"]) is None
    assert await pruned(label=["nope"]) is None
    assert await pruned(**{"label!": ["keep"]}) == ["gone"]
    assert await pruned() == ["kept"]
    assert await names(http, type=["custom"]) == ["ingress", "settings", "used"]
    answer = await http.post("/networks/prune", filters={"until": ["bad"]})
    assert (answer.status, answer.message) == (400, 'failed to parse value as time or duration: "bad"')
    assert (await http.post("/networks/prune", filters={"foo": ["x"]})).status == 400
