"""Networks that are no overlays, and policies of endpoints, between real daemons with real packets.

One manager and two workers, shared; every test removes its services and networks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dhcp_server import DhcpServer
from lab_cli import processes, reason, state, tasks_of, wait_for
from net_hosts import command_in, is_reachable
from net_lab import PORT, SERVER, NetLab, answers, belongings, lookup, net_lab, wait_same

SUBNET = "10.200.0.0/24"
SWITCH_ADDRESS = "10.200.0.1"
ON_TWO = ("--constraint", "node.hostname==node-2")


@pytest.fixture(scope="module")
def whole() -> Iterator[NetLab]:
    with net_lab(managers=1, workers=2) as lab:
        yield lab


@pytest.fixture
def lab(whole: NetLab) -> Iterator[NetLab]:
    """Nothing of a test is left on any host."""
    before = {name: belongings(whole, name) for name in whole.names}
    yield whole
    whole.remove_all()
    names = whole.good("network", "ls", "--filter", "type=custom", "--format", "{{.Name}}").split()
    for name in set(names) - {"ingress"}:
        whole.good("network", "rm", name)
    for name in whole.names:
        wait_same(lambda name=name: belongings(whole, name), before[name], what=name)  # type: ignore[misc]


def make(lab: NetLab, driver: str, name: str, *words: str) -> str:
    return lab.good("network", "create", "--driver", driver, "--scope", "swarm", *words, name).strip()


def on_the_lan(lab: NetLab, driver: str, name: str, addresses: str) -> str:
    """A network in the LAN's own subnet, with a part of it for tasks."""
    own = ("--subnet", SUBNET, "--ip-range", addresses, "--gateway", SWITCH_ADDRESS)
    return make(lab, driver, name, *own)


# --- drivers


def test_a_bridge_network_is_each_nodes_own(lab: NetLab) -> None:
    """Names and packets lead to tasks of the same node alone; published ports lead in; it goes by itself."""
    network_id = make(lab, "bridge", "yard")
    tasks = lab.serve("yard-web", 4, "--network", "yard", "--constraint", "node.role==worker")
    by_node: dict[str, list[str]] = {}
    for task in tasks:
        by_node.setdefault(task.node, []).append(task.at["yard"])
    assert sorted(map(len, by_node.values())) == [2, 2]
    for task in tasks:
        assert sorted(lookup(task.path, "yard-web")) == sorted(by_node[task.node])
        for address in by_node[task.node]:
            lab.meet(task, address)
    here = tasks[0]
    elsewhere = next(address for node, each in by_node.items() if node != here.node for address in each)
    assert not is_reachable(here.path, elsewhere, PORT)
    (mapped,) = lab.serve(
        "mapped", 1, "--network", "yard", *ON_TWO, "-p", "mode=host,published=8070,target=80"
    )
    assert lab.meet(lab.path(), lab.address("node-2"), 8070).task == mapped.id
    lab.remove("mapped")
    assert not answers(lab.path(), lab.address("node-2"), 8070)
    sandbox = lab.netns("node-2") / f".lan-{network_id[:12]}"
    assert sandbox.exists()
    lab.remove("yard-web")
    wait_for(lambda: not sandbox.exists(), what="the bridge should be gone")


def test_host_and_none(lab: NetLab) -> None:
    """In the node's own namespace a port is the node's; with none there is loopback alone."""
    lab.create("plain", "--network", "host", *ON_TWO, *SERVER[:2], "host", "sleep", "88001")
    wait_for(
        lambda: [t for t in tasks_of(lab.lab, "plain") if state(t) == "running"], what="plain should run"
    )
    wait_for(lambda: processes("88001"), what="its process")
    (pid,) = processes("88001")
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(lab.path("node-2")).st_ino
    (alone,) = lab.serve("alone", 1, "--network", "none", *ON_TWO)
    links = command_in(alone.path, "ip", "-br", "link").splitlines()
    assert [line.split()[0] for line in links] == ["lo"]


@pytest.mark.parametrize("driver", ["macvlan", "l2bridge"])
def test_tasks_on_the_lan(lab: NetLab, driver: str) -> None:
    """Reached from the LAN by their own addresses, seen with them, across nodes and on one."""
    on_the_lan(lab, driver, "lan", "10.200.0.192/27")
    tasks = lab.serve("lan-web", 4, "--network", "lan", "--constraint", "node.role==worker")
    assert all(task.at["lan"].startswith("10.200.0.") for task in tasks)
    for task in tasks:
        assert lab.meet(lab.path(), task.at["lan"]).task == task.id
        for other in tasks:
            if other is not task:
                met = lab.meet(task, other.at["lan"])
                assert (met.task, met.seen[0]) == (other.id, task.at["lan"])
    assert sorted(lookup(tasks[0].path, "lan-web")) == sorted(task.at["lan"] for task in tasks)
    seen = dict(line.split()[0::4][:2] for line in command_in(lab.path(), "ip", "neigh").splitlines())
    macs = {node: {seen[task.at["lan"]] for task in tasks if task.node == node} for node in lab.names[1:]}
    wanted = 1 if driver == "l2bridge" else 2
    assert {len(each) for each in macs.values()} == {wanted}, "upstream sees that many MACs of a node"


def test_l2tunnel_goes_through_the_switch(lab: NetLab) -> None:
    on_the_lan(lab, "l2tunnel", "tunnel", "10.200.0.160/27")
    one, two = lab.serve("tun", 2, "--network", "tunnel", *ON_TWO)
    assert not is_reachable(one.path, two.at["tunnel"], PORT)
    command_in(lab.path(), "bridge", "link", "set", "dev", "node-2", "hairpin", "on")
    try:
        assert lab.meet(one, two.at["tunnel"]).task == two.id
    finally:
        command_in(lab.path(), "bridge", "link", "set", "dev", "node-2", "hairpin", "off")


def test_addresses_by_dhcp(lab: NetLab) -> None:
    """The LAN's server gives them; no subnet, no address of the swarm's."""
    link = uplink_of_switch(lab)
    make(lab, "transparent", "asking", "--ipam-driver", "dhcp")
    with DhcpServer(lab.path(), link, SWITCH_ADDRESS, "10.200.0.230", SWITCH_ADDRESS) as server:
        (task,) = lab.serve("asked", 1, "--network", "asking", *ON_TWO)
        (address,) = server.given.values()
        assert lab.meet(lab.path(), address).task == task.id
        lab.remove("asked")
        wait_for(lambda: server.seen[-1] == 7, what="the address should be given back")


def uplink_of_switch(lab: NetLab) -> str:
    shown = command_in(lab.path(), "ip", "-br", "-4", "address")
    line = next(line for line in shown.splitlines() if f" {SWITCH_ADDRESS}/" in line)
    return line.split()[0]


def test_what_nodes_or_users_cannot_do_is_said(lab: NetLab) -> None:
    make(lab, "macvlan", "elsewhere", "--opt", "parent=eth77")
    lab.create("lost", "--network", "elsewhere", "--restart-condition", "none", *ON_TWO, *SERVER)
    found = wait_for(
        lambda: [t for t in tasks_of(lab.lab, "lost") if state(t) == "rejected"], what="it should be rejected"
    )
    assert "interface eth77, which this node has not got" in reason(found[0])
    said = lab.bad("network", "create", "-d", "bridge", "--scope", "swarm", "--ipam-driver", "dhcp", "no")
    assert 'the address driver "dhcp" is for networks of the drivers' in said


# --- policies


def test_a_policy_holds_and_changes_while_tasks_run(lab: NetLab) -> None:
    """From the command line; the tasks stay the same ones; a daemon's death changes nothing."""
    lab.network("shop")
    (client,) = lab.serve("client", 1, "--network", "shop", "--constraint", "node.hostname==node-3")
    (web,) = lab.serve("web", 1, "--network", "shop", *ON_TWO, "--network-policy", "shop:deny in tcp 80")
    address = web.at["shop"]
    assert not is_reachable(client.path, address, PORT)
    own = f"{client.at['shop']}/32"
    policy = (
        "--network-policy",
        f"shop:allow in tcp 80 from {own}",
        "--network-policy",
        "shop:deny in tcp 80",
    )
    lab.good("service", "update", "--detach", *policy, "web")
    wait_for(lambda: is_reachable(client.path, address, PORT), what="the client should be let in")
    lab.good("service", "update", "--detach", "--network-policy", "shop:deny in", "web")
    wait_for(lambda: not is_reachable(client.path, address, PORT), what="nobody should be let in")
    lab.good("service", "update", "--detach", "--network-policy", "shop:", "web")
    wait_for(lambda: is_reachable(client.path, address, PORT), what="all should be let in")
    assert [task.id for task in lab.tasks("web")] == [web.id], "a policy replaces no task"
    lab.good("service", "update", "--detach", "--network-policy", "shop:deny in", "web")
    wait_for(lambda: not is_reachable(client.path, address, PORT), what="nobody should be let in")

    lab.lab.kill("node-2")
    assert not is_reachable(client.path, address, PORT)
    lab.lab.start("node-2")
    for task in lab.wait_tasks("web", 1, on=("node-2",)):
        assert not is_reachable(client.path, task.at["shop"], PORT)


def test_api_cli_and_compose_say_the_same(lab: NetLab, tmp_path: Path) -> None:
    """The same labels by all three ways, the same rate in the kernel; a slip is refused with its line."""
    network_id = lab.network("fair")
    wanted = {"swarmpy.network.fair.acl": "deny in tcp 25", "swarmpy.network.*.rate-in": "20mbit"}
    flags = ("--network-policy", "fair:deny in tcp 25", "--network-rate-in", "20mbit")
    lab.serve("by-cli", 1, "--network", "fair", *ON_TWO, *flags)
    labels = [f"{key}={value}" for key, value in wanted.items()]
    lab.serve("by-api", 1, "--network", "fair", *ON_TWO, "--label", labels[0], "--label", labels[1])
    for name in ("by-cli", "by-api"):
        assert lab.inspect("service", name)["Spec"]["Labels"] == wanted
    shown = command_in(lab.sandbox("node-2", network_id), "tc", "qdisc")
    assert shown.count("rate 20Mbit") == 2
    slip = ("service", "create", "--label", "swarmpy.network.fair.acl=deny in tcp 22 please", "host", "true")
    assert 'rule "deny in tcp 22 please": "please" is out of place' in lab.bad(*slip)
