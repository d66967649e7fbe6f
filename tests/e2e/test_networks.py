"""Overlay networks, virtual addresses, names and published ports between real daemons, with real packets.

One manager and three workers, shared; every test removes its services and networks.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from lab_cli import DEADLINE_S, reason, state, tasks_of, wait_for
from net_hosts import PATIENCE_S, EchoServer, Frame, command_in, is_reachable, run_in
from net_lab import (
    PORT,
    SERVER,
    NetLab,
    Task,
    answers,
    belongings,
    interface_address,
    lookup,
    net_lab,
    reverse,
    wait_same,
)

from swarmpy.model.container_ids import container_id

DOCKER = shutil.which("docker")
SUBNET = "10.50.0.0/24"
OUTSIDE = "10.200.0.1"
"""The switch: a client that is no part of the swarm."""
TTL = 64
VXLAN_PORT = 4789


@pytest.fixture(scope="module")
def whole() -> Iterator[NetLab]:
    with net_lab(managers=1, workers=3) as lab:
        yield lab


@pytest.fixture
def lab(whole: NetLab) -> Iterator[NetLab]:
    """Nothing of a test is left: on no host a namespace, a link, a table, a rule or a listening socket."""
    before = {name: belongings(whole, name) for name in whole.names}
    yield whole
    whole.remove_all()
    names = whole.good("network", "ls", "--filter", "type=custom", "--format", "{{.Name}}").split()
    for name in set(names) - {"ingress"}:
        whole.good("network", "rm", name)
    for name in whole.names:
        wait_same(lambda name=name: belongings(whole, name), before[name], what=name)  # type: ignore[misc]


def vni(lab: NetLab, network: str) -> int:
    options = lab.inspect("network", network)["Options"]
    return int(options["com.docker.network.driver.overlay.vxlanid_list"])


def inner(frame: Frame) -> Frame:
    """What a VXLAN frame carries."""
    return Frame(frame.host, frame.payload[8:])


def apart(tasks: list[Task]) -> tuple[Task, Task]:
    """Two that are on different nodes."""
    first = tasks[0]
    return first, next(task for task in tasks if task.node != first.node)


# --- overlays


def test_two_services_on_two_isolated_overlays_with_ten_replicas(lab: NetLab) -> None:
    """The figure: four nodes, one manager, ten tasks; and both networks have the same subnet."""
    nodes = lab.lab.nodes()
    assert len(nodes) == 4
    assert sum("ManagerStatus" in node for node in nodes) == 1
    for network in ("left", "right"):
        lab.network(network, "--subnet", SUBNET, "--internal")  # nobody outside is asked for names
    red = lab.serve("red", 5, "--network", "left")
    blue = lab.serve("blue", 5, "--network", "right")
    assert len({task.id for task in red + blue}) == 10
    assert {task.node for task in red} == {task.node for task in blue} == set(lab.names)

    for network, service, tasks, other in (("left", "red", red, "blue"), ("right", "blue", blue, "red")):
        own = {task.at[network]: task.id for task in tasks}
        assert len(own) == 5
        assert all(address.startswith("10.50.0.") for address in own)
        for client, (address, id_) in product(tasks, own.items()):
            assert lab.meet(client, address).task == id_, "whoever has the address on the other network"
        lab.meet_all(tasks[0], lab.vip(service, network), among=tasks)
        for client in tasks:
            assert lookup(client.path, service) == [lab.vip(service, network)]
            assert lookup(client.path, other) == []
    assert vni(lab, "left") != vni(lab, "right")


def test_what_is_on_the_wire(lab: NetLab) -> None:
    """UDP 4789 with the network's identifier, the tasks' own frames inside, a hop nowhere; no flooding."""
    for number, network in enumerate(("one", "two")):
        lab.network(network, "--subnet", f"10.5{number}.0.0/24")
        lab.serve(network, 2, "--network", network)
    vnis = {network: vni(lab, network) for network in ("one", "two")}
    with lab.capture() as capture:
        for network in vnis:
            here, there = apart(lab.tasks(network))
            lab.meet(here, there.at[network])
            found = capture.wait_for(
                lambda frame: frame.vni == vnis[network] and inner(frame).ports[1] == PORT  # noqa: B023
            )
            assert found.ports[1] == VXLAN_PORT
            assert found.addresses == (lab.address(here.node), lab.address(there.node))
            assert inner(found).addresses == (here.at[network], there.at[network])
            assert inner(found).raw[22] == TTL
        tunnelled = [inner(frame) for frame in capture.frames() if frame.ports[1] == VXLAN_PORT]
        assert not [frame for frame in tunnelled if frame.ether_type == 0x0806], "answered where it was asked"

    here, there = apart(lab.tasks("one"))
    stranger = lab.tasks("two")[0]
    command_in(here.path, "ping", "-c1", "-W5", there.at["one"])
    assert not is_reachable(stranger.path, there.at["one"], PORT)
    network_id = lab.inspect("network", "one")["Id"]
    rows = json.loads(command_in(lab.sandbox(here.node, network_id), "ip", "-json", "link"))
    links = {row["ifname"] for row in rows}
    assert {"br0", "vx0"} < links
    assert len([name for name in links if name.startswith("p-")]) == 1, "one pair of links for each task"


def test_services_on_one_network_and_a_service_on_two(lab: NetLab) -> None:
    lab.network("front", "--internal")
    lab.network("back", "--internal")
    [web] = lab.serve("web", 1, "--network", "front")
    [api] = lab.serve("api", 1, "--network", "name=front,alias=rest", "--network", "back")
    [db] = lab.serve("db", 1, "--network", "back")
    for client, name, network, met in ((web, "api", "front", api), (api, "web", "front", web)):
        assert lookup(client.path, name) == [lab.vip(name, network)]
        assert lab.meet(client, lab.vip(name, network)).task == met.id
    assert lookup(web.path, "rest") == [lab.vip("api", "front")]
    assert lookup(web.path, "tasks.api") == [api.at["front"]]
    assert lookup(db.path, "api") == [lab.vip("api", "back")]
    assert lookup(db.path, "rest") == []
    assert lookup(web.path, api.name) == [api.at["front"]]
    assert reverse(db.path, api.at["back"]) == [api.name]
    assert lookup(web.path, "db") == []
    assert not is_reachable(web.path, db.at["back"], PORT)
    assert lab.meet(api, lab.vip("db", "back")).seen[0] == api.at["back"]


def test_dns_round_robin(lab: NetLab) -> None:
    lab.network("shop")
    tasks = lab.serve("web", 4, "--network", "shop", "--endpoint-mode", "dnsrr")
    assert "VirtualIPs" not in lab.inspect("service", "web")["Endpoint"]
    firsts: dict[str, int] = {}
    for _ in range(100):
        found = lookup(tasks[0].path, "web")
        assert sorted(found) == sorted(task.at["shop"] for task in tasks)
        firsts[found[0]] = firsts.get(found[0], 0) + 1
    assert sorted(firsts.values()) == [25] * 4, "answers rotate"


# --- published ports


def pair(lab: NetLab, *words: str) -> list[Task]:
    """Three tasks on two nodes, two of them on one, as the original's expectations have it."""
    for name in lab.names[2:]:
        lab.good("node", "update", "--label-add", "pair=yes", name)
    return lab.serve("web", 3, "--constraint", "node.labels.pair==yes", *words)


def test_the_five_expectations(lab: NetLab) -> None:
    tasks = pair(lab, "--publish", "mode=ingress,published=8080,target=80")
    nodes = sorted(task.node for task in tasks)
    one, two = sorted(set(nodes))
    assert sorted(nodes.count(name) for name in (one, two)) == [1, 2], (
        "two share a node and a port, one has its own"
    )

    place = {task.id: task.node for task in tasks}
    ways = set()
    for name in (one, two):  # both nodes answer, and hand off locally and to the other
        met = lab.meet_all(lab.path(), lab.address(name), 8080, among=tasks)
        assert {each.seen for each in met} == {each.local for each in met}, "the client's own address"
        ways |= {(name, place[each.task]) for each in met}
    assert ways == set(product((one, two), repeat=2)), "the four sample connections"

    for client, server in product(tasks, tasks):  # all meet on one link
        assert lab.meet(client, server.at["ingress"]).task == server.id
    here, there = apart(tasks)
    command_in(here.path, "ping", "-c1", "-W5", there.at["ingress"])

    spec = lab.inspect("service", "web")["Endpoint"]["Ports"]
    assert spec == [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}]
    assert lab.inspect("network", "ingress", "--verbose")["Services"]["web"]["VIP"] == lab.vip(
        "web", "ingress"
    )


def test_every_node_answers_for_one_replica(lab: NetLab) -> None:
    [task] = lab.serve("web", 1, "--publish", "8080:80", "--publish", "published=8053,target=80,protocol=udp")
    lab.network("shop")
    [client] = lab.serve("client", 1, "--network", "shop")
    for name in lab.names:
        assert lab.meet(lab.path(), lab.address(name), 8080).seen[0] == OUTSIDE
        assert lab.meet(lab.path(), lab.address(name), 8053, kind=socket.SOCK_DGRAM).seen[0] == OUTSIDE
        assert lab.meet(lab.path(name), "127.0.0.1", 8080).task == task.id, "from the node itself"
        assert lab.meet(lab.path(name), lab.address(name), 8080).task == task.id
        assert lab.meet(client, lab.address(name), 8080).task == task.id, "from a container"
    assert lab.meet(task, lab.address(task.node), 8080).task == task.id, "from the task itself"
    assert not is_reachable(lab.path(), lab.address("node-1"), 8081)


def test_the_way_of_a_packet_in_the_classic_mode(lab: NetLab) -> None:
    """Source: the ingress address of the node that the client came in on, local and across."""
    tasks = pair(lab, "--publish", "mode=snat,published=8080,target=80")
    ingress = lab.ingress()
    assert len(set(ingress.values())) == 4
    assert lab.inspect("network", "ingress", "--verbose")["Dataplane"]["Mesh"]["Addresses"] == ingress
    mesh_vni = vni(lab, "ingress")
    entry = tasks[0].node
    local = [task.id for task in tasks if task.node == entry]
    with lab.capture() as capture:
        met = lab.meet_all(lab.path(), lab.address(entry), 8080, among=tasks)
        for each in met:
            assert each.seen[0] == ingress[entry], "on the node and across alike"
            assert each.seen[1] != each.local[1], "a port of its own"
        across = next(each for each in met if each.task not in local)
        there = next(task for task in tasks if task.id == across.task)

        def is_inside(source: tuple[str, int], target: tuple[str, int]) -> Callable[[Frame], bool]:
            def fits(frame: Frame) -> bool:
                within = inner(frame)
                return frame.vni == mesh_vni and (
                    tuple(zip(within.addresses, within.ports, strict=True)) == (source, target)
                )

            return fits

        service = (there.at["ingress"], PORT)
        question = capture.wait_for(is_inside(across.seen, service))
        reply = capture.wait_for(is_inside(service, across.seen))
        for frame in (question, reply):
            assert inner(frame).raw[22] == TTL - (frame is question), "one router: the node; then a link"
        assert question.addresses == (lab.address(entry), lab.address(there.node))
        assert inner(reply).macs[1] == mac_of(ingress[entry]), "to the endpoint's own MAC"
        outside = capture.wait_for(
            lambda frame: (
                frame.addresses == (lab.address(entry), OUTSIDE) and frame.ports[1] == across.local[1]
            )
        )
        assert outside.ports[0] == 8080, "answers mirror it"

    command_in(there.path, "ip", "neigh", "flush", "dev", "eth0")
    lab.meet(lab.path(), lab.address(entry), 8080)
    assert interface_address(lab.path(entry), "sw-ing") == ingress[entry]
    assert arp_answer(there.path, there.at["ingress"], ingress[entry]) == mac_of(ingress[entry])


def mac_of(address: str) -> str:
    return "02:42:" + socket.inet_aton(address).hex(":")


def arp_answer(path: Path, own: str, wanted: str) -> str:
    """The MAC that somebody answers with, to a question of the task on its first link."""

    def ask() -> str:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as raw:
            raw.bind(("eth0", 0x0806))
            raw.settimeout(5.0)
            mac = raw.getsockname()[4]
            question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + socket.inet_aton(own)
            raw.send(b"\xff" * 6 + mac + b"\x08\x06" + question + bytes(6) + socket.inet_aton(wanted))
            while True:
                frame = raw.recv(2_048)
                if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(wanted):
                    return frame[22:28].hex(":")

    return run_in(path, ask)


def test_a_node_without_its_ingress_endpoint_serves_nothing_until_it_is_mended(lab: NetLab) -> None:
    tasks = lab.serve("web", 2, "--publish", "8080:80")
    away = next(name for name in lab.names if name not in {task.node for task in tasks})
    assert answers(lab.path(), lab.address(away), 8080, timeout_s=PATIENCE_S)
    lab.lab.pause(away)  # or it would mend at once what it is told of
    try:
        command_in(lab.path(away), "ip", "link", "delete", "sw-ing")
        assert not answers(lab.path(), lab.address(away), 8080)
        for name in set(lab.names) - {away}:
            assert answers(lab.path(), lab.address(name), 8080, timeout_s=PATIENCE_S)
    finally:
        lab.lab.resume(away)
    lab.lab.restart(away)
    wait_for(lambda: answers(lab.path(), lab.address(away), 8080), what=f"{away} should serve again")


def test_ports_of_the_nodes_behind_a_balancer(lab: NetLab) -> None:
    """One fixed port per host: a proxy over all nodes meets every task; one more has no place."""
    tasks = lab.serve("web", 4, "--publish", "mode=host,published=8090,target=80")
    assert {task.node for task in tasks} == set(lab.names)
    for task in tasks:
        met = lab.meet(lab.path(), lab.address(task.node), 8090)
        assert (met.task, met.seen) == (task.id, met.local)
    lab.good("service", "scale", "--detach", "web=5")
    [waiting] = wait_for(
        lambda: [t for t in tasks_of(lab.lab, "web") if state(t) == "pending" and reason(t)],
        what="the fifth should wait, with a reason",
    )
    assert "host-mode port already in use on 4 nodes" in reason(waiting)


def test_ports_that_the_nodes_choose(lab: NetLab) -> None:
    tasks = lab.serve("web", 8, "--publish", "mode=host,target=80")
    rows = {row["ID"]: row for row in tasks_of(lab.lab, "web")}
    seen = set()
    for task in tasks:
        [port] = rows[task.id]["Status"]["PortStatus"]["Ports"]
        seen.add((task.node, port["PublishedPort"]))
        assert lab.meet(lab.path(), lab.address(task.node), port["PublishedPort"]).task == task.id
    assert len(seen) == 8, "two on each node, each with its own"


def test_hosts_that_drop_all_but_the_cluster_ports(lab: NetLab) -> None:
    lab.network("shop")
    tasks = lab.serve("web", 4, "--network", "shop", "--publish", "8080:80")
    wall = (
        "add table inet wall; add chain inet wall input { type filter hook input priority 0; policy drop; }; "
        "add rule inet wall input ct state established,related accept; "
        'add rule inet wall input iifname "lo" accept; '
        "add rule inet wall input tcp dport 2377 accept; "
        f"add rule inet wall input udp dport {VXLAN_PORT} accept"
    )
    for name in lab.names:
        command_in(lab.path(name), "nft", wall)
    try:
        here, there = apart(tasks)
        with EchoServer(lab.path(there.node), lab.address(there.node), 9_999):
            assert is_reachable(lab.path(there.node), lab.address(there.node), 9_999, timeout_s=PATIENCE_S)
            assert not is_reachable(lab.path(here.node), lab.address(there.node), 9_999)
        for client, server in product(tasks, tasks):
            assert lab.meet(client, server.at["shop"]).task == server.id
        lab.meet_all(here, lab.vip("web", "shop"), among=tasks)
        for name in lab.names:
            assert answers(lab.path(), lab.address(name), 8080, timeout_s=PATIENCE_S)
    finally:
        for name in lab.names:
            command_in(lab.path(name), "nft", "delete table inet wall")


# --- what an operator sees


@pytest.mark.skipif(DOCKER is None, reason="there is no docker CLI here")
def test_the_docker_command_line(lab: NetLab, tmp_path: Path) -> None:
    def docker(*words: str) -> str:
        done = subprocess.run(
            [DOCKER or "docker", *words],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "DOCKER_HOST": lab.lab.docker_host("node-1"),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, (words, done)
        return done.stdout

    docker("network", "create", "-d", "overlay", "--subnet", SUBNET, "shop")
    words = ["--name", "web", "--replicas", "2", "--network", "shop", "-p", "8080:80"]
    assert "verify: Service" in docker("service", "create", *words, *SERVER)
    tasks = lab.wait_tasks("web", 2)
    lab.meet_all(tasks[0], lab.vip("web", "shop"), among=tasks)
    lab.meet_all(lab.path(), lab.address("node-4"), 8080, among=tasks)
    shown = json.loads(docker("network", "inspect", "--verbose", "shop"))[0]
    assert shown["Services"]["web"]["VIP"] == lab.vip("web", "shop")
    assert {task["EndpointIP"] for task in shown["Services"]["web"]["Tasks"]} == {t.at["shop"] for t in tasks}
    assert "*:8080->80/tcp" in docker("service", "ls", "--format", "{{.Ports}}")
    assert (
        json.loads(docker("service", "inspect", "web"))[0]["Endpoint"]
        == lab.inspect("service", "web")["Endpoint"]
    )
    docker("service", "rm", "web")
    wait_for(lab.lab.tasks, lambda left: not left, what="no task should be left")
    assert docker("network", "rm", "shop").strip() == "shop"


def test_inspect_tells_the_truth(lab: NetLab) -> None:
    lab.network("shop", "--subnet", SUBNET)
    tasks = lab.serve("web", 3, "--network", "shop", "--publish", "8080:80")
    shown = lab.inspect("network", "shop", "--verbose")
    web = shown["Services"]["web"]
    assert {(row["Name"], row["EndpointIP"], row["Info"]["Node"]) for row in web["Tasks"]} == {
        (task.name, task.at["shop"], task.node) for task in tasks
    }
    plane = shown["Dataplane"]
    for task in tasks:
        folder = lab.netns(task.node)
        sandbox = folder / plane["Network"]["Namespace"]
        [tunnel] = json.loads(
            command_in(sandbox, "ip", "-json", "-details", "link", "show", plane["Network"]["Tunnel"])
        )
        data = tunnel["linkinfo"]["info_data"]
        assert (data["id"], data["port"]) == (plane["VNI"], plane["DataPathPort"])
        bridge = json.loads(command_in(sandbox, "ip", "-json", "link", "show", plane["Network"]["Bridge"]))
        assert bridge[0]["operstate"] == "UP"
        tables = command_in(task.path, "nft", "list", "tables")
        for table in plane["TaskTables"]:
            assert f"table {table}\n" in tables
        rules = command_in(task.path, "nft", "list", "map", *plane["TaskTables"][0].split(), "ip_vips")
        assert web["VIP"] in rules
        assert f"table {plane['Network']['Table']}\n" in command_in(sandbox, "nft", "list", "tables")
        for table in plane["NodeTables"]:
            assert f"table {table}\n" in command_in(lab.path(task.node), "nft", "list", "tables")
    mine = [task for task in tasks if task.node == "node-1"]
    assert set(shown["Containers"] or {}) == {container_id(task.id) for task in mine}
    for task in mine:
        [link] = json.loads(command_in(task.path, "ip", "-json", "link", "show", "eth0"))
        assert shown["Containers"][container_id(task.id)]["MacAddress"] == link["address"]
        assert shown["Containers"][container_id(task.id)]["IPv4Address"] == task.at["shop"] + "/24"


def test_an_ingress_network_of_another_subnet(whole: NetLab) -> None:
    """Last in this file: the lab has another ingress network then."""
    lab = whole
    lab.good("network", "rm", "--force", "ingress")
    lab.network("ingress", "--ingress", "--subnet", "10.255.0.0/16")
    try:
        [task] = lab.serve("web", 1, "--publish", "8080:80")
        assert task.at["ingress"].startswith("10.255.")
        assert lab.vip("web", "ingress").startswith("10.255.")
        assert lab.inspect("network", "ingress")["IPAM"]["Config"][0]["Subnet"] == "10.255.0.0/16"
        for name in lab.names:
            wait_for(lambda name=name: answers(lab.path(), lab.address(name), 8080), what=name)  # type: ignore[misc]
        assert all(address.startswith("10.255.") for address in lab.ingress().values())
    finally:
        lab.remove_all()
